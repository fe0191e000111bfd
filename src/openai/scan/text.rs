//! A text of a JSON body, as it is read: unescaped, counted, and kept as far as anyone asks.
//!
//! One value is reused for all texts of a body, so that a text costs no allocation.

use super::super::facts::VALUE_BYTES_MAX;
use super::length;
use memchr::memchr2;

/// A text: its length and as much of it as anyone asks for.
#[derive(Debug)]
pub(super) struct Text {
    /// Its length in UTF-8 bytes without escapes.
    pub(super) len: u64,
    /// Its first bytes, `head_bytes_max` at most.
    pub(super) head: Vec<u8>,
    pub(super) head_bytes_max: usize,
    /// The first half of a surrogate pair, when it came last.
    pub(super) high_surrogate: Option<u16>,
}

impl Text {
    /// No text yet.
    pub(super) fn new() -> Self {
        Self {
            len: 0,
            head: Vec::with_capacity(VALUE_BYTES_MAX),
            head_bytes_max: 0,
            high_surrogate: None,
        }
    }

    /// A text begins, of which the first `head_bytes_max` bytes are kept.
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
            self.head.extend_from_slice(run.get(..room).unwrap_or(run));
        }
    }

    /// Appends so many bytes that are not kept.
    pub(super) fn count(&mut self, bytes: u64) {
        if bytes > 0 {
            self.flush_surrogate();
            self.len = self.len.saturating_add(bytes);
        }
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

    /// Whether the head is not all of it.
    pub(super) fn is_cut(&self) -> bool {
        self.len > length(&self.head)
    }

    pub(super) fn is_data_url(&self) -> bool {
        self.head.starts_with(b"data:")
    }
}

/// How long the text at the beginning of `bytes` goes on with plain bytes and escapes that stand for one
/// byte: its length as it is written, and as it is meant.
pub(super) fn simple_run(bytes: &[u8]) -> (u64, u64) {
    let mut rest = bytes;
    let mut escapes: u64 = 0;
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let (run, special) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        match special {
            [b'\\', escaped, after @ ..] if *escaped != b'u' => {
                escapes = escapes.saturating_add(1);
                rest = after;
            }
            _ => {
                let len = length(bytes).saturating_sub(length(rest)).saturating_add(length(run));
                return (len, len.saturating_sub(escapes));
            }
        }
    }
    (length(bytes), length(bytes).saturating_sub(escapes))
}
