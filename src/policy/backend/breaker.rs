//! The circuit breaker: faults open it, time makes it half-open, one successful probe closes it.
//!
//! # What trips it
//! A rule that is met (see [`super::rules`]). If several are met at once, the one with the longest open time. A wrong
//! credential or deployment opens it at once, even without rules, because no request will succeed.
//!
//! # Half-open
//! After the open time one request may pass as a probe. Its lease is written under compare-and-set, so exactly one
//! request over all workers gets it. The lease expires, so a probe that never reports (a crashed worker) blocks
//! nothing. A probe that proves nothing (a 400, a throttle, a client that left) returns the lease. Any fault makes a
//! probe fail, even if no rule counts it, because a probe must show that the backend works.
//!
//! An expired lease is renewed for the next request without a transition. The earlier probe may still run, because
//! its backend is slower than `probe_timeout`. Its success closes the breaker like any other. Its failure changes
//! nothing: the probe with the lease decides.
//!
//! # Early probes
//! A request that nobody else can serve would fail anyway. So it may be the probe before the open time is over: one
//! per [`EARLY_PAUSE`]. If it fails, the open time continues unchanged. Only probes that were due lengthen it. A probe
//! that still runs [`EARLY_PATIENCE`] later may be a long response. So its lease is renewed for the next such request;
//! otherwise it would keep all others out.
//!
//! `open_time` defines how long it stays open, and `ramp` how traffic returns.
//!
//! # Stale results
//! Every transition increments the epoch. An attempt carries the epoch in which it began, and its result counts only
//! in that epoch. So a failure that began before the breaker opened cannot open it again, and a success that began
//! before cannot close it. Counts carry the epoch too, so that they restart without a second write.
//!
//! # Clock
//! A deadline that is further ahead than any open time (or lease) shows that the clock was set back, so it counts as
//! passed. A ramp that began in the future is over.
//!
//! # Two records
//! Workers share the breaker in the pool's record, and the counts in a record of the backend. A caller that writes
//! both under compare-and-set takes two steps: [`RuleWindows::count`] in one record, and with its result
//! [`Breaker::conclude`] in the other. [`Breaker::observe`] does both.

mod open_time;
mod ramp;

pub use super::rules::{Observed, RuleWindows, RulesMet, needs_count};

use super::rules::is_fault;
use crate::policy::pool::{BreakerSettings, MAX_RULES, Rule, Threshold};
use crate::policy::time::{Millis, Timestamp};

/// The shortest time between two early probes, unless the earlier one proved nothing.
pub const EARLY_PAUSE: Millis = Millis::from_secs(1);

/// How much longer a probe is waited for that is still on its way.
pub const EARLY_PATIENCE: Millis = Millis::from_secs(2);

/// A backend's circuit breaker. The default is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Its state.
    pub state: State,
    /// The number of transitions so far, wrapping.
    pub epoch: u32,
    /// For each rule, the faults since the last success.
    pub consecutive: [u32; MAX_RULES],
    /// The position of the rule that opened it; `None`: no rule did.
    pub rule: Option<u8>,
    /// Its early probes.
    pub early: Early,
}

/// The early probes of an open breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// When the next one may be sent.
    pub from: Timestamp,
    /// When the present probe would have been due; zero: it was due when it was sent.
    pub due: Timestamp,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Traffic flows.
    Closed {
        /// When the ramp began; zero: there is no ramp.
        since: Timestamp,
        /// The successes of the ramp so far, including those of steps that were skipped.
        successes: u8,
    },
    /// One probe was sent, or was given up.
    HalfOpen {
        /// When the next probe may be sent.
        lease_until: Timestamp,
        /// Probes that failed since the breaker opened.
        failed_probes: u8,
    },
    /// No traffic.
    Open {
        /// When a probe may be sent.
        until: Timestamp,
        /// Probes that failed since the breaker opened.
        failed_probes: u8,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { since: Timestamp::ZERO, successes: 0 }
    }
}

/// Which requests a breaker lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// All.
    Closed,
    /// None before a time.
    Open {
        /// That time.
        until: Timestamp,
    },
    /// One request, which must take the lease.
    Probe,
    /// A part of them.
    Ramp {
        /// 1 to 99.
        percent: u8,
    },
}

/// Why a probe may take the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The open time is over.
    Due,
    /// Nobody else can serve the request.
    Early,
}

/// What an attempt carries, so that its result can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The breaker's epoch when the attempt began.
    pub epoch: u32,
    /// When the attempt's half-open lease ends; `None`: it is no probe.
    pub lease: Option<Timestamp>,
}

impl Ticket {
    /// Whether the attempt is a probe.
    pub fn is_probe(&self) -> bool {
        self.lease.is_some()
    }
}

/// A change of the breaker's state, reported exactly once by the call that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The probe succeeded.
    Closed,
    /// Too many faults.
    Opened {
        /// When a probe may be sent.
        until: Timestamp,
        /// The reason.
        reason: TripReason,
    },
    /// The probe failed.
    Reopened {
        /// When the next probe may be sent.
        until: Timestamp,
        /// How many failed since the breaker opened.
        failed_probes: u8,
    },
}

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripReason {
    /// The credential or the deployment that the gateway chose is wrong.
    Misconfigured,
    /// The rule at this position was met.
    Rule(usize),
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What the attempt carried.
    pub ticket: Ticket,
    /// Its result.
    pub observed: Observed,
    /// The time to its first byte.
    pub elapsed: Millis,
    /// The delay that the backend named.
    pub retry_after: Option<Millis>,
}

impl Breaker {
    /// Which requests the breaker lets pass.
    #[inline]
    pub fn passage(&self, settings: &BreakerSettings, now: Timestamp) -> Passage {
        let (until, longest) = match self.state {
            State::Closed { since, successes } => {
                return ramp::passage(since, successes, settings.ramp_duration, now);
            }
            State::HalfOpen { lease_until, .. } => (lease_until, settings.probe_timeout),
            State::Open { until, .. } => (until, open_time::longest(settings)),
        };
        if until <= now || until > now.plus(longest) {
            Passage::Probe
        } else {
            Passage::Open { until }
        }
    }

    /// The ticket of an ordinary attempt.
    pub fn ticket(&self) -> Ticket {
        Ticket { epoch: self.epoch, lease: None }
    }

    /// Whether a request that nobody else can serve may be the probe of this breaker, which is not closed.
    pub fn admits_early(&self, now: Timestamp) -> bool {
        let patience = match self.state {
            State::Closed { .. } => return false,
            State::Open { .. } => Millis::ZERO,
            State::HalfOpen { .. } => EARLY_PATIENCE,
        };
        let from = self.early.from.plus(patience);
        // A pause further ahead than its length shows that the clock was put back.
        from <= now || from > now.plus(EARLY_PAUSE).plus(patience)
    }

    /// Takes the half-open lease. Under compare-and-set, one caller gets a ticket and all others get `None`.
    pub fn lease_probe(
        &mut self,
        lease: Lease,
        settings: &BreakerSettings,
        now: Timestamp,
    ) -> Option<Ticket> {
        self.early = match (self.passage(settings, now), lease) {
            (Passage::Probe, _) => Early { from: now.plus(EARLY_PAUSE), due: Timestamp::ZERO },
            (Passage::Open { until }, Lease::Early) if self.admits_early(now) => {
                let is_open = matches!(self.state, State::Open { .. });
                let due = if is_open { until } else { self.early.due };
                Early { from: now.plus(EARLY_PAUSE), due }
            }
            _ => return None,
        };
        let lease_until = now.plus(settings.probe_timeout);
        let half_open = State::HalfOpen { lease_until, failed_probes: self.failed_probes() };
        match self.state {
            // No transition: the success of a probe that still runs must count.
            State::HalfOpen { .. } => self.state = half_open,
            State::Closed { .. } | State::Open { .. } => self.enter(half_open),
        }
        Some(Ticket { epoch: self.epoch, lease: Some(lease_until) })
    }

    /// Whether a result can change the counts or the breaker. If not, neither record need be read again.
    pub fn needs_window(
        &self,
        settings: &BreakerSettings,
        observed: Observed,
        elapsed: Millis,
    ) -> bool {
        match self.state {
            State::HalfOpen { .. } => true,
            State::Open { .. } => false,
            State::Closed { .. } => {
                observed == Observed::Misconfigured
                    || self.grows_by(observed)
                    || needs_count(settings, observed, elapsed)
                    || self.counts_in_row_change(settings, observed, elapsed)
            }
        }
    }

    /// Whether a result advances the ramp.
    pub fn grows_by(&self, observed: Observed) -> bool {
        let is_growing =
            matches!(self.state, State::Closed { since, .. } if since != Timestamp::ZERO);
        is_growing && observed == Observed::Success
    }

    /// Whether a result changes the number of faults in a row.
    pub fn counts_in_row_change(
        &self,
        settings: &BreakerSettings,
        observed: Observed,
        elapsed: Millis,
    ) -> bool {
        self.counts_in_row(settings, observed, elapsed) != self.consecutive
    }

    /// Counts a result and changes state accordingly; `roll` is any random number.
    #[expect(
        clippy::too_many_arguments,
        reason = "a purely functional step; the form in two steps groups them"
    )]
    pub fn observe(
        &mut self,
        windows: &mut RuleWindows,
        ticket: Ticket,
        observed: Observed,
        elapsed: Millis,
        retry_after: Option<Millis>,
        settings: &BreakerSettings,
        now: Timestamp,
        roll: u64,
    ) -> Option<Transition> {
        let met = if self.counts_ordinary(ticket) {
            windows.count(settings, ticket.epoch, observed, elapsed, now).unwrap_or_default()
        } else {
            RulesMet::default()
        };
        let observation = Observation { ticket, observed, elapsed, retry_after };
        self.conclude(&observation, met, settings, now, roll)
    }

    /// Whether the result of an attempt with this ticket belongs to the counts.
    pub fn counts_ordinary(&self, ticket: Ticket) -> bool {
        matches!(self.state, State::Closed { .. }) && ticket == self.ticket()
    }

    /// Changes state after a result that met the rules `met`; `roll` is any random number.
    pub fn conclude(
        &mut self,
        observation: &Observation,
        met: RulesMet,
        settings: &BreakerSettings,
        now: Timestamp,
        roll: u64,
    ) -> Option<Transition> {
        if observation.ticket.epoch != self.epoch {
            return None;
        }
        match (self.state, observation.ticket.lease) {
            (State::Closed { .. }, None) => self.conclude_ordinary(observation, met, settings, now),
            (State::HalfOpen { lease_until, failed_probes }, Some(lease)) => {
                let proven = Proven::by_probe(observation, settings);
                // A probe whose lease was renewed for another one can only close the breaker.
                if lease != lease_until && proven != Proven::Works {
                    return None;
                }
                self.conclude_probe(proven, observation, failed_probes, settings, now, roll)
            }
            _ => None,
        }
    }

    fn conclude_ordinary(
        &mut self,
        observation: &Observation,
        met: RulesMet,
        settings: &BreakerSettings,
        now: Timestamp,
    ) -> Option<Transition> {
        if observation.observed == Observed::Misconfigured {
            let until = now.plus(open_time::first(None, observation, settings));
            return Some(self.open(None, until, TripReason::Misconfigured));
        }
        self.grow(observation.observed);
        self.consecutive = self.counts_in_row(settings, observation.observed, observation.elapsed);
        let in_row = settings.rules.iter().zip(self.consecutive);
        let (position, open_for) = in_row
            .enumerate()
            .filter(|(position, (rule, in_row))| {
                let reached =
                    matches!(rule.threshold, Threshold::Consecutive(limit) if *in_row >= limit);
                // If a rule is met already, only another fault meets it again: a success must not open the breaker.
                (reached && is_fault(rule, observation.observed, observation.elapsed))
                    || met.contains(*position)
            })
            .map(|(position, (rule, _))| {
                (position, open_time::first(Some(rule), observation, settings))
            })
            .max_by_key(|(position, open_for)| (*open_for, std::cmp::Reverse(*position)))?;
        let rule = u8::try_from(position).ok();
        Some(self.open(rule, now.plus(open_for), TripReason::Rule(position)))
    }

    fn conclude_probe(
        &mut self,
        proven: Proven,
        observation: &Observation,
        failed_probes: u8,
        settings: &BreakerSettings,
        now: Timestamp,
        roll: u64,
    ) -> Option<Transition> {
        let due = std::mem::take(&mut self.early.due);
        match proven {
            Proven::Nothing | Proven::Fails if due > now => {
                if proven == Proven::Nothing {
                    self.early.from = now;
                }
                self.enter(State::Open { until: due, failed_probes });
                None
            }
            Proven::Nothing => {
                // No transition: the next request takes the lease.
                self.state = State::HalfOpen { lease_until: now, failed_probes };
                None
            }
            Proven::Works => {
                let since =
                    if settings.ramp_duration == Millis::ZERO { Timestamp::ZERO } else { now };
                let successes = self.left_out(failed_probes, settings);
                self.enter(State::Closed { since, successes });
                self.rule = None;
                Some(Transition::Closed)
            }
            Proven::Fails => {
                let failed_probes = failed_probes.saturating_add(1);
                let rule = self.tripped_by(settings);
                let open_for = open_time::next(rule, failed_probes, observation, settings, roll);
                let until = now.plus(open_for);
                self.enter(State::Open { until, failed_probes });
                self.early.from = now.plus(EARLY_PAUSE);
                Some(Transition::Reopened { until, failed_probes })
            }
        }
    }

    fn open(&mut self, rule: Option<u8>, until: Timestamp, reason: TripReason) -> Transition {
        self.enter(State::Open { until, failed_probes: 0 });
        self.early = Early::default();
        self.rule = rule;
        Transition::Opened { until, reason }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
        self.consecutive = Default::default();
    }

    fn failed_probes(&self) -> u8 {
        match self.state {
            State::Closed { .. } => 0,
            State::HalfOpen { failed_probes, .. } | State::Open { failed_probes, .. } => {
                failed_probes
            }
        }
    }

    /// Counts a success during the ramp. After the last step the ramp is over.
    fn grow(&mut self, observed: Observed) {
        if !self.grows_by(observed) {
            return;
        }
        if let State::Closed { since, successes } = &mut self.state {
            *successes = successes.saturating_add(1);
            if ramp::is_over(*successes) {
                (*since, *successes) = (Timestamp::ZERO, 0);
            }
        }
    }

    /// The successes with which a ramp begins after this many failed probes. Their number shows the length of the
    /// outage only if no open time is configured.
    fn left_out(&self, failed_probes: u8, settings: &BreakerSettings) -> u8 {
        let by_fault = |rule: &Rule| rule.trip_duration.is_none();
        if self.tripped_by(settings).is_some_and(by_fault) {
            ramp::left_out(failed_probes)
        } else {
            0
        }
    }

    /// The rule that opened it.
    fn tripped_by<'a>(&self, settings: &'a BreakerSettings) -> Option<&'a Rule> {
        self.rule.and_then(|position| settings.rules.get(usize::from(position)))
    }

    /// The faults in a row of each rule after a result.
    fn counts_in_row(
        &self,
        settings: &BreakerSettings,
        observed: Observed,
        elapsed: Millis,
    ) -> [u32; MAX_RULES] {
        let mut counts = self.consecutive;
        for (rule, count) in settings.rules.iter().zip(counts.iter_mut()) {
            if !matches!(rule.threshold, Threshold::Consecutive(_)) {
                continue;
            }
            if is_fault(rule, observed, elapsed) {
                *count = count.saturating_add(1);
            } else if observed == Observed::Success {
                *count = 0;
            }
        }
        counts
    }
}

/// What the result of a probe proves about its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proven {
    Works,
    Fails,
    Nothing,
}

impl Proven {
    fn by_probe(observation: &Observation, settings: &BreakerSettings) -> Self {
        let Observation { observed, elapsed, .. } = *observation;
        let is_slow = || settings.rules.iter().any(|rule| is_fault(rule, observed, elapsed));
        match observed {
            Observed::Ignored => Self::Nothing,
            Observed::Success if !is_slow() => Self::Works,
            Observed::Success | Observed::Fault(_) | Observed::Misconfigured => Self::Fails,
        }
    }
}
