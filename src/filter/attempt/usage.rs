//! Counts the tokens of an answer while it goes to the client.

use crate::openai::media_type::{is_json, media_type};
use crate::openai::response::usage::{JsonUsage, StreamUsage};
use crate::openai::service_tier::{ServiceTier, TierWatch};
use crate::policy::tokens::estimate::{Estimate, UsedTokens};

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Types that say nothing of what the body is: those that servers use when they know none.
const UNKNOWN: [&[u8]; 2] = [b"text/plain", b"application/octet-stream"];

/// Reads the usage out of one answer.
pub(crate) struct Meter {
    usage: Usages,
    /// Looks for the service tier, when the request asked for one.
    tier: Option<Box<TierWatch>>,
}

enum Usages {
    Json(Box<JsonUsage>),
    Stream(Box<StreamUsage>),
}

impl Meter {
    /// For an answer with this `content-type`; `None` when it states no usage. One without, or with one that
    /// says nothing, may be JSON: what is none states nothing, and is looked at no further than that shows.
    pub(crate) fn new(content_type: Option<&[u8]>, asks_for_tier: bool) -> Option<Self> {
        let may_be_json = |name| {
            is_json(name) || UNKNOWN.iter().any(|it| media_type(name).eq_ignore_ascii_case(it))
        };
        let usage = match content_type {
            Some(name) if media_type(name).eq_ignore_ascii_case(EVENT_STREAM) => {
                Usages::Stream(Box::default())
            }
            Some(name) if !may_be_json(name) => return None,
            Some(_) | None => Usages::Json(Box::default()),
        };
        Some(Self { usage, tier: asks_for_tier.then(Box::default) })
    }

    /// The service tier that the answer stated.
    pub(crate) fn tier(&self) -> Option<ServiceTier> {
        self.tier.as_ref().and_then(|watch| watch.tier())
    }

    /// Reads the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match &mut self.usage {
            Usages::Json(usage) => usage.push(bytes),
            Usages::Stream(usage) => usage.push(bytes),
        }
        if let Some(watch) = &mut self.tier {
            watch.push(bytes);
        }
    }

    /// What the answer stated.
    pub(crate) fn stated(&self) -> Option<UsedTokens> {
        let stated = match &self.usage {
            Usages::Json(usage) => usage.usage(),
            Usages::Stream(usage) => usage.usage(),
        }?;
        Some(UsedTokens {
            prompt_tokens: stated.prompt_tokens,
            cached_tokens: stated.cached_tokens,
            completion_tokens: stated.completion_tokens,
        })
    }

    /// The best that is known of an answer that stated nothing: the estimated prompt, and of a stream
    /// what was counted of its output.
    pub(crate) fn guess(&self, estimate: Estimate) -> UsedTokens {
        match &self.usage {
            Usages::Json(_) => estimate.into(),
            Usages::Stream(usage) => UsedTokens {
                completion_tokens: usage.counted_output_tokens(),
                ..UsedTokens::from(estimate)
            },
        }
    }
}
