//! The interface through which the core reads headers.

/// The headers of one message, read as bytes: a value need not be UTF-8.
pub trait Headers {
    /// The value of the first header of this name, which must be lower-case.
    fn get(&self, name: &str) -> Option<&[u8]>;

    /// All headers in order, name and value; names are lower-case.
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])>;
}

impl<K: AsRef<str>, V: AsRef<[u8]>> Headers for [(K, V)] {
    fn get(&self, name: &str) -> Option<&[u8]> {
        <[_]>::iter(self)
            .find(|(key, _)| key.as_ref().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_ref())
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        <[_]>::iter(self).map(|(name, value)| (name.as_ref().as_bytes(), value.as_ref()))
    }
}
