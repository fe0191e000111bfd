//! One request's way through its pool: what was tried, whether to go on, and what to say at the end.
//!
//! # Why a ledger
//!
//! Attempts of one request share three limits: each backend at most once, `max_attempts` in all, and
//! the pool's retry budget. A failed attempt also leaves a reason that the client may see in the
//! trail. Both are kept here, so that whoever watches an attempt only asks "what next?".
//!
//! # When all is closed
//!
//! A backend that throttled this very request may serve it after its gate reopened: waiting, within
//! `max_wait`, is the one case in which a backend is tried twice.

use super::classify::{Fault, Outcome};
use super::pool::{BackendIndex, BackendSet, FailoverSettings};
use super::select::{Choice, Unavailable};
use super::time::{Millis, Timestamp};
use super::trail::AttemptResult;

/// What one request tried so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    tried: BackendSet,
    throttled: BackendSet,
    attempts: u8,
    waited: Millis,
}

/// What to do after an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try another backend at once.
    Retry,
    /// Nothing can serve now; ask again at this time.
    Wait {
        /// When the soonest backend is expected back.
        until: Timestamp,
    },
    /// Nothing more will be tried.
    Stop(Stop),
}

/// Why nothing more is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// No backend is left.
    Exhausted(Unavailable),
    /// One is left, but `max_attempts` or the retry budget forbids it.
    Limited,
}

/// What the client gets after the last attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The backend's own answer as it is.
    PassOn,
    /// The backend's own error, with the pool's time to come back in the place of the backend's.
    PassOnError,
    /// The gateway's answer: the pool is exhausted.
    Exhausted {
        /// Whether throttling or a budget is the only reason.
        throttled: bool,
        /// When the soonest backend is expected back; `None`: nobody knows.
        soonest: Option<Timestamp>,
    },
}

impl Ledger {
    /// The backends that this request must not try again.
    pub fn tried(&self) -> BackendSet {
        self.tried
    }

    /// The backends that this request must not try again even after waiting: all that it tried, but
    /// for those that throttled it.
    pub fn spent(&self) -> BackendSet {
        self.throttled.iter().fold(self.tried, BackendSet::without)
    }

    /// How many attempts began.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// An attempt at `backend` begins.
    pub fn begin(&mut self, backend: BackendIndex) {
        self.tried = self.tried.with(backend);
        self.throttled = self.throttled.without(backend);
        self.attempts = self.attempts.saturating_add(1);
    }

    /// The attempt at `backend` ended with `outcome`.
    pub fn end(&mut self, backend: BackendIndex, outcome: &Outcome) {
        if matches!(outcome, Outcome::Throttled { .. }) {
            self.throttled = self.throttled.with(backend);
        }
    }

    /// The request waited for `length`: a gate that closed on it may have reopened.
    pub fn wait(&mut self, length: Millis) {
        self.waited = self.waited.plus(length);
        self.tried = self.spent();
        self.throttled = BackendSet::EMPTY;
    }

    /// What to do next, given what a selection among the untried backends found, and when the first
    /// backend that is not [`spent`](Self::spent) recovers.
    ///
    /// `withdraw` takes one failover out of the retry budget, if it allows one; it is asked last,
    /// so that a budget is only spent on a failover that happens. The first attempt is free.
    pub fn next(
        &self,
        selected: Result<Choice, Unavailable>,
        recovers: Option<Timestamp>,
        settings: &FailoverSettings,
        now: Timestamp,
        withdraw: impl FnOnce() -> bool,
    ) -> Next {
        match selected {
            Ok(_) if self.attempts >= settings.max_attempts => Next::Stop(Stop::Limited),
            Ok(_) if self.attempts == 0 || withdraw() => Next::Retry,
            Ok(_) => Next::Stop(Stop::Limited),
            Err(unavailable) => match recovers {
                Some(until) if self.may_wait(until, settings, now) => Next::Wait { until },
                _ => Next::Stop(Stop::Exhausted(unavailable)),
            },
        }
    }

    /// Whether waiting until `until` stays within `max_wait`, and can lead to another attempt. A gate
    /// that closed on this request may have reopened by now: that is a wait of no length.
    fn may_wait(&self, until: Timestamp, settings: &FailoverSettings, now: Timestamp) -> bool {
        let wait = until.since(now);
        settings.max_wait > Millis::ZERO
            && self.attempts < settings.max_attempts
            && self.waited.plus(wait) <= settings.max_wait
    }
}

/// Whether another attempt could end better than `outcome`.
pub fn is_worth_another(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Success | Outcome::ClientError | Outcome::Cancelled => false,
        Outcome::Throttled { .. }
        | Outcome::Fault { .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Elsewhere { .. } => true,
    }
}

/// What the trail says of `outcome`, which came with `status`; `None` when the client left first.
pub fn result_in_trail(outcome: &Outcome, status: u16) -> Option<AttemptResult> {
    match outcome {
        Outcome::Cancelled => None,
        Outcome::Throttled { .. } if status < 400 => Some(AttemptResult::InBand),
        Outcome::Fault { fault: Fault::Connect, .. } => Some(AttemptResult::Connect),
        Outcome::Fault { fault: Fault::Reset, .. } => Some(AttemptResult::Reset),
        Outcome::Fault { fault: Fault::StreamError, .. } => Some(AttemptResult::StreamError),
        Outcome::Fault { fault: Fault::Timeout, .. } => Some(AttemptResult::Timeout),
        Outcome::Success
        | Outcome::ClientError
        | Outcome::Throttled { .. }
        | Outcome::Fault { fault: Fault::Status(_), .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Elsewhere { .. } => Some(AttemptResult::Status(status)),
    }
}

/// What the client gets when nothing more is tried after `outcome`, which came with `status`.
///
/// * A request that no backend could take gets the backend's own 4xx: it says what is wrong.
/// * A pool of one passes its backend's errors on: no other answer would be truer.
/// * An error of the gateway's own credential is never passed on: the client can do nothing about it.
/// * While another backend could have served, the last error is passed on; the pool is not exhausted.
pub fn ending(
    outcome: &Outcome,
    status: u16,
    stop: &Stop,
    pool_size: usize,
    now: Timestamp,
) -> Ending {
    let is_error_of_backend =
        status >= 400 && matches!(outcome, Outcome::Throttled { .. } | Outcome::Fault { .. });
    match (outcome, stop) {
        (Outcome::Elsewhere { .. }, _) => Ending::PassOn,
        _ if is_error_of_backend && pool_size == 1 => Ending::PassOn,
        (_, Stop::Limited) if is_error_of_backend => Ending::PassOnError,
        (_, Stop::Limited) => Ending::Exhausted { throttled: false, soonest: Some(now) },
        (_, Stop::Exhausted(unavailable)) => {
            Ending::Exhausted { throttled: unavailable.throttled, soonest: unavailable.soonest }
        }
    }
}
