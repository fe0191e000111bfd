//! One request from its headers to the end of its response.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::time::Instant;

use crate::answers::{Answer, Question, answer};
use crate::config::MockConfig;
use crate::facts::Facts;
use crate::faults::{Effect, Fault};
use crate::link::Link;
use crate::problems::Problem;
use crate::record::body_hash;
use crate::refusals::{Asked, Refusal, refusal};
use crate::route::{Operation, Route, route};
use crate::script::{Audience, Playing};
use crate::state::State;
use crate::websocket::{self, Session};
use crate::{control, ids};

/// Answers one request, or fails so that the connection ends without a response.
pub(crate) async fn handle(
    request: Request<Incoming>,
    state: Arc<State>,
    link: Arc<Link>,
) -> io::Result<Response<Playing<Exchange>>> {
    let (mut head, body) = request.into_parts();
    let mut exchange = Exchange::new(&state, &link);
    if head.uri.path().starts_with("/_mock/") {
        let answer = control::answer(&state, &head, &read(body).await?);
        return Ok(exchange.respond(answer, HeaderMap::new()));
    }
    exchange.open_record(&head);
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let body = read(body).await?;
    exchange.store_body(&body);

    let config = state.config();
    let call = Call::understand(&head, &body);
    let fault = exchange.take_fault(&head, &call);
    let deployment = call.deployment().unwrap_or_default();
    let effect = match &fault {
        Some(fault) => Some(fault.effect(deployment)),
        None => call.refusal(&head, &body, &config),
    };
    let mut answer = match effect {
        Some(Effect::Answer(answer)) => answer,
        Some(Effect::Hangup { reset }) => {
            if reset {
                link.reset();
            }
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Some(Effect::Bytes(bytes)) => {
            link.replace_answer(Bytes::from_static(bytes));
            Answer::bytes("text/plain", "replaced", 0)
        }
        Some(Effect::Later(delay)) => {
            tokio::time::sleep(delay).await;
            exchange.serve(&head, &call, &config, upgrade)
        }
        Some(Effect::Dribble { bytes, pause }) => {
            link.dribble(bytes, pause);
            exchange.serve(&head, &call, &config, upgrade)
        }
        Some(Effect::Edit) | None => exchange.serve(&head, &call, &config, upgrade),
    };
    if !answer.streams && answer.status != StatusCode::SWITCHING_PROTOCOLS {
        let length = answer.script.length().to_string();
        answer.headers.push((CONTENT_LENGTH.to_string(), length));
    }
    if let Some(fault) = &fault {
        fault.edit(&mut answer, deployment, call.operation());
    }
    tokio::time::sleep(config.latency.first_byte).await;
    Ok(exchange.respond(answer, backend_headers(&head, &config, deployment)))
}

async fn read(mut body: Incoming) -> io::Result<Bytes> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or_default().min(64 << 20);
    let mut bytes = BytesMut::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// A request, as far as it was understood.
struct Call {
    route: Option<Route>,
    facts: Result<Facts, Problem>,
}

impl Call {
    fn understand(head: &Parts, body: &[u8]) -> Self {
        let route = route(&head.method, &head.uri);
        let facts = match &route {
            Some(route) => Facts::read(&route.operation, &head.headers, body),
            None => Err(Problem::resource_not_found()),
        };
        Self { route, facts }
    }

    fn operation(&self) -> Option<&Operation> {
        self.route.as_ref().map(|route| &route.operation)
    }

    /// From the path, otherwise from the body.
    fn deployment(&self) -> Option<&str> {
        let from_path = self.route.as_ref().and_then(|route| route.deployment.as_deref());
        let from_body = || self.facts.as_ref().ok().and_then(|facts| facts.model.as_deref());
        from_path.or_else(from_body)
    }

    /// What is wrong with the request itself; a key that is wrong is found later.
    fn refusal(&self, head: &Parts, body: &[u8], config: &MockConfig) -> Option<Effect> {
        let asked = Asked { route: self.route.as_ref(), facts: self.facts.as_ref().ok() };
        let known = has_key(&head.headers, config);
        let refusal = known.then(|| refusal(&asked, head, body, config)).flatten();
        refusal.map(Refusal::effect)
    }

    fn streams(&self) -> bool {
        self.facts.as_ref().is_ok_and(|facts| facts.stream)
    }
}

/// A request in progress; being dropped ends its record.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: Arc<State>,
    link: Arc<Link>,
    /// The record's number; none for the control endpoints.
    number: Option<u64>,
    estimate: Option<u64>,
    tokens_used: u64,
    completed: bool,
}

impl Exchange {
    fn new(state: &Arc<State>, link: &Arc<Link>) -> Self {
        let (state, link) = (Arc::clone(state), Arc::clone(link));
        Self { state, link, number: None, estimate: None, tokens_used: 0, completed: false }
    }

    fn open_record(&mut self, head: &Parts) {
        self.number = Some(self.state.records.open(head, self.link.id));
        self.state.counters.requests.fetch_add(1, Ordering::Relaxed);
        self.state.counters.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn store_body(&self, body: &Bytes) {
        let hash = body_hash(body);
        if let Some(number) = self.number {
            self.state.records.store_body(number, body, hash);
        }
    }

    fn take_fault(&self, head: &Parts, call: &Call) -> Option<Fault> {
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let fault =
            self.state.faults.with(|faults| faults.take(path, call.operation(), call.streams()))?;
        self.state.counters.faults.fetch_add(1, Ordering::Relaxed);
        let (number, name) = (self.number?, fault.name());
        self.state.records.update(number, |record| record.fault = Some(name));
        Some(fault)
    }

    /// The answer when no fault stands in its place.
    fn serve(
        &mut self,
        head: &Parts,
        call: &Call,
        config: &MockConfig,
        upgrade: Option<OnUpgrade>,
    ) -> Answer {
        self.try_to_serve(head, call, config, upgrade).unwrap_or_else(Answer::problem)
    }

    fn try_to_serve(
        &mut self,
        head: &Parts,
        call: &Call,
        config: &MockConfig,
        upgrade: Option<OnUpgrade>,
    ) -> Result<Answer, Problem> {
        if !has_key(&head.headers, config) {
            return Err(Problem::unauthorized());
        }
        let Some(Route { operation, .. }) = &call.route else {
            return Err(Problem::resource_not_found());
        };
        let facts = call.facts.as_ref().map_err(Clone::clone)?;
        let deployment = known_deployment(operation, call.deployment(), config)?;
        if *operation == Operation::Realtime {
            let session = Session { name: config.name.clone(), model: deployment.to_owned() };
            return websocket::accept(&head.headers, upgrade, session, &self.state);
        }
        let limited = head.method == Method::POST;
        let headers = if limited { self.admit(facts.estimate(operation))? } else { Vec::new() };
        let deletes = head.method == Method::DELETE;
        let question = Question { operation, deletes, facts, deployment, config };
        let mut answer = self.state.stored_responses.with(|stored| answer(question, stored));
        answer.headers.extend(headers);
        Ok(answer)
    }

    fn admit(&mut self, estimate: u64) -> Result<Vec<(String, String)>, Problem> {
        let headers = self.state.limits.with(|limits| limits.admit(estimate, Instant::now()))?;
        self.estimate = Some(estimate);
        Ok(headers)
    }

    fn respond(mut self, answer: Answer, mut headers: HeaderMap) -> Response<Playing<Self>> {
        if !answer.content_type.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        }
        for (name, value) in &answer.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_bytes(value.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.insert(name, value);
            }
        }
        let status = StatusCode::from_u16(answer.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(number) = self.number {
            self.state.counters.count_status(status.as_u16());
            self.state.records.update(number, |record| record.status = Some(status.as_u16()));
        }
        self.tokens_used = answer.tokens_used;
        let mut response = Response::new(Playing::new(answer.script, self));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

impl Audience for Exchange {
    fn completed(&mut self) {
        let Some(number) = self.number else { return };
        if std::mem::replace(&mut self.completed, true) {
            return;
        }
        if let Some(estimate) = self.estimate {
            let now = Instant::now();
            self.state.limits.with(|limits| limits.settle(estimate, self.tokens_used, now));
        }
        self.state.counters.completed.fetch_add(1, Ordering::Relaxed);
        self.state.counters.tokens_used.fetch_add(self.tokens_used, Ordering::Relaxed);
        self.state.records.update(number, |record| record.completed = true);
    }

    fn reset(&mut self) {
        self.link.reset();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.state.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.state.records.update(number, |record| record.ended = true);
        }
    }
}

fn has_key(headers: &HeaderMap, config: &MockConfig) -> bool {
    let Some(key) = config.api_key.as_ref().map(String::as_bytes) else { return true };
    let value = |name| headers.get(name).map(HeaderValue::as_bytes);
    let bearer = value("authorization").and_then(|value| value.strip_prefix(b"Bearer "));
    value("api-key") == Some(key) || bearer == Some(key)
}

/// The deployment that serves; operations on no deployment have the empty one.
fn known_deployment<'a>(
    operation: &Operation,
    deployment: Option<&'a str>,
    config: &MockConfig,
) -> Result<&'a str, Problem> {
    let needed = !matches!(
        operation,
        Operation::Models
            | Operation::Model { .. }
            | Operation::Files
            | Operation::StoredResponse { .. }
    );
    match deployment {
        Some(name) if config.deployments.is_empty() => Ok(name),
        Some(name) if config.deployments.iter().any(|known| known == name) => Ok(name),
        Some(_) => Err(Problem::deployment_not_found()),
        None if needed => Err(Problem::missing("model")),
        None => Ok(""),
    }
}

/// What Azure adds to every response.
fn backend_headers(head: &Parts, config: &MockConfig, deployment: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    add("apim-request-id", &ids::guid());
    add("x-request-id", &ids::guid());
    add("x-ms-region", &config.region);
    add("x-content-type-options", "nosniff");
    add("strict-transport-security", "max-age=31536000; includeSubDomains; preload");
    if !deployment.is_empty() {
        add("x-ms-deployment-name", deployment);
    }
    if let Some(id) = head.headers.get("x-ms-client-request-id") {
        headers.insert("x-ms-client-request-id", id.clone());
    }
    headers
}
