//! A text of a JSON body while it is read: unescaped, counted, and kept as far as needed.
//!
//! One value is reused for all texts of a body, so that a text costs no allocation.

use super::super::facts::VALUE_BYTES_MAX;
use super::length;
use crate::openai::bytes;

/// A text: its length and as much of it as is needed.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// Its length in UTF-8 bytes without escapes.
    pub(super) len: u64,
    /// Its first bytes, `head_bytes_max` at most.
    pub(super) head: Vec<u8>,
    head_bytes_max: usize,
    /// The first half of a surrogate pair, when it came last.
    high_surrogate: Option<u16>,
}

impl Text {
    /// A text begins. Its first `head_bytes_max` bytes are kept.
    pub(super) fn begin(&mut self, head_bytes_max: usize) {
        self.len = 0;
        self.head.clear();
        self.head_bytes_max = head_bytes_max;
        self.high_surrogate = None;
    }

    pub(super) fn extend(&mut self, run: &[u8]) {
        if run.is_empty() {
            return;
        }
        self.flush_surrogate();
        self.len = self.len.saturating_add(length(run));
        let room = self.head_bytes_max.saturating_sub(self.head.len());
        if room > 0 {
            if self.head.capacity() == 0 {
                self.head.reserve(VALUE_BYTES_MAX);
            }
            self.head.extend_from_slice(run.get(..room).unwrap_or(run));
        }
    }

    /// Counts the bytes up to the next one that is neither plain nor of a simple escape, and says how many
    /// they are as they are written. Prompts are most of a body, and have an escape in every line.
    pub(super) fn count_run(&mut self, bytes: &[u8]) -> usize {
        let (run_len, text_len) = simple_run(bytes);
        if text_len > 0 {
            self.flush_surrogate();
            self.len = self.len.saturating_add(text_len);
        }
        run_len
    }

    /// Whether nothing more is kept.
    pub(super) fn is_head_full(&self) -> bool {
        self.head.len() >= self.head_bytes_max
    }

    /// Appends one UTF-16 unit of a `\u` escape.
    pub(super) fn extend_unit(&mut self, unit: u16) {
        let units = match (self.high_surrogate.take(), unit) {
            (None, 0xd800..=0xdbff) => {
                self.high_surrogate = Some(unit);
                return;
            }
            (Some(high), 0xdc00..=0xdfff) => [Some(high), Some(unit)],
            (Some(_), 0xd800..=0xdbff) => {
                self.extend("\u{fffd}".as_bytes());
                self.high_surrogate = Some(unit);
                return;
            }
            (Some(_), _) => {
                self.extend("\u{fffd}".as_bytes());
                [Some(unit), None]
            }
            (None, _) => [Some(unit), None],
        };
        for decoded in char::decode_utf16(units.into_iter().flatten()) {
            let mut utf8 = [0; 4];
            self.extend(decoded.unwrap_or('\u{fffd}').encode_utf8(&mut utf8).as_bytes());
        }
    }

    /// A first half without a second is one unknown character.
    pub(super) fn flush_surrogate(&mut self) {
        if self.high_surrogate.take().is_some() {
            self.extend("\u{fffd}".as_bytes());
        }
    }
}

/// How long the text at the beginning of `bytes` consists of plain bytes and escapes of one byte: its length
/// with the escapes, and without.
fn simple_run(bytes: &[u8]) -> (usize, u64) {
    let mut rest = bytes;
    let mut escapes: u64 = 0;
    loop {
        let special = rest.get(bytes::quote_or_backslash(rest)..).unwrap_or_default();
        match special {
            [b'\\', escaped, after @ ..] if *escaped != b'u' => {
                escapes = escapes.saturating_add(1);
                rest = after;
            }
            _ => {
                let len = bytes.len().saturating_sub(special.len());
                return (len, u64::try_from(len).unwrap_or(u64::MAX).saturating_sub(escapes));
            }
        }
    }
}
