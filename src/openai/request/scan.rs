//! Reads the facts of a JSON body in slices, in constant memory.
//!
//! The body can be many megabytes and arrives in pieces, so it is never held or parsed into a tree.
//! A state machine reads its bytes; any way of cutting the body into slices gives the same facts.
//!
//! - Only the top level is read by name. Below it there are only text values to be counted, and the
//!   depth is a counter, so that nesting costs nothing.
//! - Below the top level a text counts as a value until a colon follows; then it was a key. So no
//!   stack of the kinds of open brackets is needed.
//! - The body is not validated: that is the backend's job. It is malformed only where this automaton
//!   cannot continue with certainty: no object, a broken top level, an early end, trailing bytes.

pub use super::facts::{BodyFacts, Field, Insertion, Malformed, Span, StreamOptions};

use super::facts::{self, TOKEN_BYTES, VALUE_BYTES_MAX};
use crate::openai::bytes::{self, is_delimiter, is_space};
use member::{Member, TopLevelKey};
use nested::{NESTED_BYTES_MAX, Nested, NestedKey, NestedText, NestedWord};
use std::borrow::Cow;
use text::Text;

mod member;
mod nested;
#[cfg(test)]
mod tests;
mod text;

/// Reads one JSON body.
#[derive(Debug)]
pub struct JsonScanner {
    /// The offset of the next byte; if the body is malformed, of the byte at which it went wrong.
    at: u64,
    lexer: Lexer,
    /// How many brackets are open.
    depth: u64,
    /// What comes next at the top level.
    slot: Slot,
    /// A text that has an escape, or did not come in one slice.
    text: Text,
    nested: Nested,
    member: Member,
    counts: Counts,
    facts: BodyFacts,
    /// The first byte after the opening brace.
    members_at: u64,
    /// With a member in the object, an inserted one needs a comma.
    has_member: bool,
    /// Whether a member came that some server takes for the model.
    has_model: bool,
    /// Whether a `service_tier` was there.
    has_tier: bool,
}

/// The place of the next byte in a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lexer {
    /// Before the opening brace; this many bytes of a byte order mark were seen.
    Start { mark_len: u8 },
    /// Between tokens.
    Between,
    /// In a number, `true`, `false` or `null`.
    Scalar,
    /// In a text.
    Text,
    /// After the backslash of an escape.
    Escape,
    /// In the digits of `\u`.
    Unicode { digits_left: u8, code: u16 },
    /// After the closing brace.
    End,
    /// Nothing more is read.
    Malformed { problem: &'static str },
}

/// What the grammar expects next at the top level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Key,
    Colon,
    Value,
    Comma,
}

/// Counts by key, so that for each key the last one wins. The largest of them matters.
#[derive(Debug, Default)]
struct Counts {
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n: Option<u64>,
    best_of: Option<u64>,
    refers_to_response: bool,
    refers_to_conversation: bool,
}

/// The beginning of a URL that contains its data.
const DATA_URL: &[u8] = b"data:";

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

impl Default for JsonScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonScanner {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            at: 0,
            lexer: Lexer::Start { mark_len: 0 },
            depth: 0,
            slot: Slot::Key,
            text: Text::default(),
            nested: Nested::default(),
            member: Member::new(),
            counts: Counts::default(),
            facts: BodyFacts::default(),
            members_at: 0,
            has_member: false,
            has_model: false,
            has_tier: false,
        }
    }

    /// Reads the next slice of the body.
    pub fn push(&mut self, slice: &[u8]) {
        let mut rest = slice;
        while let Some((&byte, after)) = rest.split_first() {
            match self.lexer {
                Lexer::Text => rest = self.in_text(rest),
                Lexer::Between if self.depth > 1 => rest = self.below(rest),
                Lexer::Between if byte == b'"' => rest = self.top_text(after),
                Lexer::Scalar => rest = self.in_scalar(rest),
                Lexer::Malformed { .. } => return,
                _ => {
                    self.step(byte);
                    rest = after;
                }
            }
        }
    }

    /// The facts, once the whole body was read.
    ///
    /// # Errors
    ///
    /// The body is no JSON object, or its top level is broken, or it ends early or late.
    pub fn finish(self) -> Result<BodyFacts, Malformed> {
        let problem = match self.lexer {
            Lexer::End => return Ok(self.completed_facts()),
            Lexer::Malformed { problem } => problem,
            Lexer::Start { .. } => "the body is empty",
            _ => "the body ends inside a value",
        };
        Err(Malformed { at: self.at, problem })
    }

    fn completed_facts(self) -> BodyFacts {
        let Self { counts, mut facts, .. } = self;
        if facts.model.is_none() && facts.model_insertion.is_none() {
            let suffix = if self.has_member { &b","[..] } else { b"" };
            facts.model_insertion = Some(Insertion {
                at: self.members_at,
                remove: 0,
                prefix: Cow::Borrowed(b"\"model\":"),
                suffix: Cow::Borrowed(suffix),
            });
        }
        facts.size = self.at;
        facts.max_output_tokens =
            counts.max_tokens.max(counts.max_completion_tokens).max(counts.max_output_tokens);
        facts.choices = counts.n.max(counts.best_of);
        facts.previous_response |= counts.refers_to_response || counts.refers_to_conversation;
        facts
    }

    /// These bytes were read.
    fn advance(&mut self, bytes: &[u8]) {
        if self.depth > 1 {
            self.member.keep(bytes);
        }
        self.at = self.at.saturating_add(length(bytes));
    }

    /// Reads a text up to its end or its next escape that is not only counted, and returns what follows.
    fn in_text<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let counted = if self.text.is_head_full() { self.text.count_run(rest) } else { 0 };
        let uncounted = rest.get(counted..).unwrap_or_default();
        let run_len = bytes::quote_or_backslash(uncounted);
        let (run, special) = uncounted.split_at_checked(run_len).unwrap_or((uncounted, &[]));
        self.text.extend(run);
        let Some((&byte, after)) = special.split_first() else {
            self.advance(rest);
            return special;
        };
        self.advance(before(rest, after));
        if byte == b'"' {
            self.end_cut_text(self.at);
        } else {
            self.lexer = Lexer::Escape;
        }
        after
    }

    /// Reads a number or a literal up to its end, and returns what follows.
    fn in_scalar<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let (run, after) = split_scalar(rest);
        self.member.keep(run);
        self.at = self.at.saturating_add(length(run));
        if !after.is_empty() {
            self.lexer = Lexer::Between;
            if self.depth == 1 {
                self.end_scalar();
            }
        }
        after
    }

    fn step(&mut self, byte: u8) {
        match self.lexer {
            Lexer::Start { mark_len } => self.start(byte, mark_len),
            Lexer::Between => self.top(byte),
            Lexer::Escape => self.escape(byte),
            Lexer::Unicode { digits_left, code } => self.unicode(byte, digits_left, code),
            Lexer::End if is_space(byte) => {}
            Lexer::End => self.fail("something follows the object"),
            // `push` reads these.
            Lexer::Scalar | Lexer::Text | Lexer::Malformed { .. } => {}
        }
        if !matches!(self.lexer, Lexer::Malformed { .. }) {
            self.advance(&[byte]);
        }
    }

    fn start(&mut self, byte: u8, mark_len: u8) {
        if BYTE_ORDER_MARK.get(usize::from(mark_len)) == Some(&byte)
            && self.at == u64::from(mark_len)
        {
            self.lexer = Lexer::Start { mark_len: mark_len.saturating_add(1) };
        } else if matches!(mark_len, 1 | 2) || !(is_space(byte) || byte == b'{') {
            self.fail("the body is not a JSON object");
        } else if byte == b'{' {
            self.depth = 1;
            self.lexer = Lexer::Between;
            self.members_at = self.at.saturating_add(1);
            self.facts.stream_options_at = Some(self.members_at);
        }
    }

    /// Between two tokens of the top level; `top_text` has the quotes.
    fn top(&mut self, byte: u8) {
        match (byte, self.slot) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            (b':', Slot::Colon) => self.slot = Slot::Value,
            (b'{' | b'[', Slot::Value) => {
                self.member.begin(self.at);
                self.nested = Nested::default();
                self.depth = 2;
            }
            (b',', Slot::Comma) => self.slot = Slot::Key,
            // A trailing comma is for the backend to refuse.
            (b'}', Slot::Key | Slot::Comma) => {
                self.depth = 0;
                self.lexer = Lexer::End;
            }
            (byte, Slot::Value) if !is_delimiter(byte) => {
                self.member.begin(self.at);
                self.member.keep(&[byte]);
                self.lexer = Lexer::Scalar;
            }
            _ => self.fail_at_slot(),
        }
    }

    fn fail_at_slot(&mut self) {
        self.fail(match self.slot {
            Slot::Key => "a key or the end of the object is expected",
            Slot::Colon => "a colon is expected",
            Slot::Value => "a value is expected",
            Slot::Comma => "a comma or the end of the object is expected",
        });
    }

    /// Reads a text of the top level and returns what follows it. `rest` begins behind the quote.
    fn top_text<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        match self.slot {
            Slot::Key => self.has_member = true,
            Slot::Value => self.member.begin(self.at),
            Slot::Colon | Slot::Comma => {
                self.fail_at_slot();
                return rest;
            }
        }
        self.at = self.at.saturating_add(1);
        let Some((text, after)) = split_text(rest) else {
            self.begin_text(VALUE_BYTES_MAX);
            return rest;
        };
        self.at = self.at.saturating_add(length(text)).saturating_add(1);
        let head = text.get(..VALUE_BYTES_MAX).unwrap_or(text);
        self.end_top_text(head, length(text), self.at);
        after
    }

    /// Reads what is below the top level, from between two tokens on, and returns what follows.
    fn below<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let mut left = rest;
        while let Some((&byte, after)) = left.split_first() {
            left = after;
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b'"' => {
                    self.end_nested_value();
                    let Some((text, after)) = split_text(left) else {
                        self.begin_text(NESTED_BYTES_MAX);
                        break;
                    };
                    self.end_nested_text(text, length(text));
                    left = after;
                }
                b':' => self.nested.end_key(),
                b',' => self.end_element(),
                b'{' | b'[' => {
                    self.end_element();
                    self.depth = self.depth.saturating_add(1);
                }
                b'}' | b']' => {
                    self.end_element();
                    if self.depth == 2 {
                        self.advance(before(rest, left));
                        self.depth = 1;
                        self.end_composite();
                        return left;
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                _ => {
                    // Prompts may be given as arrays of tokens.
                    if byte.is_ascii_digit() && self.nested.key == NestedKey::None {
                        self.add_prompt_bytes(TOKEN_BYTES);
                    }
                    left = split_scalar(left).1;
                    if left.is_empty() {
                        self.lexer = Lexer::Scalar;
                    }
                }
            }
        }
        self.advance(before(rest, left));
        left
    }

    fn begin_text(&mut self, head_bytes_max: usize) {
        self.lexer = Lexer::Text;
        self.text.begin(head_bytes_max);
    }

    fn escape(&mut self, byte: u8) {
        self.lexer = Lexer::Text;
        let plain = match byte {
            b'u' => {
                self.lexer = Lexer::Unicode { digits_left: 4, code: 0 };
                return;
            }
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 0x08,
            b'f' => 0x0c,
            other => other,
        };
        self.text.extend(&[plain]);
    }

    fn unicode(&mut self, byte: u8, digits_left: u8, code: u16) {
        let Some(digit) = char::from(byte).to_digit(16).and_then(|it| u16::try_from(it).ok())
        else {
            // A cut escape. What ends it may end the text.
            self.text.extend("\u{fffd}".as_bytes());
            match byte {
                b'"' => self.end_cut_text(self.at.saturating_add(1)),
                b'\\' => self.lexer = Lexer::Escape,
                _ => self.lexer = Lexer::Text,
            }
            return;
        };
        let code = code << 4 | digit;
        if digits_left > 1 {
            self.lexer = Lexer::Unicode { digits_left: digits_left.saturating_sub(1), code };
        } else {
            self.lexer = Lexer::Text;
            self.text.extend_unit(code);
        }
    }

    /// The text that was read piece by piece ended; `end` is the offset behind its quote.
    fn end_cut_text(&mut self, end: u64) {
        self.lexer = Lexer::Between;
        self.text.flush_surrogate();
        let text = std::mem::take(&mut self.text);
        if self.depth > 1 {
            self.end_nested_text(&text.head, text.len);
        } else {
            self.end_top_text(&text.head, text.len, end);
        }
        self.text = text;
    }

    /// A text of the top level ended before the offset `end`. It is `len` bytes long and begins with
    /// `head`, of at most [`VALUE_BYTES_MAX`].
    fn end_top_text(&mut self, head: &[u8], len: u64, end: u64) {
        if self.slot == Slot::Key {
            self.member.key = TopLevelKey::of(head);
            if member::resembles_model(head) {
                let is_first = !std::mem::replace(&mut self.has_model, true);
                self.facts.is_model_ambiguous |= !is_first || self.member.key != TopLevelKey::Model;
            }
            if self.member.key == TopLevelKey::StreamOptions {
                self.facts.stream_options_at = None;
            }
            if self.member.key == TopLevelKey::ServiceTier {
                self.facts.is_tier_ambiguous |= std::mem::replace(&mut self.has_tier, true);
            }
            self.slot = Slot::Colon;
            return;
        }
        self.slot = Slot::Comma;
        let span = self.value_span(end);
        let is_stated = len > 0;
        match self.member.key {
            TopLevelKey::Model => {
                self.facts.model_insertion = None;
                let value = facts::text(head, len > length(head));
                self.facts.model = Some(Field { value, span });
            }
            TopLevelKey::ServiceTier => {
                let value = facts::text(head, len > length(head));
                self.facts.service_tier = Some(Field { value, span });
            }
            TopLevelKey::PromptCacheKey => {
                self.facts.prompt_cache_key = facts::affinity_hash(head, len);
            }
            TopLevelKey::User => self.facts.user = facts::affinity_hash(head, len),
            TopLevelKey::PreviousResponseId => self.counts.refers_to_response = is_stated,
            TopLevelKey::Conversation => self.counts.refers_to_conversation = is_stated,
            TopLevelKey::Other | TopLevelKey::Prompt | TopLevelKey::DataSources => {
                if !head.starts_with(DATA_URL) {
                    self.add_prompt_bytes(len);
                }
            }
            key => self.set_untyped(key, span, bytes::count(head)),
        }
    }

    /// A number or a literal ended before the current offset.
    fn end_scalar(&mut self) {
        self.slot = Slot::Comma;
        let span = self.value_span(self.at);
        let key = self.member.key;
        match (key, self.member.raw.as_slice()) {
            (TopLevelKey::Stream, raw) => self.facts.stream = raw == b"true",
            (TopLevelKey::StreamOptions, b"null") => {
                self.facts.stream_options = Some(StreamOptions {
                    span,
                    include_usage: false,
                    is_null: true,
                    is_empty: false,
                    include_usage_span: None,
                });
            }
            (_, raw) => {
                let count = if self.member.is_raw_cut { None } else { bytes::count(raw) };
                self.set_untyped(key, span, count);
            }
        }
    }

    /// An object or array ended before the current offset.
    fn end_composite(&mut self) {
        self.slot = Slot::Comma;
        let span = self.value_span(self.at);
        match self.member.key {
            TopLevelKey::StreamOptions => {
                self.facts.stream_options = self.member.stream_options(span);
            }
            TopLevelKey::Conversation => self.counts.refers_to_conversation = true,
            TopLevelKey::DataSources => self.facts.has_dependencies = true,
            // A template, or several prompts. One prompt in tokens is an array of numbers.
            TopLevelKey::Prompt => {
                let is_of_tokens = self.member.raw.iter().all(|byte| !b"{\"".contains(byte));
                self.facts.has_dependencies |= !is_of_tokens;
            }
            key => self.set_untyped(key, span, None),
        }
    }

    /// The value of `key` is not of the type that it should have; `count` is what it says as a
    /// number.
    fn set_untyped(&mut self, key: TopLevelKey, span: Span, count: Option<u64>) {
        match key {
            TopLevelKey::Model => {
                self.facts.model = None;
                self.facts.model_insertion = Some(Insertion {
                    at: span.at,
                    remove: span.len,
                    prefix: Cow::default(),
                    suffix: Cow::default(),
                });
            }
            TopLevelKey::Stream => self.facts.stream = false,
            TopLevelKey::StreamOptions => self.facts.stream_options = None,
            TopLevelKey::MaxTokens => self.counts.max_tokens = count,
            TopLevelKey::MaxCompletionTokens => self.counts.max_completion_tokens = count,
            TopLevelKey::MaxOutputTokens => self.counts.max_output_tokens = count,
            TopLevelKey::N => self.counts.n = count,
            TopLevelKey::BestOf => self.counts.best_of = count,
            TopLevelKey::ServiceTier => self.facts.service_tier = None,
            TopLevelKey::PromptCacheKey => self.facts.prompt_cache_key = None,
            TopLevelKey::User => self.facts.user = None,
            TopLevelKey::PreviousResponseId => self.counts.refers_to_response = false,
            TopLevelKey::Conversation => self.counts.refers_to_conversation = false,
            TopLevelKey::DataSources | TopLevelKey::Prompt | TopLevelKey::Other => {}
        }
    }

    /// A text below the top level ended. It is `len` bytes long and begins with `head`.
    fn end_nested_text(&mut self, head: &[u8], len: u64) {
        let text = NestedText::new(head, len);
        self.facts.has_dependencies |= text.word == NestedWord::Dependency;
        self.nested.pending = Some(text);
    }

    /// If a text below the top level was pending, it was a value.
    fn end_nested_value(&mut self) {
        let Some(text) = self.nested.pending.take() else { return };
        match (self.nested.key, text.word) {
            (NestedKey::EncryptedContent, _) | (_, NestedWord::ItemReference) => {
                self.facts.previous_response = true;
            }
            (_, NestedWord::Image) => self.facts.images = self.facts.images.saturating_add(1),
            _ => {}
        }
        if self.nested.key != NestedKey::Data && text.word != NestedWord::DataUrl {
            self.add_prompt_bytes(text.len);
        }
    }

    /// A member or an element ended.
    fn end_element(&mut self) {
        self.end_nested_value();
        self.nested.key = NestedKey::None;
    }

    fn add_prompt_bytes(&mut self, bytes: u64) {
        self.facts.prompt_text_bytes = self.facts.prompt_text_bytes.saturating_add(bytes);
    }

    fn value_span(&self, end: u64) -> Span {
        Span { at: self.member.at, len: end.saturating_sub(self.member.at) }
    }

    fn fail(&mut self, problem: &'static str) {
        self.lexer = Lexer::Malformed { problem };
    }
}

/// The text at the beginning of `rest`, and what follows its quote; `None` when it has an escape or does
/// not end here.
fn split_text(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (text, after) = rest.split_at_checked(bytes::quote_or_backslash(rest))?;
    Some((text, after.strip_prefix(b"\"")?))
}

/// The number or literal at the beginning of `rest`, and what follows it.
fn split_scalar(rest: &[u8]) -> (&[u8], &[u8]) {
    let len = rest.iter().position(|&byte| is_delimiter(byte)).unwrap_or(rest.len());
    rest.split_at_checked(len).unwrap_or((rest, &[]))
}

/// The part of `rest` before `after`, its end.
fn before<'a>(rest: &'a [u8], after: &[u8]) -> &'a [u8] {
    rest.get(..rest.len().saturating_sub(after.len())).unwrap_or(rest)
}

/// The length of `bytes` as an offset.
fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
