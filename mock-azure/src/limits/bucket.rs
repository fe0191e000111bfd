//! Provisioned throughput: a leaky bucket of tokens.
//!
//! A request adds its estimate on admission and is corrected to what it used at its end; the bucket
//! drains all the time at the rate that was bought. The admission test looks only at the level, so the last
//! request may go above 100 %; from then on every request is refused at once with exactly the time until the
//! level is below 100 % again.

use std::time::Duration;

use tokio::time::Instant;

/// The bucket of one provisioned deployment.
#[derive(Debug)]
pub(crate) struct Bucket {
    capacity: f64,
    drained_per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(tokens_per_minute: u64, burst_tokens: u64, now: Instant) -> Self {
        // A bucket without capacity or drain would divide by zero; one token is as good as none.
        let capacity = burst_tokens.max(1) as f64;
        let drained_per_second = tokens_per_minute.max(1) as f64 / 60.0;
        Self { capacity, drained_per_second, level: 0.0, at: now }
    }

    /// Adds the tokens, or says how long it takes until the level is below 100 %.
    pub(super) fn admit(&mut self, tokens: u64, now: Instant) -> Result<(), Duration> {
        self.drain(now);
        let excess = self.level - self.capacity;
        if excess >= 0.0 {
            let wait_s = (excess / self.drained_per_second).min(86_400.0);
            // One more microsecond, for "below" and against rounding.
            return Err(Duration::from_secs_f64(wait_s) + Duration::from_micros(1));
        }
        self.level += tokens as f64;
        Ok(())
    }

    /// Replaces an admitted estimate by what was used.
    pub(super) fn correct(&mut self, estimate: u64, actual: u64, now: Instant) {
        self.drain(now);
        self.level = (self.level + actual as f64 - estimate as f64).max(0.0);
    }

    pub(super) fn utilisation_percent(&mut self, now: Instant) -> f64 {
        self.drain(now);
        100.0 * self.level / self.capacity
    }

    fn drain(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level - passed * self.drained_per_second).max(0.0);
        self.at = now;
    }
}
