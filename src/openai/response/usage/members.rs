//! The few members of a response that matter, whole or as one event, in constant memory.
//!
//! A response is mostly arrays (`choices`, `output`, `data`) and long texts. Nothing in an array matters,
//! except whether a choice has content. So arrays and texts are skipped from one quote or bracket to the
//! next, and only members outside arrays are read by name. Braces in an array need no counting, because
//! they are closed when the array is.

use super::word::{WORD_BYTES_MAX, Word};
use super::{Stated, Usage};
use crate::openai::bytes::{self, is_delimiter, is_space};

/// Reads one JSON object.
#[derive(Debug, Default)]
pub(in crate::openai::response) struct Members {
    lexer: Lexer,
    /// How many arrays are open.
    arrays: u64,
    /// How many objects outside arrays are open.
    depth: usize,
    /// The member that is being read, by depth.
    keys: [Key; DEPTH_MAX],
    word: Word,
    /// The text that comes next is content, unless it is empty.
    is_content: bool,
    has_content: bool,
    choices: Choices,
    top_usage: TopUsage,
    stated: Stated,
    usage: Option<Usage>,
    /// It is something other than one object.
    is_foreign: bool,
    /// It is an object and complete.
    is_complete: bool,
}

/// What is known about `choices`. If it is given twice, the one that makes this no usage chunk counts: bytes
/// that were forwarded because of it cannot be taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Choices {
    #[default]
    Unseen,
    Empty,
    /// It has an element, or is no array.
    Filled,
}

/// What is known about the `usage` of the top level, in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TopUsage {
    #[default]
    Unseen,
    Object,
    /// Usually it is `null`.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lexer {
    /// Between tokens.
    #[default]
    Between,
    /// In a text.
    Text,
    /// After the backslash of an escape.
    Escape,
    /// After a text, which is a key when a colon follows.
    AfterText,
    /// Before a value.
    AfterColon,
    /// In a number, `true`, `false` or `null`.
    Scalar,
    /// After the bracket that opens `choices`.
    ChoicesBegin,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    None,
    Usage,
    Response,
    Choices,
    Delta,
    Prompt,
    PromptDetails,
    Completion,
    CompletionDetails,
    Total,
    Cached,
    Reasoning,
}

/// `response.usage.prompt_tokens_details.cached_tokens`.
const DEPTH_MAX: usize = 4;

impl Members {
    /// Reads the next bytes.
    pub(in crate::openai::response) fn push(&mut self, bytes: &[u8]) {
        self.push_while(bytes, |members| !members.is_foreign);
    }

    /// Reads the next bytes, as long as it may be the chunk that only states the usage of a chat.
    pub(in crate::openai::response) fn push_while_possible(&mut self, bytes: &[u8]) {
        self.push_while(bytes, Self::may_be_usage_chunk);
    }

    /// Reads an event that states no usage, until it shows that it has content.
    #[inline]
    pub(in crate::openai::response) fn push_until_content(&mut self, bytes: &[u8]) {
        self.push_while(bytes, |members| !members.is_foreign && !members.has_content);
    }

    /// Whether nothing that matters was read.
    #[inline]
    pub(in crate::openai::response) fn is_fresh(&self) -> bool {
        self.lexer == Lexer::Between && !self.is_open() && !self.is_complete && !self.is_foreign
    }

    /// A line of data is complete. Lines are joined by line feeds, which mean nothing after the object.
    #[inline]
    pub(in crate::openai::response) fn end_line(&mut self) {
        if !self.is_complete {
            self.push(b"\n");
        }
    }

    /// Another event begins.
    #[inline]
    pub(in crate::openai::response) fn reset(&mut self) {
        let Self {
            lexer,
            arrays,
            depth,
            keys,
            // These are set before they are read.
            word: _,
            stated: _,
            is_content,
            has_content,
            choices,
            top_usage,
            usage,
            is_foreign,
            is_complete,
        } = self;
        *lexer = Lexer::default();
        *arrays = 0;
        *depth = 0;
        *keys = Default::default();
        *choices = Choices::default();
        *top_usage = TopUsage::default();
        *usage = None;
        for flag in [is_content, has_content, is_foreign, is_complete] {
            *flag = false;
        }
    }

    #[inline(always)]
    fn push_while(&mut self, bytes: &[u8], goes_on: impl Fn(&Self) -> bool) {
        let mut rest = bytes;
        while goes_on(self)
            && let Some((&byte, after)) = rest.split_first()
        {
            rest = match self.lexer {
                Lexer::Between | Lexer::AfterColon if byte == b'"' && self.is_open() => {
                    self.begin_text(after)
                }
                Lexer::Between if self.arrays > 0 => self.skip_in_array(rest),
                Lexer::Text => self.in_text(rest),
                Lexer::Scalar => self.in_scalar(rest),
                _ => {
                    self.step(byte);
                    after
                }
            };
        }
    }

    fn is_open(&self) -> bool {
        self.depth > 0 || self.arrays > 0
    }

    /// The last usage that was stated completely.
    pub(in crate::openai::response) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether there is output in it: text, arguments, a refusal, reasoning.
    pub(in crate::openai::response) fn has_content(&self) -> bool {
        self.has_content
    }

    /// Whether it may still turn out to be the chunk that only states the usage of a chat.
    pub(in crate::openai::response) fn may_be_usage_chunk(&self) -> bool {
        !self.is_foreign
            && self.choices != Choices::Filled
            && self.top_usage != TopUsage::Other
            && (!self.is_complete || self.is_usage_chunk())
    }

    /// Whether it is complete, has a usage, and its choices are there and empty.
    pub(in crate::openai::response) fn is_usage_chunk(&self) -> bool {
        self.is_complete
            && !self.is_foreign
            && self.choices == Choices::Empty
            && self.top_usage == TopUsage::Object
    }

    fn step(&mut self, byte: u8) {
        match self.lexer {
            Lexer::Escape => self.lexer = Lexer::Text,
            Lexer::AfterText | Lexer::AfterColon | Lexer::ChoicesBegin if is_space(byte) => {}
            Lexer::AfterText => {
                let word = self.word;
                if byte == b':' {
                    self.end_key(word.text());
                } else {
                    self.end_value(word.text());
                    self.between(byte);
                }
            }
            Lexer::ChoicesBegin => {
                if byte != b']' {
                    self.choices = Choices::Filled;
                } else if self.choices == Choices::Unseen {
                    self.choices = Choices::Empty;
                }
                self.between(byte);
            }
            // `push_while` reads texts and scalars.
            Lexer::Between | Lexer::AfterColon | Lexer::Text | Lexer::Scalar => self.between(byte),
        }
    }

    fn between(&mut self, byte: u8) {
        let is_value = std::mem::replace(&mut self.lexer, Lexer::Between) == Lexer::AfterColon;
        self.is_content &= is_value && byte == b'"';
        if self.arrays > 0 {
            self.in_array(byte);
        } else if self.depth == 0 {
            self.outside(byte);
        } else {
            self.in_object(byte);
        }
    }

    /// Before the object and after it.
    fn outside(&mut self, byte: u8) {
        match byte {
            _ if is_space(byte) => {}
            b'{' if !self.is_complete => self.depth = 1,
            // A byte order mark.
            0xef | 0xbb | 0xbf if !self.is_complete => {}
            _ => self.is_foreign = true,
        }
    }

    fn in_array(&mut self, byte: u8) {
        match byte {
            b'"' => self.enter_text(),
            b'[' => self.arrays = self.arrays.saturating_add(1),
            b']' => self.arrays = self.arrays.saturating_sub(1),
            _ => {}
        }
    }

    fn in_object(&mut self, byte: u8) {
        match byte {
            b'"' => self.enter_text(),
            b'{' => self.open(),
            b'}' => self.close(),
            b',' => self.set_key(Key::None),
            b'[' => {
                self.arrays = 1;
                if self.depth == 1 && self.key_at(1) == Key::Choices {
                    self.lexer = Lexer::ChoicesBegin;
                } else {
                    self.note_other_value();
                }
            }
            b':' | b']' => {}
            _ if is_space(byte) => {}
            _ => {
                self.word.begin(&[byte]);
                self.lexer = Lexer::Scalar;
            }
        }
    }

    fn open(&mut self) {
        if self.usage_depth() == Some(self.depth) {
            self.stated = Stated::default();
            if self.depth == 1 && self.top_usage == TopUsage::Unseen {
                self.top_usage = TopUsage::Object;
            }
        } else {
            self.note_other_value();
        }
        self.depth = self.depth.saturating_add(1);
        self.set_key(Key::None);
    }

    fn close(&mut self) {
        self.set_key(Key::None);
        self.depth = self.depth.saturating_sub(1);
        if self.usage_depth() == Some(self.depth) {
            self.usage = self.stated.usage().or(self.usage);
        }
        self.is_complete = self.depth == 0;
    }

    /// Reads up to the next bracket of an array, or to the next text, and returns what follows.
    fn skip_in_array<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let special = rest.get(bytes::quote_or_bracket(rest)..).unwrap_or_default();
        match special.split_first() {
            Some((&bracket, after)) if bracket != b'"' => {
                self.in_array(bracket);
                after
            }
            _ => special,
        }
    }

    /// Reads the text of which `rest` follows the quote, all of it if it is here and has no escape, and
    /// returns what follows.
    fn begin_text<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        self.is_content &= self.lexer == Lexer::AfterColon;
        let text = rest.split_at_checked(bytes::quote_or_backslash(rest));
        let Some((text, [b'"', after @ ..])) = text else {
            self.enter_text();
            return rest;
        };
        self.has_content |= std::mem::take(&mut self.is_content) && !text.is_empty();
        self.lexer = Lexer::Between;
        if !self.reads_names() {
            return after;
        }
        match after.split_first() {
            Some((b':', after)) => {
                self.end_key(text);
                after
            }
            Some((byte, _)) if !is_space(*byte) => {
                self.end_value(text);
                after
            }
            _ => {
                self.word.begin(text);
                self.lexer = Lexer::AfterText;
                after
            }
        }
    }

    fn enter_text(&mut self) {
        self.word.begin(&[]);
        self.lexer = Lexer::Text;
    }

    /// Reads `rest` up to the end of a text, and returns what follows.
    fn in_text<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let mut rest = rest;
        loop {
            let len = bytes::quote_or_backslash(rest);
            let (run, special) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            self.has_content |= self.is_content && !run.is_empty();
            // Nothing that matters has an escape in it.
            if !self.word.has_escape {
                self.word.extend(run);
            }
            let Some((&byte, after)) = special.split_first() else { return special };
            if byte == b'"' {
                self.lexer = if self.reads_names() { Lexer::AfterText } else { Lexer::Between };
                return after;
            }
            self.has_content |= self.is_content;
            self.word.has_escape = true;
            let Some((_, after)) = after.split_first() else {
                self.lexer = Lexer::Escape;
                return after;
            };
            rest = after;
        }
    }

    /// Reads `rest` up to the end of a number or a literal, and returns what follows.
    fn in_scalar<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let len = rest.iter().position(|&byte| is_delimiter(byte)).unwrap_or(rest.len());
        let (run, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        self.word.extend(run);
        if !after.is_empty() {
            self.lexer = Lexer::Between;
            let word = self.word;
            self.end_value(word.text());
        }
        after
    }

    /// Whether texts may be keys that matter here.
    fn reads_names(&self) -> bool {
        let seeks_content = self.depth == 1 && !self.has_content;
        self.arrays == 0 || (seeks_content && self.key_at(1) == Key::Choices)
    }

    /// `word`, the text before a colon, was a key.
    fn end_key(&mut self, word: &[u8]) {
        self.lexer = Lexer::AfterColon;
        if self.arrays > 0 {
            self.is_content = matches!(
                word,
                b"content" | b"text" | b"arguments" | b"refusal" | b"reasoning_content"
            );
            return;
        }
        let key = Key::of(word);
        self.is_content = self.depth == 1 && key == Key::Delta;
        self.set_key(key);
    }

    /// `word` was a value.
    fn end_value(&mut self, word: &[u8]) {
        if self.arrays > 0 {
            return;
        }
        self.note_other_value();
        let Some(usage_depth) = self.usage_depth() else { return };
        let member = self.key_at(usage_depth.saturating_add(1));
        let count = || bytes::count(word.get(..WORD_BYTES_MAX).unwrap_or(word));
        match self.depth.saturating_sub(usage_depth) {
            1 => match member {
                Key::Prompt => self.stated.prompt = count(),
                Key::Completion => self.stated.completion = count(),
                Key::Total => self.stated.total = count(),
                _ => {}
            },
            2 => match (member, self.key_at(self.depth)) {
                (Key::PromptDetails, Key::Cached) => self.stated.cached = count(),
                (Key::CompletionDetails, Key::Reasoning) => self.stated.reasoning = count(),
                _ => {}
            },
            _ => {}
        }
    }

    /// The current member of the top level is of a type that it should not have.
    fn note_other_value(&mut self) {
        match self.key_at(1) {
            Key::Choices if self.depth == 1 => self.choices = Choices::Filled,
            Key::Usage if self.depth == 1 => self.top_usage = TopUsage::Other,
            _ => {}
        }
    }

    /// The depth of the object that has the `usage` being read.
    fn usage_depth(&self) -> Option<usize> {
        match (self.key_at(1), self.key_at(2)) {
            (Key::Usage, _) => Some(1),
            (Key::Response, Key::Usage) => Some(2),
            _ => None,
        }
    }

    fn key_at(&self, depth: usize) -> Key {
        depth.checked_sub(1).and_then(|at| self.keys.get(at)).copied().unwrap_or_default()
    }

    fn set_key(&mut self, key: Key) {
        if let Some(slot) = self.depth.checked_sub(1).and_then(|at| self.keys.get_mut(at)) {
            *slot = key;
        }
    }
}

impl Key {
    fn of(word: &[u8]) -> Self {
        match word {
            b"usage" => Self::Usage,
            b"response" => Self::Response,
            b"choices" => Self::Choices,
            b"delta" => Self::Delta,
            b"prompt_tokens" | b"input_tokens" => Self::Prompt,
            b"prompt_tokens_details" | b"input_tokens_details" => Self::PromptDetails,
            b"completion_tokens" | b"output_tokens" => Self::Completion,
            b"completion_tokens_details" | b"output_tokens_details" => Self::CompletionDetails,
            b"total_tokens" => Self::Total,
            b"cached_tokens" => Self::Cached,
            b"reasoning_tokens" => Self::Reasoning,
            _ => Self::None,
        }
    }
}
