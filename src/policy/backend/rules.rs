//! The circuit breaker's rules: what is a fault, what is counted, and how many are too many.
//!
//! Each rule counts on its own. A threshold is met with >=, and only by a fault: a success that raises the number of
//! attempts to `min_requests` is no reason to open. Successes are counted only where a percentage needs them. A
//! throttle is a fault only for a rule that lists 429. A client's error counts nowhere.
//!
//! Nearly all attempts are successes, and a contended write for each would cost more than the rest of the filter. So
//! a worker counts its successes locally ([`Successes`]). It adds them to the shared counts when it counts a fault,
//! and otherwise once per [`ADDED_AFTER`]. Until then a share of faults can seem too large, but never too small.
//!
//! Faults in a row are counted in the breaker itself, so that a success can see without another read that there is
//! nothing to reset.

use crate::policy::pool::{BreakerSettings, MAX_RULES, Rule, Threshold};
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::time::{Millis, Timestamp};
use crate::policy::window::{Counts, SLOTS, Window};

/// The longest time until a worker adds its successes to the shared counts.
pub const ADDED_AFTER: Millis = Millis::from_secs(1);

/// The result of an attempt, as the breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The backend is broken.
    Fault(Fault),
    /// It proved nothing. A probe returns its lease; otherwise nothing happens.
    Ignored,
    /// The gateway's own choice is wrong.
    Misconfigured,
    /// The backend works.
    Success,
}

impl Observed {
    /// The result that `outcome` is for a breaker with these settings. A throttle is a fault only for rules that list
    /// 429.
    pub fn of(outcome: &Outcome, settings: &BreakerSettings) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Fault { fault, .. } => Self::Fault(*fault),
            Outcome::Misrouted(Misroute::DeadEndpoint | Misroute::Full) => Self::Ignored,
            Outcome::Misconfigured { .. } | Outcome::Misrouted(_) => Self::Misconfigured,
            // The backend's own result, although another deployment of its resource served the request.
            Outcome::Spilled { error: error @ 500.. } => Self::Fault(Fault::Status(*error)),
            Outcome::Throttled { .. }
                if settings.rules.iter().any(|rule| rule.statuses.contains(429)) =>
            {
                Self::Fault(Fault::Status(429))
            }
            Outcome::Throttled { .. }
            | Outcome::Cancelled
            | Outcome::ClientError
            // Refused credentials are counted in a row, in the backend's record.
            | Outcome::Denied { .. }
            | Outcome::Spilled { .. }
            | Outcome::Elsewhere { .. } => Self::Ignored,
        }
    }
}

/// The rules that a fault met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RulesMet(u8);

impl RulesMet {
    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn with(self, position: usize) -> Self {
        Self(self.0 | 1u8.checked_shl(u32::try_from(position).unwrap_or(8)).unwrap_or(0))
    }

    pub(super) fn contains(self, position: usize) -> bool {
        !self.0 & Self::default().with(position).0 == 0
    }
}

/// The counts of the rules of one backend, in one epoch of its breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleWindows {
    /// The epoch that the counts belong to.
    pub epoch: u32,
    /// One window for each rule, by position.
    pub windows: [Window; MAX_RULES],
}

impl RuleWindows {
    /// Counts the result of an ordinary attempt that began in the breaker's `epoch`, and returns the rules that it
    /// met. Counts of an earlier epoch are dropped. If the counts belong to a later epoch, they stay unchanged and
    /// `None` is returned.
    pub fn count(
        &mut self,
        settings: &BreakerSettings,
        epoch: u32,
        observed: Observed,
        elapsed: Millis,
        now: Timestamp,
    ) -> Option<RulesMet> {
        if self.is_later_than(epoch) {
            return None;
        }
        if self.epoch != epoch {
            self.restart(epoch);
        }
        let mut met = RulesMet::default();
        for ((position, rule), window) in
            settings.rules.iter().enumerate().zip(self.windows.iter_mut())
        {
            if !rule_counts(rule, observed, elapsed) {
                continue;
            }
            let fault = is_fault(rule, observed, elapsed);
            window.add(Counts { faults: u32::from(fault), total: 1 }, rule.interval, now);
            if fault && is_reached(rule.threshold, window.counts(rule.interval, now)) {
                met = met.with(position);
            }
        }
        Some(met)
    }

    /// Adds `successes` that a worker counted locally in the breaker's `epoch`. As in [`Self::count`], counts of an
    /// earlier epoch are dropped, and those of a later one stay.
    pub fn add(&mut self, settings: &BreakerSettings, epoch: u32, successes: u32, now: Timestamp) {
        if self.is_later_than(epoch) {
            return;
        }
        if self.epoch != epoch {
            self.restart(epoch);
        }
        for (rule, window) in settings.rules.iter().zip(self.windows.iter_mut()) {
            if matches!(rule.threshold, Threshold::Percentage { .. }) {
                window.add(Counts { faults: 0, total: successes }, rule.interval, now);
            }
        }
    }

    /// Whether the counts belong to an epoch later than `epoch`. Epochs wrap, so the later one of two is the one that
    /// fewer increments reach from the other.
    pub fn is_later_than(&self, epoch: u32) -> bool {
        epoch.wrapping_sub(self.epoch) > u32::MAX / 2
    }

    /// Drops all counts, and starts those of `epoch`.
    pub fn restart(&mut self, epoch: u32) {
        *self = Self { epoch, windows: Default::default() };
    }
}

impl BreakerSettings {
    /// Whether a result ends a run of faults in a row that some rule counts.
    pub fn ends_runs(&self, observed: Observed, elapsed: Millis) -> bool {
        observed == Observed::Success
            && self.rules.iter().any(|rule| {
                matches!(rule.threshold, Threshold::Consecutive(_))
                    && !is_fault(rule, observed, elapsed)
            })
    }
}

/// The successes at one backend that one worker has not yet added to the shared counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Successes {
    /// The epoch that they belong to.
    epoch: u32,
    count: u32,
    /// When the first of them was counted.
    since: Timestamp,
}

impl Successes {
    /// Counts one more success in `epoch`. Returns whether it is time to add them to the shared counts.
    pub fn count(&mut self, settings: &BreakerSettings, epoch: u32, now: Timestamp) -> bool {
        if self.epoch != epoch || self.count == 0 {
            *self = Self { epoch, count: 0, since: now };
        }
        self.count = self.count.saturating_add(1);
        // A clock that was set back must not keep them here.
        let age = now.since(self.since).max(self.since.since(now));
        age >= ADDED_AFTER.min(shortest_slot(settings))
    }

    /// How many belong to this `epoch`.
    pub fn of(&self, epoch: u32) -> u32 {
        if self.epoch == epoch { self.count } else { 0 }
    }
}

/// The shortest slot of the rules' windows: a rule forgets a slot as a whole.
fn shortest_slot(settings: &BreakerSettings) -> Millis {
    let slots = settings.rules.iter().map(|rule| rule.interval.scale(1, SLOTS as u64));
    slots.min().unwrap_or(ADDED_AFTER)
}

/// Whether a success only has to be counted, so that a worker may add it later.
pub fn is_plain_success(settings: &BreakerSettings, observed: Observed, elapsed: Millis) -> bool {
    observed == Observed::Success
        && !settings.rules.iter().any(|rule| is_fault(rule, observed, elapsed))
}

/// Whether a result belongs to the counts of some rule.
pub fn needs_count(settings: &BreakerSettings, observed: Observed, elapsed: Millis) -> bool {
    settings.rules.iter().any(|rule| match rule.threshold {
        Threshold::Percentage { .. } => rule_counts(rule, observed, elapsed),
        Threshold::Count(_) => is_fault(rule, observed, elapsed),
        Threshold::Consecutive(_) => false,
    })
}

/// A share needs all attempts, a number only the faults. Faults in a row are counted elsewhere.
fn rule_counts(rule: &Rule, observed: Observed, elapsed: Millis) -> bool {
    match rule.threshold {
        Threshold::Percentage { .. } => {
            matches!(observed, Observed::Fault(_) | Observed::Success)
        }
        Threshold::Count(_) => is_fault(rule, observed, elapsed),
        Threshold::Consecutive(_) => false,
    }
}

pub(super) fn is_fault(rule: &Rule, observed: Observed, elapsed: Millis) -> bool {
    let slow = rule.reasons.slow.is_some_and(|limit| elapsed > limit);
    match observed {
        Observed::Fault(Fault::Connect | Fault::ConnectTimeout | Fault::Tls) => {
            rule.reasons.connect || slow
        }
        Observed::Fault(Fault::Timeout) => rule.reasons.timeout || slow,
        Observed::Fault(Fault::Empty | Fault::NoUpgrade | Fault::Reset) => {
            rule.reasons.reset || slow
        }
        Observed::Fault(Fault::StreamError) => rule.reasons.stream_error || slow,
        Observed::Fault(Fault::NotReceived) => rule.statuses.contains(408) || slow,
        Observed::Fault(Fault::Status(status)) => rule.statuses.contains(status) || slow,
        Observed::Success => slow,
        Observed::Ignored | Observed::Misconfigured => false,
    }
}

fn is_reached(threshold: Threshold, counts: Counts) -> bool {
    match threshold {
        Threshold::Count(limit) => counts.faults >= limit,
        Threshold::Percentage { percent, min_requests } => {
            let share = u64::from(counts.faults).saturating_mul(100);
            let limit = u64::from(counts.total).saturating_mul(u64::from(percent));
            counts.total >= min_requests && share >= limit
        }
        Threshold::Consecutive(_) => false,
    }
}
