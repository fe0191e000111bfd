//! Reads an event stream once, in chunks and in bounded memory, for all that need something from it.
//!
//! One place splits it into lines (`frames`) and passes each part of a line to its readers: the probe of the
//! head, the watch for errors, the reader of the usage, and the stripper of the chunk that states it. Usage and
//! stripper share one reading of an event's members. However a stream is cut, the result is the same.

mod event;
mod frames;
mod head;
#[cfg(test)]
mod tests;
mod usage_chunk;
mod watch;

use super::tier_watch::TierWatch;
use super::usage::members::Members;
use super::usage::{StreamUsage, Usage};
use crate::openai::service_tier::ServiceTier;
use frames::{Frames, Part};
use head::HeadProbe;
pub use head::Probe;
pub use usage_chunk::Edit;
use usage_chunk::{Cut, UsageStripper};
use watch::ErrorWatch;

/// Reads one event stream.
#[derive(Debug)]
pub struct EventStream {
    frames: Frames,
    head: Option<Box<HeadProbe>>,
    watch: Option<ErrorWatch>,
    /// The members of the current event, for the usage and the stripper.
    members: Members,
    usage: Option<StreamUsage>,
    stripper: Option<UsageStripper>,
    tier: Option<TierWatch>,
}

/// What is read from a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Errors of the backend, in the head and after it.
    pub errors: bool,
    /// How many tokens it cost.
    pub usage: bool,
    /// The chunk that states the usage is removed from the stream.
    pub strips_usage: bool,
    /// The service tier.
    pub tier: bool,
}

/// What a chunk showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What happens to the chunk.
    pub edit: Edit,
    /// The first error of the backend was completed.
    pub error: bool,
}

/// Bytes that are kept up to [`EVENT_BYTES_MAX`].
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_cut: bool,
}

/// How much of a line or an event is kept. Errors are far smaller. What is longer is preamble that
/// echoes the request, or a response.
const EVENT_BYTES_MAX: usize = 64 * 1_024;

impl EventStream {
    /// Before the first byte.
    pub fn new(features: Features) -> Self {
        Self {
            frames: Frames::default(),
            head: features.errors.then(Box::default),
            watch: features.errors.then(ErrorWatch::default),
            members: Members::default(),
            usage: features.usage.then(StreamUsage::default),
            stripper: features.strips_usage.then(UsageStripper::default),
            tier: features.tier.then(TierWatch::default),
        }
    }

    /// Reads the next chunk, which must follow the last one without a gap.
    pub fn push(&mut self, chunk: &[u8]) -> Seen {
        let Seen { edit, error } = match &mut self.watch {
            // The usual case of a stream whose tokens are not counted.
            Some(watch)
                if self.head.is_none() && self.usage.is_none() && self.stripper.is_none() =>
            {
                Seen { edit: Edit::Unchanged, error: watch_only(watch, &mut self.frames, chunk) }
            }
            _ => self.read(chunk),
        };
        if error {
            // One is enough.
            self.watch = None;
        }
        if let Some(tier) = &mut self.tier {
            tier.push(chunk);
        }
        Seen { edit, error }
    }

    fn read(&mut self, chunk: &[u8]) -> Seen {
        let mut cut = Cut::new(chunk);
        let mut error = false;
        let mut rest = chunk;
        while !rest.is_empty() {
            let (part, after) = self.frames.next(rest);
            if let Some(head) = &mut self.head {
                head.read(part);
            }
            if let Some(watch) = &mut self.watch {
                error |= watch.read(part);
            }
            self.read_members(part, after);
            if let Some(stripper) = &mut self.stripper {
                let len = rest.len().saturating_sub(after.len());
                stripper.read(part, len, after.len(), &self.members, &mut cut);
            }
            if part == Part::EventEnd {
                self.end_event();
            }
            rest = after;
        }
        let edit = self.stripper.as_mut().map_or(Edit::Unchanged, |it| it.end_chunk(cut));
        Seen { edit, error }
    }

    /// Whether nothing more is read from the stream.
    pub fn is_idle(&self) -> bool {
        let Self { head, watch, usage, stripper, tier, .. } = self;
        head.is_none() && watch.is_none() && usage.is_none() && stripper.is_none() && tier.is_none()
    }

    /// What the head of the stream shows so far, until it is released.
    pub fn head(&self) -> Probe {
        self.head.as_ref().map_or(Probe::Real, |head| head.probe())
    }

    /// The same when the stream ended. It is never [`Probe::More`].
    pub fn finish_head(&mut self) -> Probe {
        self.head.as_mut().map_or(Probe::Real, |head| head.finish(&self.frames))
    }

    /// The data of the event that made the head [`Probe::Refused`]: its message states whether only this
    /// request is refused.
    pub fn refusal(&self) -> &[u8] {
        self.head.as_ref().map_or(&[], |head| head.refusal())
    }

    /// The head goes to the client: what it shows does not matter any more.
    pub fn let_head_go(&mut self) {
        self.head = None;
    }

    /// The stream ended: the held bytes of its last chunks pass.
    pub fn finish(&mut self) -> Vec<u8> {
        self.stripper.as_mut().map(UsageStripper::finish).unwrap_or_default()
    }

    /// The usage that was stated so far; `None` when nothing was. The event need not be complete.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.as_ref()?.usage(&self.members)
    }

    /// How many events had content so far. They count as the tokens of the output when [`Self::usage`] has none.
    /// `None` when they were not counted.
    pub fn counted_output_tokens(&self) -> Option<u64> {
        Some(self.usage.as_ref()?.counted_output_tokens(&self.members))
    }

    /// The service tier that was stated last.
    pub fn tier(&self) -> Option<ServiceTier> {
        self.tier.as_ref()?.tier()
    }

    /// How many bytes are held back.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        self.stripper.as_ref().map_or(0, UsageStripper::held_bytes)
    }

    #[inline]
    fn read_members(&mut self, part: Part<'_>, after: &[u8]) {
        let Part::Data { run, ends } = part else { return };
        if let Some(usage) = &self.usage {
            // Usually the line is the whole event, and the next byte ends it.
            let is_event = ends && self.members.is_fresh() && self.frames.is_empty_line(after);
            if is_event && !usage.may_be_stated(run) {
                self.members.push_until_content(run);
                return;
            }
            self.members.push(run);
        } else if self.stripper.as_ref().is_some_and(UsageStripper::is_reading) {
            self.members.push_while_possible(run);
        } else {
            return;
        }
        if ends {
            self.members.end_line();
        }
    }

    fn end_event(&mut self) {
        if let Some(usage) = &mut self.usage {
            usage.end_event(&self.members);
        }
        if self.usage.is_some() || self.stripper.is_some() {
            self.members.reset();
        }
    }
}

/// Whether an error of the backend was completed in a chunk, when nothing else is read.
fn watch_only(watch: &mut ErrorWatch, frames: &mut Frames, chunk: &[u8]) -> bool {
    let mut error = false;
    let mut rest = chunk;
    while !rest.is_empty() {
        let (part, after) = frames.next(rest);
        error |= watch.read(part);
        rest = after;
    }
    error
}

impl Bounded {
    fn extend(&mut self, run: &[u8]) {
        let room = EVENT_BYTES_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(run.get(..room).unwrap_or(run));
        self.is_cut |= run.len() > room;
    }
}

/// The field of a line: all of it when it has no colon.
fn field(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b':').next().unwrap_or_default()
}
