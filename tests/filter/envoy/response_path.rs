//! A response's way from a backend through an attempt and the gateway to the client, in the order of Envoy 1.40.

use super::stream::{change, must_continue, show_response_body};
use super::{End, Envoy, Event};
use crate::host::{HeaderList, Module, PAUSE, header};

impl Envoy {
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

    pub(super) fn response_head(&mut self, id: u32, attempt: u32, headers: HeaderList, end: bool) {
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

    pub(super) fn response_chunk(&mut self, id: u32, attempt: u32, bytes: Vec<u8>, end: bool) {
        let stream = self.stream(id);
        stream.chunks += 1;
        stream.is_response_complete = end;
        let mut shown = std::mem::take(&mut stream.held_response);
        shown.extend(bytes);
        let (action, body) = show_response_body(attempt, shown, end);
        let stream = self.stream(id);
        if stream.is_response_held {
            stream.held_response = body;
            self.apply_deferred();
            if action != PAUSE {
                self.release_response(id, attempt);
            }
        } else {
            must_continue(action, "an attempt held what flows");
            self.apply_deferred();
            self.gateway_body(id, body, end);
        }
    }

    pub(super) fn response_trailers(&mut self, id: u32, attempt: u32, trailers: HeaderList) {
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
            must_continue(action, "an attempt held what flows");
            self.gateway_trailers(id);
        } else if action != PAUSE {
            self.release_response(id, attempt);
        }
    }

    /// The trailers reach the gateway, and end the response.
    pub(super) fn gateway_trailers(&mut self, id: u32) {
        if self.stream(id).is_done() {
            return;
        }
        let trailers = self.stream(id).response_trailers.take().unwrap_or_default();
        let count = trailers.len();
        change(id, |context| context.response_trailers = Some(trailers));
        let action = Module::response_trailers(id, count);
        let trailers = change(id, |context| context.response_trailers.take()).unwrap_or_default();
        must_continue(action, "the gateway held a response's trailers");
        self.apply_deferred();
        self.stream(id).response.trailers = trailers;
        self.end_stream(id, End::Complete);
    }

    /// The attempt's filter releases head and held body to the router.
    pub(super) fn release_response(&mut self, id: u32, attempt: u32) {
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

    pub(super) fn gateway_head(&mut self, id: u32, headers: HeaderList, end: bool) {
        self.stream(id).has_response = true;
        let count = headers.len();
        change(id, |context| context.response_headers = Some(headers));
        let action = Module::response_headers(id, count, end);
        let headers = change(id, |context| context.response_headers.take()).unwrap_or_default();
        self.apply_deferred();
        if self.stream(id).is_done() {
            return;
        }
        must_continue(action, "the gateway held a response");
        self.stream(id).response.headers = headers;
    }

    pub(super) fn gateway_body(&mut self, id: u32, bytes: Vec<u8>, end: bool) {
        if self.stream(id).is_done() {
            return;
        }
        let (action, bytes) = show_response_body(id, bytes, end);
        must_continue(action, "the gateway held a response body");
        self.apply_deferred();
        self.stream(id).response.body.extend(bytes);
        if end {
            self.end_stream(id, End::Complete);
        }
    }
}
