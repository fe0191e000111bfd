//! LiteLLM's router, according to its code (`litellm/router.py`, `litellm/router_utils/cooldown_handlers.py`).
//!
//! A 429 starts a deployment's cooldown at once, unless it is the only deployment. Other failures do so when more
//! than half of the calls of this minute failed and there was more than one call. A cooldown takes the whole seconds
//! of `Retry-After` if there is one, otherwise `cooldown_time`, 5 s by default. `simple-shuffle` picks by weight
//! among the deployments of the lowest `order` without a cooldown. A call is repeated `num_retries` times, 2 by
//! default, at once while another deployment is healthy. When all are in a cooldown, the client gets 429.

use super::{Member, Move, Policy, Trip, by_weight, first_group, told};
use crate::random::Random;

const COOLDOWN_MS: u64 = 5_000;
const NUM_RETRIES: usize = 2;
const MINUTE_MS: u64 = 60_000;
/// If the router has no `timeout`, that of the SDK applies, in milliseconds.
const TIMEOUT_MS: u64 = 600_000;

/// One proxy.
#[derive(Clone, Debug)]
pub struct LiteLlm {
    members: Vec<Member>,
    deployments: Vec<Calls>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    cools_until_ms: u64,
    minute: u64,
    successes: u64,
    failures: u64,
}

impl LiteLlm {
    /// A router with these deployments.
    pub fn new(members: Vec<Member>) -> Self {
        Self { deployments: vec![Calls::default(); members.len()], members }
    }
}

impl Policy for LiteLlm {
    fn next(&mut self, trip: &Trip, now_ms: u64, random: &mut Random) -> Move {
        if trip.tried.len() > NUM_RETRIES {
            return Move::Fail(told(trip.status));
        }
        let is_healthy = |backend: usize| self.deployments[backend].cools_until_ms <= now_ms;
        let group = first_group(&self.members, is_healthy);
        by_weight(&self.members, &group, random).map_or(Move::Fail(429), Move::Send)
    }

    fn note(&mut self, backend: usize, status: u16, retry_after_ms: Option<u64>, now_ms: u64) {
        let is_only = self.deployments.len() == 1;
        let calls = &mut self.deployments[backend];
        if calls.minute != now_ms / MINUTE_MS {
            *calls = Calls { minute: now_ms / MINUTE_MS, successes: 0, failures: 0, ..*calls };
        }
        if status == 200 {
            calls.successes += 1;
            return;
        }
        calls.failures += 1;
        let total = calls.successes + calls.failures;
        let is_mostly_failing = total > 1 && calls.failures * 2 > total;
        if (status == 429 && !is_only) || is_mostly_failing {
            calls.cools_until_ms = now_ms + retry_after_ms.unwrap_or(COOLDOWN_MS);
        }
    }

    fn limit_ms(&self) -> u64 {
        TIMEOUT_MS
    }
}
