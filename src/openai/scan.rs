//! Reads the facts of a JSON body in slices, in constant memory.
//!
//! The body can be many megabytes and arrives in pieces, so it is never held or parsed into a tree.
//! An automaton walks over its bytes; any way of cutting the body into slices gives the same facts.
//!
//! - Only the top level is read by name. Below it there are only text values to be counted, and the
//!   depth is a counter, so that nesting costs nothing.
//! - Below the top level a text is taken for a value until a colon follows; then it was a key. That
//!   spares a stack of what kind each open bracket is.
//! - The body is not validated: that is the backend's job. It is malformed only where this automaton
//!   cannot go on with certainty: no object, a broken top level, an early end, trailing bytes.

pub use super::facts::{BodyFacts, Field, Insertion, Malformed, Span, StreamOptions};

use super::facts::{self, TOKEN_BYTES, VALUE_BYTES_MAX};
use member::{Member, TopLevelKey};
use memchr::memchr2;
use text::Text;

mod member;
#[cfg(test)]
mod tests;
mod text;

/// Reads one JSON body.
#[derive(Debug)]
pub struct JsonScanner {
    /// The offset of the next byte.
    at: u64,
    lexer: Lexer,
    /// How many brackets are open.
    depth: u64,
    /// What comes next at the top level.
    slot: Slot,
    /// The text being read, or just read.
    text: Text,
    nested: Nested,
    member: Member,
    counts: Counts,
    facts: BodyFacts,
    /// The first byte after the opening brace.
    members_at: u64,
    malformed: Option<Malformed>,
}

/// Where in a token the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lexer {
    /// Before the opening brace; so many bytes of a byte order mark were seen.
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
}

/// What the grammar expects next at the top level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Key,
    Colon,
    Value,
    Comma,
}

/// What is remembered below the top level.
#[derive(Debug, Default)]
struct Nested {
    /// A text was read and may turn out to be a key.
    is_pending: bool,
    /// What the value that comes next is a value of.
    key: NestedKey,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NestedKey {
    /// None: an element of an array.
    #[default]
    None,
    /// Audio as base64.
    Data,
    /// Reasoning that one resource can decrypt.
    EncryptedContent,
    Other,
}

/// Counts of which the largest matters, by key, so that for each key the last one wins.
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

/// Enough to tell `encrypted_content` from anything longer.
const NESTED_BYTES_MAX: usize = 20;

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
            text: Text::new(),
            nested: Nested::default(),
            member: Member::new(),
            counts: Counts::default(),
            facts: BodyFacts::default(),
            members_at: 0,
            malformed: None,
        }
    }

    /// Reads the next slice of the body.
    pub fn push(&mut self, slice: &[u8]) {
        let mut rest = slice;
        while let Some((&byte, tail)) = rest.split_first() {
            if self.malformed.is_some() {
                self.at = self.at.saturating_add(length(rest));
                return;
            }
            if self.lexer == Lexer::Text {
                rest = self.text_run(rest);
                continue;
            }
            self.keep_raw(byte);
            self.step(byte);
            self.at = self.at.saturating_add(1);
            rest = tail;
        }
    }

    /// The facts, once the whole body was read.
    ///
    /// # Errors
    ///
    /// The body is no JSON object, or its top level is broken, or it ends early or late.
    pub fn finish(mut self) -> Result<BodyFacts, Malformed> {
        if let Some(malformed) = self.malformed {
            return Err(malformed);
        }
        if self.lexer != Lexer::End {
            let problem = match self.lexer {
                Lexer::Start { .. } => "the body is empty",
                _ => "the body ends inside a value",
            };
            return Err(Malformed { at: self.at, problem });
        }
        let counts = &self.counts;
        let facts = &mut self.facts;
        facts.size = self.at;
        facts.max_output_tokens =
            counts.max_tokens.max(counts.max_completion_tokens).max(counts.max_output_tokens);
        facts.choices = counts.n.max(counts.best_of);
        facts.previous_response |= counts.refers_to_response || counts.refers_to_conversation;
        Ok(self.facts)
    }

    /// Reads `rest` up to the next byte of a text that means something, and returns what follows.
    fn text_run<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let rest = if self.is_only_counted() { self.count_run(rest) } else { rest };
        let run_len = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        let (run, after) = rest.split_at_checked(run_len).unwrap_or((rest, &[]));
        self.text.extend(run);
        if self.depth > 1 {
            self.member.keep(run);
        }
        self.at = self.at.saturating_add(length(run));
        let Some((&byte, after)) = after.split_first() else { return after };
        self.keep_raw(byte);
        if byte == b'"' {
            self.lexer = Lexer::Between;
            self.end_text();
        } else {
            self.lexer = Lexer::Escape;
        }
        self.at = self.at.saturating_add(1);
        after
    }

    /// Whether nothing of what comes in the text is kept.
    fn is_only_counted(&self) -> bool {
        self.text.is_head_full() && (self.depth <= 1 || self.member.is_kept())
    }

    /// Counts `rest` up to the next byte that is neither plain nor a simple escape, and returns what
    /// follows. Prompts are most of a body, and have an escape in every line.
    fn count_run<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let (run_len, text_len) = text::simple_run(rest);
        self.text.count(text_len);
        self.at = self.at.saturating_add(run_len);
        let run_len = usize::try_from(run_len).unwrap_or(usize::MAX);
        rest.get(run_len..).unwrap_or_default()
    }

    fn step(&mut self, byte: u8) {
        match self.lexer {
            Lexer::Start { mark_len } => self.start(byte, mark_len),
            Lexer::Between if self.depth == 1 => self.top(byte),
            Lexer::Between => self.below(byte),
            Lexer::Scalar => {
                if is_delimiter(byte) {
                    self.lexer = Lexer::Between;
                    if self.depth == 1 {
                        self.end_scalar();
                        self.top(byte);
                    } else {
                        self.below(byte);
                    }
                }
            }
            Lexer::Escape => self.escape(byte),
            Lexer::Unicode { digits_left, code } => self.unicode(byte, digits_left, code),
            Lexer::End if is_space(byte) => {}
            Lexer::End => self.fail("something follows the object"),
            // `text_run` reads these.
            Lexer::Text => {}
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
            self.facts.model_insertion = Some(Insertion {
                at: self.members_at,
                remove: 0,
                prefix: b"\"model\":".to_vec(),
                suffix: Vec::new(),
            });
        }
    }

    /// Between two tokens of the top level.
    fn top(&mut self, byte: u8) {
        match (byte, self.slot) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            (b'"', Slot::Key) => {
                // With a member in the object, an inserted one needs a comma.
                if let Some(insertion) = &mut self.facts.model_insertion
                    && insertion.at == self.members_at
                    && insertion.suffix.is_empty()
                {
                    insertion.suffix.push(b',');
                }
                self.begin_text(VALUE_BYTES_MAX);
            }
            (b':', Slot::Colon) => self.slot = Slot::Value,
            (b'"', Slot::Value) => {
                self.member.begin(self.at);
                self.begin_text(VALUE_BYTES_MAX);
            }
            (b'{' | b'[', Slot::Value) => {
                self.member.begin(self.at);
                self.member.keep(&[byte]);
                self.nested = Nested::default();
                self.depth = 2;
            }
            (b',', Slot::Comma) => self.slot = Slot::Key,
            // A trailing comma is the backend's affair.
            (b'}', Slot::Key | Slot::Comma) => {
                self.depth = 0;
                self.lexer = Lexer::End;
            }
            (byte, Slot::Value) if !is_delimiter(byte) => {
                self.member.begin(self.at);
                self.member.keep(&[byte]);
                self.lexer = Lexer::Scalar;
            }
            (_, Slot::Key) => self.fail("a key or the end of the object is expected"),
            (_, Slot::Colon) => self.fail("a colon is expected"),
            (_, Slot::Value) => self.fail("a value is expected"),
            (_, Slot::Comma) => self.fail("a comma or the end of the object is expected"),
        }
    }

    /// Between two tokens below the top level.
    fn below(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b':' => {
                self.nested.key = NestedKey::of(&self.text);
                self.nested.is_pending = false;
            }
            b'"' => {
                self.end_nested_value();
                self.begin_text(NESTED_BYTES_MAX);
            }
            b',' => {
                self.end_nested_value();
                self.nested.key = NestedKey::None;
            }
            b'{' | b'[' => {
                self.end_nested_value();
                self.nested.key = NestedKey::None;
                self.depth = self.depth.saturating_add(1);
            }
            b'}' | b']' => {
                self.end_nested_value();
                self.nested.key = NestedKey::None;
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1 {
                    self.end_composite();
                }
            }
            _ => {
                // Prompts may be given as arrays of tokens.
                if byte.is_ascii_digit() && self.nested.key == NestedKey::None {
                    self.add_prompt_bytes(TOKEN_BYTES);
                }
                self.lexer = Lexer::Scalar;
            }
        }
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
            self.lexer = match byte {
                b'"' => Lexer::Between,
                b'\\' => Lexer::Escape,
                _ => Lexer::Text,
            };
            self.text.extend("\u{fffd}".as_bytes());
            if byte == b'"' {
                self.end_text();
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

    /// A text ended with the quote at the current offset.
    fn end_text(&mut self) {
        self.text.flush_surrogate();
        if self.depth > 1 {
            self.nested.is_pending = true;
            return;
        }
        if self.slot == Slot::Key {
            self.member.key = TopLevelKey::of(&self.text);
            if self.member.key == TopLevelKey::StreamOptions {
                self.facts.stream_options_at = None;
            }
            self.slot = Slot::Colon;
            return;
        }
        self.slot = Slot::Comma;
        let span = self.value_span(self.at.saturating_add(1));
        let text = &self.text;
        let is_stated = text.len > 0;
        let hash = facts::affinity_hash(&text.head, text.len);
        match self.member.key {
            TopLevelKey::Model => {
                self.facts.model_insertion = None;
                let value = facts::text(&text.head, text.is_cut());
                self.facts.model = Some(Field { value, span });
            }
            TopLevelKey::PromptCacheKey => self.facts.prompt_cache_key = hash,
            TopLevelKey::User => self.facts.user = hash,
            TopLevelKey::PreviousResponseId => self.counts.refers_to_response = is_stated,
            TopLevelKey::Conversation => self.counts.refers_to_conversation = is_stated,
            TopLevelKey::Other if !text.is_data_url() => self.add_prompt_bytes(text.len),
            key => {
                let count = facts::count(&text.head);
                self.set_untyped(key, span, count);
            }
        }
    }

    /// A number or a literal ended before the current offset.
    fn end_scalar(&mut self) {
        self.slot = Slot::Comma;
        let span = self.value_span(self.at);
        // The delimiter that ended it was kept too.
        let raw_len = usize::try_from(span.len).unwrap_or(usize::MAX).min(self.member.raw.len());
        self.member.raw.truncate(raw_len);
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
                let count = if self.member.is_raw_cut { None } else { facts::count(raw) };
                self.set_untyped(key, span, count);
            }
        }
    }

    /// An object or array ended with the bracket at the current offset.
    fn end_composite(&mut self) {
        self.slot = Slot::Comma;
        let span = self.value_span(self.at.saturating_add(1));
        match self.member.key {
            TopLevelKey::StreamOptions => {
                self.facts.stream_options = self.member.stream_options(span);
            }
            TopLevelKey::Conversation => self.counts.refers_to_conversation = true,
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
                    prefix: Vec::new(),
                    suffix: Vec::new(),
                });
            }
            TopLevelKey::Stream => self.facts.stream = false,
            TopLevelKey::StreamOptions => self.facts.stream_options = None,
            TopLevelKey::MaxTokens => self.counts.max_tokens = count,
            TopLevelKey::MaxCompletionTokens => self.counts.max_completion_tokens = count,
            TopLevelKey::MaxOutputTokens => self.counts.max_output_tokens = count,
            TopLevelKey::N => self.counts.n = count,
            TopLevelKey::BestOf => self.counts.best_of = count,
            TopLevelKey::PromptCacheKey => self.facts.prompt_cache_key = None,
            TopLevelKey::User => self.facts.user = None,
            TopLevelKey::PreviousResponseId => self.counts.refers_to_response = false,
            TopLevelKey::Conversation => self.counts.refers_to_conversation = false,
            TopLevelKey::Other => {}
        }
    }

    /// If a text below the top level was pending, it was a value.
    fn end_nested_value(&mut self) {
        if !std::mem::take(&mut self.nested.is_pending) {
            return;
        }
        match (self.nested.key, self.text.head.as_slice()) {
            (NestedKey::EncryptedContent, _) | (_, b"item_reference") => {
                self.facts.previous_response = true;
            }
            (_, b"image_url" | b"input_image") => {
                self.facts.images = self.facts.images.saturating_add(1);
            }
            _ => {}
        }
        if self.nested.key != NestedKey::Data && !self.text.is_data_url() {
            self.add_prompt_bytes(self.text.len);
        }
    }

    fn add_prompt_bytes(&mut self, bytes: u64) {
        self.facts.prompt_text_bytes = self.facts.prompt_text_bytes.saturating_add(bytes);
    }

    fn value_span(&self, end: u64) -> Span {
        Span { at: self.member.at, len: end.saturating_sub(self.member.at) }
    }

    /// Keeps a byte of a value that is no text.
    fn keep_raw(&mut self, byte: u8) {
        if self.depth > 1 || self.lexer == Lexer::Scalar {
            self.member.keep(&[byte]);
        }
    }

    fn fail(&mut self, problem: &'static str) {
        self.malformed = Some(Malformed { at: self.at, problem });
    }
}

impl NestedKey {
    fn of(text: &Text) -> Self {
        match text.head.as_slice() {
            b"data" => Self::Data,
            b"encrypted_content" => Self::EncryptedContent,
            _ => Self::Other,
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether `byte` ends a number or a literal.
fn is_delimiter(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b',' | b':' | b'"' | b'{' | b'}' | b'[' | b']')
}

/// The length of `bytes` as an offset.
fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
