//! The part of a response that is held back until it shows what the response is.

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

/// The longest answer that is held as a whole. No response with text is longer; embeddings, images and
/// sound can be, and cost memory for nothing: what they took is nearly their estimate.
pub(super) const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// Headers and the beginning of a body that are held back.
pub(super) struct HeldResponse {
    pub(super) status: u16,
    /// When its head came.
    pub(super) since: Timestamp,
    pub(super) question: Question,
    pub(super) hints: CapacityHints,
    /// Has read all of the body so far.
    pub(super) reader: Reader,
    /// Whether an error event came in it, too late for another backend if a real event came first.
    pub(super) broke_off: bool,
    /// What goes on instead of the body so far; `None` as long as nothing is taken out of it, as a rule.
    pub(super) edited: Option<Vec<u8>>,
    /// How much of the body was looked at.
    pub(super) seen: usize,
    /// It was held for long enough: the next bytes decide.
    pub(super) is_overdue: bool,
}

/// What the beginning of the body must answer.
pub(super) enum Question {
    /// Is the first real event an error? The reader knows.
    FirstEvent,
    /// Does this 4xx mean something else than its head?
    ErrorBody(Box<ErrorBody>),
    /// None: it is held until it is complete, because headers will say what it took; unless nothing of it
    /// comes within the hold time.
    Whole,
}

/// The body of a 4xx.
pub(super) struct ErrorBody {
    pub(super) status: u16,
    /// What it is unless the body says something else.
    pub(super) otherwise: Outcome,
    /// What the backend was asked for.
    pub(super) deployment: String,
    pub(super) body: Vec<u8>,
}

impl HeldResponse {
    /// Whether it is an error of which only the body is not known.
    pub(super) fn is_error(&self) -> bool {
        matches!(self.question, Question::ErrorBody(_))
    }

    /// What an error is whose body will not be complete. Whether others would give the client's error, too,
    /// only the body could tell.
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
                // What was not edited was not kept; the host has it.
                let before = host::buffer(Buffer::ResponseBody, 0, self.seen);
                let mut whole = before.unwrap_or_default();
                whole.extend(bytes);
                *edited = Some(whole);
            }
        }
        self.seen = self.seen.saturating_add(bytes.len());
    }

    /// An outcome with a time that counts from `now`. What a 429 names counts from its head.
    pub(super) fn as_of(&self, outcome: Outcome, now: Timestamp) -> Outcome {
        match outcome {
            Outcome::Throttled { delay: Some(delay) } => {
                Outcome::Throttled { delay: Some(self.since.plus(delay).since(now)) }
            }
            outcome => outcome,
        }
    }

    /// The outcome, if what came so far shows it; `bytes` were read last. `enough` bytes or the end of the stream
    /// make it show: what is not an error by then goes to the client.
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

/// What the first real event of a stream means, if it came or `enough` did.
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
