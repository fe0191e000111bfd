//! Provisioned throughput: a leaky bucket.
//!
//! A request is admitted while the level is below the capacity, so the last one may raise it above. After that each
//! request is refused, with the milliseconds until the level is below the capacity. The level drains all the time.

/// A token has this many parts, so that the drain per millisecond is a whole number of parts.
const PARTS_PER_TOKEN: u64 = 60_000;

/// The bucket of one deployment.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// The capacity in parts.
    capacity: u64,
    /// The drain in parts per millisecond.
    drain: u64,
    level: u64,
    at_ms: u64,
}

impl Bucket {
    pub(super) fn new(tokens_per_minute: u64, burst_tokens: u64) -> Self {
        let capacity = burst_tokens.max(1).saturating_mul(PARTS_PER_TOKEN);
        Self { capacity, drain: tokens_per_minute.max(1), level: 0, at_ms: 0 }
    }

    /// The milliseconds until a request is admitted; `None`: one is admitted now.
    pub(super) fn full_for(&mut self, now_ms: u64) -> Option<u64> {
        self.drain_until(now_ms);
        let excess = self.level.checked_sub(self.capacity)?;
        Some(excess / self.drain + 1)
    }

    /// Adds the tokens that a request is expected to use.
    pub(super) fn pour(&mut self, tokens: u64, now_ms: u64) {
        self.drain_until(now_ms);
        self.level = self.level.saturating_add(tokens.saturating_mul(PARTS_PER_TOKEN));
    }

    /// Replaces the tokens that were poured for a request by those that it used.
    pub(super) fn correct(&mut self, poured: u64, taken: u64, now_ms: u64) {
        self.pour(taken, now_ms);
        self.level = self.level.saturating_sub(poured.saturating_mul(PARTS_PER_TOKEN));
    }

    /// The level in tenths of a percent of the capacity.
    pub(super) fn permille(&mut self, now_ms: u64) -> u64 {
        self.drain_until(now_ms);
        self.level.saturating_mul(1_000) / self.capacity
    }

    fn drain_until(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.level = self.level.saturating_sub(passed.saturating_mul(self.drain));
        self.at_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_names_the_exact_time_until_it_is_below_its_capacity() {
        let mut bucket = Bucket::new(60_000, 1_000);
        assert_eq!(bucket.full_for(0), None);
        bucket.pour(1_300, 0);
        assert_eq!(bucket.full_for(0), Some(301));
        assert_eq!(bucket.full_for(300), Some(1));
        assert_eq!(bucket.full_for(301), None);
    }

    #[test]
    fn the_expected_tokens_become_the_used_ones() {
        let mut bucket = Bucket::new(60, 1_000);
        bucket.pour(2_000, 0);
        bucket.correct(2_000, 500, 0);
        assert_eq!(bucket.permille(0), 500);
        bucket.correct(700, 100, 0);
        assert_eq!(bucket.permille(0), 0, "never negative");
    }
}
