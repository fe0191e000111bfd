//! The lines of an event stream: the value of each field, and where events end.
//!
//! Lines end with a line feed, a carriage return, or both (HTML standard, server-sent events), and a chunk
//! may end anywhere. Only the place in the line is kept. Usually a chunk has whole lines, and a whole line
//! is one part.

use crate::openai::bytes;

/// The place of the next byte in the stream.
#[derive(Debug, Default)]
pub(super) struct Frames {
    place: Place,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    is_after_return: bool,
    /// The first line has begun, so that no byte order mark can follow.
    has_begun: bool,
}

/// What the next bytes are. A line may come in several parts, of which the last one `ends` it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// The first bytes of a line that may be one of data.
    Begin,
    /// Bytes of the value of a line of data.
    Data { run: &'a [u8], ends: bool },
    /// Bytes of the value of a line that names the event. A first part without bytes may turn out to belong
    /// to a line of another field.
    Name { run: &'a [u8], ends: bool },
    /// Bytes of a line of another field, the field included.
    Other { run: &'a [u8], ends: bool },
    /// The end of an empty line: the event is complete. A line feed may follow as [`Part::Nothing`].
    EventEnd,
    /// Nothing that matters.
    Nothing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    LineStart,
    /// In the byte order mark; the number of its bytes that were read.
    Mark(usize),
    /// In a field and its colon; the number of their bytes that were read.
    Field(Field, usize),
    /// Before the space that may follow the colon.
    Space(Field),
    Value(Field),
    Other,
    Comment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Event,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The usual beginning of lines of data.
const DATA_SPACE: &[u8] = b"data: ";

impl Frames {
    /// The part that `rest` begins with, and what follows it. Calling it repeatedly with what follows comes to
    /// the end: it takes at least one byte, except once when a line turns out to have another field.
    #[inline]
    pub(super) fn next<'a>(&mut self, rest: &'a [u8]) -> (Part<'a>, &'a [u8]) {
        if self.place == Place::LineStart
            && let Some(value) = rest.strip_prefix(DATA_SPACE)
        {
            self.has_begun = true;
            self.is_after_return = false;
            return self.value(Field::Data, value);
        }
        self.step(rest)
    }

    /// Whether `rest`, which follows a whole line, begins with an empty one.
    #[inline]
    pub(super) fn is_empty_line(&self, rest: &[u8]) -> bool {
        !self.is_after_return && rest.first() == Some(&b'\n')
    }

    /// Whether the stream ends in the middle of a field that matters, before its colon.
    pub(super) fn is_in_field(&self) -> bool {
        matches!(self.place, Place::Field(..))
    }

    /// Whether the stream ends in the middle of a byte order mark.
    pub(super) fn is_in_mark(&self) -> bool {
        matches!(self.place, Place::Mark(_))
    }

    fn step<'a>(&mut self, rest: &'a [u8]) -> (Part<'a>, &'a [u8]) {
        let Some((&byte, after)) = rest.split_first() else { return (Part::Nothing, rest) };
        if std::mem::take(&mut self.is_after_return) && byte == b'\n' {
            return (Part::Nothing, after);
        }
        match self.place {
            Place::LineStart => self.begin_line(byte, rest, after),
            Place::Mark(len) if BYTE_ORDER_MARK.get(len) == Some(&byte) => {
                let next = len.saturating_add(1);
                let is_whole = next == BYTE_ORDER_MARK.len();
                self.place = if is_whole { Place::LineStart } else { Place::Mark(next) };
                (Part::Nothing, after)
            }
            Place::Mark(len) => (self.turn_out(BYTE_ORDER_MARK, len), rest),
            Place::Field(field, len) => self.in_field(field, len, byte, rest, after),
            Place::Space(field) => {
                self.place = Place::Value(field);
                if byte == b' ' { (Part::Nothing, after) } else { self.value(field, rest) }
            }
            Place::Value(field) => self.value(field, rest),
            Place::Other => {
                let (run, ends, after) = self.run(rest);
                (Part::Other { run, ends }, after)
            }
            Place::Comment => (Part::Nothing, self.run(rest).2),
        }
    }

    fn begin_line<'a>(
        &mut self,
        byte: u8,
        rest: &'a [u8],
        after: &'a [u8],
    ) -> (Part<'a>, &'a [u8]) {
        let may_be_mark = !std::mem::replace(&mut self.has_begun, true);
        match byte {
            b'\n' | b'\r' => {
                self.is_after_return = byte == b'\r';
                (Part::EventEnd, after)
            }
            b'd' => {
                self.place = Place::Field(Field::Data, 1);
                (Part::Begin, after)
            }
            b'e' => {
                self.place = Place::Field(Field::Event, 1);
                (Field::Event.part(&[], false), after)
            }
            b':' => {
                self.place = Place::Comment;
                (Part::Nothing, after)
            }
            0xef if may_be_mark => {
                self.place = Place::Mark(1);
                (Part::Nothing, after)
            }
            _ => {
                self.place = Place::Other;
                self.step(rest)
            }
        }
    }

    fn in_field<'a>(
        &mut self,
        field: Field,
        len: usize,
        byte: u8,
        rest: &'a [u8],
        after: &'a [u8],
    ) -> (Part<'a>, &'a [u8]) {
        let next = len.saturating_add(1);
        let is_named = next == field.bytes().len();
        if field.bytes().get(len) == Some(&byte) {
            self.place = if is_named { Place::Space(field) } else { Place::Field(field, next) };
            let part = if is_named { field.part(&[], false) } else { Part::Nothing };
            return (part, after);
        }
        if is_named && matches!(byte, b'\n' | b'\r') {
            // A field without a colon has an empty value.
            return self.value(field, rest);
        }
        (self.turn_out(field.bytes(), len), rest)
    }

    /// The line, of which `len` bytes of `begun` were read, is one of another field.
    fn turn_out<'a>(&mut self, begun: &'static [u8], len: usize) -> Part<'a> {
        self.place = Place::Other;
        Part::Other { run: begun.get(..len).unwrap_or_default(), ends: false }
    }

    fn value<'a>(&mut self, field: Field, rest: &'a [u8]) -> (Part<'a>, &'a [u8]) {
        let (run, ends, after) = self.run(rest);
        if !ends {
            self.place = Place::Value(field);
        }
        (field.part(run, ends), after)
    }

    /// The bytes up to the end of the line, whether it ends here, and what follows.
    #[inline]
    fn run<'a>(&mut self, rest: &'a [u8]) -> (&'a [u8], bool, &'a [u8]) {
        let (run, after) = rest.split_at_checked(bytes::line_end(rest)).unwrap_or((rest, &[]));
        let Some((&end, after)) = after.split_first() else { return (run, false, after) };
        self.place = Place::LineStart;
        self.is_after_return = end == b'\r';
        (run, true, after)
    }
}

impl Field {
    /// The field with its colon.
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Data => b"data:",
            Self::Event => b"event:",
        }
    }

    fn part(self, run: &[u8], ends: bool) -> Part<'_> {
        match self {
            Self::Data => Part::Data { run, ends },
            Self::Event => Part::Name { run, ends },
        }
    }
}
