//! Watches a whole event stream for errors of the backend.
//!
//! After the head of a stream an error cannot be repaired any more, only recorded. Hardly any line is an
//! error, and its first bytes show that, so no line is copied before.

use super::Bounded;
use super::event::{self, Verdict, judge};
use super::frames::Part;

/// Watches one event stream.
#[derive(Debug, Default)]
pub(super) struct ErrorWatch {
    line: Line,
    /// The name of the event, if it names an error.
    name: &'static [u8],
    /// The beginning of a name.
    begun_name: Vec<u8>,
}

/// What is done with the current line of data.
#[derive(Debug, Default)]
enum Line {
    /// No line has begun.
    #[default]
    Start,
    /// Its first bytes are collected.
    Head(Vec<u8>),
    /// It does not matter.
    Skip,
    /// It is the data of an error.
    Keep(Bounded),
}

/// Enough of the data to see that it is an error, whichever white space the backend uses.
const HEAD_BYTES: usize = 48;

/// The names of errors are shorter.
const NAME_BYTES_MAX: usize = 32;

impl ErrorWatch {
    /// Reads the next part of the stream. Returns `true` when it completed an error of the backend.
    #[inline]
    pub(super) fn read(&mut self, part: Part<'_>) -> bool {
        match part {
            Part::Data { run, ends: true }
                if matches!(self.line, Line::Start) && !self.matters(run) =>
            {
                false
            }
            Part::Data { run, ends } => self.data(run, ends),
            Part::Name { run, ends } => {
                self.name(run, ends);
                false
            }
            Part::EventEnd => {
                self.name = b"";
                false
            }
            Part::Begin | Part::Other { .. } | Part::Nothing => false,
        }
    }

    /// Whether a line of data that begins like this is an error.
    #[inline]
    fn matters(&self, data: &[u8]) -> bool {
        // The first letter of the first member of nearly all data shows that it is not an error.
        let is_plain = matches!(data, [b'{', b'"', letter, ..] if !matches!(letter, b'e' | b't'));
        !self.name.is_empty()
            || (!is_plain && event::begins_like_error(data.get(..HEAD_BYTES).unwrap_or(data)))
    }

    fn name(&mut self, run: &[u8], ends: bool) {
        let room = NAME_BYTES_MAX.saturating_sub(self.begun_name.len());
        self.begun_name.extend_from_slice(run.get(..room).unwrap_or(run));
        if ends {
            self.name = event::error_name(&self.begun_name);
            self.begun_name.clear();
        }
    }

    fn data(&mut self, run: &[u8], ends: bool) -> bool {
        if matches!(self.line, Line::Start) {
            self.line = Line::Head(Vec::new());
        }
        match &mut self.line {
            Line::Head(head) => {
                let room = HEAD_BYTES.saturating_sub(head.len());
                let (fitting, tail) = run.split_at_checked(room).unwrap_or((run, &[]));
                head.extend_from_slice(fitting);
                if ends || head.len() == HEAD_BYTES {
                    self.end_head(tail);
                }
            }
            Line::Keep(data) => data.extend(run),
            Line::Start | Line::Skip => {}
        }
        ends && self.end_line()
    }

    /// The head of a line is complete, and `tail` follows it: decides whether the line matters.
    fn end_head(&mut self, tail: &[u8]) {
        let Line::Head(head) = std::mem::replace(&mut self.line, Line::Skip) else { return };
        if self.matters(&head) {
            let mut data = Bounded::default();
            data.extend(&head);
            data.extend(tail);
            self.line = Line::Keep(data);
        }
    }

    /// The line is complete; whether it was an error of the backend.
    fn end_line(&mut self) -> bool {
        let Line::Keep(data) = std::mem::take(&mut self.line) else { return false };
        match judge(self.name, &data.bytes, data.is_cut) {
            Verdict::Failed | Verdict::Unreadable => true,
            Verdict::Preamble => event::is_failed_response(self.name, &data.bytes),
            // A throttle is no fault, even when it comes late.
            Verdict::Real | Verdict::Refused => false,
        }
    }
}
