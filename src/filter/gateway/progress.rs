//! A request that has a pool: on its way, waiting for a gate to reopen, or answered by the gateway.

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
    /// Attempts are made, or were.
    Sent,
    /// The request is held until a backend reopens.
    Waiting { since: Instant },
    /// The gateway itself answered.
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

    /// Whether the request may go on now; else it waits, or was answered.
    pub(crate) fn advance(&self, now: Timestamp) -> bool {
        let Some(mut request) = self.request.change() else { return true };
        match request.go_on(now) {
            Next::Retry => {
                self.progress.set(Progress::Sent);
                // The route that Envoy found before knows nothing of the target.
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

    /// Whether the request is held or answered, so that nothing of it may go on.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.progress.get(), Progress::Waiting { .. } | Progress::Replied)
    }

    /// Concludes a response that did not come to its end, if there is one; `broke_off` says whether its
    /// backend ended it.
    pub(crate) fn end_flow(&self, broke_off: impl FnOnce() -> bool) {
        let flowing = self.request.view().and_then(|request| request.flowing());
        let Some(answer) = flowing else { return };
        answer.end(broke_off());
        if let Some(mut request) = self.request.change() {
            request.forget_interrupted();
        }
    }

    /// Whether the gateway answered, so that the response is its own.
    pub(crate) fn has_replied(&self) -> bool {
        self.progress.get() == Progress::Replied
    }

    /// Answers in the place of a response that Envoy or one of its filters made; `kept` are its headers
    /// that the client still gets.
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

    /// Answers that nobody knows whether the request was carried out.
    pub(crate) fn may_be_done(&self, request: &mut Request) {
        self.progress.set(Progress::Replied);
        request.charge_nothing(host::now);
        let mut headers = own_headers(request);
        headers.push((SHOULD_RETRY.to_owned(), "false".to_owned()));
        send(&reply::may_be_done(), headers);
    }

    /// Answers that there is no way to the backend that was chosen, and that another one can be chosen.
    pub(crate) fn no_way(&self, request: &mut Request) {
        self.progress.set(Progress::Replied);
        request.charge_nothing(host::now);
        let mut headers = own_headers(request);
        headers.push((SHOULD_RETRY.to_owned(), "true".to_owned()));
        send(&reply::no_way(), headers);
    }

    /// Answers that the pool is exhausted.
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
            // The host refuses only a stream that ended, and then nobody waits.
            let _ = host::resume(Direction::Request);
        }
    }
}

/// The time after which a client should come back, in milliseconds.
pub(crate) fn delay_ms(soonest: Option<Timestamp>, now: Timestamp) -> u64 {
    reply::exhausted_delay_ms(soonest.map(|at| at.since(now).as_ms()), random::number())
}

fn own_headers(request: &Request) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    request.own_headers(|name, value| headers.push((name.to_owned(), value.to_owned())));
    headers
}

/// Sends a response of the gateway's own, with these headers besides.
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
    // The host refuses only a stream that ended, and then nobody waits for a response.
    let _ = host::reply(reply.status, "spillway", &headers, reply.body.as_bytes());
}
