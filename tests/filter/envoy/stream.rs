//! What Envoy keeps of one client request, and how it shows filters a part of it.

use super::{End, Envoy, Response};
use crate::host::{Context, HeaderList, Module, PAUSE, with};

/// One client request.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) response: Response,
    /// The request headers after the gateway released them; all attempts edit the same ones.
    pub(super) headers: HeaderList,
    /// What the gateway keeps of the body.
    pub(super) held_request: Vec<u8>,
    pub(super) is_request_held: bool,
    pub(super) is_request_complete: bool,
    pub(super) is_forwarded: bool,
    /// The body as it left the gateway: what every attempt is sent.
    pub(super) replay: Vec<u8>,
    pub(super) has_honest_length: bool,
    pub(super) knows_target: bool,
    pub(super) attempt: Option<u32>,
    pub(super) cluster: String,
    pub(super) attempts: u32,
    /// The body as it left the attempt's filter.
    pub(super) sent: Vec<u8>,
    pub(super) held_response: Vec<u8>,
    pub(super) is_response_held: bool,
    pub(super) is_response_complete: bool,
    pub(super) request_trailers: Option<HeaderList>,
    pub(super) response_trailers: Option<HeaderList>,
    pub(super) has_response: bool,
    /// How many parts of a body the last attempt brought.
    pub(super) chunks: usize,
}

impl Stream {
    pub(super) fn new(has_honest_length: bool) -> Self {
        Self { has_honest_length, ..Self::default() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.response.end != End::Open
    }
}

impl Envoy {
    pub(super) fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams.get_mut(&id).expect("no such request")
    }
}

/// Changes a context that exists.
pub(super) fn change<R>(id: u32, change: impl FnOnce(&mut Context) -> R) -> R {
    with(|state| change(state.contexts.get_mut(&id).expect("the context was deleted")))
}

/// Shows a filter this much of the request's body. Returns what it does, and what it leaves of the body.
pub(super) fn show_request_body(id: u32, body: Vec<u8>, end: bool) -> (u32, Vec<u8>) {
    let size = body.len();
    change(id, |context| context.request_body = Some(body));
    let action = Module::request_body(id, size, end);
    (action, change(id, |context| context.request_body.take()).unwrap_or_default())
}

/// The same for the response's body.
pub(super) fn show_response_body(id: u32, body: Vec<u8>, end: bool) -> (u32, Vec<u8>) {
    let size = body.len();
    change(id, |context| context.response_body = Some(body));
    let action = Module::response_body(id, size, end);
    (action, change(id, |context| context.response_body.take()).unwrap_or_default())
}

/// Notes a filter that held what it must let through.
pub(super) fn must_continue(action: u32, violation: &str) {
    if action == PAUSE {
        with(|state| {
            state.violation(violation);
        });
    }
}
