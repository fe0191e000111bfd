//! An attempt that ends before its response does.
//!
//! Envoy itself retries an attempt that ends without headers (connect failure, reset, timeout). [`Response::done`]
//! runs before that retry is routed, in time to set its target. An attempt that ends in the middle of its response
//! can only be recorded.

use super::{Response, State, fault};
use crate::filter::attempt::flow::Flow;
use crate::filter::attempt::held::{HeldResponse, Question};
use crate::filter::host;
use crate::filter::host::details;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::pool::health::{CapacityHints, Evidence};
use crate::filter::request::Flowing;
use crate::filter::request::headers::SWITCHING_PROTOCOLS;
use crate::policy::failover::{self, FinalResponse, Next};
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::time::Timestamp;
use std::rc::Rc;

/// Logged for an attempt at a cluster without a host.
const NO_HOST: &str = "its cluster has no host, or the route's matcher names a cluster that does not exist: does its \
    name resolve, are there endpoints?";

impl Response {
    /// Envoy will retry an attempt without a response: sets the target, or stops the retry.
    fn retry_elsewhere(&self, outcome: &Outcome, now: Timestamp) {
        let Some(mut request) = self.request.change() else { return };
        // Without a response to hold there is nothing in which the request could wait.
        match request.go_on_at_once(now) {
            Next::Retry => request.expect_retry(self.attempt.backend.index, *outcome, 0),
            Next::Wait { until } => {
                let ending = FinalResponse::Exhausted { throttled: false, soonest: Some(until) };
                request.give_up(None, ending, now);
            }
            Next::Stop(stop) => {
                let size = request.pool().backends.len();
                request.give_up(None, failover::ending(outcome, 0, &stop, size, now), now);
            }
        }
    }

    /// The outcome of an attempt without a response. Once connected, only the elapsed time distinguishes a reset from
    /// a timeout. Envoy's timer has a clock of its own, and may fire early by one turn of its event loop.
    fn silence(&self, now: Timestamp) -> Outcome {
        if let Some(misroute) = self.misroute {
            return Outcome::Misrouted(misroute);
        }
        if let Some((connect, words)) = details::no_connection() {
            if connect == Fault::Connect && details::is_dead_endpoint() {
                self.attempt.backend.tell_connection(connect, Some(NO_HOST), now);
                return Outcome::Misrouted(Misroute::DeadEndpoint);
            }
            self.attempt.backend.tell_connection(connect, words.as_deref(), now);
            return fault(connect);
        }
        let request = self.request.view();
        let timeout = request.and_then(|request| request.pool().policy.failover.first_byte_timeout);
        if timeout.is_some_and(|timeout| now.since(self.attempt.at) >= timeout.scale(9, 10)) {
            fault(Fault::Timeout)
        } else {
            fault(Fault::Reset)
        }
    }

    /// Whether the client left while this whole response was held. When Envoy's own limit ends a request, Envoy
    /// replies, so the request counts as answered.
    fn is_left(&self, held: &HeldResponse) -> bool {
        matches!(held.question, Question::Whole)
            && self.request.view().is_some_and(|request| !request.is_answered())
    }

    /// The client left before it got anything of a held response. It is charged as if the beginning had gone to the
    /// client.
    fn leave(&self, held: HeldResponse) {
        let outcome = match held.hints.spilled {
            Some(error) => Outcome::Spilled { error },
            None => Outcome::Cancelled,
        };
        let elapsed = Some(held.since.since(self.attempt.at));
        let reader = held.reader;
        self.conclude(&Flow { elapsed, reader, ..Flow::new(held.status, outcome) });
    }

    /// Records an attempt that brought no response.
    fn fail(&self, outcome: &Outcome, now: Timestamp) {
        self.fail_with(*outcome, 0, CapacityHints::default(), now);
    }

    /// Records an attempt of whose response only the headers are known. Returns the outcome that counts for the
    /// request.
    fn fail_with(
        &self,
        outcome: Outcome,
        status: u16,
        hints: CapacityHints,
        now: Timestamp,
    ) -> Outcome {
        let elapsed = now.since(self.attempt.at);
        let evidence = Evidence { outcome, status, elapsed, hints };
        let Some(mut request) = self.request.change() else { return outcome };
        request.fail(&self.attempt, &evidence, now)
    }

    /// The attempt is over, with or without a response.
    pub(crate) fn done(&self) {
        let state = self.state.replace(State::Over);
        match state {
            State::Over => return,
            // The first byte went out, so nothing can be retried. Only the gateway learns why it broke off.
            State::Flowing(_) => {
                self.state.replace(state);
                let is_kept = self
                    .request
                    .change()
                    .is_some_and(|mut request| request.interrupt(self.flowing()));
                if !is_kept {
                    self.end(false);
                }
                return;
            }
            State::Awaited | State::Held(_) | State::Waiting { .. } => {}
        }
        // Envoy can also end a request, for example at its own time limit for all attempts together.
        let cancelled = details::is_client_gone() || details::is_out_of_time();
        let is_over = self.request.view().is_some_and(|request| request.is_closed());
        let now = host::now();
        match state {
            State::Awaited | State::Held(_) if cancelled || is_over => {
                self.fail(&Outcome::Cancelled, now);
            }
            State::Awaited if details::is_without_upgrade() => {
                self.fail(&fault(Fault::NoUpgrade), now);
                if let Some(mut request) = self.request.change() {
                    // Envoy passes the response to the client, and cannot be told to retry.
                    let ending = FinalResponse::Unusable { status: SWITCHING_PROTOCOLS };
                    request.give_up(Some(self.attempt.backend.index), ending, now);
                }
            }
            State::Held(mut held) if held.is_error() => {
                let outcome = held.broken_off(self.traits, now);
                let outcome = self.fail_with(outcome, held.status, held.hints, now);
                self.retry_elsewhere(&outcome, now);
            }
            State::Awaited | State::Held(_) => {
                let outcome = self.silence(now);
                self.fail(&outcome, now);
                self.retry_elsewhere(&outcome, now);
            }
            // Envoy's time for the attempt ran out while its refusal was held.
            State::Waiting { outcome, .. } if !cancelled && !is_over => {
                self.retry_elsewhere(&outcome, now);
            }
            State::Waiting { .. } | State::Flowing(_) | State::Over => {}
        }
    }

    fn flowing(&self) -> Option<Rc<dyn Flowing>> {
        self.itself.upgrade().map(|itself| itself as Rc<dyn Flowing>)
    }
}

impl Flowing for Response {
    fn end(&self, broke_off: bool) {
        match self.state.replace(State::Over) {
            State::Flowing(flow) if flow.outcome != Outcome::Success || flow.broke_off => {
                self.conclude(&flow);
            }
            State::Flowing(flow) => {
                let outcome = if broke_off { fault(Fault::Reset) } else { Outcome::Cancelled };
                self.conclude(&Flow { outcome, ..flow });
            }
            State::Held(held) if self.is_left(&held) => self.leave(held),
            other => drop(self.state.replace(other)),
        }
    }
}
