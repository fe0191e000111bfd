//! Finds errors in event streams, read in chunks, in bounded memory.
//!
//! Azure answers some refused or failed requests with status 200 and an event stream whose first
//! events say so. While nothing was forwarded another backend can still serve the request, so the
//! head of a stream is held and probed until an event comes that is worth forwarding.
//!
//! - Preamble: comments, the prompt's filter results (a chat chunk without choices), and the events
//!   with which a response is announced. They decide nothing.
//! - An error of the backend decides for failover; an error that is the caller's fault is as good an
//!   answer as any and is forwarded. What cannot be understood is forwarded, too.
//! - A stream that ends before anything but preamble, or in the middle of its first event, failed.
//!
//! Later errors cannot be repaired any more. They are watched for, so that they can be recorded.

mod event;
pub(super) mod frames;
#[cfg(test)]
mod tests;
pub mod usage_chunk;

use crate::openai::bytes;
use event::{Verdict, judge};

/// Probes the head of one event stream.
#[derive(Debug)]
pub struct HeadProbe {
    probe: Probe,
    line: Bounded,
    is_first_line: bool,
    line_ends: LineEnds,
    name: Vec<u8>,
    /// The data of the event so far; `None` before its first data line.
    data: Option<Bounded>,
    /// The event that refused the request.
    refusal: Vec<u8>,
}

/// What the head of a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nothing yet: hold it.
    More,
    /// Forward it.
    Real,
    /// The backend refused the request for its rate limit.
    Refused,
    /// The backend failed in another way.
    Failed,
}

/// Watches a whole event stream for errors of the backend.
#[derive(Debug)]
pub struct ErrorWatch {
    line: WatchedLine,
    line_ends: LineEnds,
    /// The name of the event, when it is one of an error.
    name: &'static [u8],
    was_told: bool,
}

/// What is done with the line at hand.
#[derive(Debug)]
enum WatchedLine {
    /// Its first bytes are collected.
    Head { bytes: [u8; HEAD_BYTES], len: usize },
    /// It does not matter.
    Skip,
    /// It is the data of an error.
    Keep(Bounded),
}

/// Finds where lines end: at a line feed, a carriage return, or both.
#[derive(Debug, Default)]
struct LineEnds {
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    is_after_return: bool,
}

/// Bytes that are kept up to [`EVENT_BYTES_MAX`].
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_cut: bool,
}

/// How much of a line or an event is kept. Errors are far smaller; what is longer is preamble that
/// echoes the request, or an answer.
const EVENT_BYTES_MAX: usize = 64 * 1_024;

/// Enough of a line to see that it is an error, whichever white space the backend uses.
const HEAD_BYTES: usize = 48;

/// The longest event name that matters is far shorter.
const NAME_BYTES_MAX: usize = 64;

impl Default for HeadProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl HeadProbe {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            probe: Probe::More,
            line: Bounded::default(),
            is_first_line: true,
            line_ends: LineEnds::default(),
            name: Vec::new(),
            data: None,
            refusal: Vec::new(),
        }
    }

    /// The data of the event that made it [`Probe::Refused`]: whether only this request is refused is
    /// told in its message.
    pub fn refusal(&self) -> &[u8] {
        &self.refusal
    }

    /// Reads the next bytes and says what the stream is, as far as that is known.
    pub fn push(&mut self, bytes: &[u8]) -> Probe {
        let mut next = Some(bytes);
        while self.probe == Probe::More
            && let Some(rest) = next
        {
            let (run, after) = self.line_ends.split(rest);
            self.line.extend(run);
            if after.is_some() {
                self.end_line();
            }
            next = after;
        }
        self.probe
    }

    /// The stream ended. It is never [`Probe::More`].
    pub fn finish(&mut self) -> Probe {
        if self.probe == Probe::More && !self.line.bytes.is_empty() {
            let is_half_a_field = [&b"data"[..], b"event", b"id", b"retry"]
                .iter()
                .any(|field| field.starts_with(&self.line.bytes));
            if is_half_a_field {
                return Probe::Failed;
            }
            self.end_line();
        }
        if self.probe == Probe::More
            && let Some(data) = self.data.take()
        {
            self.probe = match judge(&self.name, &data.bytes, data.is_cut) {
                // Its last event was not even complete.
                Verdict::Unreadable => Probe::Failed,
                verdict => self.probe_of(verdict, &data.bytes),
            };
        }
        if self.probe == Probe::More { Probe::Failed } else { self.probe }
    }

    fn probe_of(&mut self, verdict: Verdict, data: &[u8]) -> Probe {
        match verdict {
            Verdict::Preamble => Probe::More,
            Verdict::Real | Verdict::Unreadable => Probe::Real,
            Verdict::Refused => {
                self.refusal = data.to_vec();
                Probe::Refused
            }
            Verdict::Failed => Probe::Failed,
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let bytes = line.bytes.as_slice();
        let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
            Some(unmarked) if self.is_first_line => unmarked,
            _ => bytes,
        };
        self.is_first_line = false;
        if bytes.is_empty() {
            self.end_event();
            return;
        }
        let (field, value) = split_field(bytes);
        match field {
            // A comment, or a field that says nothing about the answer.
            b"" | b"id" | b"retry" => {}
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value.get(..NAME_BYTES_MAX).unwrap_or(value));
            }
            b"data" => match &mut self.data {
                Some(data) => {
                    data.extend(b"\n");
                    data.extend(value);
                    data.is_cut |= line.is_cut;
                }
                None => {
                    self.data = Some(Bounded { bytes: value.to_vec(), is_cut: line.is_cut });
                }
            },
            // No event stream. It may be an error under a wrong content type.
            _ if bytes.starts_with(b"{") => {
                self.probe = self.probe_of(judge(b"", bytes, line.is_cut), bytes);
            }
            _ => self.probe = Probe::Real,
        }
        self.line.reuse(line);
    }

    fn end_event(&mut self) {
        if let Some(data) = self.data.take() {
            self.probe = self.probe_of(judge(&self.name, &data.bytes, data.is_cut), &data.bytes);
        }
        self.name.clear();
    }
}

impl Default for ErrorWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ErrorWatch {
    /// Before the first byte of the stream.
    pub fn new() -> Self {
        Self {
            line: WatchedLine::START,
            line_ends: LineEnds::default(),
            name: b"",
            was_told: false,
        }
    }

    /// Reads the next bytes of the stream, which must be all of it, the head included. Returns
    /// `true` once, when the first error of the backend was read.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let mut is_error = false;
        let mut next = Some(bytes);
        while let Some(rest) = next {
            let (run, after) = self.line_ends.split(rest);
            let is_whole = after.is_some() && self.is_at_line_start();
            if !is_whole || self.matters(run) {
                self.extend(run);
                if after.is_some() {
                    is_error |= self.end_line();
                }
            }
            next = after;
        }
        let is_news = is_error && !self.was_told;
        self.was_told |= is_error;
        is_news
    }

    fn is_at_line_start(&self) -> bool {
        matches!(self.line, WatchedLine::Head { len: 0, .. })
    }

    fn extend(&mut self, run: &[u8]) {
        match &mut self.line {
            WatchedLine::Skip => {}
            WatchedLine::Keep(line) => line.extend(run),
            WatchedLine::Head { bytes, len } => {
                let room = bytes.get_mut(*len..).unwrap_or_default();
                let fitting = run.len().min(room.len());
                let (head, tail) = run.split_at_checked(fitting).unwrap_or((run, &[]));
                for (slot, &byte) in room.iter_mut().zip(head) {
                    *slot = byte;
                }
                *len = len.saturating_add(head.len());
                if *len == HEAD_BYTES {
                    self.end_head();
                    // A line that is kept goes on with what did not fit.
                    if let WatchedLine::Keep(line) = &mut self.line {
                        line.extend(tail);
                    }
                }
            }
        }
    }

    /// Whether a whole line must be looked at more closely. Nearly none must, so none is copied before.
    fn matters(&mut self, line: &[u8]) -> bool {
        if line.is_empty() {
            self.name = b"";
            return false;
        }
        self.data_of_error(line.get(..HEAD_BYTES).unwrap_or(line)).is_some()
    }

    /// The head of a line is complete: decides whether the line matters.
    fn end_head(&mut self) {
        let WatchedLine::Head { bytes, len } = self.line else { return };
        let head = bytes.get(..len).unwrap_or_default();
        self.line = match self.data_of_error(head) {
            Some(data) => WatchedLine::Keep(Bounded { bytes: data.to_vec(), is_cut: false }),
            None => WatchedLine::Skip,
        };
    }

    /// The data that a line with this head begins with, if it is an error's. The name of an event is
    /// noted.
    fn data_of_error<'a>(&mut self, head: &'a [u8]) -> Option<&'a [u8]> {
        let (field, value) = split_field(head);
        match field {
            b"event" => self.name = event::error_name(value),
            b"data" if !self.name.is_empty() || event::begins_like_error(value) => {
                return Some(value);
            }
            _ => {}
        }
        None
    }

    /// The line is complete; whether it was an error of the backend.
    fn end_line(&mut self) -> bool {
        if self.is_at_line_start() {
            self.name = b"";
            return false;
        }
        self.end_head();
        let line = std::mem::replace(&mut self.line, WatchedLine::START);
        let WatchedLine::Keep(data) = line else { return false };
        let name = self.name;
        let is_failed_response = event::is_failed_response(name, &data.bytes);
        match judge(name, &data.bytes, data.is_cut) {
            Verdict::Failed | Verdict::Unreadable => true,
            Verdict::Preamble => is_failed_response,
            // A throttle is no fault, also when it comes late.
            Verdict::Real | Verdict::Refused => false,
        }
    }
}

impl WatchedLine {
    const START: Self = Self::Head { bytes: [0; HEAD_BYTES], len: 0 };
}

impl LineEnds {
    /// The bytes up to the end of the line, and what follows it; `None` when it does not end here.
    fn split<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], Option<&'a [u8]>) {
        if bytes.is_empty() {
            return (bytes, None);
        }
        let is_after_return = std::mem::take(&mut self.is_after_return);
        let bytes = match bytes.strip_prefix(b"\n") {
            Some(after) if is_after_return => after,
            _ => bytes,
        };
        let line = bytes.split_at_checked(bytes::line_end(bytes));
        let Some((line, [end, after @ ..])) = line else { return (bytes, None) };
        self.is_after_return = *end == b'\r';
        (line, Some(after))
    }
}

impl Bounded {
    fn extend(&mut self, run: &[u8]) {
        let room = EVENT_BYTES_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(run.get(..room).unwrap_or(run));
        self.is_cut |= run.len() > room;
    }

    /// Takes over the memory of `other`.
    fn reuse(&mut self, mut other: Self) {
        other.bytes.clear();
        other.is_cut = false;
        *self = other;
    }
}

/// A line's field and value. A comment has no field, a line without a colon no value.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    let mut halves = line.splitn(2, |&byte| byte == b':');
    let field = halves.next().unwrap_or_default();
    let value = halves.next().unwrap_or_default();
    (field, value.strip_prefix(b" ").unwrap_or(value))
}
