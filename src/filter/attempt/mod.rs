//! The attempt role: an upstream filter, once per attempt.
//!
//! It makes the request fit its backend. [`crate::filter::attempt::response`] watches the response.

mod flow;
mod held;
mod response;
mod usage;

use self::response::Response;
use crate::filter::host::body;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::properties::CLUSTER_NAME;
use crate::filter::host::timers::StreamId;
use crate::filter::host::{self, Action, Map, Refused};
use crate::filter::pool::Backend;
use crate::filter::request::in_flight;
use crate::filter::request::{Rendering, Request};
use crate::openai::call::credentials::{PASSED, SUBPROTOCOLS};
use crate::openai::request::splice::Splices;
use crate::openai::response::reply;
use crate::policy::response::classify::Misroute;
use std::rc::Rc;

/// The catch-all cluster, as the shipped files name it. The route sends it targets that its matcher does not know.
/// Nobody listens at its only endpoint.
const CATCH_ALL: &[u8] = b"spillway_exhausted";

/// The filter of one attempt.
pub(crate) struct Attempt {
    stream: StreamId,
    running: Option<Running>,
}

struct Running {
    response: Rc<Response>,
    splices: Splices,
    /// How many bytes of the request body have passed.
    offset: u64,
}

impl Attempt {
    pub(crate) fn new(stream: StreamId) -> Self {
        Self { stream, running: None }
    }

    /// An attempt begins.
    pub(crate) fn request_headers(&mut self) -> Action {
        self.running = self.begin();
        if self.running.is_some() {
            return Action::Continue;
        }
        let reply = reply::unrouted();
        let _ = host::reply(
            reply.status,
            "spillway_unrouted",
            &[("content-type", reply.content_type)],
            reply.body.as_bytes(),
        );
        Action::Pause
    }

    /// The next `size` bytes of the body go to the backend.
    pub(crate) fn request_body(&mut self, size: usize) -> Action {
        if let Some(running) = &mut self.running
            && !running.splices.is_empty()
        {
            if body::edit(&running.splices, running.offset, size).is_err() {
                log::error!("a request body could not be edited");
            }
            let size = u64::try_from(size).unwrap_or(u64::MAX);
            running.offset = running.offset.saturating_add(size);
        }
        Action::Continue
    }

    /// The response headers came.
    pub(crate) fn response_headers(&self, end_of_stream: bool) -> Action {
        self.running
            .as_ref()
            .map_or(Action::Continue, |running| running.response.head(end_of_stream))
    }

    /// A part of the response's body came. While it is held, `size` counts from the beginning of the body.
    pub(crate) fn response_body(&self, size: usize, end_of_stream: bool) -> Action {
        self.running
            .as_ref()
            .map_or(Action::Continue, |running| running.response.chunk(size, end_of_stream))
    }

    /// The response ends with trailers.
    pub(crate) fn response_trailers(&self) -> Action {
        self.running.as_ref().map_or(Action::Continue, |running| running.response.trailers())
    }

    /// The attempt is over, with or without a response.
    pub(crate) fn end(self) {
        if let Some(running) = self.running {
            running.response.done();
        }
    }

    fn begin(&self) -> Option<Running> {
        let request = in_flight::current()?;
        let mut borrowed = request.change()?;
        let attempt = borrowed.begin(host::now)?;
        let now = attempt.at;
        match destination(&attempt.backend) {
            Some(Destination::Backend) => {}
            Some(Destination::CatchAll) => {
                let traits = borrowed.traits(&attempt);
                strip(&borrowed);
                drop(borrowed);
                let misroute = Misroute::NoRoute;
                let response = Response::misrouted(self.stream, request, attempt, traits, misroute);
                return Some(Running { response, splices: Splices::default(), offset: 0 });
            }
            Some(Destination::OtherCluster) => {
                let ending = borrowed.misrouted(&attempt, Misroute::WrongCluster, now);
                borrowed.give_up(None, ending, now);
                return None;
            }
            None => {
                borrowed.abandon(&attempt, now);
                return None;
            }
        }
        let traits = borrowed.traits(&attempt);
        let rendering = borrowed.rendering(&attempt.backend);
        if rewrite(&mut borrowed, &attempt.backend, &rendering).is_err() {
            borrowed.abandon(&attempt, now);
            return None;
        }
        drop(borrowed);
        let Rendering { splices, asks_for_usage, .. } = rendering;
        let response = Response::new(self.stream, request, attempt, traits, asks_for_usage);
        Some(Running { response, splices, offset: 0 })
    }
}

/// Where the route leads.
enum Destination {
    /// To the attempt's backend.
    Backend,
    /// To the catch-all cluster, where nobody responds.
    CatchAll,
    /// To another cluster, which must not see the backend's key.
    OtherCluster,
}

/// Where the route leads; `None` when the host does not state it.
fn destination(backend: &Backend) -> Option<Destination> {
    let cluster = host::property(CLUSTER_NAME)?;
    Some(if cluster == backend.config.cluster.as_bytes() {
        Destination::Backend
    } else if cluster == CATCH_ALL {
        Destination::CatchAll
    } else {
        Destination::OtherCluster
    })
}

/// Removes secrets from a request to the catch-all cluster, in case somebody listens there. All attempts share the
/// headers, so only what each attempt sets again can be removed.
fn strip(request: &Request) {
    for name in PASSED {
        let _ = host::remove_header(Map::RequestHeaders, name);
    }
    if let Some(subprotocols) = &request.asked.subprotocols {
        subprotocols.set_clean();
    }
    let _ = host::set_header(Map::RequestHeaders, ":path", "/");
    let _ = host::set_header(Map::RequestHeaders, ":authority", "spillway.invalid");
}

/// Makes the request headers fit the attempt's backend. It starts from what the client sent, not from what another
/// attempt left.
fn rewrite(request: &mut Request, backend: &Backend, rendering: &Rendering) -> Result<(), Refused> {
    host::set_header(Map::RequestHeaders, ":path", &rendering.path)?;
    host::set_header(Map::RequestHeaders, ":authority", &backend.config.host)?;
    authenticate(request, backend)?;
    let delta = rendering.splices.delta();
    let length = request.asked.content_length.map(|length| length.saturating_add_signed(delta));
    if length != request.sent_content_length
        && let Some(length) = length
    {
        host::set_header(Map::RequestHeaders, "content-length", length.to_string())?;
        request.sent_content_length = Some(length);
    }
    Ok(())
}

/// Sets the backend's credential, and removes the one of an earlier attempt.
fn authenticate(request: &Request, backend: &Backend) -> Result<(), Refused> {
    let asked = &request.asked;
    let key_name = backend.key_header.as_ref().map(|(name, _)| *name);
    if request.attempts() > 1 {
        // Only a backend with passthrough can have got more than a key.
        let given = if asked.credentials.is_empty() { &PASSED[..2] } else { &PASSED[..] };
        for name in given.iter().filter(|name| Some(**name) != key_name) {
            host::remove_header(Map::RequestHeaders, name)?;
        }
    }
    if let Some((name, value)) = &backend.key_header {
        host::set_header(Map::RequestHeaders, name, value)?;
        if let Some(subprotocols) = &asked.subprotocols {
            subprotocols.set_clean();
        }
        return Ok(());
    }
    for (name, value) in &asked.credentials {
        host::set_header(Map::RequestHeaders, name, value)?;
    }
    if let Some(subprotocols) = &asked.subprotocols {
        host::set_header(Map::RequestHeaders, SUBPROTOCOLS, &subprotocols.sent)?;
    }
    Ok(())
}
