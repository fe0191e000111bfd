//! One request's way through its pool: what was tried, whether to continue, and what to reply at the end.
//!
//! # Why a ledger
//!
//! Attempts of one request share three limits: each backend at most once, `max_attempts` in all, and the pool's retry
//! budget. The ledger checks these limits, so that whoever watches an attempt only asks "what next?".
//!
//! # What a failover costs
//!
//! The retry budget keeps an outage from multiplying the load. Not every failover does that: a 429 cost the backend
//! nothing, and the first failover of a request is what this gateway exists for. Both are free, and so is a failover
//! after a 408 that closes the connection, because the backend had no work. So a failing request costs at most two
//! attempts before the budget is asked.
//!
//! # When all refuse
//!
//! If every backend that could serve a request returns a 4xx, the last of these responses is passed on, because it
//! states what is wrong. If one of them could not be asked, or failed in another way, it may be the only one that has
//! what the request refers to. Then the pool is exhausted, and the client is told when to retry.
//!
//! # When all is closed
//!
//! A backend that throttled this request may serve it after its gate reopened. Only then, after a wait within
//! `max_wait`, a backend is tried twice.

pub mod blame;
pub mod retry_budget;
pub mod trail;

use super::choice::{Choice, Unavailable};
use super::pool::{BackendIndex, BackendSet, FailoverSettings};
use super::response::classify::{Fault, Outcome};
use super::time::{Millis, Timestamp};
use trail::AttemptResult;

/// What one request has tried so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    tried: BackendSet,
    throttled: BackendSet,
    judged: BackendSet,
    /// The backends that returned a 429 that closes no gate. They may have what others lack.
    put_off: BackendSet,
    attempts: u8,
    waited: Millis,
    /// Whether the last attempt ended with a 429.
    is_refused: bool,
    /// Whether the backend of the last attempt did not receive the request.
    is_unheard: bool,
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

/// Why nothing more will be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// No backend is left.
    Exhausted(Unavailable),
    /// A backend is left, but `max_attempts` or the retry budget forbids it.
    Limited,
    /// A backend is left, but `max_attempts` forbids it, and all that were asked returned a 4xx.
    Refused,
    /// The request may have been carried out, and must not be repeated.
    MayBeDone,
}

/// What the client gets after the last attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinalResponse {
    /// The backend's own response, unchanged.
    PassOn,
    /// The backend's own error, but with the pool's delay instead of the backend's.
    PassOnError,
    /// The backend's own error, with a header against automatic retries, because the request may have been carried
    /// out.
    PassOnOnce,
    /// The gateway's reply: the request may have been carried out.
    MayBeDone,
    /// The gateway's reply: Envoy cannot reach the chosen backend. Another one can be chosen at once.
    Unreachable,
    /// The gateway's reply: the backends' responses cannot be passed to a client.
    Unusable {
        /// The status of the last one: that of a redirect, or 101 if the protocol is not the requested one.
        status: u16,
    },
    /// The gateway's reply: the pool is exhausted.
    Exhausted {
        /// Whether throttling or a budget is the only reason.
        throttled: bool,
        /// When the soonest backend is expected back; `None`: unknown.
        soonest: Option<Timestamp>,
    },
}

impl Ledger {
    /// The backends that this request must not try again.
    pub fn tried(&self) -> BackendSet {
        self.tried
    }

    /// The backends that this request must not try again even after waiting: all that it tried,
    /// except those that throttled it.
    pub fn spent(&self) -> BackendSet {
        self.throttled.iter().fold(self.tried, BackendSet::without)
    }

    /// The backends that throttled this request, whatever they did before.
    pub fn throttled(&self) -> BackendSet {
        self.throttled
    }

    /// The backends that returned a 4xx to the request: asking them again would change nothing.
    pub fn judged(&self) -> BackendSet {
        if self.is_refused { self.judged.union(self.put_off) } else { self.judged }
    }

    /// Whether another attempt is within `max_attempts`.
    pub fn has_attempts_left(&self, settings: &FailoverSettings) -> bool {
        self.attempts < settings.max_attempts
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
        self.is_refused = is_429(outcome);
        self.is_unheard = matches!(outcome, Outcome::Fault { fault: Fault::NotReceived, .. });
        if is_refusal(outcome) && self.is_refused {
            self.put_off = self.put_off.with(backend);
        } else if is_refusal(outcome) {
            self.judged = self.judged.with(backend);
        }
    }

    /// The request changed for `backend`, which may be asked again.
    pub fn forgive(&mut self, backend: BackendIndex) {
        self.tried = self.tried.without(backend);
        self.judged = self.judged.without(backend);
        self.put_off = self.put_off.without(backend);
    }

    /// The request waited for `length`: a gate that throttled it may have reopened.
    pub fn wait(&mut self, length: Millis) {
        self.waited = self.waited.plus(length);
        self.tried = self.spent();
        self.throttled = BackendSet::EMPTY;
    }

    /// What to do next, given the result of a selection among the untried backends, and the time when the first
    /// backend that is not [`spent`](Self::spent) recovers.
    ///
    /// `withdraw` takes one failover from the retry budget, if it allows one. It is called last, so that only
    /// failovers that happen, and are not free, use the budget.
    pub fn next(
        &self,
        selected: Result<Choice, Unavailable>,
        recovers: Option<Timestamp>,
        settings: &FailoverSettings,
        now: Timestamp,
        withdraw: impl FnOnce() -> bool,
    ) -> Next {
        match selected {
            Ok(_) if !self.has_attempts_left(settings) => {
                Next::Stop(if self.is_unanimous() { Stop::Refused } else { Stop::Limited })
            }
            Ok(_) if self.is_free() || withdraw() => Next::Retry,
            Ok(_) => Next::Stop(Stop::Limited),
            Err(unavailable) => match recovers {
                Some(until) if self.may_wait(until, settings, now) => Next::Wait { until },
                _ => Next::Stop(Stop::Exhausted(unavailable)),
            },
        }
    }

    /// Whether the next attempt uses nothing of the retry budget.
    fn is_free(&self) -> bool {
        self.attempts <= 1 || self.is_refused || self.is_unheard
    }

    /// Whether every backend that was asked returned a 4xx.
    fn is_unanimous(&self) -> bool {
        self.judged() == self.tried
    }

    /// Whether waiting until `until` stays within `max_wait`, and can lead to another attempt. If the gate has
    /// reopened already, the wait has no length.
    fn may_wait(&self, until: Timestamp, settings: &FailoverSettings, now: Timestamp) -> bool {
        let wait = until.since(now);
        settings.max_wait > Millis::ZERO
            && self.has_attempts_left(settings)
            && self.waited.plus(wait) <= settings.max_wait
    }
}

/// Whether another attempt could end better than `outcome`.
pub fn is_worth_another(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Success | Outcome::Spilled { .. } | Outcome::ClientError | Outcome::Cancelled => {
            false
        }
        Outcome::Throttled { .. }
        | Outcome::Denied { .. }
        | Outcome::Fault { .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Misrouted(_)
        | Outcome::Elsewhere { .. } => true,
    }
}

/// Whether a backend refused the request itself.
fn is_refusal(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Denied { .. } | Outcome::Elsewhere { .. } | Outcome::Misconfigured { .. }
    )
}

/// Whether `outcome` is a 429, or the same within an event stream.
fn is_429(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Throttled { .. } => true,
        Outcome::Elsewhere { status } => matches!(status, 200..=299 | 429),
        _ => false,
    }
}

/// Whether `status` means success, whatever the body contains.
fn is_success(status: u16) -> bool {
    matches!(status, 200..=299)
}

/// Whether the backend may have carried out the request before `outcome`.
pub fn may_be_done(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Fault { fault, .. } => !matches!(
            fault,
            Fault::Connect | Fault::ConnectTimeout | Fault::NotReceived | Fault::Tls
        ),
        _ => false,
    }
}

/// The result in the trail for `outcome`, which came with `status`; `None` when the client left first.
pub fn result_in_trail(outcome: &Outcome, status: u16) -> Option<AttemptResult> {
    match outcome {
        Outcome::Cancelled => None,
        Outcome::Throttled { .. } | Outcome::Elsewhere { .. } if is_success(status) => {
            Some(AttemptResult::InBand)
        }
        Outcome::Misrouted(misroute) => Some(AttemptResult::Misrouted(*misroute)),
        Outcome::Spilled { .. } => Some(AttemptResult::Spilled),
        Outcome::Fault { fault: Fault::Connect, .. } => Some(AttemptResult::Connect),
        Outcome::Fault { fault: Fault::ConnectTimeout, .. } => Some(AttemptResult::ConnectTimeout),
        Outcome::Fault { fault: Fault::Tls, .. } => Some(AttemptResult::Tls),
        Outcome::Fault { fault: Fault::Empty, .. } => Some(AttemptResult::Empty),
        Outcome::Fault { fault: Fault::NoUpgrade, .. } => Some(AttemptResult::NoUpgrade),
        Outcome::Fault { fault: Fault::Reset, .. } => Some(AttemptResult::Reset),
        Outcome::Fault { fault: Fault::StreamError, .. } => Some(AttemptResult::StreamError),
        Outcome::Fault { fault: Fault::Timeout, .. } => Some(AttemptResult::Timeout),
        Outcome::Success
        | Outcome::ClientError
        | Outcome::Denied { .. }
        | Outcome::Throttled { .. }
        | Outcome::Fault { fault: Fault::NotReceived | Fault::Status(_), .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Elsewhere { .. } => Some(AttemptResult::Status(status)),
    }
}

/// What the client gets when nothing more is tried after `outcome`, which came with `status`.
/// * If every backend refused the request, the client gets the last one's 4xx, because it states what is wrong. A 429
///   gets the pool's delay instead of one backend's.
/// * A pool of one passes its backend's errors on: no other response would be more accurate.
/// * If another backend could have served, the last error is passed on; the pool is not exhausted.
/// * A redirect is not passed on. If there is nothing else, the client is told so.
/// * A refusal is not passed on if another backend could not be asked: that one may have served.
pub fn ending(
    outcome: &Outcome,
    status: u16,
    stop: &Stop,
    pool_size: usize,
    now: Timestamp,
) -> FinalResponse {
    let is_error = status >= 400;
    let is_unsuccessful = is_error || (status > 0 && !is_success(status));
    let is_error_of_backend =
        is_error && matches!(outcome, Outcome::Throttled { .. } | Outcome::Fault { .. });
    let is_refused_by_all = is_unsuccessful
        && is_refusal(outcome)
        && match stop {
            Stop::Exhausted(unavailable) => !unavailable.is_undecided,
            Stop::Refused => true,
            Stop::Limited | Stop::MayBeDone => false,
        };
    match stop {
        _ if is_refused_by_all && !is_error => FinalResponse::Unusable { status },
        _ if is_refused_by_all && (status != 429 || pool_size == 1) => FinalResponse::PassOn,
        _ if is_refused_by_all => FinalResponse::PassOnError,
        Stop::MayBeDone if is_error_of_backend => FinalResponse::PassOnOnce,
        Stop::MayBeDone => FinalResponse::MayBeDone,
        _ if is_error_of_backend && pool_size == 1 => FinalResponse::PassOn,
        Stop::Limited | Stop::Refused if is_error_of_backend => FinalResponse::PassOnError,
        Stop::Limited | Stop::Refused => {
            FinalResponse::Exhausted { throttled: false, soonest: Some(now) }
        }
        Stop::Exhausted(unavailable) => {
            // An event stream; a refusal with a status was passed on above.
            let is_refused = is_refusal(outcome) && is_429(outcome) && !unavailable.is_undecided;
            FinalResponse::Exhausted {
                throttled: unavailable.throttled || is_refused,
                soonest: unavailable.soonest,
            }
        }
    }
}

#[cfg(test)]
mod tests;
