//! The part of a response that is held until it shows what the response is.

use super::flow::stream_error;
use super::usage::Reader;
use crate::filter::host::{self, Buffer};
use crate::filter::pool::health::CapacityHints;
use crate::openai::response::stream::{Edit, EventStream, Probe, Seen};
use crate::policy::response::classify::{self, AttemptTraits, Outcome};
use crate::policy::response::refusal;
use crate::policy::time::Timestamp;

/// How much of a 4xx body is read to classify it.
const ERROR_BODY_MAX_BYTES: usize = 16 * 1024;

/// The longest response that is held as a whole. No response with text is longer. Embeddings, images and sound can be
/// longer, but their usage is nearly their estimate, so holding them would waste memory.
pub(super) const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// Headers and the beginning of a body, which are held.
pub(super) struct HeldResponse {
    pub(super) status: u16,
    /// When its headers came.
    pub(super) since: Timestamp,
    pub(super) question: Question,
    pub(super) hints: CapacityHints,
    /// It has read the whole body so far.
    pub(super) reader: Reader,
    /// Whether the body contained an error event. After a real event it is too late for another backend.
    pub(super) broke_off: bool,
    /// Replaces the body so far; usually `None` as long as nothing is removed from it.
    pub(super) edited: Option<Vec<u8>>,
    /// How many bytes of the body were read.
    pub(super) seen: usize,
    /// The hold time is over: the next bytes decide.
    pub(super) is_overdue: bool,
}

/// The question that the beginning of the body must answer.
pub(super) enum Question {
    /// Is the first real event an error? The reader knows.
    FirstEvent,
    /// Does the body of this 4xx give it another meaning?
    ErrorBody(Box<ErrorBody>),
    /// None. It is held until it is complete, because headers will state its usage. It is released if no part of its
    /// body comes within the hold time.
    Whole,
}

/// The body of a 4xx.
pub(super) struct ErrorBody {
    pub(super) status: u16,
    /// The outcome unless the body shows another one.
    pub(super) otherwise: Outcome,
    /// The deployment or model that the backend was asked for.
    pub(super) deployment: String,
    pub(super) body: Vec<u8>,
}

impl HeldResponse {
    /// Whether it is an error whose body is not known yet.
    pub(super) fn is_error(&self) -> bool {
        matches!(self.question, Question::ErrorBody(_))
    }

    /// The outcome of an error whose body will not be completed. Only the body could show whether other backends
    /// would return the same client error.
    pub(super) fn broken_off(&mut self, traits: AttemptTraits, now: Timestamp) -> Outcome {
        match self.outcome(&[], true, true, traits) {
            Some(Outcome::ClientError) | None => Outcome::Elsewhere { status: self.status },
            Some(outcome) => self.as_of(outcome, now),
        }
    }

    /// Reads the next `bytes` of the body.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let Seen { edit, error } = self.reader.push(bytes);
        self.broke_off |= error;
        match (&mut self.edited, edit) {
            (None, Edit::Unchanged) => {}
            (Some(edited), Edit::Unchanged) => edited.extend_from_slice(bytes),
            (Some(edited), Edit::Replaced(bytes)) => edited.extend(bytes),
            (edited @ None, Edit::Replaced(bytes)) if self.seen == 0 => *edited = Some(bytes),
            (edited @ None, Edit::Replaced(bytes)) => {
                // The host still has the unedited bytes; they were not kept here.
                let before = host::buffer(Buffer::ResponseBody, 0, self.seen);
                let mut whole = before.unwrap_or_default();
                whole.extend(bytes);
                *edited = Some(whole);
            }
        }
        self.seen = self.seen.saturating_add(bytes.len());
    }

    /// The outcome with its delay counted from `now`. The delay of a 429 counts from its headers.
    pub(super) fn as_of(&self, outcome: Outcome, now: Timestamp) -> Outcome {
        match outcome {
            Outcome::Throttled { delay: Some(delay) } => {
                Outcome::Throttled { delay: Some(self.since.plus(delay).since(now)) }
            }
            outcome => outcome,
        }
    }

    /// The outcome, if the bytes so far show it; `bytes` were read last. After `enough` bytes, or at the end of the
    /// stream, a response that is not an error goes to the client.
    pub(super) fn outcome(
        &mut self,
        bytes: &[u8],
        end_of_stream: bool,
        enough: bool,
        traits: AttemptTraits,
    ) -> Option<Outcome> {
        match &mut self.question {
            Question::FirstEvent => {
                let Reader::Stream(stream) = &mut self.reader else {
                    return Some(Outcome::Success);
                };
                first_event(stream, end_of_stream, enough, traits)
            }
            Question::ErrorBody(held) => {
                let ErrorBody { status, otherwise, deployment, body } = &mut **held;
                body.extend_from_slice(bytes);
                let complete = end_of_stream || enough || body.len() >= ERROR_BODY_MAX_BYTES;
                complete
                    .then(|| classify::error_body(*status, body, *otherwise, traits, deployment))
            }
            Question::Whole => (end_of_stream || enough).then_some(Outcome::Success),
        }
    }
}

/// The meaning of a stream's first real event, if that event came, or `enough` bytes.
fn first_event(
    stream: &mut EventStream,
    end_of_stream: bool,
    enough: bool,
    traits: AttemptTraits,
) -> Option<Outcome> {
    let probe = if end_of_stream { stream.finish_head() } else { stream.head() };
    match probe {
        Probe::More => enough.then_some(Outcome::Success),
        Probe::Real => Some(Outcome::Success),
        Probe::Refused if refusal::is_of_request(stream.refusal()) => {
            Some(Outcome::Elsewhere { status: 200 })
        }
        Probe::Refused => Some(refusal::by_request(200, None, &traits)),
        Probe::Failed => Some(stream_error()),
    }
}
