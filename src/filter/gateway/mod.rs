//! The gateway role: a downstream filter, once per request.
//!
//! It recognises the call, removes the client's credential, reads the body where the pool or a backend needs it,
//! chooses the first backend, and finally finishes the response. The attempts do what lies between.

mod arrival;
mod progress;
mod request_body;

use self::arrival::{Arrival, Intake, pool_of};
use self::progress::{Routed, send};
use self::request_body::{BodyKnowledge, Deadline, Reading};
use crate::config::{Affinity, operation_bit};
use crate::filter::host::details;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::header_map::HeaderMap;
use crate::filter::host::properties;
use crate::filter::host::sanitize::{self, Subprotocols};
use crate::filter::host::timers::StreamId;
use crate::filter::host::told::Told;
use crate::filter::host::{self, Action, Map};
use crate::filter::pool::consumers::Admitted;
use crate::filter::pool::{Pool, Pools};
use crate::filter::request::finish::{Finish, Unexpected};
use crate::filter::request::headers::{RETRY, SHOULD_RETRY};
use crate::filter::request::in_flight;
use crate::filter::request::{ClientRequest, Request};
use crate::openai::call::api::Operation;
use crate::openai::call::credentials;
use crate::openai::call::{Call, Method};
use crate::openai::request::body::Body;
use crate::openai::response::reply::{self, Reply};
use crate::policy::choice::{Needs, too_long_for};
use crate::policy::keys::key_of;
use crate::policy::response::headers::Headers;
use crate::policy::time::Timestamp;
use crate::policy::tokens::estimate::{Estimate, Estimator, RequestSize};
use std::rc::Rc;

/// The request header with which Envoy's router limits the time to an attempt's first byte.
const PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

thread_local! {
    /// Avoids repeating in the log that the roles run in different VMs.
    static APART: Told = Told::default();
}

/// The filter of one request.
pub(crate) struct Gateway {
    stream: StreamId,
    pools: Rc<Pools>,
    phase: Phase,
}

/// How far the request is.
enum Phase {
    /// Nothing came yet, or nothing is left to do.
    Idle,
    /// The body is held and read.
    Reading(Box<Reading>),
    /// The request has a pool, and backends are chosen for it.
    Routed(Rc<Routed>),
    /// The gateway itself replied.
    Replied,
}

impl Gateway {
    pub(crate) fn new(stream: StreamId, pools: Rc<Pools>) -> Self {
        Self { stream, pools, phase: Phase::Idle }
    }

    /// Recognises and cleans the request, and routes it at once unless its body must be read first.
    pub(crate) fn request_headers(&mut self, end_of_stream: bool) -> Action {
        let Ok(headers) = host::header_map(Map::RequestHeaders) else {
            return self.reply(&reply::internal());
        };
        #[cfg(feature = "trap")]
        if headers.get("x-trap").is_some() {
            std::process::abort();
        }
        let (arrival, intake) = match Arrival::of(&self.pools, &headers, end_of_stream) {
            Ok(arrived) => arrived,
            Err(reply) => return self.reply(&reply),
        };
        sanitize::request(&headers);
        match intake {
            Intake::Hold { scanner, need } => {
                let timeout = self.pools.request_body.timeout;
                let deadline = Deadline::set(self.stream, timeout);
                let reading = Reading::new(arrival, headers, deadline, scanner, need);
                self.phase = Phase::Reading(Box::new(reading));
                Action::Pause
            }
            Intake::Pass => self.route(arrival, &headers, BodyKnowledge::Nothing),
        }
    }

    /// A part of the body came. While it is held, `size` counts from the beginning of the body.
    pub(crate) fn request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        match &self.phase {
            Phase::Reading(reading) if reading.is_overdue() => Action::Pause,
            Phase::Reading(_) => self.read(size, end_of_stream),
            Phase::Routed(routed) if routed.is_held() => Action::Pause,
            Phase::Replied => Action::Pause,
            Phase::Routed(_) | Phase::Idle => Action::Continue,
        }
    }

    /// The request ended with trailers, so no part of its body was marked as the last. All trailers are removed.
    pub(crate) fn request_trailers(&mut self) -> Action {
        sanitize::request_trailers();
        match &self.phase {
            Phase::Reading(reading) if reading.is_overdue() => Action::Pause,
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
            Phase::Reading(reading) if reading.is_overdue() => Action::Continue,
            // No backend was asked, so Envoy replied: the body exceeds its buffer.
            Phase::Reading(_) => self.reply(&reply::refused(envoys_status())),
            _ => Action::Continue,
        }
    }

    /// The request is over and will be logged. A response that is still on its way ended early, and only here does
    /// Envoy state why. An attempt whose client left learns it only afterwards, too late for access logs to show the
    /// tokens.
    pub(crate) fn log(&self) {
        if let Phase::Routed(routed) = &self.phase {
            routed.end_flow(details::backend_broke_off);
        }
    }

    /// The request is over.
    pub(crate) fn end(self) {
        if let Phase::Routed(routed) = self.phase {
            in_flight::leave(self.stream.context);
            routed.end_flow(|| false); // for a host that does not log
            if let Some(mut request) = routed.request.change() {
                request.close(host::now);
            }
        }
    }

    /// Reads the new bytes of the body, and routes the request at the end.
    fn read(&mut self, size: usize, end_of_stream: bool) -> Action {
        let Phase::Reading(reading) = &mut self.phase else { return Action::Continue };
        if reading.read(size, end_of_stream).is_err() {
            log::error!("a request body could not be read");
            return self.reply(&reply::internal());
        }
        let length = u64::try_from(size).unwrap_or(u64::MAX);
        if length > self.pools.request_body.max_bytes {
            return self.reply(&reply::refused(413));
        }
        if !end_of_stream {
            return Action::Pause;
        }
        let Phase::Reading(reading) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return Action::Continue;
        };
        let (arrival, headers, known) = reading.finish();
        self.route(arrival, &headers, known)
    }

    /// Finds the pool and chooses the first backend.
    fn route(&mut self, arrival: Arrival, headers: &HeaderMap, known: BodyKnowledge) -> Action {
        let (pool, asked) = match self.understand(arrival, headers, known) {
            Ok(understood) => understood,
            Err(reply) => return self.reply(&reply),
        };
        let now = host::now();
        let consumer = match self.admit(&pool, headers, asked.estimate, now) {
            Ok(admitted) => admitted,
            Err((reply, headers)) => {
                self.phase = Phase::Replied;
                send(&reply, headers);
                return Action::Pause;
            }
        };
        limit_first_byte(&pool);
        let request = Request::new(Rc::clone(&self.pools), pool, asked, consumer);
        let routed = Routed::new(self.stream, in_flight::enter(self.stream.context, request));
        self.phase = Phase::Routed(Rc::clone(&routed));
        if routed.advance(now) { Action::Continue } else { Action::Pause }
    }

    /// The pool, and all that an attempt needs to know about the request; or a reply that states what is wrong.
    fn understand(
        &self,
        arrival: Arrival,
        headers: &HeaderMap,
        known: BodyKnowledge,
    ) -> Result<(Rc<Pool>, ClientRequest), Reply> {
        let Arrival { call, pool, needs_body, content_length } = arrival;
        let may_ask_for_tier = call.expects_json() && known.may_ask_for_tier();
        let is_glimpsed = matches!(known, BodyKnowledge::Glimpsed(_));
        let (body, in_body) = match known {
            BodyKnowledge::All(Err(malformed)) if needs_body => {
                return Err(reply::malformed_body(malformed.problem, malformed.at));
            }
            BodyKnowledge::All(Ok(body)) if needs_body && body.facts.is_model_ambiguous => {
                return Err(reply::ambiguous_model());
            }
            // Nothing is needed from this body, so the backend judges it.
            BodyKnowledge::All(Err(_)) | BodyKnowledge::Nothing | BodyKnowledge::Unread => {
                (None, None)
            }
            BodyKnowledge::Glimpsed(model) => (None, model),
            BodyKnowledge::All(Ok(body)) => {
                let model = body.facts.model.as_ref().map(|field| field.value.clone());
                (Some(body), model)
            }
        };
        let model = call.deployment.clone().or(in_body);
        let pool = match pool {
            Some(pool) => pool,
            None => pool_of(&self.pools, &call, model.as_deref())?,
        };
        let size = request_size(&call, body.as_deref());
        let estimate = if call.is_charged() && call.method == Method::Post {
            estimate(&pool, &size)
        } else {
            Estimate::default()
        };
        let needs = Needs {
            operation: operation_bit(call.operation),
            prompt_tokens: estimate.prompt_tokens,
            tokens: 0,
            affinity: affinity(&pool, headers, body.as_deref()),
        };
        if let Some(limit) = too_long_for(&pool.policy, &needs) {
            return Err(reply::prompt_too_long(needs.prompt_tokens, limit));
        }
        let (credentials, subprotocols) = self.client_credentials(headers);
        let mut asked = ClientRequest {
            model: model.unwrap_or_default(),
            body,
            may_ask_for_tier,
            is_glimpsed,
            content_length,
            credentials,
            subprotocols,
            needs,
            size,
            estimate,
            call,
        };
        if !asked.hides_its_cost() {
            asked.needs.tokens = asked.estimate.total();
        }
        Ok((pool, asked))
    }

    /// Whether the consumer may make the request.
    ///
    /// # Errors
    /// The reply when it may not, with headers that state what is left.
    fn admit(
        &self,
        pool: &Pool,
        headers: &HeaderMap,
        estimate: Estimate,
        now: Timestamp,
    ) -> Result<Admitted, (Reply, Vec<(String, String)>)> {
        let consumers = self.pools.consumers.as_ref();
        let name = consumers.and_then(|consumers| headers.get(&consumers.header));
        let name = String::from_utf8_lossy(name.unwrap_or_default());
        if pool.is_metered {
            properties::publish_request(&pool.name, &name);
        }
        match consumers {
            Some(consumers) => consumers.admit(&name, estimate, &pool.metrics, now),
            None => Ok(Admitted::unlimited(estimate)),
        }
    }

    /// The client's own credentials, if any backend may get them.
    fn client_credentials(
        &self,
        headers: &HeaderMap,
    ) -> (Vec<(&'static str, Vec<u8>)>, Option<Subprotocols>) {
        if !self.pools.keeps_client_credential {
            return (Vec::new(), None);
        }
        let named = |name| headers.get(name).map(|value| (name, value.to_vec()));
        let credentials = credentials::PASSED.into_iter().filter_map(named).collect();
        (credentials, sanitize::subprotocols(headers))
    }

    /// Replies instead of a backend.
    fn reply(&mut self, reply: &Reply) -> Action {
        self.phase = Phase::Replied;
        // RFC 9110, 15.5.22: the response names a protocol that is accepted.
        let upgrade = [("connection", "upgrade"), ("upgrade", "HTTP/1.1")];
        let own = upgrade.iter().filter(|_| reply.status == 426);
        send(reply, own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        Action::Pause
    }

    /// Finishes the response that is about to reach the client.
    fn finish(&self, routed: &Routed) -> Action {
        let Some(mut request) = routed.request.change() else { return Action::Continue };
        match request.finish(unexpected, host::now) {
            Finish::Refused { status } => {
                let (reply, kept) = refusal(status);
                routed.replace(&mut request, &reply, kept);
                Action::Pause
            }
            Finish::Apart => {
                if APART.with(|told| told.is_news(reply::APART, host::now())) {
                    log::error!("{}", reply::APART);
                }
                routed.replace(&mut request, &reply::apart(), Vec::new());
                Action::Pause
            }
            Finish::Unusable { status } => {
                routed.replace(&mut request, &reply::unusable(status), Vec::new());
                Action::Pause
            }
            Finish::Unreachable => {
                routed.unreachable(&mut request);
                Action::Pause
            }
            Finish::MayBeDone => {
                routed.may_be_done(&mut request);
                Action::Pause
            }
            Finish::Exhausted { throttled, soonest } => {
                routed.exhausted(&mut request, throttled, soonest, host::now());
                Action::Pause
            }
            Finish::Pass { backend, soonest, may_be_done } => {
                let retry_after =
                    soonest.map(|soonest| progress::delay_ms(Some(soonest), host::now()));
                for (name, value) in retry_after.into_iter().flat_map(reply::retry_after_headers) {
                    set_response_header(name, &value);
                }
                let backend = backend.and_then(|index| request.pool().backend(index));
                let served_by_header = self.pools.response.served_by_header.as_ref();
                if let (Some(name), Some(backend)) = (served_by_header, backend) {
                    set_response_header(name, &backend.config.name);
                }
                if may_be_done {
                    set_response_header(SHOULD_RETRY, "false");
                }
                request.charge_nothing(host::now);
                request.own_headers(set_response_header);
                Action::Continue
            }
        }
    }
}

/// If the host refuses to set a header, the response goes to the client without it.
fn set_response_header(name: &str, value: &str) {
    let _ = host::set_header(Map::ResponseHeaders, name, value);
}

/// Describes a response that no attempt released.
fn unexpected() -> Unexpected {
    let headers = host::header_map(Map::ResponseHeaders).ok();
    let asks_for_retry = headers.as_ref().is_some_and(|headers| headers.get(RETRY).is_some());
    if asks_for_retry {
        let _ = host::remove_header(Map::ResponseHeaders, RETRY); // not meant for clients
    }
    let status = headers.and_then(|headers| number(&headers, ":status"));
    Unexpected {
        status: status.and_then(|status| u16::try_from(status).ok()).unwrap_or(500),
        asks_for_retry,
        misroute: details::misroute(),
        is_apart: in_flight::is_apart(),
    }
}

/// The reply to a request that Envoy or one of its filters refused with `status`, and the original headers that tell
/// a client what to do.
fn refusal(status: u16) -> (Reply, Vec<(String, String)>) {
    let headers = host::header_map(Map::ResponseHeaders).ok();
    let is_kept = |name: &[u8]| {
        name == b"www-authenticate"
            || name.starts_with(b"retry-after")
            || name.starts_with(b"x-ratelimit-")
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kept: Vec<(String, String)> = headers
        .iter()
        .flat_map(HeaderMap::iter)
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    let reply = reply::refused(status);
    let names_a_time = kept.iter().any(|(name, _)| name.starts_with("retry-after"));
    if status != 429 || names_a_time {
        return (reply, kept);
    }
    // Rate limit filters state the time in a header of their own, if at all, but SDKs look for `retry-after`.
    let resets = headers.as_ref().and_then(|headers| number(headers, "x-ratelimit-reset"));
    let wait_ms = resets.filter(|seconds| *seconds > 0).map(|it| it.saturating_mul(1_000));
    let retry_after_ms = wait_ms.unwrap_or_else(|| progress::delay_ms(None, host::now()));
    (Reply { retry_after_ms: Some(retry_after_ms), ..reply }, kept)
}

/// The status of a response that Envoy created.
fn envoys_status() -> u16 {
    let status =
        host::header_map(Map::ResponseHeaders).ok().and_then(|headers| number(&headers, ":status"));
    status.and_then(|status| u16::try_from(status).ok()).unwrap_or(500)
}

/// The tokens that a request of this size is expected to use in `pool`.
fn estimate(pool: &Pool, size: &RequestSize) -> Estimate {
    let known = pool.estimator.view();
    known.map_or_else(|| Estimator::default().estimate(size), |known| known.estimate(size))
}

/// A number that keeps related requests at one backend.
fn affinity(pool: &Pool, headers: &HeaderMap, body: Option<&Body>) -> Option<u64> {
    match pool.affinity.as_ref()? {
        Affinity::Header(name) => {
            headers.get(name).map(|value| key_of(&String::from_utf8_lossy(value)))
        }
        Affinity::Body => body?.facts.prompt_cache_key.or(body?.facts.user),
    }
}

/// Makes the router end an attempt whose first byte takes longer than the pool allows.
fn limit_first_byte(pool: &Pool) {
    if let Some(timeout) = pool.policy.failover.first_byte_timeout {
        // If the host refuses, the route's own limit applies.
        let _ = host::set_header(Map::RequestHeaders, PER_TRY_TIMEOUT, timeout.as_ms().to_string());
    }
}

/// The sizes from which a request's tokens are estimated. An operation that generates nothing has no output to learn
/// from.
fn request_size(call: &Call, body: Option<&Body>) -> RequestSize {
    let completes = matches!(
        call.operation,
        Operation::ChatCompletions | Operation::Completions | Operation::Responses
    );
    let without_output = (!completes).then_some(0);
    let Some(Body { facts, .. }) = body else {
        return RequestSize { max_output_tokens: without_output, ..RequestSize::default() };
    };
    RequestSize {
        text_bytes: facts.prompt_text_bytes,
        images: u64::from(facts.images),
        max_output_tokens: facts.max_output_tokens.or(without_output),
        choices: facts.choices,
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    std::str::from_utf8(headers.get(name)?).ok()?.parse().ok()
}
