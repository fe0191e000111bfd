//! An answer on its way to the client: looked at and counted as it passes, never kept.

use super::held::StreamHead;
use super::usage::Meter;
use crate::filter::host::{self, Buffer, Instant};
use crate::filter::request::charge::Tokens;
use crate::openai::response::stream::ErrorWatch;
use crate::openai::response::stream::usage_chunk::{Edit, UsageStripper};
use crate::policy::response::classify::{Fault, Outcome};
use crate::policy::time::Millis;
use crate::policy::tokens::estimate::Estimate;

/// An answer on its way to the client. What comes of it is recorded when it ends.
pub(super) struct Flow {
    pub(super) status: u16,
    /// What came of it so far.
    pub(super) outcome: Outcome,
    /// Whether an error event came in it.
    pub(super) broke_off: bool,
    /// How long its first byte took, once it is known that it goes on.
    pub(super) elapsed: Option<Millis>,
    /// Looks for an error event, in an event stream in which none was found yet.
    pub(super) watch: Option<ErrorWatch>,
    /// Counts the tokens, where they matter.
    pub(super) meter: Option<Meter>,
    /// When its head was let go, before anything followed it.
    pub(super) let_go: Option<Instant>,
    /// Takes the usage out again that only the gateway asked for.
    pub(super) stripper: Option<Box<UsageStripper>>,
}

impl Flow {
    pub(super) fn new(status: u16, outcome: Outcome) -> Self {
        Self {
            status,
            outcome,
            broke_off: false,
            elapsed: None,
            watch: None,
            meter: None,
            let_go: None,
            stripper: None,
        }
    }

    /// Goes on where the head of an event stream ended.
    pub(super) fn follow(&mut self, head: StreamHead) {
        self.broke_off = head.has_error;
        self.watch = (!head.has_error).then_some(head.watch);
    }

    /// Takes the usage out of the `size` bytes that were held, and from here on.
    pub(super) fn strip_head(&mut self, size: usize, end_of_stream: bool) {
        self.stripper = Some(Box::default());
        let bytes = host::buffer(Buffer::ResponseBody, 0, size).unwrap_or_default();
        self.strip(&bytes, end_of_stream);
    }

    /// Looks at the next `size` bytes on their way to the client.
    pub(super) fn pass(&mut self, size: usize, end_of_stream: bool) {
        if self.watch.is_none() && self.meter.is_none() && self.stripper.is_none() {
            return;
        }
        let bytes = host::buffer(Buffer::ResponseBody, 0, size).unwrap_or_default();
        if let Some(watch) = &mut self.watch
            && watch.push(&bytes)
        {
            self.broke_off = true;
            self.watch = None;
        }
        if let Some(meter) = &mut self.meter {
            meter.push(&bytes);
        }
        self.strip(&bytes, end_of_stream);
    }

    pub(super) fn strip(&mut self, bytes: &[u8], end_of_stream: bool) {
        let Some(stripper) = &mut self.stripper else { return };
        // A host that refuses an edit shows the client one chunk that it did not ask for.
        if let Edit::Replaced(edited) = stripper.push(bytes) {
            let _ = host::replace_front(Buffer::ResponseBody, bytes.len(), &edited);
        }
        if end_of_stream {
            let rest = stripper.finish();
            if !rest.is_empty() {
                let _ = host::append(Buffer::ResponseBody, &rest);
            }
        }
    }

    /// How many tokens the answer took.
    pub(super) fn tokens(&self, estimate: Estimate) -> Tokens {
        if self.outcome == Outcome::ClientError {
            return Tokens::None;
        }
        match &self.meter {
            Some(meter) => meter
                .stated()
                .map_or_else(|| Tokens::Guessed(meter.guess(estimate)), Tokens::Stated),
            None => Tokens::Guessed(estimate.into()),
        }
    }
}

/// The outcome of an event stream with an error in it.
pub(super) fn stream_error() -> Outcome {
    Outcome::Fault { fault: Fault::StreamError, retry_after: None }
}
