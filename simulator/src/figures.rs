//! The figures of a simulation.

use crate::azure::{Capacity, Deployment, Fault, Period};
use crate::record::{Record, Served};

/// How long after an outage a backend may still get no requests.
const RECOVERY_MS: u64 = 10_000;
/// How long its share is measured after that.
const SHARE_MS: u64 = 30_000;

/// The figures of a simulation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// All requests.
    pub requests: usize,
    /// Errors that clients got, without those for exceeding their own limit.
    pub errors: usize,
    /// Those of them that a backend would have served at that moment.
    pub needless_errors: usize,
    /// Requests that exceeded their consumer's limit.
    pub limited: usize,
    /// The tokens that provisioned throughput served, in its own measure.
    pub provisioned_tokens: u64,
    /// The tokens that pay-as-you-go served.
    pub standard_tokens: u64,
    /// Attempts.
    pub attempts: u64,
    /// Attempts that served nobody.
    pub wasted: u64,
    /// The median time from a request's arrival to the beginning of the attempt that served it, in milliseconds.
    pub added_p50_ms: u64,
    /// The 99th percentile of that time.
    pub added_p99_ms: u64,
    /// The longest such time.
    pub added_max_ms: u64,
    /// Requests that reached a dead backend, per minute of its outage.
    pub at_dead_per_minute: f64,
    /// The requests that a backend served after its outage, from ten seconds after it for half a minute.
    pub healed: usize,
    /// Attempts before the time that a 429 had named for the backend's quota.
    pub too_early: u64,
    /// Attempts at a backend that had already failed the request, except by a 429.
    pub tried_twice: u64,
}

impl Figures {
    /// Computes the figures of a simulation with these deployments.
    pub fn of(record: &Record, deployments: &[Deployment]) -> Self {
        let served = || record.served.iter().flatten();
        let is_provisioned =
            |it: &&Served| matches!(deployments[it.backend].capacity, Capacity::Provisioned { .. });
        let mut added: Vec<u64> = served().map(|it| it.added_ms).collect();
        added.sort_unstable();
        let outages = outages(deployments);
        let minutes: f64 = outages.iter().map(|(_, it)| minutes(it)).sum();
        let healed = served().filter(|it| {
            outages.iter().any(|(backend, period)| {
                let from_ms = period.until_ms + RECOVERY_MS;
                let sent_ms = it.arrived_ms + it.added_ms;
                it.backend == *backend && (from_ms..from_ms + SHARE_MS).contains(&sent_ms)
            })
        });
        Self {
            requests: record.served.len(),
            errors: record.refusals.len(),
            needless_errors: record.refusals.iter().filter(|it| it.could_be_served).count(),
            limited: record.limited.len(),
            provisioned_tokens: served().filter(is_provisioned).map(|it| it.tokens).sum(),
            standard_tokens: served()
                .filter(|it| !is_provisioned(it))
                .map(|it| it.plain_tokens)
                .sum(),
            attempts: record.attempts.iter().sum(),
            wasted: record.wasted,
            added_p50_ms: percentile(&added, 50),
            added_p99_ms: percentile(&added, 99),
            added_max_ms: percentile(&added, 100),
            at_dead_per_minute: record.at_dead.len() as f64 / minutes.max(1.0),
            healed: healed.count(),
            too_early: record.named.iter().map(|named| named.too_early).sum(),
            tried_twice: record.tried_twice,
        }
    }

    /// Attempts that served nobody, in percent.
    pub fn wasted_percent(&self) -> f64 {
        100.0 * self.wasted as f64 / (self.attempts.max(1)) as f64
    }
}

/// The outages in which a backend fails all requests, each with its backend.
pub fn outages(deployments: &[Deployment]) -> Vec<(usize, Period)> {
    let periods = deployments.iter().enumerate();
    periods
        .flat_map(|(backend, deployment)| {
            deployment.faults.iter().map(move |period| (backend, *period))
        })
        .filter(|(_, period)| !matches!(period.fault, Fault::Lowered { .. } | Fault::Slow { .. }))
        .collect()
}

fn minutes(period: &Period) -> f64 {
    (period.until_ms - period.from_ms) as f64 / 60_000.0
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let position = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(position).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [100, 198, 200]);
        assert_eq!(percentile(&[], 99), 0);
    }
}
