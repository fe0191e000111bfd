//! The router: attempts, retries and replies, in the order of Envoy 1.40.

use super::stream::{change, must_continue};
use super::{End, Envoy};
use crate::host::{Context, Deferred, HeaderList, Module, PAUSE, Role, header, with};
use std::collections::BTreeMap;

/// The flag of a client that went away.
const DOWNSTREAM_DISCONNECT: i64 = 16_384;

impl Envoy {
    pub(super) fn begin_attempt(&mut self, id: u32) {
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
        let mut filter = Context::new(self.attempt, id, Role::Attempt);
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
        must_continue(action, "an attempt held its request");
        if end {
            self.dispatch(id);
        } else if !body.is_empty() {
            self.attempt_body(id, body);
        } else if has_trailers {
            self.attempt_trailers(id, attempt);
        }
    }

    /// An attempt's filter without a gateway before it, in a stream whose filter state names `request`.
    /// Returns the status of its response, and the request's headers as it left them.
    pub(crate) fn stray_attempt(&mut self, request: &[u8]) -> (Option<u16>, HeaderList) {
        let (stream, attempt) = (self.id(), self.id());
        let mut filter = Context::new(self.attempt, stream, Role::Attempt);
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

    /// An attempt ended without a response: another follows, unless a part of one reached the client.
    pub(super) fn no_answer(&mut self, id: u32, status: u16) {
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

    /// A timer of Envoy ends a response of which a part went to the client: the attempt ends first.
    pub(crate) fn break_off(&mut self, id: u32, details: &str) {
        self.detail(id, details);
        self.end_stream(id, End::Reset);
    }

    /// What Envoy's access log would say of the stream.
    pub(super) fn detail(&mut self, id: u32, details: &str) {
        let details = ("response\0code_details".to_owned(), details.as_bytes().to_vec());
        change(id, |context| context.properties.extend([details]));
    }

    pub(super) fn local_reply(&mut self, id: u32, status: u16, body: &[u8]) {
        let status = (b":status".to_vec(), status.to_string().into_bytes());
        self.reply(id, vec![status], body.to_vec());
    }

    /// A response that comes from no backend passes the gateway's filter as well.
    pub(super) fn reply(&mut self, id: u32, headers: HeaderList, body: Vec<u8>) {
        self.gateway_head(id, headers, false);
        self.gateway_body(id, body, true);
    }

    pub(super) fn end_attempt(&mut self, id: u32) {
        if let Some(attempt) = self.stream(id).attempt.take() {
            Module::delete(attempt);
            with(|state| state.contexts.remove(&attempt));
            self.apply_deferred();
        }
    }

    pub(super) fn end_stream(&mut self, id: u32, end: End) {
        self.end_attempt(id);
        self.end_gateway(id, end);
    }

    pub(super) fn end_gateway(&mut self, id: u32, end: End) {
        self.stream(id).response.end = end;
        Module::log(id);
        Module::delete(id);
        let root = with(|state| {
            state.filter_state.remove(&id);
            state.contexts.remove(&id).map(|context| context.root)
        });
        self.apply_deferred();
        self.drop_root_without_streams(root.unwrap_or(0));
    }

    /// The client leaves: the gateway learns of it first.
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

    /// The connection manager ends a request by itself: again the gateway learns of it first.
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

    pub(super) fn apply_reply(&mut self, context: u32, headers: HeaderList, body: Vec<u8>) {
        let found = with(|state| state.contexts.get(&context).map(|it| (it.stream, it.role)));
        let Some((id, role)) = found else { return };
        if role == Role::Gateway && self.stream(id).has_response {
            // In the response phase the reply takes the response's place, past the filter.
            let stream = self.stream(id);
            stream.response.headers = headers;
            stream.response.body = body;
            return self.end_stream(id, End::Complete);
        }
        self.end_attempt(id);
        self.reply(id, headers, body);
    }

    pub(super) fn resume(&mut self, context: u32, is_request: bool) {
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
