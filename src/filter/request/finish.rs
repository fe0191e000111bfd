//! How a request ends for the client: with a backend's response, or with a reply of the gateway instead.
//!
//! Usually an attempt has decided this before its response arrives here. The rest are unexpected responses: Envoy's
//! own, those of its filters, and those of attempts that Envoy did not retry.

use super::{LastAttempt, Request, Stage};
use crate::filter::host;
use crate::policy::choice::Unavailable;
use crate::policy::failover::{self, FinalResponse, Stop};
use crate::policy::pool::BackendIndex;
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::time::Timestamp;

/// A response that no attempt released: Envoy's own, or one that should have been retried.
pub(crate) struct Unexpected {
    pub(crate) status: u16,
    /// Whether an attempt asked for a retry that Envoy did not make.
    pub(crate) asks_for_retry: bool,
    /// Why Envoy could not reach the chosen backend, if that is the reason.
    pub(crate) misroute: Option<Misroute>,
    /// Whether an attempt's filter did not find the request in its VM.
    pub(crate) is_apart: bool,
}

/// What the gateway does with the response to the client.
pub(crate) enum Finish {
    /// The response passes.
    Pass {
        /// The backend that served it, if any.
        backend: Option<BackendIndex>,
        /// The soonest recovery: it replaces the backend's own delay.
        soonest: Option<Timestamp>,
        /// Whether the request may have been carried out, so that a client must not repeat it on its own.
        may_be_done: bool,
    },
    /// Replaced: Envoy or one of its filters refused the request.
    Refused {
        /// Their status, 400 to 499.
        status: u16,
    },
    /// Replaced: Envoy cannot reach the chosen backend, but another one can be chosen.
    Unreachable,
    /// Replaced: the request may have been carried out.
    MayBeDone,
    /// Replaced: no client can use it.
    Unusable {
        /// The status of a redirect, or 101.
        status: u16,
    },
    /// Replaced: the two roles run in different VMs.
    Apart,
    /// Replaced: the pool is exhausted.
    Exhausted {
        /// Whether throttling is the only reason.
        throttled: bool,
        /// When the soonest backend is expected back.
        soonest: Option<Timestamp>,
    },
}

impl Finish {
    /// The response passes unchanged.
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
            FinalResponse::Unreachable => Self::Unreachable,
            FinalResponse::MayBeDone => Self::MayBeDone,
            FinalResponse::Unusable { status } => Self::Unusable { status },
            FinalResponse::Exhausted { throttled, soonest } => {
                Self::Exhausted { throttled, soonest }
            }
        }
    }
}

impl Request {
    /// Decides about the response to the client.
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

    /// Decides about a response that no attempt released. `last` is the attempt that should have been retried.
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
        // An attempt that waited for its connection can end this way too. The planned one was not tried.
        let waited_to_connect = |last: &LastAttempt| {
            matches!(last.outcome, Outcome::Fault { fault: Fault::ConnectTimeout, .. })
        };
        if response.misroute == Some(Misroute::Full) && last.as_ref().is_some_and(waited_to_connect)
        {
            return Finish::Unreachable;
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
            // The route itself responded: a redirect, a page.
            ..400 if self.attempts() == 0 => Finish::pass(None),
            ..400 => soon,
            status @ 400..500 => Finish::Refused { status },
            // Envoy ended the attempt or did not begin it, for example at a time limit or a circuit breaker of its
            // own.
            _ => match self.peek(now) {
                Ok(_) => soon,
                Err(Unavailable { throttled, soonest, .. }) => {
                    Finish::Exhausted { throttled, soonest }
                }
            },
        }
    }
}
