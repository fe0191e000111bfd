//! The gateway role: a downstream filter, once a request.
//!
//! It recognises the call, takes the client's credential away, reads the body where the pool or a
//! backend needs something out of it, chooses the first backend, and at the end finishes the
//! response. What happens in between is the attempts' affair.

use super::body;
use super::exchange::{Asked, Exchange, Finish};
use super::host::{self, Direction, HeaderMap, Map};
use super::plan::Plan;
use super::sanitize;
use super::table;
use super::timers::{self, Wake};
use super::worker;
use crate::config::Affinity;
use crate::openai::operation::{self, BodyKind, Call};
use crate::openai::reply::{self, Reply};
use crate::openai::scan::{BodyScanner, Malformed};
use crate::policy::failover::{Ending, Next, Stop};
use crate::policy::headers::Headers;
use crate::policy::time::Timestamp;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// The filter of one request.
pub(crate) struct Gateway {
    context: u32,
    plan: Rc<Plan>,
    phase: Phase,
}

/// How far the request is.
enum Phase {
    /// Nothing came yet, or nothing more has to be done.
    Idle,
    /// The body is held and read.
    Reading(Reading),
    /// It has a pool, and backends are chosen for it.
    Routed(Rc<Routed>),
    /// The gateway itself answered.
    Replied,
}

/// A request whose body is being read.
struct Reading {
    call: Call,
    headers: HeaderMap,
    scanner: BodyScanner,
    read: usize,
}

/// A request that has a pool. A timer holds it weakly, while it waits.
struct Routed {
    context: u32,
    exchange: Rc<RefCell<Exchange>>,
    waiting_since: RefCell<Option<Timestamp>>,
}

impl Gateway {
    pub(crate) fn new(context: u32, plan: Rc<Plan>) -> Self {
        Self { context, plan, phase: Phase::Idle }
    }

    /// The request is recognised, cleaned, and routed at once unless its body must be read first.
    fn receive(&mut self, end_of_stream: bool) -> Action {
        let Ok(headers) = host::header_map(Map::RequestHeaders) else {
            return self.answer(&reply::unrouted());
        };
        let method = headers.get(":method").unwrap_or_default();
        let path = headers.get(":path").unwrap_or_default();
        let Some(call) = operation::recognise(method, path) else {
            return self.answer(&reply::unknown_path());
        };
        if let Some(reply) = self.models(&call) {
            return self.answer(&reply);
        }
        sanitize::request(&headers);
        let is_upgrade = headers.get("upgrade").is_some();
        let kind = call.body_kind(headers.get("content-type"));
        let scanner = BodyScanner::new(&kind);
        match scanner {
            Some(scanner) if !is_upgrade && !end_of_stream => {
                self.phase = Phase::Reading(Reading { call, headers, scanner, read: 0 });
                Action::Pause
            }
            Some(_) if !is_upgrade && call.needs_model() => self.answer(&reply::missing_model()),
            _ => self.route(call, &headers, None),
        }
    }
}

impl Gateway {
    /// What the gateway answers itself: which models there are.
    fn models(&self, call: &Call) -> Option<Reply> {
        match call.asks_for_models()? {
            ModelsQuestion::All => Some(reply::models_list(self.plan.config.models())),
            ModelsQuestion::One(name) if self.plan.config.pool_of_model(name).is_some() => {
                Some(reply::one_model(name))
            }
            ModelsQuestion::One(name) => Some(reply::unknown_model(name)),
        }
    }

    /// Reads what is new of the body; at its end, the request is routed.
    fn read(&mut self, size: usize, end_of_stream: bool) -> Action {
        let Phase::Reading(reading) = &mut self.phase else { return Action::Continue };
        let scanned = body::read(reading.read, size, |slice| reading.scanner.push(slice));
        reading.read = size;
        if scanned.is_err() {
            host::log(host::Level::Error, "spillway: a request body could not be read");
        }
        if !end_of_stream {
            return Action::Pause;
        }
        let Phase::Reading(reading) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return Action::Continue;
        };
        self.route(reading.call, &reading.headers, Some(reading.scanner.finish()))
    }

    /// Finds the pool and chooses the first backend.
    fn route(
        &mut self,
        call: Call,
        headers: &HeaderMap,
        body: Option<Result<Body, Malformed>>,
    ) -> Action {
        let (pool, asked) = match self.understand(call, headers, body) {
            Ok(understood) => understood,
            Err(reply) => return self.answer(&reply),
        };
        let exchange = Exchange::new(Rc::clone(&self.plan), pool, asked);
        let routed = Routed::new(self.context, table::enter(self.context, exchange));
        self.phase = Phase::Routed(Rc::clone(&routed));
        let now = host::now();
        match routed.advance(now) {
            Advance::Send => Action::Continue,
            Advance::Wait => Action::Pause,
            Advance::Reply(ending) => {
                let reply = routed.exhausted(&ending, now);
                self.answer(&reply)
            }
        }
    }

    /// The pool and all that an attempt needs of the request, or what is wrong with it.
    fn understand(
        &self,
        call: Call,
        headers: &HeaderMap,
        body: Option<Result<Body, Malformed>>,
    ) -> Result<(usize, Asked), Reply> {
        let config = &self.plan.config;
        let body = match body {
            Some(Err(malformed)) if call.deployment.is_none() && call.needs_model() => {
                return Err(reply::malformed_body(malformed.problem, malformed.at));
            }
            body => body.and_then(Result::ok),
        };
        let in_body = body.as_ref().and_then(|body| body.facts.model.as_ref());
        let model = call.deployment.as_ref().or(in_body.map(|field| &field.value)).cloned();
        let pool = match &model {
            Some(model) => match config.pool_of_model(model) {
                Some(pool) => pool,
                None if call.needs_model() => return Err(reply::unknown_model(model)),
                None => config.default_pool,
            },
            None if call.needs_model() => return Err(reply::missing_model()),
            None => config.default_pool,
        };
        let needs = Needs {
            operation: operation_bit(call.operation),
            prompt_tokens: body.as_ref().map_or(0, |body| body.facts.prompt_tokens()),
            affinity: self.affinity(pool, headers, body.as_ref()),
        };
        let asked = Asked {
            model: model.unwrap_or_default(),
            body,
            content_length: number(headers.get("content-length")),
            credentials: self.client_credentials(headers),
            needs,
            call,
        };
        Ok((pool, asked))
    }

    /// What keeps this request with related ones, as a number.
    fn affinity(&self, pool: usize, headers: &HeaderMap, body: Option<&Body>) -> Option<u64> {
        match self.plan.config.pools.get(pool)?.affinity.as_ref()? {
            Affinity::Header(name) => headers.get(name).map(hash::of),
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

    /// Answers in the place of a backend.
    fn answer(&mut self, reply: &Reply) -> Action {
        self.phase = Phase::Replied;
        send(reply, 0);
        Action::Pause
    }

    /// Finishes the response that is about to reach the client.
    fn finish(&self, routed: &Routed) -> Action {
        let Ok(headers) = host::header_map(Map::ResponseHeaders) else { return Action::Continue };
        let Ok(mut exchange) = routed.exchange.try_borrow_mut() else { return Action::Continue };
        let now = host::now();
        let status = number(headers.get(":status")).and_then(|s| u16::try_from(s).ok());
        match exchange.finish(status.unwrap_or(0), now) {
            Finish::Reply(ending) => {
                drop(exchange);
                routed.reply(&ending, now);
                Action::Pause
            }
            Finish::Pass { backend, retry_after_ms } => {
                let response = &self.plan.config.response;
                sanitize::response(&headers, response.backend_rate_limits);
                for (name, value) in retry_after_ms.into_iter().flat_map(reply::retry_after_headers) {
                    let _ = host::set_header(Map::ResponseHeaders, name, value);
                }
                decorate(&exchange, backend);
                Action::Continue
            }
        }
    }
}

impl Context for Gateway {
    fn on_done(&mut self) -> bool {
        if let Phase::Routed(routed) = std::mem::replace(&mut self.phase, Phase::Idle) {
            table::leave(self.context);
            if let Ok(mut exchange) = routed.exchange.try_borrow_mut() {
                exchange.close(host::now());
            }
        }
        true
    }
}

impl HttpContext for Gateway {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.receive(end_of_stream)
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        match &self.phase {
            Phase::Reading(_) => self.read(size, end_of_stream),
            Phase::Routed(routed) if routed.is_waiting() => Action::Pause,
            Phase::Replied => Action::Pause,
            Phase::Routed(_) | Phase::Idle => Action::Continue,
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        match &self.phase {
            Phase::Routed(routed) if !routed.has_replied() => self.finish(routed),
            _ => Action::Continue,
        }
    }
}
