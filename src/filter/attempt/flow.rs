//! A response on its way to the client: it is read as it passes, and never kept.

use super::usage::Reader;
use crate::filter::host::{self, Buffer, Instant};
use crate::filter::request::charge::Tokens;
use crate::openai::response::stream::{Edit, Seen};
use crate::policy::response::classify::{Fault, Outcome};
use crate::policy::time::Millis;
use crate::policy::tokens::estimate::Estimate;

/// A response on its way to the client. Its outcome is recorded when it ends.
pub(super) struct Flow {
    pub(super) status: u16,
    /// The outcome so far.
    pub(super) outcome: Outcome,
    /// Whether it contained an error event.
    pub(super) broke_off: bool,
    /// The time to its first byte, once it is known that the response goes to the client.
    pub(super) elapsed: Option<Millis>,
    /// Reads the parts of the body that matter.
    pub(super) reader: Reader,
    /// When its head was released, if no part of its body was shown before.
    pub(super) let_go: Option<Instant>,
}

impl Flow {
    pub(super) fn new(status: u16, outcome: Outcome) -> Self {
        Self {
            status,
            outcome,
            broke_off: false,
            elapsed: None,
            reader: Reader::None,
            let_go: None,
        }
    }

    /// Reads the next `size` bytes on their way to the client.
    pub(super) fn pass(&mut self, size: usize, end_of_stream: bool) {
        if self.reader.is_idle() {
            return;
        }
        let bytes = host::buffer(Buffer::ResponseBody, 0, size).unwrap_or_default();
        let Seen { edit, error } = self.reader.push(&bytes);
        self.broke_off |= error;
        if let Edit::Replaced(edited) = edit {
            replace(bytes.len(), &edited);
        }
        if end_of_stream {
            self.append_rest();
        }
    }

    /// The held head of `size` bytes is released, as `edited` if anything was removed from it.
    pub(super) fn let_head_go(&mut self, size: usize, edited: Option<&[u8]>, end_of_stream: bool) {
        if let Reader::Stream(stream) = &mut self.reader {
            stream.let_head_go();
        }
        if let Some(edited) = edited {
            replace(size, edited);
        }
        if end_of_stream {
            self.append_rest();
        }
    }

    /// The stream ended: releases the bytes that the reader held back.
    fn append_rest(&mut self) {
        let rest = self.reader.finish();
        if !rest.is_empty() {
            let _ = host::append(Buffer::ResponseBody, &rest);
        }
    }

    /// How many tokens the response used.
    pub(super) fn tokens(&self, estimate: Estimate) -> Tokens {
        if self.outcome == Outcome::ClientError {
            return Tokens::None;
        }
        self.reader
            .stated()
            .map_or_else(|| Tokens::Guessed(self.reader.guess(estimate)), Tokens::Stated)
    }
}

/// Replaces the first `size` bytes by `edited`. If the host refuses, the client gets one chunk that it did not ask
/// for.
fn replace(size: usize, edited: &[u8]) {
    let _ = host::replace_front(Buffer::ResponseBody, size, edited);
}

/// The outcome of an event stream with an error in it.
pub(super) fn stream_error() -> Outcome {
    Outcome::Fault { fault: Fault::StreamError, retry_after: None }
}
