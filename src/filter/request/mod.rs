//! One request in flight, as both roles see it: what the client asked for, what was tried, what comes next.

pub(super) mod charge;
pub(super) mod choice;
mod client_request;
pub(super) mod finish;
pub(super) mod headers;
pub(super) mod in_flight;
mod judged;

use self::choice::Pick;
pub(crate) use self::client_request::ClientRequest;
use self::headers::{ATTEMPTS, SWITCHING_PROTOCOLS, TRAIL};
use self::judged::Suspect;
use crate::config::Credential;
use crate::filter::host;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::properties;
use crate::filter::host::properties::TARGET;
use crate::filter::pool::budget::Budget;
use crate::filter::pool::consumers::Admitted;
use crate::filter::pool::health::{CapacityHints, Evidence, RunningAttempt};
use crate::filter::pool::{Backend, Pool, Pools};
use crate::openai::call::api::{Api, Operation};
use crate::openai::call::{Endpoint, model_in_body, render, takes_stream_options};
use crate::openai::request::splice::{self, Splices};
use crate::openai::service_tier::ServiceTier;
use crate::policy::choice::{Denials, Unavailable};
use crate::policy::failover::blame::Suspects;
use crate::policy::failover::trail::Trail;
use crate::policy::failover::{self, FinalResponse, Ledger};
use crate::policy::pool::{BackendIndex, OperationSet, Tier};
use crate::policy::response::classify::{AttemptTraits, Fault, Misroute, Outcome, Seen};
use crate::policy::time::{Millis, Timestamp};
use crate::policy::tokens::budget::Settlement;
use std::rc::{Rc, Weak};

/// Logged when Envoy's own limits keep requests from a backend.
const FULL: &str = "the circuit_breakers of the cluster are reached";

/// A target that no matcher knows: Envoy responds with 503 at once, and the gateway replaces that.
const NO_TARGET: &[u8] = b"none";

/// One request in flight.
pub(crate) struct Request {
    pub(crate) asked: ClientRequest,
    /// The body length in the request headers, which all attempts share.
    pub(crate) sent_content_length: Option<u64>,
    pub(super) pools: Rc<Pools>,
    pub(super) pool: Rc<Pool>,
    pub(super) ledger: Ledger,
    /// Whether it now asks for the default service tier, because flex has no capacity left.
    has_fallen_back: bool,
    /// The attempts for which nobody has been blamed yet.
    suspects: Suspects<Suspect>,
    pub(super) pick: Option<Pick>,
    pub(super) trail: Trail,
    /// The backends whose budgets had no room in the last choice.
    pub(super) denied: Denials,
    pub(super) consumer: Admitted,
    pub(super) stage: Stage,
    /// Whether a backend may have carried it out, so that no other is asked to.
    pub(super) may_be_done: bool,
    pub(super) response: OnItsWay,
}

/// How far the request is, and what the client gets as far as that is known.
pub(super) enum Stage {
    /// Attempts are made.
    Open,
    /// Envoy was told to make another attempt, and has not begun it yet.
    Retrying(LastAttempt),
    /// The response of this backend goes to the client.
    Served(BackendIndex),
    /// Nothing more is tried; the backend is the last that was tried, if any.
    Failed(Option<BackendIndex>, FinalResponse),
    /// The client got a response, from whomever.
    Answered,
    /// The request is over, for the client and for the gateway.
    Closed,
}

/// The response of a backend that has not ended yet.
pub(super) enum OnItsWay {
    Nothing,
    /// It is held until it is complete. No part of it went to the client.
    Held(Weak<dyn Flowing>),
    /// It goes to the client.
    Flowing(Weak<dyn Flowing>),
    /// Its attempt ended before it. Only the gateway will learn why.
    Interrupted(Rc<dyn Flowing>),
}

/// A response on its way to the client; it holds the request itself.
pub(crate) trait Flowing {
    /// No more of it reaches the client: concludes its usage, unless that was done. `broke_off`: its backend ended it
    /// early.
    fn end(&self, broke_off: bool);
}

/// How a request is adapted to a backend.
pub(crate) struct Rendering {
    pub(crate) path: String,
    pub(crate) splices: Splices,
    /// Whether it asks for a stream's usage for the gateway; the client must not see it.
    pub(crate) asks_for_usage: bool,
}

/// A failed attempt that should be followed by another one.
#[derive(Clone, Copy)]
pub(super) struct LastAttempt {
    pub(super) backend: BackendIndex,
    pub(super) outcome: Outcome,
    pub(super) status: u16,
}

impl Request {
    pub(crate) fn new(
        pools: Rc<Pools>,
        pool: Rc<Pool>,
        asked: ClientRequest,
        consumer: Admitted,
    ) -> Self {
        Self {
            sent_content_length: asked.content_length,
            asked,
            pools,
            pool,
            ledger: Ledger::default(),
            has_fallen_back: false,
            suspects: Suspects::default(),
            pick: None,
            trail: Trail::default(),
            denied: Denials::NONE,
            consumer,
            stage: Stage::Open,
            may_be_done: false,
            response: OnItsWay::Nothing,
        }
    }

    /// Enters another stage. The last two are final, whatever attempts still bring.
    fn enter(&mut self, stage: Stage) {
        if !self.is_answered() {
            self.stage = stage;
        }
    }

    /// The pool that serves it.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How many attempts began.
    pub(crate) fn attempts(&self) -> u8 {
        self.ledger.attempts()
    }

    /// Begins the planned attempt; `None` when there is none. Envoy begins the first one at once, and waits before
    /// each of the others.
    pub(crate) fn begin(&mut self, now: impl FnOnce() -> Timestamp) -> Option<RunningAttempt> {
        let pick = self.pick.take()?;
        self.enter(Stage::Open);
        self.ledger.begin(pick.backend.index);
        let is_first = self.ledger.attempts() == 1;
        let at = if is_first { pick.at } else { now() };
        if is_first && let Some(mut deposits) = self.pool.deposits.change() {
            deposits.count(at);
        }
        Some(pick.begin(at))
    }

    /// An attempt that began cannot be sent: returns what it holds of its backend.
    pub(crate) fn abandon(&mut self, attempt: &RunningAttempt, now: Timestamp) {
        attempt.conclude(Settlement::Released, now);
        if attempt.ticket.is_probe() {
            self.pool.release_probe(attempt, now);
        }
    }

    /// What the gateway chose for this attempt, and what the request asks for.
    pub(crate) fn traits(&self, attempt: &RunningAttempt) -> AttemptTraits {
        let backend = &attempt.backend;
        let (asked, operation) = (&self.asked, self.asked.call.operation);
        let (served, needed) = (attempt.record.served, asked.needs.operation);
        let seen = match served {
            OperationSet::NONE => Seen::Nothing,
            _ if needed != OperationSet::NONE && served.covers(needed) => Seen::Operation,
            _ => Seen::Others,
        };
        AttemptTraits {
            owns_credential: backend.key_header.is_some(),
            owns_deployment: !asked.model.is_empty(),
            provisioned: backend.config.provisioned.is_some(),
            names_stored_object: asked.names_stored_object(),
            is_model_operation: asked.is_of_model(),
            asks_for_upgrade: asked.is_session(),
            may_name_deployments: operation == Operation::Responses,
            has_dependencies: asked.has_dependencies(),
            is_clients_account: backend.key_header.is_none() && backend.config.api == Api::OpenAi,
            asks_for_tier: asked.may_ask_for_tier
                || self.tier().is_some_and(|tier| tier != ServiceTier::Default),
            seen,
            tokens: asked.tokens(),
            token_limit: backend.budget.as_ref().and_then(Budget::token_limit),
        }
    }

    /// The deployment or model that `backend` is asked for.
    pub(crate) fn deployment<'a>(&'a self, backend: &'a Backend) -> &'a str {
        backend.config.deployment.as_deref().unwrap_or(&self.asked.model)
    }

    /// How the request is adapted to `backend`.
    pub(crate) fn rendering(&self, backend: &Backend) -> Rendering {
        let call = &self.asked.call;
        let endpoint = Endpoint {
            api: backend.config.api,
            base_path: &backend.config.base_path,
            deployment: self.deployment(backend),
            api_version: backend.config.api_version.as_deref(),
            passthrough: matches!(backend.config.credential, Credential::Passthrough),
        };
        let body = self.asked.body.as_ref();
        let model = body
            .filter(|_| model_in_body(call, &endpoint))
            .and_then(|body| splice::model(&body.facts, endpoint.deployment, &body.kind));
        let usage = body
            .filter(|_| self.is_metered() && takes_stream_options(call, &endpoint))
            .filter(|body| splice::wants_usage(call, &body.facts))
            .and_then(|body| splice::include_usage(&body.facts, &body.kind));
        let tier = body
            .filter(|_| self.has_fallen_back)
            .and_then(|body| splice::default_tier(&body.facts, &body.kind));
        Rendering {
            path: render(call, &endpoint),
            asks_for_usage: usage.is_some(),
            splices: Splices::new(model.into_iter().chain(usage).chain(tier)),
        }
    }

    /// The service tier that the next attempt asks for, if any.
    pub(crate) fn tier(&self) -> Option<ServiceTier> {
        if self.has_fallen_back { Some(ServiceTier::Default) } else { self.asked.tier() }
    }

    /// If the pool allows it, a request that flex capacity refused asks for the default tier from now on. The same
    /// backend may be asked again, because its deployment works.
    fn fall_back(&mut self, attempt: &RunningAttempt, evidence: &Evidence) {
        let is_refused = matches!(evidence.outcome, Outcome::Elsewhere { status: 200..=299 | 429 });
        if is_refused && self.tier() == Some(ServiceTier::Flex) && self.pool.flex_fallback {
            self.has_fallen_back = true;
            self.ledger.forgive(attempt.backend.index);
        }
    }

    /// Whether the client sees a backend's rate-limit headers.
    pub(crate) fn keeps_rate_limits(&self) -> bool {
        self.pools.response.backend_rate_limits
    }

    /// The response of an attempt is held until it is complete.
    pub(crate) fn keep_whole(&mut self, response: Weak<dyn Flowing>) {
        self.response = OnItsWay::Held(response);
    }

    /// The response of an attempt goes to the client.
    pub(crate) fn serve(
        &mut self,
        response: Weak<dyn Flowing>,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        now: Timestamp,
    ) {
        self.enter(Stage::Served(attempt.backend.index));
        self.response = OnItsWay::Flowing(response);
        if evidence.outcome == Outcome::ClientError {
            self.consumer.conclude(None, now); // it costs nothing, whatever happens later
        }
        self.suspects.note(attempt.backend.index, &evidence.outcome);
        // A redirect or the like proves nothing.
        let is_usable =
            (200..300).contains(&evidence.status) || evidence.status == SWITCHING_PROTOCOLS;
        let is_served = matches!(evidence.outcome, Outcome::Success | Outcome::Spilled { .. });
        self.judge(is_served && is_usable, now);
        if evidence.outcome == Outcome::Success && is_usable && self.asked.is_of_model() {
            let operation = self.asked.needs.operation;
            self.pool.note_service(attempt, operation);
        }
        self.pool.write_head(attempt, evidence, now);
        self.note_attempt(attempt, evidence, None);
        let is_first_tier = |tier: &Tier| tier.members.contains(attempt.backend.index);
        if !self.pool.policy.tiers.first().is_none_or(is_first_tier) {
            host::increment(self.pool.metrics.spills, 1);
        }
        if self.is_published() {
            properties::publish_backend(&attempt.backend.config.name);
        }
    }

    fn note_attempt(
        &mut self,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        closed_for: Option<Millis>,
    ) {
        if self.pools.response.trail
            && let Some(result) = failover::result_in_trail(&evidence.outcome, evidence.status)
        {
            self.trail.attempt(attempt.backend.index, result, closed_for);
            if let Some(tier) = self.tier() {
                self.trail.with_tier(tier.name());
            }
        }
    }

    /// The attempt at `backend` failed, and Envoy was told to make another one.
    pub(crate) fn expect_retry(&mut self, backend: BackendIndex, outcome: Outcome, status: u16) {
        self.enter(Stage::Retrying(LastAttempt { backend, outcome, status }));
    }

    /// Envoy cannot reach the backend of an attempt, and cannot send this request elsewhere. The next requests skip
    /// the backend. Returns what the client gets.
    pub(crate) fn misrouted(
        &mut self,
        attempt: &RunningAttempt,
        misroute: Misroute,
        now: Timestamp,
    ) -> FinalResponse {
        let outcome = Outcome::Misrouted(misroute);
        let elapsed = now.since(attempt.at);
        let evidence = Evidence { outcome, status: 0, elapsed, hints: CapacityHints::default() };
        self.fail(attempt, &evidence, now);
        if misroute == Misroute::Full {
            attempt.backend.tell_connection(Fault::Connect, Some(FULL), now);
        }
        // Without the attempt's filter, the request was sent.
        if misroute == Misroute::NoFilter && !self.asked.call.is_repeatable() {
            return FinalResponse::MayBeDone;
        }
        match self.peek(now) {
            Ok(_) => FinalResponse::Unreachable,
            Err(Unavailable { throttled, soonest, .. }) => {
                FinalResponse::Exhausted { throttled, soonest }
            }
        }
    }

    /// Nothing more is tried; `backend` is the last that was tried, if any.
    pub(crate) fn give_up(
        &mut self,
        backend: Option<BackendIndex>,
        ending: FinalResponse,
        now: Timestamp,
    ) {
        let ending = self.after_judgement(ending, now);
        self.enter(Stage::Failed(backend, ending));
        // If Envoy retries nevertheless, it finds no backend.
        let _ = host::set_property(TARGET, NO_TARGET);
    }

    /// The request waited for `length` in the filter.
    pub(crate) fn waited(&mut self, length: Millis) {
        self.ledger.wait(length);
    }

    /// The attempt of a response ended before the response: keeps the response until the gateway learns why. Returns
    /// `false` if the gateway is gone.
    pub(crate) fn interrupt(&mut self, response: Option<Rc<dyn Flowing>>) -> bool {
        match response {
            Some(response) if !self.is_closed() => {
                self.response = OnItsWay::Interrupted(response);
                true
            }
            _ => false,
        }
    }

    /// Drops an interrupted response.
    pub(crate) fn forget_interrupted(&mut self) {
        if matches!(self.response, OnItsWay::Interrupted(_)) {
            self.response = OnItsWay::Nothing;
        }
    }

    /// The response that goes to the client, or is held until it is complete.
    pub(crate) fn flowing(&self) -> Option<Rc<dyn Flowing>> {
        match &self.response {
            OnItsWay::Nothing => None,
            OnItsWay::Held(response) | OnItsWay::Flowing(response) => response.upgrade(),
            OnItsWay::Interrupted(response) => Some(Rc::clone(response)),
        }
    }

    /// The request is over. A planned attempt is given back; what is still running concludes itself.
    pub(crate) fn close(&mut self, now: impl Fn() -> Timestamp) {
        let stage = std::mem::replace(&mut self.stage, Stage::Closed);
        let pick = self.pick.take();
        let is_at_another = pick.is_none() && matches!(stage, Stage::Open | Stage::Answered);
        if let Some(pick) = pick {
            pick.give_back(&self.pool, now());
        }
        if !self.suspects.is_empty() && is_at_another {
            let verdicts = self.suspects.dismiss();
            self.carry_out(verdicts, now());
        } else if !self.suspects.is_empty() {
            self.judge(false, now());
        }
        self.charge_nothing(now);
    }

    /// Whether the request is over, so that a planned attempt would be neither sent nor given back.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    /// Whether the client got a response from anybody, or left.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.stage, Stage::Answered | Stage::Closed)
    }

    /// Passes the headers of every response to `say`: name and value.
    pub(crate) fn own_headers(&self, mut say: impl FnMut(&str, &str)) {
        say(ATTEMPTS, itoa::Buffer::new().format(self.attempts()));
        if let Some(trail) = self.trail().filter(|trail| !trail.is_empty()) {
            say(TRAIL, &trail);
        }
        self.consumer_headers(say);
    }

    /// Passes the response headers about the consumer's tokens to `say`.
    pub(crate) fn consumer_headers(&self, say: impl FnMut(&str, &str)) {
        if let Some(consumers) = &self.pools.consumers {
            consumers.headers_of(&self.consumer, say);
        }
    }

    /// Up to which level provisioned throughput may be used for this request, in thousandths.
    pub(super) fn ceiling_permille(&self) -> Option<u16> {
        self.consumer.ceiling_permille
    }

    /// The trail with the backends' names; `None` when it is off.
    fn trail(&self) -> Option<String> {
        let name = |index| self.pool.backend(index).map(|backend| &*backend.config.name);
        self.pools.response.trail.then(|| self.trail.render(name))
    }
}
