//! How a request ends for the client: with a backend's response, or with one that the gateway puts in its place.
//!
//! Mostly an attempt has said so before its response arrives here. What is left are responses that nobody
//! expected: Envoy's own, those of its filters, and those of attempts that Envoy did not repeat.

use super::{LastAttempt, Request, Stage};
use crate::filter::host;
use crate::policy::choice::Unavailable;
use crate::policy::failover::{self, FinalResponse, Stop};
use crate::policy::pool::BackendIndex;
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::time::Timestamp;

/// A response that no attempt let through: Envoy's own, or one that was to be followed by a retry.
pub(crate) struct Unexpected {
    pub(crate) status: u16,
    /// Whether it is an attempt's, which asked for a retry that Envoy did not make.
    pub(crate) asks_for_retry: bool,
    /// Why there was no way to the backend that was chosen, if that is why.
    pub(crate) misroute: Option<Misroute>,
    /// Whether an attempt's filter found nothing of the request in its VM.
    pub(crate) is_apart: bool,
}

/// What the gateway does with the response that is about to reach the client.
pub(crate) enum Finish {
    /// It goes on.
    Pass {
        /// Who served it, if it is a backend's.
        backend: Option<BackendIndex>,
        /// The time to come back that replaces the backend's own.
        soonest: Option<Timestamp>,
        /// Whether the request may have been carried out, so that a client must not repeat it by itself.
        may_be_done: bool,
    },
    /// It is replaced: Envoy or one of its filters refused the request by itself.
    Refused {
        /// The status that it chose, 400 to 499.
        status: u16,
    },
    /// It is replaced: there is no way to the backend that was chosen, but to others.
    NoWay,
    /// It is replaced: nobody knows whether the request was carried out.
    MayBeDone,
    /// It is replaced: it is no response for a client.
    NoAnswer {
        /// The status of a redirect, or 101.
        status: u16,
    },
    /// It is replaced: the two roles run in different VMs.
    Apart,
    /// It is replaced: the pool is exhausted.
    Exhausted {
        /// Whether throttling is the only reason.
        throttled: bool,
        /// When the soonest backend is expected back.
        soonest: Option<Timestamp>,
    },
}

impl Finish {
    /// It goes on as it is.
    fn pass(backend: Option<BackendIndex>) -> Self {
        Self::Pass { backend, soonest: None, may_be_done: false }
    }

    fn of(
        backend: Option<BackendIndex>,
        ending: FinalResponse,
        now: impl FnOnce() -> Timestamp,
    ) -> Self {
        match ending {
            FinalResponse::PassOn => Self::pass(backend),
            FinalResponse::PassOnOnce => Self::Pass { backend, soonest: None, may_be_done: true },
            FinalResponse::PassOnError => {
                Self::Pass { backend, soonest: Some(now()), may_be_done: false }
            }
            FinalResponse::NoWay => Self::NoWay,
            FinalResponse::MayBeDone => Self::MayBeDone,
            FinalResponse::NoAnswer { status } => Self::NoAnswer { status },
            FinalResponse::Exhausted { throttled, soonest } => {
                Self::Exhausted { throttled, soonest }
            }
        }
    }
}

impl Request {
    /// What becomes of the response that is about to reach the client.
    pub(crate) fn finish(
        &mut self,
        unexpected: impl FnOnce() -> Unexpected,
        now: impl FnOnce() -> Timestamp,
    ) -> Finish {
        let stage = if self.is_closed() {
            Stage::Open
        } else {
            std::mem::replace(&mut self.stage, Stage::Answered)
        };
        match stage {
            Stage::Served(backend) => Finish::pass(Some(backend)),
            Stage::Failed(backend, ending) => Finish::of(backend, ending, now),
            Stage::Retrying(last) => self.finish_unexpected(Some(last), &unexpected(), now()),
            Stage::Open | Stage::Answered | Stage::Closed => {
                self.finish_unexpected(None, &unexpected(), now())
            }
        }
    }

    /// What becomes of a response that no attempt let through; `last` is the attempt that was to be
    /// followed by another one.
    fn finish_unexpected(
        &mut self,
        last: Option<LastAttempt>,
        response: &Unexpected,
        now: Timestamp,
    ) -> Finish {
        let soon = Finish::Exhausted { throttled: false, soonest: Some(now) };
        if response.is_apart {
            return Finish::Apart;
        }
        // An attempt that waited for its connection ended so itself, and what is planned was not tried.
        let waited_to_connect = |last: &LastAttempt| {
            matches!(last.outcome, Outcome::Fault { fault: Fault::ConnectTimeout, .. })
        };
        if response.misroute == Some(Misroute::Full) && last.as_ref().is_some_and(waited_to_connect)
        {
            return Finish::NoWay;
        }
        if let Some(misroute) = response.misroute.filter(|_| !response.asks_for_retry)
            && let Some(attempt) = self.begin(|| now)
        {
            return Finish::of(None, self.misrouted(&attempt, misroute, now), || now);
        }
        if let Some(LastAttempt { backend, outcome, status }) = last {
            host::increment(self.pool.metrics.limited, 1);
            let size = self.pool.backends.len();
            let ending = failover::ending(&outcome, status, &Stop::Limited, size, now);
            return Finish::of(Some(backend), ending, || now);
        }
        match response.status {
            // The route itself answers: a redirect, a page.
            ..400 if self.attempts() == 0 => Finish::pass(None),
            ..400 => soon,
            status @ 400..500 => Finish::Refused { status },
            // Envoy ended the attempt or did not begin it: a time limit, a circuit breaker of its own.
            _ => match self.peek(now) {
                Ok(_) => soon,
                Err(Unavailable { throttled, soonest, .. }) => {
                    Finish::Exhausted { throttled, soonest }
                }
            },
        }
    }
}
