//! Reads the facts of a `multipart/form-data` body in slices, in constant memory.
//!
//! Audio and image uploads name their model in a form field, before or after a file of any size.
//! Parts are told apart by a delimiter: a line end, two hyphens and the boundary (RFC 2046, section
//! 5.1.1). A carriage return cannot be part of a boundary, so it begins a delimiter or none: the
//! search across slices needs a counter, not a buffer.

use super::facts::{self, BodyFacts, Field, Insertion, Malformed, Span, VALUE_BYTES_MAX};
use memchr::memchr;
use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// Reads one multipart body.
#[derive(Debug)]
pub struct MultipartScanner {
    /// The line end, the hyphens and the boundary.
    delimiter: Vec<u8>,
    /// The offset of the next byte.
    at: u64,
    state: State,
    part: Part,
    facts: BodyFacts,
}

/// Where in the body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first delimiter or in the content of a part, after so many bytes of a delimiter.
    Content { matched: usize },
    /// In the line of a delimiter; so many hyphens were seen right after it.
    DelimiterLine { hyphens: u8, is_line: bool },
    /// In a header line of a part.
    Headers,
    /// After the closing delimiter.
    End,
}

/// The part that is being read.
#[derive(Debug, Default)]
struct Part {
    name: Name,
    /// The header line that is being read, or the first bytes of the content.
    kept: Vec<u8>,
    /// The offset of the first byte of the content.
    content_at: u64,
    is_preamble: bool,
}

/// The fields that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    Model,
    Stream,
    Prompt,
    User,
    N,
    Image,
    #[default]
    Other,
}

/// The longest header line that is kept; no `content-disposition` that matters is longer.
const HEADER_BYTES_MAX: usize = 1_024;

/// RFC 2046 allows 70; some clients do not care.
const BOUNDARY_BYTES_MAX: usize = 200;

/// The boundary that a `content-type` of `multipart/form-data` names.
pub fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let mut parameters = Parameters { rest: content_type };
    if !parameters.value_alone().eq_ignore_ascii_case(b"multipart/form-data") {
        return None;
    }
    let boundary = parameters.find(|(name, _)| name == b"boundary").map(|(_, value)| value)?;
    let is_usable = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())
        && !boundary.iter().any(u8::is_ascii_control);
    is_usable.then_some(boundary)
}

impl MultipartScanner {
    /// Before the first byte of a body with this `boundary`.
    pub fn new(boundary: &[u8]) -> Self {
        Self {
            delimiter: [b"\r\n--", boundary].concat(),
            at: 0,
            // The line end before the first delimiter is not there.
            state: State::Content { matched: 2 },
            part: Part { is_preamble: true, ..Part::default() },
            facts: BodyFacts::default(),
        }
    }

    /// Reads the next slice of the body.
    pub fn push(&mut self, slice: &[u8]) {
        let mut rest = slice;
        while let Some((&byte, tail)) = rest.split_first() {
            if self.state == (State::Content { matched: 0 }) && byte != b'\r' {
                let run_len = memchr(b'\r', rest).unwrap_or(rest.len());
                let (run, after) = rest.split_at_checked(run_len).unwrap_or((rest, &[]));
                self.keep_content(run);
                self.at = self.at.saturating_add(length(run));
                rest = after;
                continue;
            }
            match self.state {
                State::Content { matched } => self.content(byte, matched),
                State::DelimiterLine { hyphens, is_line } => {
                    self.delimiter_line(byte, hyphens, is_line);
                }
                State::Headers => self.header(byte),
                State::End => {}
            }
            self.at = self.at.saturating_add(1);
            rest = tail;
        }
    }

    /// The facts, once the whole body was read.
    ///
    /// # Errors
    ///
    /// The closing delimiter did not come.
    pub fn finish(mut self) -> Result<BodyFacts, Malformed> {
        let is_closed = match self.state {
            State::End => true,
            State::DelimiterLine { hyphens, .. } => hyphens == 2,
            _ => false,
        };
        if !is_closed {
            let problem = if self.part.is_preamble {
                "the body does not contain its boundary"
            } else {
                "the body ends inside a part"
            };
            return Err(Malformed { at: self.at, problem });
        }
        if self.facts.model.is_some() {
            self.facts.model_insertion = None;
        }
        self.facts.size = self.at;
        Ok(self.facts)
    }

    /// One byte of content, or of the delimiter that ends it.
    fn content(&mut self, byte: u8, matched: usize) {
        if self.delimiter.get(matched) == Some(&byte) {
            let matched = matched.saturating_add(1);
            self.state = State::Content { matched };
            if matched == self.delimiter.len() {
                self.end_part();
            }
            return;
        }
        // It was content after all, but for a line end that belongs to the headers.
        let delimiter = std::mem::take(&mut self.delimiter);
        let behind = self.at.saturating_sub(self.part.content_at);
        let behind = usize::try_from(behind).unwrap_or(usize::MAX).min(matched);
        let matched_content =
            delimiter.get(matched.saturating_sub(behind)..matched).unwrap_or_default();
        self.keep_content(matched_content);
        self.delimiter = delimiter;
        if byte == b'\r' {
            self.state = State::Content { matched: 1 };
        } else {
            self.keep_content(&[byte]);
            self.state = State::Content { matched: 0 };
        }
    }

    /// The delimiter is complete with the byte at the current offset.
    fn end_part(&mut self) {
        let end = self.at.saturating_add(1).saturating_sub(length(&self.delimiter));
        let first = self.part.content_at;
        let span = Span { at: first, len: end.saturating_sub(first) };
        if self.part.is_preamble {
            self.facts.model_insertion = Some(self.model_part());
        } else {
            self.read_field(span);
        }
        self.part = Part { kept: std::mem::take(&mut self.part.kept), ..Part::default() };
        self.part.kept.clear();
        self.state = State::DelimiterLine { hyphens: 0, is_line: false };
    }

    /// A part that names a model, before the delimiter that ends at the current offset.
    fn model_part(&self) -> Insertion {
        let dashes = self.delimiter.get(2..).unwrap_or_default();
        Insertion {
            at: self.at.saturating_add(1).saturating_sub(length(dashes)),
            remove: 0,
            prefix: [dashes, b"\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n"]
                .concat()
                .into(),
            suffix: Cow::Borrowed(b"\r\n"),
        }
    }

    fn read_field(&mut self, span: Span) {
        let is_cut = span.len > length(&self.part.kept);
        let value = self.part.kept.as_slice();
        match self.part.name {
            Name::Model => {
                let value = facts::text(value, is_cut);
                self.facts.model = Some(Field { value, span });
            }
            Name::Stream => {
                self.facts.stream = value.trim_ascii().eq_ignore_ascii_case(b"true");
            }
            Name::Prompt => {
                self.facts.prompt_text_bytes =
                    self.facts.prompt_text_bytes.saturating_add(span.len);
            }
            Name::User => self.facts.user = facts::affinity_hash(value, span.len),
            Name::N => self.facts.choices = facts::count(value),
            Name::Image => self.facts.images = self.facts.images.saturating_add(1),
            Name::Other => {}
        }
    }

    /// The rest of the line of a delimiter: hyphens when it is the last one, else white space.
    fn delimiter_line(&mut self, byte: u8, hyphens: u8, is_line: bool) {
        self.state = match byte {
            b'-' if hyphens < 2 && !is_line => {
                State::DelimiterLine { hyphens: hyphens.saturating_add(1), is_line: false }
            }
            _ if hyphens == 2 => State::End,
            b'\n' => State::Headers,
            _ => State::DelimiterLine { hyphens: 0, is_line: true },
        };
    }

    fn header(&mut self, byte: u8) {
        if byte != b'\n' {
            if self.part.kept.len() < HEADER_BYTES_MAX {
                self.part.kept.push(byte);
            }
            return;
        }
        let line = self.part.kept.trim_ascii_end();
        if line.is_empty() {
            self.part.content_at = self.at.saturating_add(1);
            // The blank line may itself be the line end of the next delimiter.
            self.state = State::Content { matched: 2 };
        } else if let Some(name) = Name::of_header(line) {
            self.part.name = name;
        }
        self.part.kept.clear();
    }

    fn keep_content(&mut self, run: &[u8]) {
        if matches!(self.part.name, Name::Other | Name::Image | Name::Prompt) {
            return;
        }
        let room = VALUE_BYTES_MAX.saturating_sub(self.part.kept.len());
        self.part.kept.extend_from_slice(run.get(..room).unwrap_or(run));
    }
}

impl Name {
    /// The field that a header line names, if it is a `content-disposition`.
    fn of_header(line: &[u8]) -> Option<Self> {
        let colon = memchr(b':', line)?;
        let (header, value) = line.split_at_checked(colon)?;
        if !header.trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            return None;
        }
        let mut parameters = Parameters { rest: value.get(1..)? };
        let _disposition = parameters.value_alone();
        let name = parameters.find(|(name, _)| name == b"name").map(|(_, value)| value)?;
        Some(match name.as_slice() {
            b"model" => Self::Model,
            b"stream" => Self::Stream,
            b"prompt" => Self::Prompt,
            b"user" => Self::User,
            b"n" => Self::N,
            b"image" | b"image[]" => Self::Image,
            _ => Self::Other,
        })
    }
}

/// The parameters of a header value: `; name=value; name="quoted \"value\""`.
struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Parameters<'a> {
    /// What stands before the first parameter.
    fn value_alone(&mut self) -> &'a [u8] {
        let len = memchr(b';', self.rest).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, &[]));
        self.rest = rest;
        value.trim_ascii()
    }

    /// The value that begins at the current place, quoted or not.
    fn value(&mut self) -> Vec<u8> {
        self.rest = self.rest.trim_ascii_start();
        let Some(quoted) = self.rest.strip_prefix(b"\"") else {
            return self.value_alone().to_vec();
        };
        let mut value = Vec::new();
        let mut bytes = quoted.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' => value.extend(bytes.next()),
                _ => value.push(byte),
            }
        }
        self.rest = bytes.as_slice();
        value
    }
}

impl Iterator for Parameters<'_> {
    /// A name in lower case and its value.
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let semicolon = memchr(b';', self.rest)?;
        self.rest = self.rest.get(semicolon.saturating_add(1)..)?;
        let len = self.rest.iter().position(|byte| matches!(byte, b'=' | b';'));
        let (name, rest) = self.rest.split_at_checked(len.unwrap_or(self.rest.len()))?;
        let name = name.trim_ascii().to_ascii_lowercase();
        self.rest = rest;
        let Some(after) = rest.strip_prefix(b"=") else { return Some((name, Vec::new())) };
        self.rest = after;
        Some((name, self.value()))
    }
}

/// The length of `bytes` as an offset.
fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
