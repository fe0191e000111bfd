//! Headers as they cross between Envoy and the VM: sizes first, then names and values, each ended by NUL
//! (proxy-wasm ABI 0.2.1).

use crate::policy::headers::Headers;

/// All headers of a message as they crossed: one allocation, names and values as slices of it.
pub(crate) struct HeaderMap {
    bytes: Vec<u8>,
    count: usize,
}

impl HeaderMap {
    /// What the host handed over; `None` when that is malformed.
    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let count = if bytes.is_empty() { 0 } else { read_u32(&bytes, 0)? };
        Some(Self { bytes, count })
    }

    /// Every header, name and value, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut sizes = 4_usize;
        let mut data = self.count.saturating_mul(8).saturating_add(4);
        (0..self.count).map_while(move |_| {
            let name = self.slice(&mut data, read_u32(&self.bytes, sizes)?)?;
            let value = self.slice(&mut data, read_u32(&self.bytes, sizes.saturating_add(4))?)?;
            sizes = sizes.saturating_add(8);
            Some((name, value))
        })
    }

    fn slice(&self, start: &mut usize, size: usize) -> Option<&[u8]> {
        let end = start.checked_add(size)?;
        let slice = self.bytes.get(*start..end)?;
        *start = end.checked_add(1)?; // each is followed by a NUL
        Some(slice)
    }
}

impl Headers for HeaderMap {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        Self::iter(self)
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(four.try_into().ok()?)).ok()
}

/// The headers as the host reads them.
pub(crate) fn serialize(headers: &[(&str, &str)]) -> Vec<u8> {
    let size = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = u32::try_from(headers.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    for (name, value) in headers {
        bytes.extend(size(name));
        bytes.extend(size(value));
    }
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    bytes
}
