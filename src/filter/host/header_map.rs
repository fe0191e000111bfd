//! Headers in the form in which Envoy and the VM exchange them: first all sizes, then names and values, each followed
//! by NUL (proxy-wasm ABI 0.2.1).

use crate::openai::bytes::is_same;
use crate::policy::response::headers::Headers;

/// All headers of a message in one allocation. Names and values are slices of it.
pub(crate) struct HeaderMap {
    bytes: Vec<u8>,
    /// Where the first name begins.
    start: usize,
}

/// Where a header begins, and the lengths of its name and value in bytes.
struct Place {
    start: usize,
    name: usize,
    value: usize,
}

impl HeaderMap {
    /// Parses the host's bytes; `None` when they are malformed.
    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let count = bytes.first_chunk().map_or(0, |count| u32::from_le_bytes(*count));
        let start = usize::try_from(count).ok()?.checked_mul(8)?.checked_add(4)?;
        (bytes.is_empty() || start <= bytes.len()).then_some(Self { bytes, start })
    }

    /// Every header, name and value, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.bytes.get(self.start..).unwrap_or_default();
        self.sizes().map_while(move |(name, value)| {
            let (name, behind) = rest.split_at_checked(name)?;
            // A NUL follows each of them.
            let (value, behind) = behind.get(1..)?.split_at_checked(value)?;
            rest = behind.get(1..).unwrap_or_default();
            Some((name, value))
        })
    }

    /// The values of all headers of this name, which must be lower-case.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.places()
            .filter(move |place| {
                place.name == name.len()
                    && self.name(place).is_some_and(|it| is_same(it, name.as_bytes()))
            })
            .map_while(|place| self.value(&place))
    }

    /// The place of every header. A search skips names and values of another length.
    fn places(&self) -> impl Iterator<Item = Place> {
        let mut next = self.start;
        self.sizes().map(move |(name, value)| {
            let start = next;
            // A NUL follows each of them. A place out of bounds gives no slice.
            next = start.wrapping_add(name).wrapping_add(value).wrapping_add(2);
            Place { start, name, value }
        })
    }

    /// The lengths of each header's name and value, in bytes.
    fn sizes(&self) -> impl Iterator<Item = (usize, usize)> {
        let sizes = self.bytes.get(4..self.start).unwrap_or_default();
        let size = |four| usize::try_from(u32::from_le_bytes(four)).unwrap_or(usize::MAX);
        let pairs = sizes.as_chunks::<8>().0.iter();
        pairs.map(move |&[a, b, c, d, e, f, g, h]| (size([a, b, c, d]), size([e, f, g, h])))
    }

    fn name(&self, place: &Place) -> Option<&[u8]> {
        self.bytes.get(place.start..)?.get(..place.name)
    }

    fn value(&self, place: &Place) -> Option<&[u8]> {
        let start = place.start.wrapping_add(place.name).wrapping_add(1);
        self.bytes.get(start..)?.get(..place.value)
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

/// The headers in the form that the host reads.
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
