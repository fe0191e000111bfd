//! A request that has a pool: it is sent, waits for a gate to reopen, or got a reply from the gateway.

use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::random;
use crate::filter::host::timers::{self, StreamId, Wake};
use crate::filter::host::{self, Direction, Instant};
use crate::filter::request::Request;
use crate::filter::request::headers::{ATTEMPTS, SHOULD_RETRY};
use crate::openai::response::reply::{self, Reply};
use crate::policy::failover::{Next, Stop};
use crate::policy::time::Timestamp;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// A request that has a pool. Timers hold it weakly.
pub(crate) struct Routed {
    stream: StreamId,
    pub(crate) request: Rc<RefCell<Request>>,
    progress: Cell<Progress>,
    itself: Weak<Self>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Attempts are or were made.
    Sent,
    /// The request is held until a backend reopens.
    Waiting { since: Instant },
    /// The gateway itself replied.
    Replied,
}

impl Routed {
    pub(crate) fn new(stream: StreamId, request: Rc<RefCell<Request>>) -> Rc<Self> {
        Rc::new_cyclic(|itself| Self {
            stream,
            request,
            progress: Cell::new(Progress::Sent),
            itself: Weak::clone(itself),
        })
    }

    /// Whether the request may continue now. Otherwise it waits, or the gateway replied.
    pub(crate) fn advance(&self, now: Timestamp) -> bool {
        let Some(mut request) = self.request.change() else { return true };
        match request.go_on(now) {
            Next::Retry => {
                self.progress.set(Progress::Sent);
                // Envoy found its route before the target was known.
                let _ = host::clear_route_cache();
                true
            }
            Next::Wait { until } => {
                self.progress.set(Progress::Waiting { since: host::instant() });
                timers::set(self.stream, until, now, self.itself.clone());
                false
            }
            Next::Stop(Stop::Exhausted(unavailable)) => {
                self.exhausted(&mut request, unavailable.throttled, unavailable.soonest, now);
                false
            }
            Next::Stop(Stop::Limited | Stop::Refused | Stop::MayBeDone) => {
                self.exhausted(&mut request, false, Some(now), now);
                false
            }
        }
    }

    /// Whether the request waits or got a reply, so that no part of it may continue.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.progress.get(), Progress::Waiting { .. } | Progress::Replied)
    }

    /// Concludes a response that did not reach its end, if there is one. `broke_off` tells whether its backend ended
    /// it.
    pub(crate) fn end_flow(&self, broke_off: impl FnOnce() -> bool) {
        let flowing = self.request.view().and_then(|request| request.flowing());
        let Some(response) = flowing else { return };
        response.end(broke_off());
        if let Some(mut request) = self.request.change() {
            request.forget_interrupted();
        }
    }

    /// Whether the gateway replied, so that the response is its own.
    pub(crate) fn has_replied(&self) -> bool {
        self.progress.get() == Progress::Replied
    }

    /// Replaces a response of Envoy or one of its filters. `kept` contains its headers that the client still gets.
    pub(crate) fn replace(
        &self,
        request: &mut Request,
        reply: &Reply,
        kept: Vec<(String, String)>,
    ) {
        self.progress.set(Progress::Replied);
        request.charge_nothing(host::now);
        let headers = own_headers(request).into_iter().chain(kept).collect();
        send(reply, headers);
    }

    /// Replies that the request may have been carried out.
    pub(crate) fn may_be_done(&self, request: &mut Request) {
        self.progress.set(Progress::Replied);
        request.charge_nothing(host::now);
        let mut headers = own_headers(request);
        headers.push((SHOULD_RETRY.to_owned(), "false".to_owned()));
        send(&reply::may_be_done(), headers);
    }

    /// Replies that Envoy cannot reach the chosen backend, but that another one can be chosen.
    pub(crate) fn unreachable(&self, request: &mut Request) {
        self.progress.set(Progress::Replied);
        request.charge_nothing(host::now);
        let mut headers = own_headers(request);
        headers.push((SHOULD_RETRY.to_owned(), "true".to_owned()));
        send(&reply::unreachable(), headers);
    }

    /// Replies that the pool is exhausted.
    pub(crate) fn exhausted(
        &self,
        request: &mut Request,
        throttled: bool,
        soonest: Option<Timestamp>,
        now: Timestamp,
    ) {
        self.progress.set(Progress::Replied);
        request.charge_nothing(|| now);
        host::increment(request.pool().metrics.exhausted, 1);
        send(&reply::exhausted(throttled, delay_ms(soonest, now)), own_headers(request));
    }
}

impl Wake for Routed {
    fn wake(&self, now: Timestamp) {
        let Progress::Waiting { since } = self.progress.get() else { return };
        if let Some(mut request) = self.request.change() {
            request.waited(host::instant().since(since));
        }
        if self.advance(now) {
            // The host refuses only if the stream ended. Then nobody waits.
            let _ = host::resume(Direction::Request);
        }
    }
}

/// The delay after which a client should retry, in milliseconds.
pub(crate) fn delay_ms(soonest: Option<Timestamp>, now: Timestamp) -> u64 {
    reply::exhausted_delay_ms(soonest.map(|at| at.since(now).as_ms()), random::number())
}

fn own_headers(request: &Request) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    request.own_headers(|name, value| headers.push((name.to_owned(), value.to_owned())));
    headers
}

/// Sends a reply of the gateway, with additional headers.
pub(crate) fn send(reply: &Reply, own: Vec<(String, String)>) {
    let retry_after = reply.retry_after_ms.into_iter().flat_map(reply::retry_after_headers);
    let headers: Vec<(String, String)> =
        [("content-type".to_owned(), reply.content_type.to_owned())]
            .into_iter()
            .chain(retry_after.map(|(name, value)| (name.to_owned(), value)))
            .chain(own)
            .collect();
    let says_attempts = headers.iter().any(|(name, _)| name == ATTEMPTS);
    let no_attempts = (!says_attempts).then_some((ATTEMPTS, "0"));
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .chain(no_attempts)
        .collect();
    // The host refuses only if the stream ended. Then nobody waits for a response.
    let _ = host::reply(reply.status, "spillway", &headers, reply.body.as_bytes());
}
