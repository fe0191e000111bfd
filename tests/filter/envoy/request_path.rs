//! A request's way from the client through the gateway and an attempt to a backend, in the order of Envoy 1.40.

use super::stream::{Stream, change, must_continue, show_request_body};
use super::{CLIENT_SECRET, Envoy, Event, Request};
use crate::host::{Context, HeaderList, KEYS, Module, PAUSE, Role, Seen, header, with};

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

    pub(super) fn send_up_to(&mut self, request: Request, end: bool) -> u32 {
        let id = self.id();
        let mut gateway = Context::new(self.gateway, id, Role::Gateway);
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

    pub(super) fn request_chunk(&mut self, id: u32, chunk: Vec<u8>, end: bool) {
        let stream = self.stream(id);
        if stream.is_done() {
            return;
        }
        stream.is_request_complete = end;
        let mut shown = std::mem::take(&mut stream.held_request);
        shown.extend(chunk);
        let (action, body) = show_request_body(id, shown, end);
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
    pub(super) fn request_trailers(&mut self, id: u32, trailers: HeaderList) {
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

    /// The gateway releases the request to the router.
    pub(super) fn forward_request(&mut self, id: u32, body: Vec<u8>) {
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

    /// The attempt's filter sees the trailers that the gateway left.
    pub(super) fn attempt_trailers(&mut self, id: u32, attempt: u32) {
        let trailers = self.stream(id).request_trailers.clone().unwrap_or_default();
        if !trailers.is_empty() {
            with(|state| state.violation("a client's trailers go to a backend"));
        }
        change(attempt, |context| context.request_trailers = Some(trailers));
        let action = Module::request_trailers(attempt, 0);
        change(attempt, |context| context.request_trailers = None);
        must_continue(action, "an attempt held its request's trailers");
        self.dispatch(id);
    }

    pub(super) fn attempt_body(&mut self, id: u32, body: Vec<u8>) {
        let stream = self.stream(id);
        let has_trailers = stream.request_trailers.is_some();
        let is_complete = stream.is_request_complete;
        let (Some(attempt), end) = (stream.attempt, is_complete && !has_trailers) else { return };
        let (action, body) = show_request_body(attempt, body, end);
        must_continue(action, "an attempt held its request body");
        self.stream(id).sent.extend(body);
        if end {
            self.dispatch(id);
        } else if is_complete {
            self.attempt_trailers(id, attempt);
        }
    }

    /// The request is complete at its backend.
    pub(super) fn dispatch(&mut self, id: u32) {
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
}

/// A backend gets its own key and no other; the client's credential reaches no backend.
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
