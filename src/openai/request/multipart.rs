//! Reads the facts of a `multipart/form-data` body in slices, in constant memory.
//!
//! Audio and image uploads name their model in a form field, before or after a file of any size.
//! A line separates parts: two hyphens, the boundary, white space (RFC 2046, section 5.1.1). A line that
//! only begins like that is content. A line end cannot be part of a boundary, so the search across slices
//! needs a counter, not a buffer.
//!
//! Other parsers end lines at a lone carriage return or line feed, or continue behind the end. Where such a
//! parser would find another part, or an unsure header, the body is marked: its model cannot be rewritten
//! with certainty.

use super::facts::{self, BodyFacts, Field, Insertion, Malformed, Span, VALUE_BYTES_MAX};
use crate::openai::bytes;
use disposition::{Line, Name};
use memchr::memchr2;
use std::borrow::Cow;

mod disposition;
#[cfg(test)]
mod tests;

/// Reads one multipart body.
#[derive(Debug)]
pub struct MultipartScanner {
    /// The hyphens and the boundary.
    dashes: Vec<u8>,
    /// The offset of the next byte.
    at: u64,
    state: State,
    /// The bytes after the boundary in its line.
    tail: Vec<u8>,
    part: Part,
    facts: BodyFacts,
}

/// The place of the next byte in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In content, and in the middle of its line.
    Content,
    /// In content, after this line end and the first `matched` bytes of a boundary.
    LineStart { line_end: LineEnd, matched: usize },
    /// In the rest of the line of a boundary.
    Boundary,
    /// In the rest of the line of the last boundary.
    LastBoundary,
    /// In a header line of a part.
    Headers,
}

/// What ended the line before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Cr,
    Lf,
    CrLf,
}

/// The part that is being read.
#[derive(Debug, Default)]
struct Part {
    place: Place,
    name: Name,
    has_disposition: bool,
    /// The header line that is being read, or the first bytes of the content.
    kept: Vec<u8>,
    /// The offset of the first byte of the content.
    content_at: u64,
}

/// The place of a part in the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Not a part: it comes before the first boundary.
    Before,
    #[default]
    Between,
    /// Not a part: it comes after the last boundary.
    Behind,
}

/// The longest header line that is kept; no `content-disposition` that matters is longer.
const HEADER_BYTES_MAX: usize = 1_024;

/// RFC 2046 allows 70; some clients use more.
const BOUNDARY_BYTES_MAX: usize = 200;

/// RFC 2046 allows white space after a boundary for gateways that pad lines, which no longer exist.
const TAIL_BYTES_MAX: usize = 64;

/// The boundary that a `content-type` of `multipart/form-data` names; `None` when parsers could take
/// another one from it.
pub fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let boundary = disposition::boundary(content_type)?;
    // RFC 2046, except for the comma, which joins headers.
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_-./:=? ".contains(byte);
    let is_usable = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())
        && boundary.iter().all(is_allowed)
        && boundary.last() != Some(&b' ');
    is_usable.then_some(boundary)
}

impl MultipartScanner {
    /// Before the first byte of a body with this `boundary`.
    pub fn new(boundary: &[u8]) -> Self {
        Self {
            dashes: [b"--", boundary].concat(),
            at: 0,
            // The line end before the first boundary is not there.
            state: State::LineStart { line_end: LineEnd::CrLf, matched: 0 },
            tail: Vec::new(),
            part: Part { place: Place::Before, ..Part::default() },
            facts: BodyFacts::default(),
        }
    }

    /// Reads the next slice of the body.
    pub fn push(&mut self, slice: &[u8]) {
        let mut rest = slice;
        while let Some((&byte, tail)) = rest.split_first() {
            match self.state {
                State::Content => {
                    let run_len = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    let (run, after) = rest.split_at_checked(run_len).unwrap_or((rest, &[]));
                    if run.is_empty() {
                        self.content(byte);
                    } else {
                        self.keep_content(run);
                        self.at = self.at.saturating_add(length(run));
                        rest = after;
                        continue;
                    }
                }
                State::LineStart { line_end, matched } => self.line_start(byte, line_end, matched),
                State::Boundary => self.boundary(byte),
                State::LastBoundary => self.last_boundary(byte),
                State::Headers => self.header(byte),
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
        if self.part.place != Place::Behind {
            let problem = if self.part.place == Place::Before {
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

    /// One byte of content, in the middle of a line.
    fn content(&mut self, byte: u8) {
        let line_end = match byte {
            b'\r' => LineEnd::Cr,
            b'\n' => LineEnd::Lf,
            _ => {
                self.keep_content(&[byte]);
                self.state = State::Content;
                return;
            }
        };
        self.state = State::LineStart { line_end, matched: 0 };
    }

    /// One byte at the beginning of a line, which may be a boundary's.
    fn line_start(&mut self, byte: u8, line_end: LineEnd, matched: usize) {
        if self.dashes.get(matched) == Some(&byte) {
            let matched = matched.saturating_add(1);
            self.state = State::LineStart { line_end, matched };
            if matched < self.dashes.len() {
                return;
            }
            if line_end == LineEnd::CrLf && self.part.place != Place::Behind {
                self.tail.clear();
                self.state = State::Boundary;
            } else {
                // A boundary for parsers that end lines differently, or ignore the last boundary.
                self.facts.is_model_ambiguous = true;
                self.keep_line_start(line_end, matched, self.at.saturating_add(1));
                self.state = State::Content;
            }
        } else if (line_end, matched, byte) == (LineEnd::Cr, 0, b'\n') {
            self.state = State::LineStart { line_end: LineEnd::CrLf, matched };
        } else {
            self.keep_line_start(line_end, matched, self.at);
            self.content(byte);
        }
    }

    /// The beginning of a line, up to the offset `end`, was content after all, except for a line end
    /// that belongs to the headers.
    fn keep_line_start(&mut self, line_end: LineEnd, matched: usize, end: u64) {
        let line_end: &[u8] = match line_end {
            LineEnd::Cr => b"\r",
            LineEnd::Lf => b"\n",
            LineEnd::CrLf => b"\r\n",
        };
        let line = [line_end, self.dashes.get(..matched).unwrap_or_default()].concat();
        let behind = end.saturating_sub(self.part.content_at);
        let behind = usize::try_from(behind).unwrap_or(usize::MAX).min(line.len());
        self.keep_content(line.get(line.len().saturating_sub(behind)..).unwrap_or_default());
    }

    /// One byte behind a boundary: white space and a line end, or the hyphens of the last one.
    fn boundary(&mut self, byte: u8) {
        match (self.tail.as_slice(), byte) {
            ([b'-'], b'-') => {
                self.end_part();
                self.part.place = Place::Behind;
                self.state = State::LastBoundary;
            }
            ([.., b'\r'], b'\n') => {
                self.end_part();
                self.state = State::Headers;
            }
            ([] | [.., b' ' | b'\t'], b'\n') => {
                self.facts.is_model_ambiguous = true;
                self.end_part();
                self.state = State::Headers;
            }
            ([], b'-') | ([] | [.., b' ' | b'\t'], b'\r' | b' ' | b'\t')
                if self.tail.len() < TAIL_BYTES_MAX =>
            {
                self.tail.push(byte);
            }
            _ => self.no_boundary(byte),
        }
    }

    /// The line only began like a boundary: all of it is content.
    fn no_boundary(&mut self, byte: u8) {
        let mut tail = std::mem::take(&mut self.tail);
        let end = self.at.saturating_sub(length(&tail));
        self.keep_line_start(LineEnd::CrLf, self.dashes.len(), end);
        let ends_line = tail.pop_if(|last| *last == b'\r').is_some();
        // The end of a boundary's line, for parsers that end lines like this.
        self.facts.is_model_ambiguous |= ends_line;
        self.keep_content(&tail);
        if ends_line {
            self.line_start(byte, LineEnd::Cr, 0);
        } else {
            self.content(byte);
        }
    }

    /// One byte behind the last boundary.
    fn last_boundary(&mut self, byte: u8) {
        match byte {
            b'\n' => self.state = State::LineStart { line_end: LineEnd::CrLf, matched: 0 },
            b' ' | b'\t' | b'\r' => {}
            _ => {
                // Not the last boundary, for parsers that compare the whole line.
                self.facts.is_model_ambiguous = true;
                self.content(byte);
            }
        }
    }

    /// The boundary that ended before the current offset, less its tail, is one.
    fn end_part(&mut self) {
        let before = length(&self.dashes).saturating_add(length(&self.tail));
        let boundary_at = self.at.saturating_sub(before);
        let first = self.part.content_at;
        let end = boundary_at.saturating_sub(2); // the line end
        if self.part.place == Place::Before {
            self.facts.model_insertion = Some(self.model_part(boundary_at));
        } else {
            self.read_field(Span { at: first, len: end.saturating_sub(first) });
        }
        self.part = Part { kept: std::mem::take(&mut self.part.kept), ..Part::default() };
        self.part.kept.clear();
    }

    /// A part that names a model, before the boundary at this offset.
    fn model_part(&self, at: u64) -> Insertion {
        Insertion {
            at,
            remove: 0,
            prefix: [
                self.dashes.as_slice(),
                b"\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n",
            ]
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
                self.facts.is_model_ambiguous |= self.facts.model.is_some();
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
            Name::N => self.facts.choices = bytes::count(value),
            Name::Image => self.facts.images = self.facts.images.saturating_add(1),
            Name::Other => {}
        }
    }

    fn header(&mut self, byte: u8) {
        if byte != b'\n' {
            if self.part.kept.len() < HEADER_BYTES_MAX {
                self.part.kept.push(byte);
            }
            return;
        }
        let is_cut = self.part.kept.len() >= HEADER_BYTES_MAX;
        let kept = std::mem::take(&mut self.part.kept);
        let line = kept.strip_suffix(b"\r").unwrap_or(&kept);
        let mut is_sure = line.len() < kept.len() || is_cut;
        if line.trim_ascii_end().is_empty() {
            is_sure &= line.is_empty();
            self.part.content_at = self.at.saturating_add(1);
            // The blank line may itself be the line end before the next boundary.
            self.state = State::LineStart { line_end: LineEnd::CrLf, matched: 0 };
        } else {
            is_sure &= self.header_line(line, is_cut);
        }
        self.facts.is_model_ambiguous |= !is_sure;
        self.part.kept = kept;
        self.part.kept.clear();
    }

    /// Reads a header line; returns whether its meaning is sure.
    fn header_line(&mut self, line: &[u8], is_cut: bool) -> bool {
        match Line::read(line) {
            Line::Harmless => true,
            Line::Unsure => false,
            Line::Disposition { name, is_sure } => {
                self.part.name = name;
                let is_first = !std::mem::replace(&mut self.part.has_disposition, true);
                is_sure && is_first && !is_cut
            }
        }
    }

    fn keep_content(&mut self, run: &[u8]) {
        if matches!(self.part.name, Name::Other | Name::Image | Name::Prompt) {
            return;
        }
        let room = VALUE_BYTES_MAX.saturating_sub(self.part.kept.len());
        self.part.kept.extend_from_slice(run.get(..room).unwrap_or(run));
    }
}

/// The length of `bytes` as an offset.
fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
