//! The gateway role: a downstream filter, once a request.
//!
//! It recognises the call, takes the client's credential away, reads the body where the pool or a
//! backend needs something out of it, chooses the first backend, and at the end finishes the
//! response. What happens in between is the attempts' affair.
//!
//! What a request took is known when its answer ends, and said in headers, which go before. So where
//! such headers are switched on, a JSON answer of moderate length is held until it is complete. Envoy
//! holds it, so VM memory does not grow. Longer answers, and event streams, say what was estimated.

use super::consumers::Admitted;
use super::exchange::{Asked, Exchange, Finish};
use super::header_map::HeaderMap;
use super::host::{self, Action, Map};
use super::plan::Plan;
use super::reading::{Known, Reading, Wanted};
use super::routed::{self, Routed, send};
use super::timers::StreamId;
use super::{meter, publish, sanitize, table};
use crate::config::{Affinity, operation_bit};
use crate::openai::api::Operation;
use crate::openai::body::{Body, BodyScanner};
use crate::openai::facts::BodyFacts;
use crate::openai::models::ModelsQuestion;
use crate::openai::operation::{self, Call};
use crate::openai::reply::{self, Reply};
use crate::policy::estimate::{Estimate, Estimator, RequestSize};
use crate::policy::headers::Headers;
use crate::policy::records::key_of;
use crate::policy::select::Needs;
use crate::policy::time::Timestamp;
use std::rc::Rc;

/// The request header with which Envoy's router limits the time to an attempt's first byte.
const PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

/// The longest answer that is held. No answer with text is longer; embeddings, images and sound can
/// be, and cost memory for nothing: what they took is nearly their estimate.
const HELD_ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// The filter of one request.
pub(crate) struct Gateway {
    stream: StreamId,
    plan: Rc<Plan>,
    phase: Phase,
}

/// How far the request is.
enum Phase {
    /// Nothing came yet, or nothing more has to be done.
    Idle,
    /// The body is held and read.
    Reading(Box<Reading>),
    /// It has a pool, and backends are chosen for it.
    Routed(Rc<Routed>),
    /// The gateway itself answered.
    Replied,
}

impl Gateway {
    pub(crate) fn new(stream: StreamId, plan: Rc<Plan>) -> Self {
        Self { stream, plan, phase: Phase::Idle }
    }

    /// The request is recognised, cleaned, and routed at once unless its body must be read first.
    pub(crate) fn request_headers(&mut self, end_of_stream: bool) -> Action {
        let Ok(headers) = host::header_map(Map::RequestHeaders) else {
            return self.answer(&reply::internal());
        };
        let method = headers.get(":method").unwrap_or_default();
        let Some(call) = operation::recognise(method, headers.get(":path").unwrap_or_default())
        else {
            return self.answer(&reply::unknown_path());
        };
        if let Some(question) = call.models_question() {
            return self.answer(&self.models(&question));
        }
        sanitize::request(&headers);
        // An upgraded connection has no body but a stream of frames without an end.
        let is_upgrade = headers.get("upgrade").is_some();
        match BodyScanner::new(&call, headers.get("content-type")) {
            Some(scanner) if !is_upgrade && !end_of_stream => {
                let wanted = self.wanted(&call);
                let reading = Reading::new(call, headers, scanner, wanted);
                self.phase = Phase::Reading(Box::new(reading));
                Action::Pause
            }
            _ => self.route(call, &headers, Known::Nothing),
        }
    }

    /// What must be known of the body of `call`.
    fn wanted(&self, call: &Call) -> Wanted {
        if self.plan.reads_bodies || !call.is_below_deployment() {
            Wanted::All
        } else if call.deployment.is_none() {
            Wanted::Model
        } else {
            Wanted::Nothing
        }
    }

    /// A part of the body came; while it is held, `size` counts from its beginning.
    pub(crate) fn request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        match &self.phase {
            Phase::Reading(_) => self.read(size, end_of_stream),
            Phase::Routed(routed) if routed.is_held() => Action::Pause,
            Phase::Replied => Action::Pause,
            Phase::Routed(_) | Phase::Idle => Action::Continue,
        }
    }

    /// The request ends with trailers, so no part of its body said that it is the last. None of them
    /// goes on.
    pub(crate) fn request_trailers(&mut self) -> Action {
        sanitize::request_trailers();
        match &self.phase {
            Phase::Reading(reading) => self.read(reading.shown(), true),
            Phase::Routed(routed) if routed.is_held() => Action::Pause,
            Phase::Replied => Action::Pause,
            Phase::Routed(_) | Phase::Idle => Action::Continue,
        }
    }

    /// A response is about to reach the client.
    pub(crate) fn response_headers(&mut self) -> Action {
        match &self.phase {
            Phase::Routed(routed) if !routed.has_replied() => self.finish(routed),
            // No backend was asked, so Envoy answered: the body is too large to be read.
            Phase::Reading(_) => self.answer(&reply::refused(envoys_status())),
            _ => Action::Continue,
        }
    }

    /// A part of the answer's body came; while it is held, `size` counts from its beginning.
    pub(crate) fn response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let Phase::Routed(routed) = &self.phase else { return Action::Continue };
        if !routed.is_counting() {
            return Action::Continue;
        }
        if !end_of_stream && is_moderate(u64::try_from(size).unwrap_or(u64::MAX)) {
            return Action::Pause;
        }
        self.count(routed);
        Action::Continue
    }

    /// The answer ends with trailers: a held one is complete.
    pub(crate) fn response_trailers(&mut self) -> Action {
        if let Phase::Routed(routed) = &self.phase
            && routed.is_counting()
        {
            self.count(routed);
        }
        Action::Continue
    }

    /// Lets a held answer go, with headers that say what it took.
    fn count(&self, routed: &Routed) {
        routed.counted();
        // The attempt saw the end before, if it is here.
        if let Ok(exchange) = routed.exchange.try_borrow() {
            exchange.consumer_headers(set_response_header);
        }
    }

    /// The request is over and will be logged. An attempt whose client went away hears of it only
    /// afterwards, too late for access logs to show what it took.
    pub(crate) fn log(&self) {
        if let Phase::Routed(routed) = &self.phase {
            let flowing = routed.exchange.try_borrow().ok().and_then(|exchange| exchange.flowing());
            if let Some(answer) = flowing {
                answer.done();
            }
        }
    }

    /// The request is over.
    pub(crate) fn end(self) {
        if let Phase::Routed(routed) = self.phase {
            table::leave(self.stream.context);
            if let Ok(mut exchange) = routed.exchange.try_borrow_mut() {
                exchange.close(host::now);
            }
        }
    }

    /// What the gateway answers itself: which models there are.
    fn models(&self, question: &ModelsQuestion) -> Reply {
        let config = &self.plan.config;
        match question {
            ModelsQuestion::All => reply::models_list(config.models()),
            ModelsQuestion::One(name) if config.pool_of_model(name).is_some() => {
                reply::one_model(name)
            }
            ModelsQuestion::One(name) => reply::unknown_model(name),
        }
    }

    /// Reads what is new of the body; at its end, the request is routed.
    fn read(&mut self, size: usize, end_of_stream: bool) -> Action {
        let Phase::Reading(reading) = &mut self.phase else { return Action::Continue };
        if reading.read(size, end_of_stream).is_err() {
            host::log(host::Level::Error, "spillway: a request body could not be read");
            return self.answer(&reply::internal());
        }
        if !end_of_stream {
            return Action::Pause;
        }
        let Phase::Reading(reading) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return Action::Continue;
        };
        let (call, headers, known) = reading.finish();
        self.route(call, &headers, known)
    }

    /// Finds the pool and chooses the first backend.
    fn route(&mut self, call: Call, headers: &HeaderMap, known: Known) -> Action {
        let (pool, asked) = match self.understand(call, headers, known) {
            Ok(understood) => understood,
            Err(reply) => return self.answer(&reply),
        };
        let now = host::now();
        let consumer = match self.admit(pool, headers, asked.estimate, now) {
            Ok(admitted) => admitted,
            Err((reply, headers)) => {
                self.phase = Phase::Replied;
                send(&reply, headers);
                return Action::Pause;
            }
        };
        self.limit_first_byte(pool);
        let exchange = Exchange::new(Rc::clone(&self.plan), pool, asked, consumer);
        let routed = Routed::new(self.stream, table::enter(self.stream.context, exchange));
        self.phase = Phase::Routed(Rc::clone(&routed));
        if routed.advance(now) { Action::Continue } else { Action::Pause }
    }

    /// The pool, and all that an attempt needs of the request; or what is wrong with it.
    fn understand(
        &self,
        call: Call,
        headers: &HeaderMap,
        known: Known,
    ) -> Result<(usize, Asked), Reply> {
        let (body, in_body) = match known {
            Known::All(Err(malformed)) if call.needs_model() => {
                return Err(reply::malformed_body(malformed.problem, malformed.at));
            }
            // A body from which nothing is needed is the backend's to judge.
            Known::All(Err(_)) | Known::Nothing => (None, None),
            Known::Model(model) => (None, Some(model)),
            Known::All(Ok(body)) => {
                let model = body.facts.model.as_ref().map(|field| field.value.clone());
                (Some(body), model)
            }
        };
        let model = call.deployment.clone().or(in_body);
        let pool = self.pool(&call, model.as_deref())?;
        let size = body
            .as_ref()
            .map_or_else(RequestSize::default, |body| request_size(&call, &body.facts));
        let estimate = self.estimate(pool, &size);
        let needs = Needs {
            operation: operation_bit(call.operation),
            prompt_tokens: estimate.prompt_tokens,
            affinity: self.affinity(pool, headers, body.as_ref()),
        };
        let asked = Asked {
            model: model.unwrap_or_default(),
            body,
            content_length: number(headers, "content-length"),
            credentials: self.client_credentials(headers),
            needs,
            size,
            estimate,
            call,
        };
        Ok((pool, asked))
    }

    /// The pool of a model; of a call that need not name one, the default pool.
    fn pool(&self, call: &Call, model: Option<&str>) -> Result<usize, Reply> {
        let config = &self.plan.config;
        let found = model.and_then(|model| config.pool_of_model(model));
        match (found, model) {
            (Some(pool), _) => Ok(pool),
            (None, Some(model)) if call.needs_model() || call.deployment.is_some() => {
                Err(reply::unknown_model(model))
            }
            (None, None) if call.needs_model() => Err(reply::missing_model()),
            (None, _) => Ok(config.default_pool),
        }
    }

    /// The tokens that a request of this size is expected to use in `pool`.
    fn estimate(&self, pool: usize, size: &RequestSize) -> Estimate {
        let estimator = self.plan.pools.get(pool).and_then(|plan| plan.estimator.try_borrow().ok());
        estimator.map_or_else(|| Estimator::default().estimate(size), |known| known.estimate(size))
    }

    /// Whether the consumer may make the request.
    ///
    /// # Errors
    /// The answer when it may not, and the headers that say what is left.
    fn admit(
        &self,
        pool: usize,
        headers: &HeaderMap,
        estimate: Estimate,
        now: Timestamp,
    ) -> Result<Admitted, (Reply, Vec<(String, String)>)> {
        let consumers = self.plan.consumers.as_ref();
        let name = consumers.and_then(|consumers| headers.get(&consumers.header));
        let name = String::from_utf8_lossy(name.unwrap_or_default());
        let unlimited = Admitted::unlimited(estimate);
        let Some((pool, pool_plan)) = self.plan.pool(pool) else { return Ok(unlimited) };
        if self.plan.is_metered(pool_plan) {
            publish::request(&pool.name, &name);
        }
        let Some(consumers) = consumers else { return Ok(unlimited) };
        consumers.admit(&name, estimate, &pool_plan.metrics, now)
    }

    /// What keeps this request with related ones, as a number.
    fn affinity(&self, pool: usize, headers: &HeaderMap, body: Option<&Body>) -> Option<u64> {
        match self.plan.config.pools.get(pool)?.affinity.as_ref()? {
            Affinity::Header(name) => {
                headers.get(name).map(|value| key_of(&String::from_utf8_lossy(value)))
            }
            Affinity::Body => body?.facts.prompt_cache_key.or(body?.facts.user),
        }
    }

    /// The client's own credentials, if any backend may be sent them.
    fn client_credentials(&self, headers: &HeaderMap) -> Vec<(&'static str, Vec<u8>)> {
        if !self.plan.keeps_client_credential {
            return Vec::new();
        }
        let named = |name| headers.get(name).map(|value| (name, value.to_vec()));
        sanitize::CREDENTIALS.into_iter().filter_map(named).collect()
    }

    /// Lets the router end an attempt whose first byte takes longer than the pool allows.
    fn limit_first_byte(&self, pool: usize) {
        let timeout = self
            .plan
            .config
            .pools
            .get(pool)
            .and_then(|pool| pool.policy.failover.first_byte_timeout);
        if let Some(timeout) = timeout {
            // When the host refuses, the route's own limit holds.
            let _ =
                host::set_header(Map::RequestHeaders, PER_TRY_TIMEOUT, timeout.as_ms().to_string());
        }
    }

    /// Answers in the place of a backend.
    fn answer(&mut self, reply: &Reply) -> Action {
        self.phase = Phase::Replied;
        send(reply, Vec::new());
        Action::Pause
    }

    /// Finishes the response that is about to reach the client.
    fn finish(&self, routed: &Routed) -> Action {
        let Ok(mut exchange) = routed.exchange.try_borrow_mut() else { return Action::Continue };
        match exchange.finish(envoys_status, host::now) {
            Finish::Refused { status } => {
                routed.refused(&mut exchange, status);
                Action::Pause
            }
            Finish::Exhausted { throttled, soonest } => {
                routed.exhausted(&mut exchange, throttled, soonest, host::now());
                Action::Pause
            }
            Finish::Pass { backend, soonest } => {
                let response = &self.plan.config.response;
                let retry_after =
                    soonest.map(|soonest| routed::delay_ms(Some(soonest), host::now()));
                for (name, value) in retry_after.into_iter().flat_map(reply::retry_after_headers) {
                    set_response_header(name, &value);
                }
                let backend = backend.and_then(|backend| exchange.backend(backend));
                if let (Some(name), Some((backend, _))) = (&response.served_by_header, backend) {
                    set_response_header(name, &backend.name);
                }
                exchange.charge_nothing(host::now);
                exchange.own_headers(set_response_header);
                let holds = exchange.awaits_tokens()
                    && host::header_map(Map::ResponseHeaders)
                        .is_ok_and(|headers| is_holdable(&headers));
                if holds {
                    routed.count();
                    Action::Pause
                } else {
                    Action::Continue
                }
            }
        }
    }
}

/// A header that the host refuses to set is not worth the answer.
fn set_response_header(name: &str, value: &str) {
    let _ = host::set_header(Map::ResponseHeaders, name, value);
}

/// Whether an answer with these headers states its tokens and can be held.
fn is_holdable(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(meter::is_json)
        && number(headers, "content-length").is_none_or(is_moderate)
}

fn is_moderate(length: u64) -> bool {
    length <= HELD_ANSWER_BYTES_MAX
}

/// The status of an answer that Envoy made.
fn envoys_status() -> u16 {
    let status =
        host::header_map(Map::ResponseHeaders).ok().and_then(|headers| number(&headers, ":status"));
    status.and_then(|status| u16::try_from(status).ok()).unwrap_or(500)
}

/// What the tokens of a request are estimated from. An operation that completes nothing has no
/// output of its own to be learned.
fn request_size(call: &Call, facts: &BodyFacts) -> RequestSize {
    let completes = matches!(
        call.operation,
        Operation::ChatCompletions | Operation::Completions | Operation::Responses
    );
    RequestSize {
        text_bytes: facts.prompt_text_bytes,
        images: u64::from(facts.images),
        max_output_tokens: facts.max_output_tokens.or_else(|| (!completes).then_some(0)),
        choices: facts.choices,
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    std::str::from_utf8(headers.get(name)?).ok()?.parse().ok()
}
