//! Pay-as-you-go: tokens per minute and requests per ten seconds.
//!
//! Azure adds the estimate of each request to a counter that it resets every minute, and counts requests in short
//! windows. Nothing is given back: a request counts as the larger of its estimate and its usage. Refused requests
//! count as requests too.

const MINUTE_MS: u64 = 60_000;
const SHORT_MS: u64 = 10_000;
/// How many short windows a minute has.
const SHORT_PER_MINUTE: u64 = 6;

/// The limits of one deployment, or of several that share a quota.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    tokens_per_minute: u64,
    requests_per_window: u64,
    tokens: u64,
    minute: u64,
    requests: u64,
    window: u64,
}

/// What has no room in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// How long.
    pub(super) for_ms: u64,
    /// Whether requests are used up, instead of tokens.
    pub(super) is_requests: bool,
}

impl Windows {
    pub(super) fn new(tokens_per_minute: u64, requests_per_minute: u64) -> Self {
        Self {
            tokens_per_minute,
            requests_per_window: requests_per_minute.div_ceil(SHORT_PER_MINUTE),
            tokens: 0,
            minute: 0,
            requests: 0,
            window: 0,
        }
    }

    /// The limit that a request would exceed; `None`: none. `percent` of the limits apply now.
    pub(super) fn full(&mut self, tokens: u64, percent: u64, now_ms: u64) -> Option<Full> {
        self.move_to(now_ms);
        if self.requests >= self.requests_per_window * percent / 100 {
            let for_ms = SHORT_MS - now_ms % SHORT_MS;
            return Some(Full { for_ms, is_requests: true });
        }
        // A request that is larger than the limit is always refused.
        (self.tokens + tokens > self.limit(percent))
            .then(|| Full { for_ms: MINUTE_MS - now_ms % MINUTE_MS, is_requests: false })
    }

    /// Counts a request that is refused.
    pub(super) fn count_refused(&mut self) {
        self.requests += 1;
    }

    /// Counts a request that is admitted.
    pub(super) fn take(&mut self, tokens: u64, now_ms: u64) {
        self.move_to(now_ms);
        self.requests += 1;
        self.tokens += tokens;
    }

    /// Counts the tokens that a request used beyond its estimate.
    pub(super) fn take_more(&mut self, tokens: u64, now_ms: u64) {
        self.move_to(now_ms);
        self.tokens += tokens;
    }

    /// `percent` of the tokens per minute.
    pub(super) fn limit(&self, percent: u64) -> u64 {
        self.tokens_per_minute * percent / 100
    }

    /// The tokens left in this minute.
    pub(super) fn tokens_left(&self, percent: u64) -> u64 {
        self.limit(percent).saturating_sub(self.tokens)
    }

    /// The requests of a window, and how many are left.
    pub(super) fn requests_left(&self, percent: u64) -> (u64, u64) {
        let limit = self.requests_per_window * percent / 100;
        (limit, limit.saturating_sub(self.requests))
    }

    fn move_to(&mut self, now_ms: u64) {
        if now_ms / MINUTE_MS > self.minute {
            (self.minute, self.tokens) = (now_ms / MINUTE_MS, 0);
        }
        if now_ms / SHORT_MS > self.window {
            (self.window, self.requests) = (now_ms / SHORT_MS, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: bool = false;

    #[test]
    fn tokens_come_back_when_the_minute_is_over() {
        let mut windows = Windows::new(1_000, 600);
        windows.take(900, 5_000);
        assert_eq!(windows.full(100, 100, 6_000), None);
        let full = Full { for_ms: 54_000, is_requests: TOKENS };
        assert_eq!(windows.full(101, 100, 6_000), Some(full));
        assert_eq!(windows.full(101, 100, 60_000), None);
    }

    #[test]
    fn requests_are_counted_in_ten_seconds_refused_ones_included() {
        let mut windows = Windows::new(1_000, 12);
        windows.take(1, 0);
        windows.count_refused();
        let full = Full { for_ms: 6_000, is_requests: true };
        assert_eq!(windows.full(1, 100, 4_000), Some(full));
        assert_eq!(windows.full(1, 100, 10_000), None);
    }

    #[test]
    fn a_lowered_limit_holds_for_tokens_and_requests() {
        let mut windows = Windows::new(1_000, 12);
        assert!(windows.full(501, 50, 0).is_some_and(|full| !full.is_requests));
        windows.take(1, 0);
        assert!(windows.full(1, 50, 0).is_some_and(|full| full.is_requests));
    }
}
