//! The body of a request, as far as it must be known before a backend can be chosen.
//!
//! Most of a body is prompt. It is read where tokens are estimated, or something else in it decides. Where
//! only its model and its service tier matter, a glance at both ends of a large body is enough as a rule,
//! where clients write such members. What stands between them is not known then, and a 429 to such a request
//! closes a gate only when another backend serves it. A small one is read at once. It is held to
//! its end in any case: a client that is slow to send should not keep a backend waiting, and the
//! choice is as good as what is known when it is made.

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

/// The smallest body that is not read to its end where little of it matters. In a smaller one there is
/// little to be skipped.
const LARGE_BYTES_MIN: usize = 4 * GLANCE_BYTES;

/// A request whose body is held and read.
pub(crate) struct Reading {
    arrival: Arrival,
    headers: HeaderMap,
    deadline: Rc<Deadline>,
    scanner: Option<Box<BodyScanner>>,
    /// How many bytes of the body are here.
    shown: usize,
    /// How many of them were read.
    read: usize,
    need: BodyNeed,
    /// What a look at a large body showed, when that was enough.
    glimpsed: Option<Glimpse>,
}

/// What little of a large body had to be known.
struct Glimpse {
    /// Its model, if that was wanted.
    model: Option<String>,
}

/// What must be known of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyNeed {
    /// Nothing, or it cannot be read.
    Nothing,
    /// The service tier that it asks for, if it does.
    Tier,
    /// The model and the service tier.
    Model,
    /// Whatever it says.
    All,
}

/// What is known of a body.
pub(crate) enum BodyKnowledge {
    /// There is none, or it says nothing that matters.
    Nothing,
    /// It was not read, and may say anything.
    Unread,
    /// The model, if that was wanted, of a body of which only the ends were looked at.
    Glimpsed(Option<String>),
    /// All that it says, if it could be read.
    All(Result<Box<Body>, Malformed>),
}

impl BodyKnowledge {
    /// Whether a backend may find another service tier in the body than was found here. Such a request
    /// must close no gate, as if it asked for one.
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

    /// Whether the time for the body is over, so that the request was answered.
    pub(crate) fn is_overdue(&self) -> bool {
        self.deadline.is_over.get()
    }

    /// How many bytes of the body are here.
    pub(crate) fn shown(&self) -> usize {
        self.shown
    }

    /// Reads what is new of the body, which is `size` bytes long by now.
    ///
    /// # Errors
    /// When the host does not show it.
    pub(crate) fn read(&mut self, size: usize, end_of_stream: bool) -> Result<(), Refused> {
        self.shown = size;
        WAS_SHOWN.set(true);
        match self.need {
            BodyNeed::Nothing => return Ok(()),
            BodyNeed::Model | BodyNeed::Tier if !end_of_stream => return Ok(()), // a look may be enough
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

    /// The request, and what is known of its body, which was read to its end.
    pub(crate) fn finish(self) -> (Arrival, HeaderMap, BodyKnowledge) {
        let known = match (self.need, self.glimpsed, self.scanner) {
            (_, Some(Glimpse { model }), _) => BodyKnowledge::Glimpsed(model),
            (BodyNeed::Nothing, None, _) | (_, None, None) => BodyKnowledge::Unread,
            (_, None, Some(scanner)) => BodyKnowledge::All(scanner.finish()),
        };
        (self.arrival, self.headers, known)
    }
}

/// How often it is looked whether a body arrived that Envoy does not show, as long as this VM was never
/// shown one.
const HIDDEN_CHECK: Millis = Millis::from_secs(1);

thread_local! {
    /// Whether this VM was ever shown a body that it held the headers for.
    static WAS_SHOWN: Cell<bool> = const { Cell::new(false) };

    /// Whether the log has it that bodies are not shown.
    static HIDDEN: Told = Told::default();
}

/// Answers a request whose body does not come in time, or is never shown. It is kept by whoever waits for
/// the body.
pub(crate) struct Deadline {
    stream: StreamId,
    is_over: Cell<bool>,
    limit: Cell<Option<LimitId>>,
    /// The time that is left after the limit.
    left: Cell<Millis>,
    itself: Weak<Self>,
}

impl Deadline {
    /// The body of the current request must come within `timeout`.
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

/// Whether Envoy has something of the current request's body. Without `allow_on_headers_stop_iteration`
/// it keeps it to itself for as long as the headers are held, and every request hangs.
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

/// What is `wanted` of a body of `size` bytes, as far as either end of it shows; `None` when it has to be
/// read.
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
