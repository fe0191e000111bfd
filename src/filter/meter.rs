//! Counts the tokens of an answer while it goes to the client.

use crate::openai::usage::{JsonUsage, StreamUsage};
use crate::policy::estimate::{Estimate, Usage};

const EVENT_STREAM: &[u8] = b"text/event-stream";
const JSON: &[u8] = b"application/json";

/// Reads the usage out of one answer.
pub(crate) enum Meter {
    Json(Box<JsonUsage>),
    Stream(Box<StreamUsage>),
}

impl Meter {
    /// For an answer with this `content-type`; `None` when it states no usage.
    pub(crate) fn new(content_type: Option<&[u8]>) -> Option<Self> {
        let content_type = content_type?;
        if is_of_type(content_type, EVENT_STREAM) {
            Some(Self::Stream(Box::default()))
        } else if is_of_type(content_type, JSON) {
            Some(Self::Json(Box::default()))
        } else {
            None
        }
    }

    /// Reads the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Json(usage) => usage.push(bytes),
            Self::Stream(usage) => usage.push(bytes),
        }
    }

    /// What the answer stated.
    pub(crate) fn stated(&self) -> Option<Usage> {
        let stated = match self {
            Self::Json(usage) => usage.usage(),
            Self::Stream(usage) => usage.usage(),
        }?;
        Some(Usage {
            prompt_tokens: stated.prompt_tokens,
            cached_tokens: stated.cached_tokens,
            completion_tokens: stated.completion_tokens,
        })
    }

    /// The best that is known of an answer that stated nothing: the estimated prompt, and of a stream
    /// what was counted of its output.
    pub(crate) fn guess(&self, estimate: Estimate) -> Usage {
        match self {
            Self::Json(_) => estimate.into(),
            Self::Stream(usage) => {
                Usage { completion_tokens: usage.counted_output_tokens(), ..Usage::from(estimate) }
            }
        }
    }
}

/// Whether an answer with this `content-type` states its usage as a whole.
pub(crate) fn is_json(content_type: &[u8]) -> bool {
    is_of_type(content_type, JSON)
}

fn is_of_type(content_type: &[u8], wanted: &[u8]) -> bool {
    content_type.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted))
}
