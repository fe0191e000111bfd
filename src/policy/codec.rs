//! Little-endian reading and writing of the shared records.
//!
//! A record may come from another version of this module or be damaged. So every read can fail and none can panic;
//! each record defines what a failure means.

/// Whether a record has this version and length.
pub(super) fn is_sound(record: &[u8], version: u8, length: usize) -> bool {
    record.len() == length && record.first() == Some(&version)
}

/// Empties a record that has another version or length. Then its length is `length`.
pub(super) fn make_sound(record: &mut Vec<u8>, version: u8, length: usize) {
    if !is_sound(record, version, length) {
        record.clear();
        record.resize(length, 0);
    }
}

/// Reads fields from the front of a record.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array::<2>().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array::<4>().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array::<8>().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

/// Writes fields to the front of a record, as far as there is room.
pub(super) struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn u8(&mut self, field: u8) {
        self.array(field.to_le_bytes());
    }

    pub(super) fn u32(&mut self, field: u32) {
        self.array(field.to_le_bytes());
    }

    pub(super) fn u64(&mut self, field: u64) {
        self.array(field.to_le_bytes());
    }

    fn array<const N: usize>(&mut self, field: [u8; N]) {
        if let Some((front, rest)) = std::mem::take(&mut self.0).split_first_chunk_mut::<N>() {
            *front = field;
            self.0 = rest;
        }
    }
}
