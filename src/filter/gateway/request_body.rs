//! Reads the request body as far as the choice of a backend requires.
//!
//! Most of a body is prompt. It is read where tokens are estimated, or where something else in it decides. Where only
//! the model and the service tier matter, both ends of a large body are usually enough: clients write these members
//! there. The middle of such a body stays unknown, so a 429 to the request closes a gate only when another backend
//! serves it. A small body is always read completely.
//!
//! In any case the body is held to its end: a slow client should not occupy a backend, and the choice should know the
//! latest state.

use super::arrival::Arrival;
use super::progress::send;
use crate::filter::host::body;
use crate::filter::host::header_map::HeaderMap;
use crate::filter::host::properties::TOTAL_SIZE;
use crate::filter::host::timers::{self, LimitId, StreamId, Wake};
use crate::filter::host::told::Told;
use crate::filter::host::{self, Buffer, Map, Refused};
use crate::openai::request::body::{Body, BodyScanner};
use crate::openai::request::facts::Malformed;
use crate::openai::request::glance::{self, GLANCE_BYTES};
use crate::openai::request::kind::BodyKind;
use crate::openai::response::reply;
use crate::openai::service_tier;
use crate::policy::time::{Millis, Timestamp};
use std::cell::Cell;
use std::rc::{Rc, Weak};

/// The smallest body that is not always read to its end. Skipping parts of a smaller one would save little.
const LARGE_BYTES_MIN: usize = 4 * GLANCE_BYTES;

/// A request whose body is held and read.
pub(crate) struct Reading {
    arrival: Arrival,
    headers: HeaderMap,
    deadline: Rc<Deadline>,
    scanner: Option<Box<BodyScanner>>,
    /// How many bytes of the body have arrived.
    shown: usize,
    /// How many bytes of it were read.
    read: usize,
    need: BodyNeed,
    /// The result of reading both ends of a large body, if that was enough.
    glimpsed: Option<Glimpse>,
}

/// The little that had to be known about a large body.
struct Glimpse {
    /// Its model, if it was needed.
    model: Option<String>,
}

/// What must be known about a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyNeed {
    /// Nothing, or the body cannot be read.
    Nothing,
    /// The service tier that it asks for, if any.
    Tier,
    /// The model and the service tier.
    Model,
    /// All its facts.
    All,
}

/// What is known about a body.
pub(crate) enum BodyKnowledge {
    /// There is no body, or nothing in it matters.
    Nothing,
    /// It was not read, so it may contain anything.
    Unread,
    /// The model, if it was needed. Only the ends of the body were read.
    Glimpsed(Option<String>),
    /// All its facts, if it could be read.
    All(Result<Box<Body>, Malformed>),
}

impl BodyKnowledge {
    /// Whether a backend may find a service tier in the body that was not found here. Then a 429 must close no gate,
    /// as if the request asked for that tier.
    pub(crate) fn may_ask_for_tier(&self) -> bool {
        match self {
            Self::Nothing | Self::Glimpsed(_) => false,
            Self::Unread | Self::All(Err(_)) => true,
            Self::All(Ok(body)) => body.facts.is_tier_ambiguous || body.kind != BodyKind::Json,
        }
    }
}

impl Reading {
    pub(crate) fn new(
        arrival: Arrival,
        headers: HeaderMap,
        deadline: Rc<Deadline>,
        scanner: Option<Box<BodyScanner>>,
        need: BodyNeed,
    ) -> Self {
        Self { arrival, headers, deadline, scanner, shown: 0, read: 0, need, glimpsed: None }
    }

    /// Whether the time for the body is over, so that the gateway replied.
    pub(crate) fn is_overdue(&self) -> bool {
        self.deadline.is_over.get()
    }

    /// How many bytes of the body have arrived.
    pub(crate) fn shown(&self) -> usize {
        self.shown
    }

    /// Reads the new bytes of the body, whose length is `size` now.
    ///
    /// # Errors
    /// When the host does not show the body.
    pub(crate) fn read(&mut self, size: usize, end_of_stream: bool) -> Result<(), Refused> {
        self.shown = size;
        WAS_SHOWN.set(true);
        match self.need {
            BodyNeed::Nothing => return Ok(()),
            BodyNeed::Model | BodyNeed::Tier if !end_of_stream => return Ok(()), // the ends may be enough
            BodyNeed::Model | BodyNeed::Tier if size >= LARGE_BYTES_MIN => {
                self.glimpsed = look(self.need, size)?;
            }
            BodyNeed::Model | BodyNeed::Tier | BodyNeed::All => {}
        }
        if let (None, Some(scanner)) = (&self.glimpsed, &mut self.scanner) {
            body::read(self.read, size, |slice| scanner.push(slice))?;
            self.read = size;
        }
        Ok(())
    }

    /// The request, and what is known about its body, which ended.
    pub(crate) fn finish(self) -> (Arrival, HeaderMap, BodyKnowledge) {
        let known = match (self.need, self.glimpsed, self.scanner) {
            (_, Some(Glimpse { model }), _) => BodyKnowledge::Glimpsed(model),
            (BodyNeed::Nothing, None, _) | (_, None, None) => BodyKnowledge::Unread,
            (_, None, Some(scanner)) => BodyKnowledge::All(scanner.finish()),
        };
        (self.arrival, self.headers, known)
    }
}

/// How often the filter checks whether a body arrived that Envoy does not show. It checks until this VM was shown
/// one.
const HIDDEN_CHECK: Millis = Millis::from_secs(1);

thread_local! {
    /// Whether this VM was ever shown a body while its headers were held.
    static WAS_SHOWN: Cell<bool> = const { Cell::new(false) };

    /// Avoids repeating in the log that bodies are not shown.
    static HIDDEN: Told = Told::default();
}

/// Replies to a request whose body does not come in time, or is never shown. Whoever waits for the body owns it.
pub(crate) struct Deadline {
    stream: StreamId,
    is_over: Cell<bool>,
    limit: Cell<Option<LimitId>>,
    /// The time that is left after the current limit.
    left: Cell<Millis>,
    itself: Weak<Self>,
}

impl Deadline {
    /// The body of the current request must end within `timeout`.
    pub(crate) fn set(stream: StreamId, timeout: Millis) -> Rc<Self> {
        let deadline = Rc::new_cyclic(|itself| Self {
            stream,
            is_over: Cell::new(false),
            limit: Cell::new(None),
            left: Cell::new(timeout),
            itself: Weak::clone(itself),
        });
        deadline.sleep();
        deadline
    }

    fn sleep(&self) {
        let left = self.left.get();
        let nap = if WAS_SHOWN.get() { left } else { left.min(HIDDEN_CHECK) };
        self.left.set(Millis::new(left.as_ms().saturating_sub(nap.as_ms())));
        self.limit.set(timers::limit(self.stream, nap, self.itself.clone()));
    }
}

/// Whether Envoy has received a part of the current request's body. Without `allow_on_headers_stop_iteration` it does
/// not show the body while the headers are held, and every request hangs.
fn is_hidden() -> bool {
    if WAS_SHOWN.get() {
        return false;
    }
    let total = host::property(TOTAL_SIZE).and_then(|bytes| bytes.try_into().ok());
    let Ok(headers) = host::header_map(Map::RequestHeaders) else { return false };
    let lengths = headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
    let in_headers = lengths.fold(0_usize, usize::saturating_add);
    total.map(u64::from_le_bytes) > u64::try_from(in_headers).ok()
}

impl Wake for Deadline {
    fn wake(&self, now: Timestamp) {
        self.limit.set(None);
        let reply = if is_hidden() {
            if HIDDEN.with(|told| told.is_news(reply::HIDDEN_BODY, now)) {
                log::error!("{}", reply::HIDDEN_BODY);
            }
            reply::hidden_body()
        } else if self.left.get() > Millis::ZERO {
            return self.sleep();
        } else {
            reply::refused(408)
        };
        self.is_over.set(true);
        send(&reply, Vec::new());
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(limit) = self.limit.take() {
            timers::lift(limit);
        }
    }
}

/// What is needed from a body of `size` bytes, found at its two ends; `None` when the whole body must be read.
fn look(need: BodyNeed, size: usize) -> Result<Option<Glimpse>, Refused> {
    let tail = host::buffer(Buffer::RequestBody, size.saturating_sub(GLANCE_BYTES), GLANCE_BYTES)?;
    let head = host::buffer(Buffer::RequestBody, 0, GLANCE_BYTES)?;
    if service_tier::may_be_named(&tail) || service_tier::may_be_named(&head) {
        return Ok(None);
    }
    if need == BodyNeed::Tier {
        return Ok(Some(Glimpse { model: None }));
    }
    let model = glance::model_at_end(&tail).or_else(|| glance::model_at_start(&head));
    Ok(model.map(|model| Glimpse { model: Some(model.to_owned()) }))
}
