//! Azure API Management: a load-balanced pool of backends, each with a circuit breaker.
//!
//! As documented ("Backends in API Management", learn.microsoft.com): groups by priority, with weights within one. A
//! lower group is used only when the breakers of all backends in the higher ones have tripped. Each backend has one
//! rule, which counts statuses in an interval and opens for `tripDuration`, or for the response's `Retry-After` with
//! `acceptRetryAfter`. There is no half-open state. The rule and the `<retry>` policy are those of Microsoft's AI
//! gateway samples: one 429 in a minute trips the breaker for a minute or for the named time. The rule for 5xx is
//! added, because the documentation advises it and one rule can have both. A failed request is sent again at once, as
//! often as there are other members.

use super::{Member, Move, Policy, Trip, by_weight, first_group, told};
use crate::random::Random;
use crate::world::ROUTE_TIMEOUT_MS;

/// `tripDuration` of the samples: PT1M.
const TRIP_MS: u64 = 60_000;
/// The default of `timeout` of the policy `<forward-request>`, in milliseconds.
const FORWARD_TIMEOUT_MS: u64 = 300_000;

/// One gateway instance.
#[derive(Clone, Debug)]
pub struct ApiManagement {
    members: Vec<Member>,
    open_until_ms: Vec<u64>,
}

impl ApiManagement {
    /// A pool with these members.
    pub fn new(members: Vec<Member>) -> Self {
        Self { open_until_ms: vec![0; members.len()], members }
    }
}

impl Policy for ApiManagement {
    fn next(&mut self, trip: &Trip, now_ms: u64, random: &mut Random) -> Move {
        if trip.tried.len() >= self.members.len() {
            return Move::Fail(told(trip.status));
        }
        let group = first_group(&self.members, |backend| self.open_until_ms[backend] <= now_ms);
        // The pool does not remember which backends the request tried; only breakers keep it away from them.
        by_weight(&self.members, &group, random).map_or(Move::Fail(503), Move::Send)
    }

    fn note(&mut self, backend: usize, status: u16, retry_after_ms: Option<u64>, now_ms: u64) {
        if matches!(status, 0 | 429 | 500..) {
            let length = retry_after_ms.unwrap_or(TRIP_MS);
            let until = &mut self.open_until_ms[backend];
            *until = (*until).max(now_ms + length);
        }
    }

    fn limit_ms(&self) -> u64 {
        FORWARD_TIMEOUT_MS.min(ROUTE_TIMEOUT_MS)
    }
}
