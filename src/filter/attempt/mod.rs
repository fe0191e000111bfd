//! The attempt role: an upstream filter, once per try.
//!
//! Here the request is made to fit its backend; [`crate::filter::attempt::response`] watches what comes back.

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

/// The cluster of what the route's matcher does not know, as the shipped files name it: of a target of
/// nobody, and of a backend without an entry. Its only endpoint is one where nobody listens.
const CATCH_ALL: &[u8] = b"spillway_exhausted";

/// The filter of one attempt.
pub(crate) struct Attempt {
    stream: StreamId,
    running: Option<Running>,
}

struct Running {
    answer: Rc<Response>,
    splices: Splices,
    /// How much of the request body went by.
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

    /// The head of the response came.
    pub(crate) fn response_headers(&self, end_of_stream: bool) -> Action {
        self.running.as_ref().map_or(Action::Continue, |running| running.answer.head(end_of_stream))
    }

    /// A part of the response's body came; while it is held, `size` counts from its beginning.
    pub(crate) fn response_body(&self, size: usize, end_of_stream: bool) -> Action {
        self.running
            .as_ref()
            .map_or(Action::Continue, |running| running.answer.chunk(size, end_of_stream))
    }

    /// The response ends with trailers.
    pub(crate) fn response_trailers(&self) -> Action {
        self.running.as_ref().map_or(Action::Continue, |running| running.answer.trailers())
    }

    /// The attempt is over, with or without a response.
    pub(crate) fn end(self) {
        if let Some(running) = self.running {
            running.answer.done();
        }
    }

    fn begin(&self) -> Option<Running> {
        let request = in_flight::current()?;
        let mut borrowed = request.change()?;
        let attempt = borrowed.begin(host::now)?;
        let now = attempt.at;
        match way_to(&attempt.backend) {
            Some(Way::Backend) => {}
            Some(Way::Nowhere) => {
                let traits = borrowed.traits(&attempt);
                strip(&borrowed);
                drop(borrowed);
                let misroute = Misroute::NoRoute;
                let answer = Response::misrouted(self.stream, request, attempt, traits, misroute);
                return Some(Running { answer, splices: Splices::default(), offset: 0 });
            }
            Some(Way::Stranger) => {
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
        let answer = Response::new(self.stream, request, attempt, traits, asks_for_usage);
        Some(Running { answer, splices, offset: 0 })
    }
}

/// Where the route leads.
enum Way {
    /// To the attempt's backend.
    Backend,
    /// To the cluster for what the route's matcher does not know, in which nobody answers.
    Nowhere,
    /// To some other cluster, which must not see the backend's key.
    Stranger,
}

/// Where the route leads; `None` when the host does not say.
fn way_to(backend: &Backend) -> Option<Way> {
    let cluster = host::property(CLUSTER_NAME)?;
    Some(if cluster == backend.config.cluster.as_bytes() {
        Way::Backend
    } else if cluster == CATCH_ALL {
        Way::Nowhere
    } else {
        Way::Stranger
    })
}

/// Takes from a request that goes nowhere what must not be read there, should somebody listen. The
/// headers are those of all attempts, so what each attempt sets anew is all that can be taken.
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

/// Makes the request headers those of the attempt's backend, starting from what the client sent and
/// not from what another attempt left.
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

/// Gives the request its backend's credential, and takes away what an earlier attempt was given.
fn authenticate(request: &Request, backend: &Backend) -> Result<(), Refused> {
    let asked = &request.asked;
    let key_name = backend.key_header.as_ref().map(|(name, _)| *name);
    if request.attempts() > 1 {
        // Only a backend with passthrough may have been sent more than a key.
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
