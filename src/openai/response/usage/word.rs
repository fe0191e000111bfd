//! The beginning of a key or a value, in bounded memory.

/// The beginning of a text or of a number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Word {
    bytes: [u8; WORD_BYTES_MAX],
    len: usize,
    pub(super) has_escape: bool,
}

/// Longer than any key that matters and than any number that can be believed.
pub(super) const WORD_BYTES_MAX: usize = 32;

impl Word {
    pub(super) fn begin(&mut self, bytes: &[u8]) {
        self.len = 0;
        self.has_escape = false;
        self.extend(bytes);
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        self.len = self.len.saturating_add(bytes.len().min(room.len()));
        for (slot, &byte) in room.iter_mut().zip(bytes) {
            *slot = byte;
        }
    }

    /// Nothing when it has an escape.
    pub(super) fn text(&self) -> &[u8] {
        if self.has_escape { &[] } else { self.bytes.get(..self.len).unwrap_or_default() }
    }
}
