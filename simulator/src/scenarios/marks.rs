//! Expectations of a gateway in a scenario.

use crate::figures::Figures;
use crate::record::Record;

/// An expectation of a gateway in a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    /// Provisioned throughput serves at least this percentage of what it serves at the optimum.
    ProvisionedAtLeast(f64),
    /// Pay-as-you-go serves at most this many times what it serves at the optimum.
    StandardAtMost(f64),
    /// At most this percentage of attempts serves nobody.
    WastedAtMost(f64),
    /// No client gets an error.
    NoErrors,
    /// No client gets an error while a backend has room.
    NoNeedlessErrors,
    /// No more errors than at the optimum.
    ErrorsOfOptimum,
    /// At most this many requests per minute reach a dead backend.
    AtDeadAtMost(f64),
    /// Ten seconds after an outage, the backend serves at least this percentage of what it serves at the optimum.
    HealedAtLeast(f64),
    /// No attempt before the time that a 429 named for its quota.
    NoneTooEarly,
    /// Tenants below their limits get what they send, except this percentage.
    TenantsGetTheirShare(f64),
    /// The first tenant, which sends more than its limit, gets that limit, within this percentage.
    FloodGetsItsLimit {
        /// Its limit, in tokens for the whole time.
        tokens: u64,
        /// How far from the limit the result may be.
        off_percent: f64,
    },
}

impl Mark {
    /// What is missed; `None`: nothing.
    pub fn missed(
        &self,
        figures: &Figures,
        optimum: &Figures,
        record: &Record,
        optimal: &Record,
    ) -> Option<String> {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        match *self {
            Self::ProvisionedAtLeast(least) => {
                let used = percent(figures.provisioned_tokens, optimum.provisioned_tokens);
                (used < least).then(|| format!("PTU {used:.1} < {least} %"))
            }
            Self::StandardAtMost(most) => {
                let needed = optimum.standard_tokens.max(1);
                let times = figures.standard_tokens as f64 / needed as f64;
                (times > most).then(|| format!("pay-as-you-go {times:.3} > {most} ×"))
            }
            Self::WastedAtMost(most) => {
                let wasted = figures.wasted_percent();
                (wasted > most).then(|| format!("wasted {wasted:.1} > {most} %"))
            }
            Self::NoErrors => above("errors", figures.errors as u64, 0),
            Self::NoNeedlessErrors => above("needless errors", figures.needless_errors as u64, 0),
            Self::ErrorsOfOptimum => above("errors", figures.errors as u64, optimum.errors as u64),
            Self::AtDeadAtMost(most) => {
                let rate = figures.at_dead_per_minute;
                (rate > most).then(|| format!("{rate:.1} > {most} a minute reach the dead"))
            }
            Self::HealedAtLeast(least) => {
                let share = percent(figures.healed as u64, optimum.healed as u64);
                (share < least).then(|| format!("healed share {share:.0} < {least} %"))
            }
            Self::NoneTooEarly => above("too early", figures.too_early, 0),
            Self::TenantsGetTheirShare(off) => tenants(off, record, optimal),
            Self::FloodGetsItsLimit { tokens, off_percent } => {
                let got = percent(got(record).first().copied().unwrap_or(0), tokens);
                let is_off = (got - 100.0).abs() > off_percent;
                is_off.then(|| format!("the flood got {got:.1} % of its limit"))
            }
        }
    }
}

fn above(what: &str, found: u64, most: u64) -> Option<String> {
    (found > most).then(|| format!("{what}: {found} > {most}"))
}

/// All except the first, which floods, get what they get at the optimum, where there are no limits.
fn tenants(off_percent: f64, record: &Record, optimal: &Record) -> Option<String> {
    let both = got(record).into_iter().zip(got(optimal)).enumerate().skip(1);
    let worst = both
        .map(|(tenant, (here, there))| (100.0 * (1.0 - here as f64 / there.max(1) as f64), tenant));
    let (worst, tenant) = worst.max_by(|left, right| left.0.total_cmp(&right.0))?;
    (worst > off_percent).then(|| format!("tenant {tenant} lost {worst:.1} > {off_percent} %"))
}

/// The tokens that each tenant got.
fn got(record: &Record) -> Vec<u64> {
    let mut tokens: Vec<u64> = Vec::new();
    for served in record.served.iter().flatten() {
        tokens.resize(tokens.len().max(served.consumer + 1), 0);
        tokens[served.consumer] += served.plain_tokens;
    }
    tokens
}
