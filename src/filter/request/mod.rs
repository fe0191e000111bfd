//! One request in flight, as both roles see it: what was asked, what was tried, what comes next.

pub(super) mod charge;
pub(super) mod choice;
pub(super) mod finish;
pub(super) mod headers;
pub(super) mod in_flight;
mod judged;

use self::choice::Planned;
use self::headers::{ATTEMPTS, SWITCHING_PROTOCOLS, TRAIL};
use self::judged::Suspect;
use crate::config::{Backend, Credential, Pool};
use crate::filter::host;
use crate::filter::host::properties::{self, TARGET};
use crate::filter::host::sanitize::Subprotocols;
use crate::filter::pool::consumers::Admitted;
use crate::filter::pool::health::{self, Begun, Evidence, Said};
use crate::filter::pool::{BackendPlan, Plan, PoolPlan};
use crate::openai::call::api::{Api, Operation};
use crate::openai::call::{Call, Endpoint, model_in_body, render, takes_stream_options};
use crate::openai::request::body::Body;
use crate::openai::request::facts::TOKEN_BYTES;
use crate::openai::request::splice::{self, Splices};
use crate::openai::service_tier::ServiceTier;
use crate::policy::choice::{Denials, Needs, Unavailable};
use crate::policy::failover::blame::Suspects;
use crate::policy::failover::trail::Trail;
use crate::policy::failover::{self, Ending, Ledger};
use crate::policy::pool::{BackendIndex, OperationSet};
use crate::policy::response::classify::{AttemptTraits, Fault, Misroute, Outcome, Seen};
use crate::policy::time::{Millis, Timestamp};
use crate::policy::tokens::budget::Settlement;
use crate::policy::tokens::estimate::{Estimate, RequestSize};
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// What the log says when Envoy's own limits keep requests from a backend.
const FULL: &str =
    "Envoy has as much on its way there as the circuit_breakers of the cluster allow";

/// A target that no matcher knows: Envoy answers 503 at once, and the gateway makes the reply.
const NO_TARGET: &[u8] = b"none";

/// What the client sent, as far as an attempt needs it.
pub(crate) struct Asked {
    pub(crate) call: Call,
    /// The model that the client named; empty when it named none.
    pub(crate) model: String,
    /// What the body says, when it was read.
    pub(crate) body: Option<Box<Body>>,
    /// Whether the body may ask for another service tier than it was read to ask for.
    pub(crate) may_ask_for_tier: bool,
    /// Whether only the ends of the body were looked at.
    pub(crate) is_glimpsed: bool,
    pub(crate) content_length: Option<u64>,
    /// The client's own credential headers, when some backend is sent them.
    pub(crate) credentials: Vec<(&'static str, Vec<u8>)>,
    /// The WebSocket subprotocols, when there are credentials among them that some backend is sent.
    pub(crate) subprotocols: Option<Subprotocols>,
    pub(crate) needs: Needs,
    pub(crate) size: RequestSize,
    /// The tokens that it is expected to use.
    pub(crate) estimate: Estimate,
}

impl Asked {
    /// Whether it is about something that one resource keeps.
    pub(crate) fn names_stored_object(&self) -> bool {
        let in_body = self.body.as_ref().is_some_and(|body| body.facts.previous_response);
        self.call.names_stored_object() || in_body
    }

    /// Whether it names things that it does not contain.
    fn has_dependencies(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.facts.has_dependencies)
    }

    /// Whether what it costs cannot be seen in it, so that a 429 may be about its size.
    fn hides_its_cost(&self) -> bool {
        self.has_dependencies() || self.is_glimpsed || !self.call.is_charged()
    }

    /// Whether a model does the work.
    pub(super) fn is_of_model(&self) -> bool {
        self.is_session() || self.call.is_model_operation()
    }

    /// Whether it asks for a WebSocket.
    fn is_session(&self) -> bool {
        matches!(self.call.operation, Operation::Realtime | Operation::ResponsesSession)
    }

    /// The service tier that the client asks for.
    fn tier(&self) -> Option<ServiceTier> {
        ServiceTier::asked_for(&self.body.as_ref()?.facts)
    }

    /// The tokens that it takes at most, as far as it states them. A body that was not read counts by
    /// its length.
    fn tokens(&self) -> u64 {
        if self.body.is_none() {
            return self.content_length.unwrap_or(0).checked_div(TOKEN_BYTES).unwrap_or(0);
        }
        let output = self.size.max_output_tokens.unwrap_or(0);
        let choices = self.size.choices.unwrap_or(1).max(1);
        self.estimate.prompt_tokens.saturating_add(output.saturating_mul(choices))
    }
}

/// One request in flight.
pub(crate) struct Exchange {
    pub(crate) asked: Asked,
    /// What the request headers, which all attempts share, say of the body's length.
    pub(crate) sent_content_length: Option<u64>,
    pub(super) plan: Rc<Plan>,
    pub(super) pool: usize,
    pub(super) ledger: Ledger,
    /// Whether it asks for the default service tier, because flex has no capacity left.
    has_fallen_back: bool,
    /// The attempts of which it is not known yet who is to blame for them.
    suspects: Suspects<Suspect>,
    pub(super) planned: Option<Planned>,
    pub(super) trail: Trail,
    /// The backends whose budgets had no room when one was last chosen.
    pub(super) denied: Denials,
    pub(super) consumer: Admitted,
    pub(super) end: End,
    /// Whether the request is over, for the client as for the gateway.
    is_closed: bool,
    /// Whether a backend may have carried it out already, so that no other is asked to.
    pub(super) may_be_done: bool,
    /// The answer that is on its way to the client.
    pub(super) flowing: Option<Weak<dyn Flowing>>,
    /// The answer that is held until it is complete, so that nothing of it went to the client.
    pub(super) held: Option<Weak<dyn Flowing>>,
    /// Whether the client was answered, by whomever.
    pub(super) is_answered: bool,
    /// The same when its attempt is over and it is not: only the gateway will learn why it ended early.
    interrupted: Option<Rc<dyn Flowing>>,
}

/// An answer on its way to the client, which holds the exchange itself.
pub(crate) trait Flowing {
    /// Nothing more of it reaches the client: what it took is concluded, unless it was. `broke_off`:
    /// because the backend ended it early.
    fn end(&self, broke_off: bool);
}

/// What makes a request fit a backend.
pub(crate) struct Rendering {
    pub(crate) path: String,
    pub(crate) splices: Splices,
    /// Whether it asks for a stream's usage on the gateway's behalf; the client must not see it.
    pub(crate) asks_for_usage: bool,
}

/// How the request ends, as far as it is known.
pub(super) enum End {
    Open,
    /// Envoy was told to make another attempt, and did not begin it yet.
    Retrying(LastAttempt),
    Served(BackendIndex),
    Failed(Option<BackendIndex>, Ending),
}

/// An attempt that failed, of which another backend was to make good.
#[derive(Clone, Copy)]
pub(super) struct LastAttempt {
    pub(super) backend: BackendIndex,
    pub(super) outcome: Outcome,
    pub(super) status: u16,
}

impl Exchange {
    pub(crate) fn new(plan: Rc<Plan>, pool: usize, asked: Asked, consumer: Admitted) -> Self {
        Self {
            sent_content_length: asked.content_length,
            asked,
            plan,
            pool,
            ledger: Ledger::default(),
            has_fallen_back: false,
            suspects: Suspects::default(),
            planned: None,
            trail: Trail::default(),
            denied: Denials::NONE,
            consumer,
            end: End::Open,
            is_closed: false,
            may_be_done: false,
            flowing: None,
            held: None,
            is_answered: false,
            interrupted: None,
        }
    }

    /// The pool's configuration and what runs it.
    pub(crate) fn pool(&self) -> Option<(&Pool, &PoolPlan)> {
        self.plan.pool(self.pool)
    }

    /// A backend's configuration and what runs it.
    pub(crate) fn backend(&self, backend: BackendIndex) -> Option<(&Backend, &BackendPlan)> {
        let (pool, plan) = self.pool()?;
        Some((pool.backends.get(backend.position())?, plan.backends.get(backend.position())?))
    }

    /// How many backends the pool has.
    pub(crate) fn pool_size(&self) -> usize {
        self.pool().map_or(0, |(pool, _)| pool.backends.len())
    }

    /// How many attempts began.
    pub(crate) fn attempts(&self) -> u8 {
        self.ledger.attempts()
    }

    /// Begins the attempt that was planned; `None` when none was. Envoy goes on with the first one at once, and
    /// waits before each of the others.
    pub(crate) fn begin(&mut self, now: impl FnOnce() -> Timestamp) -> Option<Begun> {
        let Planned { choice, at, ticket, record, reservation } = self.planned.take()?;
        self.end = End::Open;
        let reservation = RefCell::new(reservation);
        self.ledger.begin(choice.backend);
        let (_, plan) = self.plan.pool(self.pool)?;
        let is_first = self.ledger.attempts() == 1;
        let at = if is_first { at } else { now() };
        if is_first && let Ok(mut deposits) = plan.deposits.try_borrow_mut() {
            deposits.count(at);
        }
        Some(Begun { backend: choice.backend, at, ticket, record, reservation })
    }

    /// An attempt that began cannot be sent: gives back what it holds of its backend.
    pub(crate) fn abandon(&mut self, begun: &Begun, now: Timestamp) {
        let held = &begun.reservation;
        health::conclude(&self.plan, self.pool, begun.backend, held, Settlement::Released, now);
        if begun.ticket.is_probe() {
            health::release_probe(&self.plan, self.pool, begun, now);
        }
    }

    /// What the gateway chose for an attempt at `backend`, and what the request asks for.
    pub(crate) fn traits(&self, begun: &Begun) -> Option<AttemptTraits> {
        let (backend, plan) = self.backend(begun.backend)?;
        let (asked, operation) = (&self.asked, self.asked.call.operation);
        let (served, needed) = (begun.record.served, asked.needs.operation);
        let seen = match served {
            OperationSet::NONE => Seen::Nothing,
            _ if needed != OperationSet::NONE && served.covers(needed) => Seen::Operation,
            _ => Seen::Others,
        };
        Some(AttemptTraits {
            owns_credential: plan.key_header.is_some(),
            owns_deployment: !asked.model.is_empty(),
            provisioned: backend.provisioned.is_some(),
            names_stored_object: asked.names_stored_object(),
            is_model_operation: asked.is_of_model(),
            asks_for_upgrade: asked.is_session(),
            may_name_deployments: operation == Operation::Responses,
            has_dependencies: asked.has_dependencies(),
            is_clients_account: plan.key_header.is_none() && backend.api == Api::OpenAi,
            asks_for_tier: asked.may_ask_for_tier
                || self.tier().is_some_and(|tier| tier != ServiceTier::Default),
            seen,
            tokens: asked.tokens(),
            token_limit: plan.budget.as_ref().and_then(|budget| budget.settings.token_limit()),
        })
    }

    /// The deployment or model that `backend` is asked for.
    pub(crate) fn deployment<'a>(&'a self, backend: &'a Backend) -> &'a str {
        backend.deployment.as_deref().unwrap_or(&self.asked.model)
    }

    /// What makes the request fit `backend`.
    pub(crate) fn rendering(&self, backend: &Backend) -> Rendering {
        let call = &self.asked.call;
        let endpoint = Endpoint {
            api: backend.api,
            base_path: &backend.base_path,
            deployment: self.deployment(backend),
            api_version: backend.api_version.as_deref(),
            passthrough: matches!(backend.credential, Credential::Passthrough),
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

    /// The service tier that the next attempt asks for, if it asks for one.
    pub(crate) fn tier(&self) -> Option<ServiceTier> {
        if self.has_fallen_back { Some(ServiceTier::Default) } else { self.asked.tier() }
    }

    /// When the pool allows it, a request that was refused for want of flex capacity asks for the default
    /// tier from here on, at the same backend, too: its deployment is fine.
    fn fall_back(&mut self, begun: &Begun, evidence: &Evidence) {
        let is_refused = matches!(evidence.outcome, Outcome::Elsewhere { status: 200..=299 | 429 });
        if is_refused
            && self.tier() == Some(ServiceTier::Flex)
            && self.pool().is_some_and(|(pool, _)| pool.flex_fallback)
        {
            self.has_fallen_back = true;
            self.ledger.forgive(begun.backend);
        }
    }

    /// Whether the client sees what a backend says of its limits.
    pub(crate) fn keeps_rate_limits(&self) -> bool {
        self.plan.config.response.backend_rate_limits
    }

    /// The answer of an attempt is held until it is complete.
    pub(crate) fn keep_whole(&mut self, answer: Weak<dyn Flowing>) {
        self.held = Some(answer);
    }

    /// The answer of an attempt goes to the client.
    pub(crate) fn serve(
        &mut self,
        answer: Weak<dyn Flowing>,
        begun: &Begun,
        evidence: &Evidence,
        now: Timestamp,
    ) {
        self.end = End::Served(begun.backend);
        self.held = None;
        self.flowing = Some(answer);
        if evidence.outcome == Outcome::ClientError {
            self.consumer.conclude(None, now); // it costs nothing, whatever follows
        }
        self.suspects.note(begun.backend, &evidence.outcome);
        // What is no answer, such as a redirect, proves nothing.
        let is_answer =
            (200..300).contains(&evidence.status) || evidence.status == SWITCHING_PROTOCOLS;
        let is_served = matches!(evidence.outcome, Outcome::Success | Outcome::Spilled { .. });
        self.judge(is_served && is_answer, now);
        if evidence.outcome == Outcome::Success && is_answer && self.asked.is_of_model() {
            let operation = self.asked.needs.operation;
            health::note_service(&self.plan, self.pool, begun, operation);
        }
        health::write_head(&self.plan, self.pool, begun, evidence, now);
        self.note_attempt(begun, evidence, None);
        let spilled_from = self.pool().and_then(|(pool, plan)| {
            let first = pool.policy.tiers.first()?;
            (!first.members.contains(begun.backend)).then_some(plan)
        });
        if let Some(plan) = spilled_from {
            host::increment(plan.metrics.spills, 1);
        }
        if let Some((backend, _)) = self.backend(begun.backend).filter(|_| self.is_published()) {
            properties::publish_backend(&backend.name);
        }
    }

    fn note_attempt(&mut self, begun: &Begun, evidence: &Evidence, closed_for: Option<Millis>) {
        if self.plan.config.response.trail
            && let Some(result) = failover::result_in_trail(&evidence.outcome, evidence.status)
        {
            self.trail.attempt(begun.backend, result, closed_for);
            if let Some(tier) = self.tier() {
                self.trail.with_tier(tier.name());
            }
        }
    }

    /// The attempt at `backend` failed, and Envoy was told to make another one.
    pub(crate) fn expect_retry(&mut self, backend: BackendIndex, outcome: Outcome, status: u16) {
        self.end = End::Retrying(LastAttempt { backend, outcome, status });
    }

    /// There is no way to the backend of an attempt that began or was to begin, and none elsewhere for
    /// this request: the next ones pass the backend over. Returns what the client gets.
    pub(crate) fn misrouted(
        &mut self,
        begun: &Begun,
        misroute: Misroute,
        now: Timestamp,
    ) -> Ending {
        let outcome = Outcome::Misrouted(misroute);
        let elapsed = now.since(begun.at);
        let evidence = Evidence { outcome, status: 0, elapsed, said: Said::default() };
        self.fail(begun, &evidence, now);
        if misroute == Misroute::Full {
            self.tell_connection(begun.backend, Fault::Connect, Some(FULL), now);
        }
        // Without the attempt's filter, the request went out.
        if misroute == Misroute::NoFilter && !self.asked.call.is_repeatable() {
            return Ending::MayBeDone;
        }
        match self.peek(now) {
            Ok(_) => Ending::NoWay,
            Err(Unavailable { throttled, soonest, .. }) => Ending::Exhausted { throttled, soonest },
        }
    }

    /// Says in the log why a connection to a backend was not made: once for each reason, and again after a
    /// minute.
    pub(crate) fn tell_connection(
        &self,
        backend: BackendIndex,
        fault: Fault,
        words: Option<&str>,
        now: Timestamp,
    ) {
        let Some((backend, plan)) = self.backend(backend) else { return };
        let words = words.unwrap_or("no connection in time");
        if plan.connection_words.is_news(words, now) {
            let what = if fault == Fault::Tls { "TLS failed" } else { "no connection" };
            let name = &backend.name;
            let text = format!("spillway: {what} at backend {name}: {words}");
            host::log(host::Level::Warn, &text);
        }
    }

    /// Nothing more is tried: `backend` is the last that was, if any.
    pub(crate) fn give_up(
        &mut self,
        backend: Option<BackendIndex>,
        ending: Ending,
        now: Timestamp,
    ) {
        let ending = self.after_judgement(ending, now);
        self.end = End::Failed(backend, ending);
        // Should Envoy retry nevertheless, there is nowhere to go.
        let _ = host::set_property(TARGET, NO_TARGET);
    }

    /// The request waited for `length` in the filter.
    pub(crate) fn waited(&mut self, length: Millis) {
        self.ledger.wait(length);
    }

    /// The attempt of an answer that is on its way ended, and not the answer: keeps it until the gateway
    /// learns why. Not when the gateway is gone.
    pub(crate) fn interrupt(&mut self, answer: Option<Rc<dyn Flowing>>) -> bool {
        if self.is_closed {
            return false;
        }
        self.interrupted = answer;
        self.interrupted.is_some()
    }

    /// Lets go of an answer that was kept.
    pub(crate) fn forget_interrupted(&mut self) {
        self.interrupted = None;
    }

    /// The answer that is on its way to the client, or is held until it is complete.
    pub(crate) fn flowing(&self) -> Option<Rc<dyn Flowing>> {
        self.flowing.as_ref().or(self.held.as_ref()).and_then(Weak::upgrade)
    }

    /// The request is over. What was planned and not sent is given back; what is still on its way
    /// concludes by itself.
    pub(crate) fn close(&mut self, now: impl Fn() -> Timestamp) {
        self.is_closed = true;
        let planned = self.planned.take();
        let is_at_another = planned.is_none() && matches!(self.end, End::Open);
        if let Some(planned) = planned {
            planned.give_back(&self.plan, self.pool, now());
        }
        if !self.suspects.is_empty() && is_at_another {
            let verdicts = self.suspects.dismiss();
            self.carry_out(verdicts, now());
        } else if !self.suspects.is_empty() {
            self.judge(false, now());
        }
        self.charge_nothing(now);
    }

    /// Whether the request is over, so that nothing that was planned now would be sent or given back.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Says what every response says of its request: each header's name and value.
    pub(crate) fn own_headers(&self, mut say: impl FnMut(&str, &str)) {
        say(ATTEMPTS, itoa::Buffer::new().format(self.attempts()));
        if let Some(trail) = self.trail().filter(|trail| !trail.is_empty()) {
            say(TRAIL, &trail);
        }
        self.consumer_headers(say);
    }

    /// Says what the response says of the consumer's tokens.
    pub(crate) fn consumer_headers(&self, say: impl FnMut(&str, &str)) {
        if let Some(plan) = &self.plan.consumers {
            plan.headers_of(&self.consumer, say);
        }
    }

    /// How far provisioned throughput may be used for this request, in thousandths.
    pub(super) fn ceiling_permille(&self) -> Option<u16> {
        self.consumer.ceiling_permille
    }

    /// What the trail says, with the backends' names; `None` when it is off.
    fn trail(&self) -> Option<String> {
        let name = |backend| self.backend(backend).map(|(backend, _)| &*backend.name);
        self.plan.config.response.trail.then(|| self.trail.render(name))
    }
}
