//! Computes the figures by which the promises are judged.
//!
//! Two figures need care. *Reopening*: a deadline of the throttle gate counts only when the gate really
//! opened then. If a later 429 moved it, there was no request between the two deadlines. *The failover's
//! cost*: how much longer a request with two attempts took than the median request of its kind with one,
//! minus the time of the failed attempt.

use std::time::Duration;

use crate::call::{Kind, Outcome};
use crate::observe::Observations;
use crate::stage::{FIRST_BYTE, NAMES, PROVISIONED, PROVISIONED_TOKENS_PER_MINUTE, REGION};
use crate::story::Chapter;

/// Requests that were chosen just before another worker opened the breaker may still arrive.
const ON_THEIR_WAY_MS: u64 = 50;

/// What was measured. `None`: there was no data for it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Figures {
    pub(crate) requests: usize,
    pub(crate) streams: usize,
    /// The reasons of those that failed.
    pub(crate) problems: Vec<String>,
    /// Requests that needed another attempt.
    pub(crate) failovers: usize,
    /// The share of the calm's requests that the provisioned backend served.
    pub(crate) calm_share_percent: Option<f64>,
    /// The same after the load fell again and its bucket had time to drain.
    pub(crate) final_share_percent: Option<f64>,
    /// The share of its possible tokens that the provisioned backend processed under overload.
    pub(crate) provisioned_use_percent: Option<f64>,
    /// From the reopening of its gate to its next request.
    pub(crate) reopenings: Vec<Duration>,
    /// How many spilled requests each of the two other backends served in the overload.
    pub(crate) spilled: [(&'static str, usize); 2],
    /// The slowest hundredth in the overload, and while the region failed.
    pub(crate) overload_p99: Option<Duration>,
    pub(crate) failure_p99: Option<Duration>,
    /// Failed requests of that chapter.
    pub(crate) failure_problems: usize,
    /// How often the region's breaker opened.
    pub(crate) openings: usize,
    /// Requests that reached the region meanwhile.
    pub(crate) while_open: usize,
    /// What the region served after it came back.
    pub(crate) returned: usize,
    /// Responses with both headers.
    pub(crate) explained: usize,
    /// What the gateway added to the median; noise can make it negative.
    pub(crate) gateway_added_ms: Option<f64>,
    pub(crate) failover_added_ms: Option<f64>,
}

impl Figures {
    /// Computes them. The arrivals are those at the provisioned backend and at the failing region, in
    /// milliseconds since the epoch.
    pub(crate) fn of(seen: &Observations, provisioned: &[u64], region: &[u64]) -> Self {
        let all = &seen.outcomes;
        let p99 = |chapter: Chapter| {
            percentile(seen.of_chapter(chapter).map(|outcome| outcome.latency).collect(), 99)
        };
        let in_failure = seen.of_chapter(Chapter::Failure);
        Self {
            requests: all.len(),
            streams: all.iter().filter(|outcome| outcome.kind.streams()).count(),
            problems: all.iter().filter_map(|outcome| outcome.problem.clone()).collect(),
            failovers: failovers(all),
            calm_share_percent: provisioned_share_percent(seen, Chapter::Calm, 1),
            final_share_percent: provisioned_share_percent(seen, Chapter::CalmAgain, 3),
            provisioned_use_percent: provisioned_use_percent(seen),
            reopenings: reopenings(&seen.gate_deadlines_ms, provisioned),
            spilled: [1, REGION].map(|place| (NAMES[place], seen.served(place, Chapter::Overload))),
            overload_p99: p99(Chapter::Overload),
            failure_p99: p99(Chapter::Failure),
            failure_problems: in_failure.filter(|outcome| outcome.problem.is_some()).count(),
            openings: seen.openings.len(),
            while_open: while_open(seen, region),
            returned: seen.served(REGION, Chapter::Return)
                + seen.served(REGION, Chapter::CalmAgain),
            explained: all.iter().filter(|outcome| is_explained(outcome)).count(),
            gateway_added_ms: gateway_added_ms(&seen.overheads),
            failover_added_ms: failover_added_ms(all),
        }
    }
}

/// The requests that needed another attempt.
pub(crate) fn failovers(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.attempts.is_some_and(|attempts| attempts > 1)).count()
}

/// The smallest value that is not exceeded by this part of all values (nearest rank).
pub(crate) fn percentile(mut values: Vec<Duration>, percent: usize) -> Option<Duration> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let rank = values.len().div_ceil(2).max(1);
    values.get(rank - 1).copied()
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn is_explained(outcome: &Outcome) -> bool {
    outcome.served_by.is_some() && outcome.attempts.is_some()
}

/// The share of the provisioned backend in the last `1/part` of a chapter's requests.
fn provisioned_share_percent(seen: &Observations, chapter: Chapter, parts: usize) -> Option<f64> {
    let all = seen.of_chapter(chapter);
    let last = all.clone().count().checked_div(parts).filter(|count| *count > 0)?;
    let own = all.rev().take(last).filter(|outcome| outcome.is_served_by(PROVISIONED)).count();
    Some(100.0 * own as f64 / last as f64)
}

/// Measured from the first 429: before that the bucket was not full, so there was no more load.
fn provisioned_use_percent(seen: &Observations) -> Option<f64> {
    let before = seen.provisioned.first()?.throttled;
    let first = seen.provisioned.iter().find(|stats| stats.throttled > before)?;
    let last = seen.provisioned.last()?;
    let seconds = last.at.duration_since(first.at).as_secs_f64();
    let possible = seconds * PROVISIONED_TOKENS_PER_MINUTE as f64 / 60.0;
    let used = last.tokens_used.saturating_sub(first.tokens_used) as f64;
    (seconds >= 1.0).then(|| 100.0 * used / possible)
}

fn reopenings(deadlines_ms: &[u64], arrivals_ms: &[u64]) -> Vec<Duration> {
    let next = deadlines_ms.iter().skip(1).map(Some).chain([None]);
    let waits = deadlines_ms.iter().zip(next).filter_map(|(deadline_ms, next_ms)| {
        let arrival_ms = arrivals_ms.iter().find(|at_ms| *at_ms >= deadline_ms)?;
        let moved = next_ms.is_some_and(|next_ms| arrival_ms >= next_ms);
        (!moved).then(|| Duration::from_millis(arrival_ms.saturating_sub(*deadline_ms)))
    });
    waits.collect()
}

fn while_open(seen: &Observations, arrivals_ms: &[u64]) -> usize {
    let open = |at_ms: &&u64| {
        seen.openings.iter().any(|opening| {
            let begin_ms = opening.seen_at_ms.saturating_add(ON_THEIR_WAY_MS);
            (begin_ms..opening.until_ms).contains(*at_ms)
        })
    };
    arrivals_ms.iter().filter(open).count()
}

fn gateway_added_ms(overheads: &[(Duration, Duration)]) -> Option<f64> {
    let (direct, through): (Vec<Duration>, Vec<Duration>) = overheads.iter().copied().unzip();
    let (direct, through) = (percentile(direct, 50)?, percentile(through, 50)?);
    Some(millis(through) - millis(direct))
}

fn failover_added_ms(outcomes: &[Outcome]) -> Option<f64> {
    let under_load =
        |outcome: &&Outcome| outcome.chapter.is_overloaded() && outcome.problem.is_none();
    let first_bytes = |kind: Kind, attempts: u32| {
        let these = outcomes.iter().filter(under_load);
        let these =
            these.filter(move |outcome| outcome.kind == kind && outcome.attempts == Some(attempts));
        these.map(|outcome| outcome.first_byte)
    };
    let added = Kind::ALL.into_iter().flat_map(|kind| {
        let usual = percentile(first_bytes(kind, 1).collect(), 50);
        let two = first_bytes(kind, 2);
        two.filter_map(move |time| Some(millis(time) - millis(usual?) - millis(FIRST_BYTE)))
    });
    median(added.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn outcome(kind: Kind, attempts: u32, first_byte: Duration) -> Outcome {
        Outcome {
            kind,
            chapter: Chapter::Overload,
            ended_at: tokio::time::Instant::now(),
            problem: None,
            served_by: Some(NAMES[PROVISIONED].to_owned()),
            attempts: Some(attempts),
            first_byte,
            latency: first_byte,
        }
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<Duration> = (1..=100).rev().map(ms).collect();
        assert_eq!(percentile(hundred.clone(), 50), Some(ms(50)));
        assert_eq!(percentile(hundred.clone(), 99), Some(ms(99)));
        assert_eq!(percentile(hundred.clone(), 100), Some(ms(100)));
        assert_eq!(percentile(hundred, 0), Some(ms(1)));
        assert_eq!(percentile(vec![ms(7)], 99), Some(ms(7)));
        assert_eq!(percentile(vec![ms(1), ms(9)], 50), Some(ms(1)));
        assert_eq!(percentile(vec![ms(1), ms(9)], 51), Some(ms(9)));
        assert_eq!(percentile(Vec::new(), 50), None);
    }

    #[test]
    fn a_reopening_lasts_until_the_next_request() {
        let waits = reopenings(&[100, 300], &[90, 112, 118, 305]);
        assert_eq!(waits, [ms(12), ms(5)]);
    }

    #[test]
    fn a_deadline_that_a_later_429_moved_is_no_reopening() {
        assert_eq!(reopenings(&[100, 150], &[90, 160]), [ms(10)]);
    }

    #[test]
    fn a_gate_after_which_nothing_came_gives_no_figure() {
        assert_eq!(reopenings(&[100], &[90]), []);
    }

    #[test]
    fn a_failover_costs_what_it_takes_beyond_the_failed_attempt() {
        let one = [10, 12, 14].map(|time| outcome(Kind::Chat, 1, ms(time)));
        let two = [24, 25, 90].map(|time| outcome(Kind::Chat, 2, ms(time)));
        let outcomes: Vec<Outcome> = one.into_iter().chain(two).collect();
        assert_eq!(failover_added_ms(&outcomes), Some(3.0));
        assert_eq!(failovers(&outcomes), 3);
        assert_eq!(failover_added_ms(&[]), None);
    }

    #[test]
    fn the_provisioned_share_is_that_of_the_chapters_last_part() {
        let mut seen = Observations::default();
        assert_eq!(provisioned_share_percent(&seen, Chapter::Overload, 1), None);
        let by = |place: usize| Outcome {
            served_by: Some(NAMES[place].to_owned()),
            ..outcome(Kind::Chat, 1, ms(10))
        };
        seen.outcomes = [1, PROVISIONED, 1, 1, PROVISIONED, PROVISIONED].map(by).to_vec();
        assert_eq!(provisioned_share_percent(&seen, Chapter::Overload, 1), Some(50.0));
        assert_eq!(provisioned_share_percent(&seen, Chapter::Overload, 3), Some(100.0));
        assert_eq!(provisioned_share_percent(&seen, Chapter::Calm, 1), None);
    }

    #[test]
    fn the_gateways_cost_is_the_difference_of_the_medians() {
        let pairs = [(ms(10), ms(11)), (ms(12), ms(14)), (ms(50), ms(90))];
        assert_eq!(gateway_added_ms(&pairs), Some(2.0));
        assert_eq!(gateway_added_ms(&[]), None);
    }
}
