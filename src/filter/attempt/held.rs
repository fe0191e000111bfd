//! The part of an answer that is held back until it shows what the answer is.

use super::flow::stream_error;
use super::usage::Meter;
use crate::filter::pool::health::Said;
use crate::openai::response::stream::usage_chunk::UsageStripper;
use crate::openai::response::stream::{ErrorWatch, HeadProbe, Probe};
use crate::policy::response::classify::{self, AttemptTraits, Outcome};
use crate::policy::response::refusal;
use crate::policy::time::Timestamp;

/// How much of a 4xx body is read to classify it.
const ERROR_BODY_MAX_BYTES: usize = 16 * 1024;

/// The longest answer that is held as a whole. No answer with text is longer; embeddings, images and
/// sound can be, and cost memory for nothing: what they took is nearly their estimate.
pub(super) const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// Headers and the beginning of a body that are held back.
pub(super) struct Held {
    pub(super) status: u16,
    /// When its head came.
    pub(super) since: Timestamp,
    pub(super) question: Question,
    pub(super) said: Said,
    pub(super) meter: Option<Meter>,
    /// Takes the usage out again that only the gateway asked for; nothing yet, as a rule.
    pub(super) stripper: Option<Box<UsageStripper>>,
    /// It has something to take out of what is held.
    pub(super) must_be_edited: bool,
    /// How much of the body was looked at.
    pub(super) seen: usize,
    /// It was held for long enough: the next bytes decide.
    pub(super) is_overdue: bool,
}

/// What the beginning of the body must answer.
pub(super) enum Question {
    /// Is the first real event an error?
    FirstEvent(Box<StreamHead>),
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

/// The head of an event stream. The watch for later errors reads along, because it must know where
/// in a line the held part ended.
#[derive(Default)]
pub(super) struct StreamHead {
    pub(super) probe: HeadProbe,
    pub(super) watch: ErrorWatch,
    /// Whether the watch found an error, too late for another backend if a real event came first.
    pub(super) has_error: bool,
}

impl Held {
    /// Whether it is an error of which only the body is not known.
    pub(super) fn is_error(&self) -> bool {
        matches!(self.question, Question::ErrorBody(_))
    }

    /// What an error is whose body will not be complete. Whether others would give the client's error, too,
    /// only the body could tell.
    pub(super) fn broken_off(&mut self, traits: AttemptTraits, now: Timestamp) -> Outcome {
        match self.question.push(&[], true, true, traits) {
            Some(Outcome::ClientError) | None => Outcome::Elsewhere { status: self.status },
            Some(outcome) => self.as_of(outcome, now),
        }
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
}

impl Question {
    /// The outcome, if what came so far shows it. `enough` bytes or the end of the stream make it
    /// show: what is not an error by then goes to the client.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        end_of_stream: bool,
        enough: bool,
        traits: AttemptTraits,
    ) -> Option<Outcome> {
        match self {
            Self::FirstEvent(head) => {
                head.has_error |= head.watch.push(bytes);
                let mut answer = head.probe.push(bytes);
                if answer == Probe::More && end_of_stream {
                    answer = head.probe.finish();
                }
                match answer {
                    Probe::More => enough.then_some(Outcome::Success),
                    Probe::Real => Some(Outcome::Success),
                    Probe::Refused if refusal::is_of_request(head.probe.refusal()) => {
                        Some(Outcome::Elsewhere { status: 200 })
                    }
                    Probe::Refused => Some(refusal::by_request(200, None, &traits)),
                    Probe::Failed => Some(stream_error()),
                }
            }
            Self::ErrorBody(held) => {
                let ErrorBody { status, otherwise, deployment, body } = &mut **held;
                body.extend_from_slice(bytes);
                let complete = end_of_stream || enough || body.len() >= ERROR_BODY_MAX_BYTES;
                complete
                    .then(|| classify::error_body(*status, body, *otherwise, traits, deployment))
            }
            Self::Whole => (end_of_stream || enough).then_some(Outcome::Success),
        }
    }
}
