//! Headers as they cross between Envoy and the VM: sizes first, then names and values, each ended by NUL
//! (proxy-wasm ABI 0.2.1).

use crate::policy::response::headers::Headers;

/// All headers of a message as they crossed: one allocation, names and values as slices of it.
pub(crate) struct HeaderMap {
    bytes: Vec<u8>,
    /// Where the first name begins.
    start: usize,
}

/// Where the name and the value of a header begin, and how many bytes they have.
struct Place {
    name: (usize, usize),
    value: (usize, usize),
}

impl HeaderMap {
    /// What the host handed over; `None` when that is malformed.
    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let count = bytes.first_chunk().map_or(0, |count| u32::from_le_bytes(*count));
        let start = usize::try_from(count).ok()?.checked_mul(8)?.checked_add(4)?;
        (bytes.is_empty() || start <= bytes.len()).then_some(Self { bytes, start })
    }

    /// Every header, name and value, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places().map_while(|place| Some((self.slice(place.name)?, self.slice(place.value)?)))
    }

    /// The values of all headers of this name, which must be lower-case.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.places()
            .filter(move |place| {
                place.name.1 == name.len() && self.slice(place.name) == Some(name.as_bytes())
            })
            .map_while(|place| self.slice(place.value))
    }

    /// Where every header stands. A search touches neither names nor values of another length.
    fn places(&self) -> impl Iterator<Item = Place> {
        let sizes = self.bytes.get(4..self.start).unwrap_or_default();
        let mut at = self.start;
        sizes.as_chunks::<8>().0.iter().map(move |&[a, b, c, d, e, f, g, h]| {
            let mut next = |size: [u8; 4]| {
                let size = usize::try_from(u32::from_le_bytes(size)).unwrap_or(usize::MAX);
                let start = at;
                // Each is followed by a NUL. What is out of bounds is no slice.
                at = start.wrapping_add(size).wrapping_add(1);
                (start, size)
            };
            Place { name: next([a, b, c, d]), value: next([e, f, g, h]) }
        })
    }

    fn slice(&self, (start, size): (usize, usize)) -> Option<&[u8]> {
        self.bytes.get(start..)?.get(..size)
    }
}

impl Headers for HeaderMap {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        Self::iter(self)
    }
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
