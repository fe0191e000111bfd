//! Counts the tokens of an answer while it goes to the client.

use crate::openai::usage::{JsonUsage, StreamUsage};
use crate::policy::estimate::{Estimate, Usage};

/// Reads the usage out of one answer.
pub(crate) enum Meter {
    Json(Box<JsonUsage>),
    Stream(Box<StreamUsage>),
}

impl Meter {
    /// For an answer with this `content-type`; `None` when it states no usage.
    pub(crate) fn new(content_type: Option<&[u8]>) -> Option<Self> {
        let content_type = content_type?.to_ascii_lowercase();
        if content_type.starts_with(b"text/event-stream") {
            Some(Self::Stream(Box::default()))
        } else if content_type.starts_with(b"application/json") {
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
