//! The circuit breaker: faults open it, time half-opens it, one successful probe closes it.
//!
//! # What trips it
//! A rule that is reached (see [`super::rules`]); when several are reached at once, the one that
//! keeps the breaker open longest. A wrong credential or deployment trips at once, rules or not,
//! because no request will succeed.
//!
//! # Half-open
//! After the open time one request is let through as a probe. The lease is written under CAS, so
//! over all workers exactly one gets it; it expires, so a probe that never reports (a crashed
//! worker) frees itself. A probe that proves nothing (a 400, a throttle, a client that left) gives
//! the lease back. A probe fails by any fault, whether or not a rule counts it: what is let through
//! to show that the backend works must work.
//!
//! A lease that expired is renewed for the next request without a transition. The earlier probe may
//! still be on its way, because its backend is slower than `probe_timeout`: its success closes the
//! breaker like any other. Its failure reopens nothing: the probe that holds the lease decides.
//!
//! # Early probes
//! A request that nobody else can serve would fail anyway. So it may be the probe before the open time
//! is over, one at a time and one in [`EARLY_PAUSE`]. When it fails, the open time goes on as it was: only
//! probes that were due lengthen it.
//!
//! Each failed probe doubles the open time. Up to 10 % jitter keeps many proxies from returning
//! together: upwards, but downwards where it would exceed the longest open time. `retry-after` may
//! lengthen the time. A `retry-after` of zero names no time: the backend has just failed.
//!
//! # Stale results
//! Every transition increments the epoch. An attempt carries the epoch in which it began, and its
//! result counts only in that epoch: a failure that began before the trip cannot trip again, a
//! success that began before it cannot close. Counts carry the epoch, too, so that they start
//! afresh without a second write.
//!
//! # Clock
//! A deadline further ahead than any open time (or lease) shows that the clock was put back since;
//! it has passed. A ramp that began in the future is over.
//!
//! # Two records
//! Workers share the breaker in the pool's record and the counts in a record of the backend. A
//! caller that writes both under CAS takes two steps: [`RuleWindows::count`] in the one, and with
//! its result [`Breaker::conclude`] in the other. [`Breaker::observe`] is both steps in one.

pub use super::rules::{Observed, RuleWindows, RulesMet, needs_count};

use super::rules::is_fault;
use crate::policy::pool::{BreakerSettings, MAX_RULES, Rule, Threshold};
use crate::policy::time::{Millis, Timestamp};

/// How long a breaker without rules stays open when the gateway's own choice was wrong.
const TRIP_WITHOUT_RULES: Millis = Millis::from_secs(30);

/// The most jitter of a doubled open time, in thousandths of it.
const JITTER_PERMILLE_MAX: u64 = 100;

/// The shortest open time that a `retry-after` can name, as for a configured one: it is no pause
/// below.
const NAMED_TRIP_MIN: Millis = Millis::new(100);

/// The shortest time between two early probes, unless the earlier one proved nothing.
pub const EARLY_PAUSE: Millis = Millis::from_secs(1);

/// A backend's circuit breaker. The default is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Where it stands.
    pub state: State,
    /// The number of transitions so far, wrapping.
    pub epoch: u32,
    /// For each rule the faults with no success between them.
    pub consecutive: [u32; MAX_RULES],
    /// The position of the rule that opened it; `None`: no rule did.
    pub rule: Option<u8>,
    /// Its early probes.
    pub early: Early,
}

/// The early probes of an open breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// When the next one may go.
    pub from: Timestamp,
    /// When a probe would have been due; zero: the one that is on its way was.
    pub due: Timestamp,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Traffic flows.
    Closed {
        /// When traffic began to grow; zero: it is not growing.
        since: Timestamp,
    },
    /// One request is on its way to find out, or was given up.
    HalfOpen {
        /// When the next one may go.
        lease_until: Timestamp,
        /// Probes that failed since the trip.
        failed_probes: u8,
    },
    /// No traffic.
    Open {
        /// When a probe may go.
        until: Timestamp,
        /// Probes that failed since the trip.
        failed_probes: u8,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { since: Timestamp::ZERO }
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Everything.
    Closed,
    /// Nothing before a time.
    Open {
        /// That time.
        until: Timestamp,
    },
    /// One request, which must take the lease.
    Probe,
    /// A part.
    Ramp {
        /// 1 to 99.
        percent: u8,
    },
}

/// How a probe comes to its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The open time is over.
    Due,
    /// Nobody else can serve the request.
    Early,
}

/// What an attempt carries to be judged by when its result arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The breaker's epoch when the attempt began.
    pub epoch: u32,
    /// When the half-open lease ends that the attempt took; `None`: it is no probe.
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
        /// When a probe may go.
        until: Timestamp,
        /// Why.
        reason: TripReason,
    },
    /// The probe failed.
    Reopened {
        /// When the next probe may go.
        until: Timestamp,
        /// How many failed since the trip.
        failed_probes: u8,
    },
}

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripReason {
    /// The credential or the deployment that the gateway chose is wrong.
    Misconfigured,
    /// The rule at this position was reached.
    Rule(usize),
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What the attempt carried.
    pub ticket: Ticket,
    /// What it came to.
    pub observed: Observed,
    /// The time to its first byte.
    pub elapsed: Millis,
    /// The time that the backend named.
    pub retry_after: Option<Millis>,
}

impl Breaker {
    /// What the breaker lets through.
    #[inline]
    pub fn passage(&self, settings: &BreakerSettings, now: Timestamp) -> Passage {
        let (until, longest) = match self.state {
            State::Closed { since } => return ramp(since, settings.ramp_duration, now),
            State::HalfOpen { lease_until, .. } => (lease_until, settings.probe_timeout),
            State::Open { until, .. } => (until, longest_trip(settings)),
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

    /// Whether a request that nobody else can serve may be the probe of this breaker, which is open.
    pub fn admits_early(&self, now: Timestamp) -> bool {
        let Early { from, .. } = self.early;
        // A pause further ahead than its length shows that the clock was put back.
        matches!(self.state, State::Open { .. }) && (from <= now || from > now.plus(EARLY_PAUSE))
    }

    /// Takes the half-open lease: under CAS, one caller gets a ticket and all others `None`.
    pub fn lease_probe(
        &mut self,
        lease: Lease,
        settings: &BreakerSettings,
        now: Timestamp,
    ) -> Option<Ticket> {
        self.early = match (self.passage(settings, now), lease) {
            (Passage::Probe, _) => Early::default(),
            (Passage::Open { until }, Lease::Early) if self.admits_early(now) => {
                Early { from: now.plus(EARLY_PAUSE), due: until }
            }
            _ => return None,
        };
        let lease_until = now.plus(settings.probe_timeout);
        let half_open = State::HalfOpen { lease_until, failed_probes: self.failed_probes() };
        match self.state {
            // No transition: the success of a probe that is still on its way must count.
            State::HalfOpen { .. } => self.state = half_open,
            State::Closed { .. } | State::Open { .. } => self.enter(half_open),
        }
        Some(Ticket { epoch: self.epoch, lease: Some(lease_until) })
    }

    /// Whether a result can change anything at all, the counts or the breaker. When it cannot,
    /// neither record need be read again.
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
                    || needs_count(settings, observed, elapsed)
                    || self.counts_in_row_change(settings, observed, elapsed)
            }
        }
    }

    /// Whether a result changes how many faults there were in a row.
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
        reason = "a purely functional step; the two-step form takes them grouped"
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

    /// Whether the result of an attempt with this ticket belongs into the counts.
    pub fn counts_ordinary(&self, ticket: Ticket) -> bool {
        matches!(self.state, State::Closed { .. }) && ticket == self.ticket()
    }

    /// Changes state after a result that reached the rules `met`; `roll` is any random number.
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
                // A probe whose lease was renewed for another can only close the breaker.
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
            let until = now.plus(base_trip(None, settings));
            return Some(self.open(None, until, TripReason::Misconfigured));
        }
        self.consecutive = self.counts_in_row(settings, observation.observed, observation.elapsed);
        let in_row = settings.rules.iter().zip(self.consecutive);
        let (position, open_for) = in_row
            .enumerate()
            .filter(|(position, (rule, in_row))| {
                let reached =
                    matches!(rule.threshold, Threshold::Consecutive(limit) if *in_row >= limit);
                // A rule that was reached before has opened it; only a fault reaches it anew.
                (reached && is_fault(rule, observation.observed, observation.elapsed))
                    || met.contains(*position)
            })
            .map(|(position, (rule, _))| (position, first_trip(rule, observation, settings)))
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
                // Not a transition: the next request takes the lease.
                self.state = State::HalfOpen { lease_until: now, failed_probes };
                None
            }
            Proven::Works => {
                let since =
                    if settings.ramp_duration == Millis::ZERO { Timestamp::ZERO } else { now };
                self.enter(State::Closed { since });
                self.rule = None;
                Some(Transition::Closed)
            }
            Proven::Fails => {
                let failed_probes = failed_probes.saturating_add(1);
                let until = now.plus(self.next_trip(failed_probes, observation, settings, roll));
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

    /// The open time after a failed probe: the first one doubled each time, or what the backend
    /// named when that is longer and the rule accepts it.
    fn next_trip(
        &self,
        failed_probes: u8,
        observation: &Observation,
        settings: &BreakerSettings,
        roll: u64,
    ) -> Millis {
        let rule = self.rule.and_then(|position| settings.rules.get(usize::from(position)));
        let base = base_trip(rule, settings);
        let factor = 1u64.checked_shl(u32::from(failed_probes)).unwrap_or(u64::MAX);
        let named = rule.and_then(|rule| named_trip(rule, observation)).unwrap_or(Millis::ZERO);
        let longest = settings.max_trip_duration.max(base);
        let length = spread(base.scale(factor, 1).max(named), longest, roll);
        // What the backend named is kept, where that is possible at all.
        if named < longest { length.max(named) } else { length }
    }
}

/// What the result of a probe says of its backend.
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

/// `length` with up to 10 % of jitter: upwards where even the most stays within `longest`, else
/// downwards from `longest`.
fn spread(length: Millis, longest: Millis, roll: u64) -> Millis {
    let jitter_permille = roll.checked_rem(JITTER_PERMILLE_MAX.saturating_add(1)).unwrap_or(0);
    if length.plus(length.scale(JITTER_PERMILLE_MAX, 1_000)) <= longest {
        length.plus(length.scale(jitter_permille, 1_000))
    } else {
        longest.scale(1_000_u64.saturating_sub(jitter_permille), 1_000)
    }
}

fn ramp(since: Timestamp, duration: Millis, now: Timestamp) -> Passage {
    let growing = since != Timestamp::ZERO && since <= now && now.since(since) < duration;
    if !growing {
        return Passage::Closed;
    }
    let thirds = now.since(since).as_ms().saturating_mul(3).checked_div(duration.as_ms());
    let percent = match thirds {
        Some(0) => 10,
        Some(1) => 25,
        _ => 50,
    };
    Passage::Ramp { percent }
}

fn first_trip(rule: &Rule, observation: &Observation, settings: &BreakerSettings) -> Millis {
    named_trip(rule, observation)
        .map_or(rule.trip_duration, |named| named.min(settings.max_trip_duration))
}

/// The open time that the backend named, if the rule accepts it. Zero says "now", which is what the
/// backend has just failed at, so it names nothing.
fn named_trip(rule: &Rule, observation: &Observation) -> Option<Millis> {
    let named = observation.retry_after.filter(|_| rule.accept_retry_after)?;
    (named > Millis::ZERO).then(|| named.max(NAMED_TRIP_MIN))
}

/// The open time that doubling starts from. Without a rule: that of the slowest one.
fn base_trip(rule: Option<&Rule>, settings: &BreakerSettings) -> Millis {
    let slowest = || settings.rules.iter().map(|rule| rule.trip_duration).max();
    rule.map(|rule| rule.trip_duration).or_else(slowest).unwrap_or(TRIP_WITHOUT_RULES)
}

fn longest_trip(settings: &BreakerSettings) -> Millis {
    settings.max_trip_duration.max(base_trip(None, settings))
}
