//! Pay-as-you-go windows: a sliding minute of tokens, ten-second windows of requests.
//!
//! Observed on Azure: tokens behave like a window of 60 s that slides, requests like a counter that
//! is reset every 10 s with a sixth of the per-minute limit. A request that alone exceeds the token
//! limit is told to come back in a day, as small deployments do.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

const TOKEN_WINDOW: Duration = Duration::from_secs(60);
const REQUEST_WINDOW: Duration = Duration::from_secs(10);
/// Request windows in a minute.
const WINDOWS_PER_MINUTE: u64 = 6;
/// What Azure answers when a request can never fit.
const NEVER: Duration = Duration::from_secs(86_400);

/// Tokens admitted in the last minute.
#[derive(Debug)]
pub(crate) struct TokenWindow {
    limit: u64,
    used: u64,
    admitted: VecDeque<(Instant, u64)>,
}

impl TokenWindow {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: 0, admitted: VecDeque::new() }
    }

    /// Counts the tokens, or says how long it takes until they fit.
    pub(super) fn admit(&mut self, tokens: u64, now: Instant) -> Result<(), Duration> {
        self.expire(now);
        if tokens > self.limit {
            return Err(NEVER);
        }
        if self.used + tokens > self.limit {
            return Err(self.wait_for(tokens, now));
        }
        self.used += tokens;
        self.admitted.push_back((now, tokens));
        Ok(())
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn remaining(&mut self, now: Instant) -> u64 {
        self.expire(now);
        self.limit.saturating_sub(self.used)
    }

    /// Until the window is empty.
    pub(super) fn reset_in(&self, now: Instant) -> Duration {
        let last = self.admitted.back().map(|(at, _)| *at + TOKEN_WINDOW);
        last.map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }

    fn wait_for(&self, tokens: u64, now: Instant) -> Duration {
        let mut used = self.used;
        for (at, leaving) in &self.admitted {
            used -= leaving;
            if used + tokens <= self.limit {
                return (*at + TOKEN_WINDOW).saturating_duration_since(now);
            }
        }
        TOKEN_WINDOW
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, tokens)) = self.admitted.front() {
            if now.saturating_duration_since(*at) < TOKEN_WINDOW {
                break;
            }
            self.used -= tokens;
            self.admitted.pop_front();
        }
    }
}

/// Requests in the current ten seconds, refused ones included.
#[derive(Debug)]
pub(crate) struct RequestWindow {
    limit: u64,
    count: u64,
    start: Instant,
}

impl RequestWindow {
    pub(super) fn new(requests_per_minute: u64, now: Instant) -> Self {
        Self { limit: requests_per_minute.div_ceil(WINDOWS_PER_MINUTE), count: 0, start: now }
    }

    /// Counts a request, or says how long the window that is full still lasts.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        self.advance(now);
        self.count += 1;
        if self.count > self.limit { Err(self.reset_in(now)) } else { Ok(()) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn remaining(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.limit.saturating_sub(self.count)
    }

    pub(super) fn reset_in(&self, now: Instant) -> Duration {
        (self.start + REQUEST_WINDOW).saturating_duration_since(now)
    }

    fn advance(&mut self, now: Instant) {
        let windows =
            now.saturating_duration_since(self.start).as_secs() / REQUEST_WINDOW.as_secs();
        if windows > 0 {
            self.start += Duration::from_secs(windows * REQUEST_WINDOW.as_secs());
            self.count = 0;
        }
    }
}
