//! A stream's way through gateway, router and attempts, in the order of Envoy 1.40.

use super::{Answer, CLIENT_SECRET, End, Envoy, Event, Request};
use crate::host::{Context, Deferred, HeaderList, KEYS, Module, PAUSE, Role, Seen, header, with};
use std::collections::BTreeMap;

/// The flag of a client that went away.
const DOWNSTREAM_DISCONNECT: i64 = 16_384;

/// One client request.
pub(crate) struct Stream {
    pub(crate) answer: Answer,
    /// The request headers once the gateway let them go; all attempts edit the same.
    headers: HeaderList,
    /// What the gateway keeps of the body.
    held_request: Vec<u8>,
    is_request_held: bool,
    is_request_complete: bool,
    is_forwarded: bool,
    /// The body as it left the gateway: what every attempt is sent.
    replay: Vec<u8>,
    has_honest_length: bool,
    knows_target: bool,
    attempt: Option<u32>,
    cluster: String,
    attempts: u32,
    /// The body as it left the attempt's filter.
    sent: Vec<u8>,
    held_response: Vec<u8>,
    is_response_held: bool,
    is_response_complete: bool,
    request_trailers: Option<HeaderList>,
    response_trailers: Option<HeaderList>,
    has_response: bool,
    /// How many parts of a body the last attempt brought.
    pub(super) chunks: usize,
}

impl Stream {
    fn new(has_honest_length: bool) -> Self {
        Self {
            answer: Answer::nothing(),
            headers: Vec::new(),
            held_request: Vec::new(),
            is_request_held: false,
            is_request_complete: false,
            is_forwarded: false,
            replay: Vec::new(),
            has_honest_length,
            knows_target: false,
            attempt: None,
            cluster: String::new(),
            attempts: 0,
            sent: Vec::new(),
            held_response: Vec::new(),
            is_response_held: false,
            is_response_complete: false,
            request_trailers: None,
            response_trailers: None,
            has_response: false,
            chunks: 0,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.answer.end != End::Open
    }
}

fn context(root: u32, stream: u32, role: Role) -> Context {
    Context {
        root,
        stream,
        role,
        request_headers: None,
        response_headers: None,
        request_trailers: None,
        response_trailers: None,
        request_body: None,
        response_body: None,
        properties: BTreeMap::new(),
    }
}

/// Changes a context that exists.
fn change<R>(id: u32, change: impl FnOnce(&mut Context) -> R) -> R {
    with(|state| change(state.contexts.get_mut(&id).expect("the context was deleted")))
}

impl Envoy {
    /// Sends a request: the head, then the body chunk by chunk. Returns its id.
    pub(crate) fn send(&mut self, request: Request) -> u32 {
        let end = request.chunks.is_empty() && request.trailers.is_empty();
        self.send_up_to(request, end)
    }

    /// Sends the head of a request whose body does not come.
    pub(crate) fn send_head_of(&mut self, request: Request) -> u32 {
        self.send_up_to(Request { chunks: Vec::new(), ..request }, false)
    }

    fn send_up_to(&mut self, request: Request, end: bool) -> u32 {
        let id = self.id();
        let mut gateway = context(self.gateway, id, Role::Gateway);
        let count = request.headers.len();
        self.streams.insert(id, Stream::new(request.has_honest_length()));
        gateway.request_headers = Some(request.headers);
        with(|state| state.contexts.insert(id, gateway));
        Module::create(id, self.gateway);
        self.stream(id).is_request_complete = end;
        let action = Module::request_headers(id, count, end);
        self.apply_deferred();
        if self.stream(id).is_done() {
            return id;
        }
        if action == PAUSE {
            self.stream(id).is_request_held = true;
        } else {
            self.forward_request(id, Vec::new());
        }
        let last = request.chunks.len();
        let has_trailers = !request.trailers.is_empty();
        for (number, chunk) in request.chunks.into_iter().enumerate() {
            self.request_chunk(id, chunk, number + 1 == last && !has_trailers);
        }
        if has_trailers {
            self.request_trailers(id, request.trailers);
        }
        id
    }

    fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams.get_mut(&id).expect("no such request")
    }

    fn request_chunk(&mut self, id: u32, chunk: Vec<u8>, end: bool) {
        let stream = self.stream(id);
        if stream.is_done() {
            return;
        }
        stream.is_request_complete = end;
        let mut shown = std::mem::take(&mut stream.held_request);
        shown.extend(chunk);
        let size = shown.len();
        change(id, |context| context.request_body = Some(shown));
        let action = Module::request_body(id, size, end);
        let body = change(id, |context| context.request_body.take()).unwrap_or_default();
        if action == PAUSE {
            let stream = self.stream(id);
            stream.held_request = body;
            stream.is_request_held = true;
            self.apply_deferred();
        } else {
            self.apply_deferred();
            self.stream(id).is_request_held = false;
            self.forward_request(id, body);
        }
    }

    /// The request ends; a filter that kept its body still sees it.
    fn request_trailers(&mut self, id: u32, trailers: HeaderList) {
        let stream = self.stream(id);
        if stream.is_done() {
            return;
        }
        stream.is_request_complete = true;
        let (held, count) = (stream.is_request_held, trailers.len());
        let body = std::mem::take(&mut stream.held_request);
        change(id, |context| {
            context.request_trailers = Some(trailers);
            context.request_body = held.then_some(body);
        });
        let action = Module::request_trailers(id, count);
        let (trailers, body) = change(id, |context| {
            (context.request_trailers.take(), context.request_body.take().unwrap_or_default())
        });
        let stream = self.stream(id);
        stream.request_trailers = trailers;
        stream.held_request = body;
        self.apply_deferred();
        if action == PAUSE || self.stream(id).is_done() {
            return;
        }
        let stream = self.stream(id);
        let (held, body) = (stream.is_request_held, std::mem::take(&mut stream.held_request));
        stream.is_request_held = false;
        match stream.attempt {
            _ if held => self.forward_request(id, body),
            Some(attempt) => self.attempt_trailers(id, attempt),
            None => {}
        }
    }

    /// The gateway lets the request go to the router.
    fn forward_request(&mut self, id: u32, body: Vec<u8>) {
        let stream = self.stream(id);
        if stream.is_done() {
            return;
        }
        stream.replay.extend_from_slice(&body);
        if !stream.is_forwarded {
            stream.is_forwarded = true;
            let headers = change(id, |context| context.request_headers.take());
            self.stream(id).headers = headers.unwrap_or_default();
            self.begin_attempt(id);
        } else if self.stream(id).attempt.is_some() {
            self.attempt_body(id, body);
        }
    }

    fn begin_attempt(&mut self, id: u32) {
        let written = with(|state| {
            state.filter_state.get(&id).and_then(|all| all.get("spillway.target").cloned())
        });
        if let Some((status, headers)) = self.filter_behind.take() {
            self.detail(id, "of_a_filter");
            let mut all = vec![(b":status".to_vec(), status.to_string().into_bytes())];
            all.extend(headers.iter().map(|(name, value)| ((*name).into(), (*value).into())));
            return self.reply(id, all, b"in the filter's words".to_vec());
        }
        let stream = self.stream(id);
        stream.attempts += 1;
        let target = written.filter(|_| stream.knows_target || stream.attempts > 1);
        let target = target.and_then(|target| String::from_utf8(target).ok());
        let Some(cluster) = target.and_then(|target| self.clusters.get(&target).cloned()) else {
            self.detail(id, self.no_cluster);
            return self.local_reply(id, 503, b"no healthy upstream");
        };
        let attempt = self.id();
        let mut filter = context(self.attempt, id, Role::Attempt);
        filter.properties.insert("xds\0cluster_name".to_owned(), cluster.clone().into_bytes());
        let stream = self.stream(id);
        filter.request_headers = Some(stream.headers.clone());
        stream.attempt = Some(attempt);
        stream.cluster = cluster;
        stream.sent.clear();
        stream.response_trailers = None;
        stream.held_response.clear();
        stream.is_response_held = false;
        stream.chunks = 0;
        let (count, body) = (stream.headers.len(), stream.replay.clone());
        let has_trailers = stream.request_trailers.is_some();
        let end = stream.is_request_complete && body.is_empty() && !has_trailers;
        with(|state| state.contexts.insert(attempt, filter));
        Module::create(attempt, self.attempt);
        let action = Module::request_headers(attempt, count, end);
        let headers = change(attempt, |context| context.request_headers.take());
        self.stream(id).headers = headers.unwrap_or_default();
        self.apply_deferred();
        if self.stream(id).attempt != Some(attempt) {
            return;
        }
        if action == PAUSE {
            with(|state| state.violation("an attempt held its request"));
        } else if end {
            self.dispatch(id);
        } else if !body.is_empty() {
            self.attempt_body(id, body);
        } else if has_trailers {
            self.attempt_trailers(id, attempt);
        }
    }

    /// The attempt's filter sees what the gateway left of the trailers.
    fn attempt_trailers(&mut self, id: u32, attempt: u32) {
        let trailers = self.stream(id).request_trailers.clone().unwrap_or_default();
        if !trailers.is_empty() {
            with(|state| state.violation("a client's trailers go to a backend"));
        }
        change(attempt, |context| context.request_trailers = Some(trailers));
        let action = Module::request_trailers(attempt, 0);
        change(attempt, |context| context.request_trailers = None);
        if action == PAUSE {
            with(|state| state.violation("an attempt held its request's trailers"));
        }
        self.dispatch(id);
    }

    /// An attempt's filter that no gateway stands before, in a stream whose filter state names
    /// `request`. Returns the status of its answer, and what it made of the request's headers.
    pub(crate) fn stray_attempt(&mut self, request: &[u8]) -> (Option<u16>, HeaderList) {
        let (stream, attempt) = (self.id(), self.id());
        let mut filter = context(self.attempt, stream, Role::Attempt);
        filter.properties.insert("xds\0cluster_name".to_owned(), b"a".to_vec());
        filter.request_headers = Some(vec![(b":path".to_vec(), b"/".to_vec())]);
        let state = BTreeMap::from([("spillway.request".to_owned(), request.to_vec())]);
        with(|worker| worker.filter_state.insert(stream, state));
        with(|worker| worker.contexts.insert(attempt, filter));
        Module::create(attempt, self.attempt);
        let action = Module::request_headers(attempt, 1, true);
        let headers = change(attempt, |context| context.request_headers.take());
        let effects = with(|worker| std::mem::take(&mut worker.deferred));
        Module::delete(attempt);
        with(|worker| worker.contexts.remove(&attempt));
        let status = effects.iter().find_map(|effect| match effect {
            Deferred::Reply { headers, .. } if action == PAUSE => {
                std::str::from_utf8(header(headers, ":status")?).ok()?.parse().ok()
            }
            _ => None,
        });
        (status, headers.unwrap_or_default())
    }

    fn attempt_body(&mut self, id: u32, body: Vec<u8>) {
        let stream = self.stream(id);
        let has_trailers = stream.request_trailers.is_some();
        let is_complete = stream.is_request_complete;
        let (Some(attempt), end) = (stream.attempt, is_complete && !has_trailers) else { return };
        let size = body.len();
        change(attempt, |context| context.request_body = Some(body));
        let action = Module::request_body(attempt, size, end);
        let body = change(attempt, |context| context.request_body.take()).unwrap_or_default();
        if action == PAUSE {
            with(|state| state.violation("an attempt held its request body"));
        }
        self.stream(id).sent.extend(body);
        if end {
            self.dispatch(id);
        } else if is_complete {
            self.attempt_trailers(id, attempt);
        }
    }

    /// The request is complete at its backend.
    fn dispatch(&mut self, id: u32) {
        let now_ms = self.process.monotonic_ms();
        let stream = self.stream(id);
        let Some(attempt) = stream.attempt else { return };
        let seen = Seen {
            cluster: stream.cluster.clone(),
            headers: stream.headers.clone(),
            body: stream.sent.clone(),
            at_ms: now_ms,
        };
        let honest = stream.has_honest_length;
        let length = header(&seen.headers, "content-length").map(<[u8]>::to_vec);
        if honest && length != Some(seen.body.len().to_string().into_bytes()) {
            with(|state| state.violation("content-length is not that of the body"));
        }
        check_credentials(&seen);
        let timeout = header(&seen.headers, "x-envoy-upstream-rq-per-try-timeout-ms")
            .and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok());
        for (delay_ms, event) in self.process.clone().receive(seen).timeline() {
            self.schedule(now_ms + delay_ms, id, attempt, event);
        }
        if let Some(timeout_ms) = timeout {
            self.schedule(now_ms + timeout_ms, id, attempt, Event::PerTryTimeout);
        }
    }

    /// Something comes from a backend.
    pub(super) fn receive(&mut self, id: u32, attempt: u32, event: Event) {
        let stale = self.streams.get(&id).is_none_or(|stream| stream.attempt != Some(attempt));
        if stale {
            return;
        }
        if !matches!(event, Event::ConnectFailure) {
            let address = ("upstream\0local_address".to_owned(), b"127.0.0.1:40000".to_vec());
            change(attempt, |context| context.properties.extend([address]));
        }
        match event {
            Event::Head { headers, end } => self.response_head(id, attempt, headers, end),
            Event::Chunk { bytes, end } => self.response_chunk(id, attempt, bytes, end),
            Event::Trailers { trailers } => self.response_trailers(id, attempt, trailers),
            Event::PerTryTimeout if self.stream(id).has_response => {}
            Event::ConnectFailure => {
                let reason = b"delayed connect error: Connection refused".to_vec();
                let name = "upstream\0transport_failure_reason".to_owned();
                change(attempt, |context| context.properties.insert(name, reason));
                self.no_answer(id, 503);
            }
            Event::Reset => self.no_answer(id, 503),
            Event::PerTryTimeout => self.no_answer(id, 504),
        }
    }

    fn response_head(&mut self, id: u32, attempt: u32, headers: HeaderList, end: bool) {
        let count = headers.len();
        change(attempt, |context| context.response_headers = Some(headers));
        let action = Module::response_headers(attempt, count, end);
        let stream = self.stream(id);
        stream.is_response_complete = end;
        stream.is_response_held = true;
        self.apply_deferred();
        if action != PAUSE {
            self.release_response(id, attempt);
        }
    }

    fn response_chunk(&mut self, id: u32, attempt: u32, bytes: Vec<u8>, end: bool) {
        let stream = self.stream(id);
        stream.chunks += 1;
        stream.is_response_complete = end;
        let mut shown = std::mem::take(&mut stream.held_response);
        shown.extend(bytes);
        let size = shown.len();
        change(attempt, |context| context.response_body = Some(shown));
        let action = Module::response_body(attempt, size, end);
        let body = change(attempt, |context| context.response_body.take()).unwrap_or_default();
        let stream = self.stream(id);
        if stream.is_response_held {
            stream.held_response = body;
            self.apply_deferred();
            if action != PAUSE {
                self.release_response(id, attempt);
            }
        } else {
            if action == PAUSE {
                with(|state| state.violation("an attempt held what flows"));
            }
            self.apply_deferred();
            self.gateway_body(id, body, end);
        }
    }

    fn response_trailers(&mut self, id: u32, attempt: u32, trailers: HeaderList) {
        let count = trailers.len();
        let stream = self.stream(id);
        let (held, body) = (stream.is_response_held, std::mem::take(&mut stream.held_response));
        stream.is_response_complete = true;
        change(attempt, |context| {
            context.response_trailers = Some(trailers);
            context.response_body = held.then_some(body);
        });
        let action = Module::response_trailers(attempt, count);
        let (trailers, body) = change(attempt, |context| {
            (context.response_trailers.take(), context.response_body.take().unwrap_or_default())
        });
        let stream = self.stream(id);
        stream.held_response = body;
        stream.response_trailers = trailers;
        self.apply_deferred();
        if !held {
            if action == PAUSE {
                with(|state| state.violation("an attempt held what flows"));
            }
            self.gateway_trailers(id);
        } else if action != PAUSE {
            self.release_response(id, attempt);
        }
    }

    /// The trailers reach the gateway, and end the answer.
    fn gateway_trailers(&mut self, id: u32) {
        if self.stream(id).is_done() {
            return;
        }
        let trailers = self.stream(id).response_trailers.take().unwrap_or_default();
        let count = trailers.len();
        change(id, |context| context.response_trailers = Some(trailers));
        let action = Module::response_trailers(id, count);
        let trailers = change(id, |context| context.response_trailers.take()).unwrap_or_default();
        if action == PAUSE {
            with(|state| state.violation("the gateway held a response's trailers"));
        }
        self.apply_deferred();
        self.stream(id).answer.trailers = trailers;
        self.end_stream(id, End::Complete);
    }

    /// The attempt's filter lets head and held body go to the router.
    fn release_response(&mut self, id: u32, attempt: u32) {
        let retries_max = self.retries_max;
        let stream = self.stream(id);
        if stream.attempt != Some(attempt) || !stream.is_response_held {
            return;
        }
        stream.is_response_held = false;
        let body = std::mem::take(&mut stream.held_response);
        let end = stream.is_response_complete;
        let may_retry = stream.attempts <= retries_max;
        let headers =
            change(attempt, |context| context.response_headers.take()).unwrap_or_default();
        if may_retry && header(&headers, "x-spillway-retry").is_some() {
            self.end_attempt(id);
            return self.begin_attempt(id);
        }
        if self.stream(id).response_trailers.is_some() {
            self.gateway_head(id, headers, false);
            if !body.is_empty() {
                self.gateway_body(id, body, false);
            }
            return self.gateway_trailers(id);
        }
        self.gateway_head(id, headers, end && body.is_empty());
        if !self.stream(id).is_done() && (end || !body.is_empty()) {
            self.gateway_body(id, body, end);
        }
    }

    fn gateway_head(&mut self, id: u32, headers: HeaderList, end: bool) {
        self.stream(id).has_response = true;
        let count = headers.len();
        change(id, |context| context.response_headers = Some(headers));
        let action = Module::response_headers(id, count, end);
        let headers = change(id, |context| context.response_headers.take()).unwrap_or_default();
        self.apply_deferred();
        if self.stream(id).is_done() {
            return;
        }
        if action == PAUSE {
            with(|state| state.violation("the gateway held a response"));
        }
        self.stream(id).answer.headers = headers;
    }

    fn gateway_body(&mut self, id: u32, bytes: Vec<u8>, end: bool) {
        if self.stream(id).is_done() {
            return;
        }
        let size = bytes.len();
        change(id, |context| context.response_body = Some(bytes));
        let action = Module::response_body(id, size, end);
        let bytes = change(id, |context| context.response_body.take()).unwrap_or_default();
        if action == PAUSE {
            with(|state| state.violation("the gateway held a response body"));
        }
        self.apply_deferred();
        self.stream(id).answer.body.extend(bytes);
        if end {
            self.end_stream(id, End::Complete);
        }
    }

    /// An attempt brought no answer: another follows, unless something of it reached the client.
    fn no_answer(&mut self, id: u32, status: u16) {
        let retries_max = self.retries_max;
        let stream = self.stream(id);
        if stream.has_response {
            self.detail(id, "upstream_reset_after_response_started{connection_termination}");
            return self.end_stream(id, End::Reset);
        }
        let may_retry = stream.attempts <= retries_max;
        self.end_attempt(id);
        if may_retry {
            self.begin_attempt(id);
        } else {
            self.local_reply(id, status, b"upstream connect error");
        }
    }

    /// A timer of Envoy's ends an answer of which something went to the client: first its attempt.
    pub(crate) fn break_off(&mut self, id: u32, details: &str) {
        self.detail(id, details);
        self.end_stream(id, End::Reset);
    }

    /// What Envoy's access log would say of the stream.
    fn detail(&mut self, id: u32, details: &str) {
        let details = ("response\0code_details".to_owned(), details.as_bytes().to_vec());
        change(id, |context| context.properties.extend([details]));
    }

    fn local_reply(&mut self, id: u32, status: u16, body: &[u8]) {
        let status = (b":status".to_vec(), status.to_string().into_bytes());
        self.reply(id, vec![status], body.to_vec());
    }

    /// An answer that comes from no backend passes the gateway's filter, too.
    fn reply(&mut self, id: u32, headers: HeaderList, body: Vec<u8>) {
        self.gateway_head(id, headers, false);
        self.gateway_body(id, body, true);
    }

    fn end_attempt(&mut self, id: u32) {
        if let Some(attempt) = self.stream(id).attempt.take() {
            Module::delete(attempt);
            with(|state| state.contexts.remove(&attempt));
            self.apply_deferred();
        }
    }

    fn end_stream(&mut self, id: u32, end: End) {
        self.end_attempt(id);
        self.end_gateway(id, end);
    }

    fn end_gateway(&mut self, id: u32, end: End) {
        self.stream(id).answer.end = end;
        Module::log(id);
        Module::delete(id);
        let root = with(|state| {
            state.filter_state.remove(&id);
            state.contexts.remove(&id).map(|context| context.root)
        });
        self.apply_deferred();
        self.drop_root_without_streams(root.unwrap_or(0));
    }

    /// The client goes away: the gateway hears of it first.
    pub(crate) fn cancel(&mut self, id: u32) {
        if !self.is_open(id) {
            return;
        }
        let attempt = self.stream(id).attempt;
        for context in [Some(id), attempt].into_iter().flatten() {
            let flags = DOWNSTREAM_DISCONNECT.to_le_bytes().to_vec();
            change(context, |it| it.properties.insert("response\0flags".to_owned(), flags));
        }
        self.end(id);
    }

    /// The connection manager ends a request by itself: again the gateway hears of it first.
    pub(crate) fn end(&mut self, id: u32) {
        self.end_gateway(id, End::Cancelled);
        self.end_attempt(id);
    }

    /// Does what filters asked for during the last callback.
    pub(super) fn apply_deferred(&mut self) {
        for effect in with(|state| std::mem::take(&mut state.deferred)) {
            match effect {
                Deferred::ClearRoute { stream } => self.stream(stream).knows_target = true,
                Deferred::Reply { context, headers, body } => {
                    self.apply_reply(context, headers, body);
                }
                Deferred::Resume { context, is_request } => self.resume(context, is_request),
            }
        }
    }

    fn apply_reply(&mut self, context: u32, headers: HeaderList, body: Vec<u8>) {
        let found = with(|state| state.contexts.get(&context).map(|it| (it.stream, it.role)));
        let Some((id, role)) = found else { return };
        if role == Role::Gateway && self.stream(id).has_response {
            // In the response phase the reply takes the response's place, past the filter.
            let stream = self.stream(id);
            stream.answer.headers = headers;
            stream.answer.body = body;
            return self.end_stream(id, End::Complete);
        }
        self.end_attempt(id);
        self.reply(id, headers, body);
    }

    fn resume(&mut self, context: u32, is_request: bool) {
        let found = with(|state| state.contexts.get(&context).map(|it| (it.stream, it.role)));
        match found {
            Some((id, Role::Gateway)) if is_request && self.stream(id).is_request_held => {
                let stream = self.stream(id);
                stream.is_request_held = false;
                let body = std::mem::take(&mut stream.held_request);
                self.forward_request(id, body);
            }
            Some((id, Role::Attempt)) if !is_request => self.release_response(id, context),
            _ => {
                with(|state| state.violation("nothing to resume"));
            }
        }
    }
}

/// A backend gets its own key and nobody else's; the client's credential goes nowhere.
fn check_credentials(seen: &Seen) {
    let secrets = KEYS.iter().map(|(_, key)| *key).chain([CLIENT_SECRET]);
    for secret in secrets {
        let own = secret == format!("key-of-{}", seen.cluster);
        let carriers = seen.headers.iter().filter(|(_, value)| {
            let value = String::from_utf8_lossy(value);
            value.split([' ', ',']).any(|word| word == secret)
        });
        let count = carriers.count();
        if count != usize::from(own) {
            let cluster = &seen.cluster;
            with(|state| {
                state.violation(&format!("backend {cluster} was sent {secret} {count} times"))
            });
        }
    }
}
