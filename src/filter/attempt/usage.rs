//! Reads a response's body as it passes: an event stream, or one JSON value.

use crate::openai::media_type::{is_json, media_type};
use crate::openai::response::stream::{Edit, EventStream, Features, Seen};
use crate::openai::response::tier_watch::TierWatch;
use crate::openai::response::usage::JsonUsage;
use crate::openai::service_tier::ServiceTier;
use crate::policy::tokens::estimate::{Estimate, UsedTokens};

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Types that say nothing about the body: servers use them when they know no other.
const UNKNOWN: [&[u8]; 2] = [b"text/plain", b"application/octet-stream"];

/// Reads the body of one response.
pub(crate) enum Reader {
    /// Nothing in the body matters.
    None,
    Json(Box<JsonReader>),
    Stream(Box<EventStream>),
}

/// Reads one JSON value.
#[derive(Default)]
pub(crate) struct JsonReader {
    usage: JsonUsage,
    /// Looks for the service tier, when the request asked for one.
    tier: Option<TierWatch>,
}

impl Reader {
    /// For an event stream that may contain errors; it looks for `features`.
    pub(crate) fn stream(features: Features) -> Self {
        Self::Stream(Box::new(EventStream::new(features)))
    }

    /// For counting the tokens of a response with this `content-type`. Without one, or with one that says nothing,
    /// the body may be JSON. A body that turns out not to be JSON is not read further.
    pub(crate) fn of_usage(content_type: Option<&[u8]>, asks_for_tier: bool) -> Self {
        let may_be_json = |name| {
            is_json(name) || UNKNOWN.iter().any(|it| media_type(name).eq_ignore_ascii_case(it))
        };
        match content_type {
            Some(name) if media_type(name).eq_ignore_ascii_case(EVENT_STREAM) => {
                Self::stream(Features { usage: true, tier: asks_for_tier, ..Features::default() })
            }
            Some(name) if !may_be_json(name) => Self::None,
            Some(_) | None => {
                let tier = asks_for_tier.then(TierWatch::default);
                Self::Json(Box::new(JsonReader { usage: JsonUsage::new(), tier }))
            }
        }
    }

    /// Whether the rest of the body does not matter.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::None => true,
            Self::Json(_) => false,
            Self::Stream(stream) => stream.is_idle(),
        }
    }

    /// Reads the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Seen {
        match self {
            Self::None => {}
            Self::Json(json) => {
                json.usage.push(bytes);
                if let Some(watch) = &mut json.tier {
                    watch.push(bytes);
                }
            }
            Self::Stream(stream) => return stream.push(bytes),
        }
        Seen { edit: Edit::Unchanged, error: false }
    }

    /// The body ended: returns the bytes that were held back.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        match self {
            Self::None | Self::Json(_) => Vec::new(),
            Self::Stream(stream) => stream.finish(),
        }
    }

    /// The service tier that the response stated.
    pub(crate) fn tier(&self) -> Option<ServiceTier> {
        match self {
            Self::None => None,
            Self::Json(json) => json.tier.as_ref()?.tier(),
            Self::Stream(stream) => stream.tier(),
        }
    }

    /// The usage that the response stated.
    pub(crate) fn stated(&self) -> Option<UsedTokens> {
        let stated = match self {
            Self::None => None,
            Self::Json(json) => json.usage.usage(),
            Self::Stream(stream) => stream.usage(),
        }?;
        Some(UsedTokens {
            prompt_tokens: stated.prompt_tokens,
            cached_tokens: stated.cached_tokens,
            completion_tokens: stated.completion_tokens,
        })
    }

    /// The best known usage of a response that stated none: the estimated prompt, and the counted output of a stream.
    pub(crate) fn guess(&self, estimate: Estimate) -> UsedTokens {
        let counted = match self {
            Self::None | Self::Json(_) => None,
            Self::Stream(stream) => stream.counted_output_tokens(),
        };
        counted.map_or_else(
            || estimate.into(),
            |completion_tokens| UsedTokens { completion_tokens, ..UsedTokens::from(estimate) },
        )
    }
}
