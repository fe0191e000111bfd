//! The lines of an event stream, as far as they matter: which bytes are data, and where events end.
//!
//! Lines end with a line feed, a carriage return, or both (HTML standard, server-sent events), and
//! all of it may be cut anywhere. Nothing is kept but the place in the line.

use crate::openai::bytes;

/// Where in the stream the next byte stands.
#[derive(Debug, Default)]
pub(in crate::openai::response) struct Frames {
    place: Place,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    is_after_return: bool,
    /// How many bytes of a byte order mark were read.
    mark_len: usize,
    /// The first line has begun, so that no byte order mark can follow.
    has_begun: bool,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::openai::response) enum Part<'a> {
    /// The first bytes of a line that may be one of data.
    Begin,
    /// Bytes of the value of a line of data.
    Data(&'a [u8]),
    /// The end of a line of data.
    DataEnd,
    /// A line is one of another field; it is told once.
    Other,
    /// The end of an empty line: the event is complete. A line feed may follow as [`Part::Nothing`].
    EventEnd,
    /// Nothing that matters.
    Nothing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    LineStart,
    /// In `data:`, of which so many bytes were read.
    Field(usize),
    /// Before the space that may follow the colon.
    Space,
    Value,
    /// In a line that does not matter.
    Skipped,
}

const DATA: &[u8] = b"data:";

/// How lines of data begin as a rule.
const DATA_SPACE: &[u8] = b"data: ";

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Frames {
    /// What `rest` begins with, and what follows that. At least one byte is taken of those there are.
    pub(in crate::openai::response) fn next<'a>(&mut self, rest: &'a [u8]) -> (Part<'a>, &'a [u8]) {
        let Some((&byte, after)) = rest.split_first() else { return (Part::Nothing, rest) };
        if std::mem::take(&mut self.is_after_return) && byte == b'\n' {
            return (Part::Nothing, after);
        }
        match self.place {
            Place::LineStart if let Some(value) = rest.strip_prefix(DATA_SPACE) => {
                self.has_begun = true;
                self.place = Place::Value;
                (Part::Begin, value)
            }
            Place::LineStart => (self.begin_line(byte), after),
            Place::Field(len) => (self.field(len, byte), after),
            Place::Space => {
                self.place = Place::Value;
                if byte == b' ' { (Part::Nothing, after) } else { self.value(rest) }
            }
            Place::Value => self.value(rest),
            Place::Skipped => {
                let len = bytes::line_end(rest);
                let (_, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                let Some((&end, after)) = after.split_first() else {
                    return (Part::Nothing, after);
                };
                self.end_line(end);
                (Part::Nothing, after)
            }
        }
    }

    fn begin_line<'a>(&mut self, byte: u8) -> Part<'a> {
        if !self.has_begun && BYTE_ORDER_MARK.get(self.mark_len) == Some(&byte) {
            self.mark_len = self.mark_len.saturating_add(1);
            return Part::Nothing;
        }
        self.has_begun = true;
        match byte {
            b'\n' | b'\r' => {
                self.end_line(byte);
                Part::EventEnd
            }
            b'd' => {
                self.place = Place::Field(1);
                Part::Begin
            }
            b':' => {
                self.place = Place::Skipped;
                Part::Nothing
            }
            _ => {
                self.place = Place::Skipped;
                Part::Other
            }
        }
    }

    fn field<'a>(&mut self, len: usize, byte: u8) -> Part<'a> {
        let next = len.saturating_add(1);
        if DATA.get(len) == Some(&byte) {
            self.place = if next == DATA.len() { Place::Space } else { Place::Field(next) };
            return Part::Nothing;
        }
        if !matches!(byte, b'\n' | b'\r') {
            self.place = Place::Skipped;
            return Part::Other;
        }
        self.end_line(byte);
        // A field without a colon has an empty value.
        if next == DATA.len() { Part::DataEnd } else { Part::Other }
    }

    fn value<'a>(&mut self, rest: &'a [u8]) -> (Part<'a>, &'a [u8]) {
        let len = bytes::line_end(rest);
        let (run, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        match after.split_first() {
            Some((&end, after)) if run.is_empty() => {
                self.end_line(end);
                (Part::DataEnd, after)
            }
            _ => (Part::Data(run), after),
        }
    }

    fn end_line(&mut self, end: u8) {
        self.place = Place::LineStart;
        self.is_after_return = end == b'\r';
    }
}
