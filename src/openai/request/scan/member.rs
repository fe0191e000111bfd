//! A member of the top level of a JSON body: which one it is, and its value unless that is text.

use super::super::facts::{Span, StreamOptions, VALUE_BYTES_MAX};
use super::length;
use crate::openai::bytes::is_space;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The member of the top level that is being read.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) key: TopLevelKey,
    /// Where its value begins.
    pub(super) at: u64,
    /// The raw bytes of its value, if it is no text; up to [`VALUE_BYTES_MAX`].
    pub(super) raw: Vec<u8>,
    pub(super) is_raw_cut: bool,
}

/// The keys of the top level that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopLevelKey {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    N,
    BestOf,
    PromptCacheKey,
    User,
    PreviousResponseId,
    Conversation,
    ServiceTier,
    DataSources,
    Prompt,
    Other,
}

impl Member {
    /// Before the first member.
    pub(super) fn new() -> Self {
        Self { key: TopLevelKey::Other, at: 0, raw: Vec::new(), is_raw_cut: false }
    }

    pub(super) fn begin(&mut self, at: u64) {
        self.at = at;
        self.raw.clear();
        self.is_raw_cut = false;
    }

    /// Whether all that will be kept of its value was kept.
    fn is_kept(&self) -> bool {
        self.key == TopLevelKey::Other || self.is_raw_cut
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.is_kept() {
            return;
        }
        let room = VALUE_BYTES_MAX.saturating_sub(self.raw.len());
        self.raw.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.is_raw_cut = bytes.len() > room;
    }

    /// The raw bytes as `stream_options`; `None` when they are no small object.
    pub(super) fn stream_options(&self, span: Span) -> Option<StreamOptions> {
        if self.is_raw_cut {
            return None;
        }
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&self.raw).ok()?;
        Some(StreamOptions {
            span,
            include_usage: object.get(INCLUDE_USAGE) == Some(&serde_json::Value::Bool(true)),
            is_null: false,
            is_empty: object.is_empty(),
            include_usage_span: value_of(&self.raw, INCLUDE_USAGE)
                .map(|(at, value)| Span { at: span.at.saturating_add(at), len: length(value) }),
        })
    }
}

const INCLUDE_USAGE: &str = "include_usage";

/// Where in `object`, which is a complete JSON object, the last value of `key` begins, and its bytes.
fn value_of<'a>(object: &'a [u8], key: &str) -> Option<(u64, &'a [u8])> {
    let mut found = None;
    // After the opening brace, then after the comma of each member.
    let mut at = after(object, 0, b'{')?;
    loop {
        let (name, name_end) = value::<String>(object, at)?;
        let value_at = after_spaces(object, after(object, name_end, b':')?);
        let (IgnoredAny, value_end) = value::<IgnoredAny>(object, value_at)?;
        if name == key {
            found = Some((length(object.get(..value_at)?), object.get(value_at..value_end)?));
        }
        match after(object, value_end, b',') {
            Some(next) => at = next,
            None => return found,
        }
    }
}

/// The value that begins at `at`, and where it ends.
fn value<'a, T: Deserialize<'a>>(object: &'a [u8], at: usize) -> Option<(T, usize)> {
    let mut values = serde_json::Deserializer::from_slice(object.get(at..)?).into_iter();
    let value = values.next()?.ok()?;
    Some((value, at.saturating_add(values.byte_offset())))
}

/// The offset after `byte`, if it is the next byte at `at` except for white space.
fn after(object: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = after_spaces(object, at);
    (object.get(at) == Some(&byte)).then(|| at.saturating_add(1))
}

fn after_spaces(object: &[u8], at: usize) -> usize {
    let spaces = object.get(at..).unwrap_or_default().iter().take_while(|byte| is_space(**byte));
    at.saturating_add(spaces.count())
}

/// Whether some server takes `key` for `model`: in any case, and up to a byte that ends texts in C.
pub(super) fn resembles_model(key: &[u8]) -> bool {
    matches!(key.get(5), None | Some(b'\0'))
        && key.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"model"))
}

impl TopLevelKey {
    pub(super) fn of(text: &[u8]) -> Self {
        match text {
            b"model" => Self::Model,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"max_tokens" => Self::MaxTokens,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"n" => Self::N,
            b"best_of" => Self::BestOf,
            b"prompt_cache_key" => Self::PromptCacheKey,
            b"user" => Self::User,
            b"previous_response_id" => Self::PreviousResponseId,
            b"conversation" => Self::Conversation,
            b"service_tier" => Self::ServiceTier,
            b"data_sources" => Self::DataSources,
            b"prompt" => Self::Prompt,
            _ => Self::Other,
        }
    }
}
