//! Probes the head of an event stream: is its first real event an error?
//!
//! To some refused or failed requests Azure sends status 200 and an event stream whose first events state
//! the error. While nothing was forwarded, another backend can still serve the request. So the head of a
//! stream is held and probed until an event comes that should be forwarded.
//!
//! - Preamble: comments, the prompt's filter results (a chat chunk without choices), and the events
//!   that announce a response. They decide nothing.
//! - An error of the backend leads to failover. An error that is the caller's fault is a good response
//!   and is forwarded. So is anything that cannot be understood.
//! - A stream that ends before anything except preamble, or in the middle of its first event, failed.

use super::event::{Verdict, judge};
use super::frames::{Frames, Part};
use super::{Bounded, field};

/// Probes the head of one event stream.
#[derive(Debug, Default)]
pub(super) struct HeadProbe {
    probe: Probe,
    name: Vec<u8>,
    /// The name of the event continues in the next part.
    is_in_name: bool,
    /// The data of the event so far; `None` before its first data line.
    data: Option<Bounded>,
    /// The line of data continues in the next part.
    is_in_data: bool,
    /// The line of another field so far.
    other: Bounded,
    /// The event that refused the request.
    refusal: Vec<u8>,
}

/// What the head of a stream shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    /// Nothing yet: hold it.
    #[default]
    More,
    /// Forward it.
    Real,
    /// The backend refused the request because of its rate limit.
    Refused,
    /// The backend failed in another way.
    Failed,
}

/// The longest event name that matters is far shorter.
const NAME_BYTES_MAX: usize = 64;

impl HeadProbe {
    /// What is known so far. It stays once it is not [`Probe::More`].
    pub(super) fn probe(&self) -> Probe {
        self.probe
    }

    /// The data of the event that made it [`Probe::Refused`].
    pub(super) fn refusal(&self) -> &[u8] {
        &self.refusal
    }

    /// How many bytes are kept, room for more included.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        let data = self.data.as_ref().map_or(0, |data| data.bytes.capacity());
        data.saturating_add(self.other.bytes.capacity()).saturating_add(self.name.capacity())
    }

    /// Reads the next part of the stream.
    pub(super) fn read(&mut self, part: Part<'_>) {
        if self.probe != Probe::More {
            return;
        }
        match part {
            Part::Begin | Part::Nothing => {}
            Part::Data { run, ends } => {
                if !std::mem::replace(&mut self.is_in_data, !ends)
                    && let Some(data) = &mut self.data
                {
                    data.extend(b"\n");
                }
                self.data.get_or_insert_default().extend(run);
            }
            Part::Name { run, ends } => {
                if !std::mem::replace(&mut self.is_in_name, !ends) {
                    self.name.clear();
                }
                let room = NAME_BYTES_MAX.saturating_sub(self.name.len());
                self.name.extend_from_slice(run.get(..room).unwrap_or(run));
            }
            Part::Other { run, ends } => {
                self.other.extend(run);
                if ends {
                    self.end_other();
                }
            }
            Part::EventEnd => {
                if let Some(data) = self.data.take() {
                    self.judge(&data);
                }
                self.name.clear();
            }
        }
    }

    /// The stream ended. It is never [`Probe::More`].
    pub(super) fn finish(&mut self, frames: &Frames) -> Probe {
        if self.probe == Probe::More {
            self.probe = self.at_end(frames);
        }
        self.probe
    }

    fn at_end(&mut self, frames: &Frames) -> Probe {
        let other = &self.other.bytes;
        let is_half_a_field = !other.is_empty()
            && [&b"id"[..], b"retry"].iter().any(|field| field.starts_with(other));
        if is_half_a_field || frames.is_in_field() {
            return Probe::Failed;
        }
        if frames.is_in_mark() {
            return Probe::Real;
        }
        if !other.is_empty() {
            self.end_other();
        }
        if self.probe == Probe::More
            && let Some(data) = self.data.take()
        {
            self.judge_last(&data);
        }
        if self.probe == Probe::More { Probe::Failed } else { self.probe }
    }

    /// A last event that is not even complete is no response.
    fn judge_last(&mut self, data: &Bounded) {
        match judge(&self.name, &data.bytes, data.is_cut) {
            Verdict::Unreadable => self.probe = Probe::Failed,
            verdict => self.conclude(verdict, &data.bytes),
        }
    }

    fn judge(&mut self, data: &Bounded) {
        self.conclude(judge(&self.name, &data.bytes, data.is_cut), &data.bytes);
    }

    fn conclude(&mut self, verdict: Verdict, data: &[u8]) {
        self.probe = match verdict {
            Verdict::Preamble => Probe::More,
            Verdict::Real | Verdict::Unreadable => Probe::Real,
            Verdict::Refused => {
                self.refusal = data.to_vec();
                Probe::Refused
            }
            Verdict::Failed => Probe::Failed,
        };
    }

    /// A line of another field is complete.
    fn end_other(&mut self) {
        let line = std::mem::take(&mut self.other);
        match field(&line.bytes) {
            // Fields that do not matter.
            b"id" | b"retry" => {}
            // Not an event stream. It may be an error with a wrong content type.
            _ if line.bytes.starts_with(b"{") => {
                self.conclude(judge(b"", &line.bytes, line.is_cut), &line.bytes);
            }
            _ => self.probe = Probe::Real,
        }
    }
}
