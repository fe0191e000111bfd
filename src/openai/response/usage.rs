//! How many tokens a response cost, read while it passes.
//!
//! Every response states this itself, in one small object somewhere in a body that may be megabytes long
//! (embeddings) or end at any moment (streams). So a state machine reads it, which keeps a few dozen bytes,
//! however the body is cut into chunks.
//!
//! - The object is `usage` of the top level, or of `response` of the top level: that is where chat,
//!   completions, embeddings and responses have it, in whole bodies and in events. A `usage` anywhere
//!   else may have come from the client (tools and metadata are echoed) and does not count.
//! - The last one wins: some backends repeat it with growing numbers.
//! - A value that is negative or not a number counts as not stated; a number as text counts as that
//!   number. A usage with a number above [`TOKENS_MAX`] is ignored.
//! - A missing number follows from the others where possible: embeddings state no completion.
//! - A stream that ends early states nothing. Then the events with content are the best count of the
//!   output: usually one token each.

use crate::openai::bytes::COUNT_MAX;
use members::Members;
use memchr::memmem::Finder;

pub(super) mod members;
#[cfg(test)]
mod tests;
mod word;

/// The most tokens that a response may state: 16 Mi. The longest context windows are ten million tokens,
/// embeddings take 2048 texts of 8192 tokens, and completions 128 choices of 128 Ki.
pub const TOKENS_MAX: u64 = 1 << 24;

/// The tokens that a response cost; each number except the sum is at most [`TOKENS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// The tokens of the output, including reasoning; zero for embeddings.
    pub completion_tokens: u64,
    /// At least the sum of the two.
    pub total_tokens: u64,
    /// How many of `prompt_tokens` came from the backend's cache.
    pub cached_tokens: u64,
    /// How many of `completion_tokens` were spent on reasoning.
    pub reasoning_tokens: u64,
}

/// Reads the usage out of a JSON body.
#[derive(Debug, Default)]
pub struct JsonUsage {
    members: Members,
}

/// What an event stream stated before the event at hand.
#[derive(Debug)]
pub(super) struct StreamUsage {
    /// Finds the name of the member in an event.
    name: Finder<'static>,
    usage: Option<Usage>,
    /// Events with content.
    content_events: u64,
}

/// The numbers of a `usage` object, as far as it states them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stated {
    pub(super) prompt: Option<u64>,
    pub(super) completion: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) cached: Option<u64>,
    pub(super) reasoning: Option<u64>,
}

impl JsonUsage {
    /// Before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes of the body.
    pub fn push(&mut self, chunk: &[u8]) {
        self.members.push(chunk);
    }

    /// What was stated so far; `None` when nothing was.
    pub fn usage(&self) -> Option<Usage> {
        self.members.usage()
    }
}

/// The member, and how it is written where it states nothing.
const NAME: &[u8] = b"\"usage\"";
const NOTHING: [&[u8]; 2] = [b":null,", b":null}"];

/// A shorter event is read as fast as it is searched.
const SEARCHED_BYTES_MIN: usize = 128;

impl Default for StreamUsage {
    fn default() -> Self {
        Self { name: Finder::new(NAME), usage: None, content_events: 0 }
    }
}

impl StreamUsage {
    /// Whether the event with this data may state a usage. Nearly none does, and searching a long one is cheaper
    /// than reading it.
    #[inline]
    pub(super) fn may_be_stated(&self, data: &[u8]) -> bool {
        if data.len() < SEARCHED_BYTES_MIN {
            return true;
        }
        let mut rest = data;
        while let Some(at) = self.name.find(rest) {
            rest = rest.get(at.saturating_add(NAME.len())..).unwrap_or_default();
            if !NOTHING.iter().any(|nothing| rest.starts_with(nothing)) {
                return true;
            }
        }
        false
    }

    /// What was stated so far, including the event with these members; `None` when nothing was.
    pub(super) fn usage(&self, members: &Members) -> Option<Usage> {
        members.usage().or(self.usage)
    }

    /// How many events had content so far.
    pub(super) fn counted_output_tokens(&self, members: &Members) -> u64 {
        let this_one = u64::from(members.has_content());
        self.content_events.saturating_add(this_one).min(COUNT_MAX)
    }

    /// The event with these members is complete.
    pub(super) fn end_event(&mut self, members: &Members) {
        if let Some(usage) = members.usage() {
            self.usage = Some(usage);
        }
        self.content_events = self.counted_output_tokens(members);
    }
}

impl Stated {
    /// The usage; `None` when it states no useful number, or one that cannot be true.
    pub(super) fn usage(self) -> Option<Usage> {
        let rest = |part: Option<u64>| Some(self.total?.saturating_sub(part.unwrap_or(0)));
        self.prompt.or(self.completion).or(self.total)?;
        if [self.prompt, self.completion, self.total]
            .into_iter()
            .flatten()
            .any(|it| it > TOKENS_MAX)
        {
            return None;
        }
        let prompt_tokens = self.prompt.or_else(|| rest(self.completion)).unwrap_or(0);
        let completion_tokens = self.completion.or_else(|| rest(self.prompt)).unwrap_or(0);
        // Without both of them the sum counts as the prompt.
        let completion_tokens =
            if self.prompt.or(self.completion).is_none() { 0 } else { completion_tokens };
        let sum = prompt_tokens.saturating_add(completion_tokens);
        Some(Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: self.total.unwrap_or(0).max(sum),
            cached_tokens: self.cached.unwrap_or(0).min(prompt_tokens),
            reasoning_tokens: self.reasoning.unwrap_or(0).min(completion_tokens),
        })
    }
}
