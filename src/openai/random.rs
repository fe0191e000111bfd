//! Random inputs for tests: a seed reproduces all of them.

/// xorshift; the quality of the numbers does not matter here.
pub(super) struct Random(u64);

impl Random {
    /// From a seed other than zero.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number less than `bound`, which counts as at least one.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        self.0.checked_rem(bound).and_then(|it| usize::try_from(it).ok()).unwrap_or(0)
    }

    /// Up to `len_max` of the `pieces`, one after another.
    pub(super) fn join(&mut self, pieces: &[&[u8]], len_max: usize) -> Vec<u8> {
        let mut joined = Vec::new();
        for _ in 0..self.below(len_max.saturating_add(1)) {
            joined.extend_from_slice(pieces.get(self.below(pieces.len())).unwrap_or(&&b""[..]));
        }
        joined
    }

    /// `bytes` cut into slices of random lengths, some of them empty.
    pub(super) fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut slices = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = self.below(20).min(rest.len());
            let (slice, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            slices.push(slice);
            rest = after;
        }
        slices
    }
}
