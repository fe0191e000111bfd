//! Shared by the tests of the policy: settings, times, and random numbers that a seed reproduces.

use super::pool::{
    BackendIndex, BreakerSettings, FailoverSettings, Member, OperationSet, PoolPolicy, Reasons,
    Rule, StatusSet, Threshold, ThrottleSettings,
};
use super::time::{Millis, Timestamp};

/// Splitmix64: tiny, and a failure names the seed that reproduces it.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }
}

pub(super) fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(ms)
}

pub(super) fn ms(ms: u64) -> Millis {
    Millis::new(ms)
}

pub(super) fn backend(position: usize) -> BackendIndex {
    BackendIndex::new(position).unwrap()
}

pub(super) fn throttle() -> ThrottleSettings {
    ThrottleSettings {
        default_retry_after: Millis::from_secs(10),
        max_retry_after: Millis::from_secs(60),
    }
}

/// Counts 5xx, 408 and every fault before the first byte, in 30 s; opens for 30 s.
pub(super) fn rule(threshold: Threshold) -> Rule {
    Rule {
        threshold,
        interval: Millis::from_secs(30),
        statuses: StatusSet::new(vec![(500, 599), (408, 408)]),
        reasons: Reasons {
            connect: true,
            timeout: true,
            reset: true,
            stream_error: true,
            slow: None,
        },
        trip_duration: Some(Millis::from_secs(30)),
        accept_retry_after: true,
    }
}

pub(super) fn breaker(rules: Vec<Rule>) -> BreakerSettings {
    BreakerSettings {
        rules,
        max_trip_duration: Millis::from_secs(300),
        probe_timeout: Millis::from_secs(30),
        ramp_duration: Millis::from_secs(9),
    }
}

pub(super) fn failover() -> FailoverSettings {
    FailoverSettings {
        max_attempts: 4,
        retry_percent: 20,
        min_retries_per_second: 10,
        max_wait: Millis::ZERO,
        hold_bytes: 65_536,
        hold_time: Millis::new(500),
        first_byte_timeout: None,
    }
}

pub(super) fn member(key: u64, priority: u8, weight: u8) -> Member {
    Member {
        key,
        priority,
        weight,
        quota_group: None,
        operations: OperationSet::ALL,
        max_prompt_tokens: None,
    }
}

/// A pool of backends given as (priority, weight). Their breakers open after three faults.
pub(super) fn pool(backends: &[(u8, u8)]) -> PoolPolicy {
    let members = (1..)
        .zip(backends)
        .map(|(key, (priority, weight))| member(key, *priority, *weight))
        .collect();
    PoolPolicy::new(members, throttle(), breaker(vec![rule(Threshold::Count(3))]), failover())
}
