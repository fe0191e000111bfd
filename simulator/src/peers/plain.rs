//! Ways to work without a gateway, or with a simple one.

use super::{Member, Move, Policy, Trip, told};
use crate::random::Random;
use crate::world::ROUTE_TIMEOUT_MS;

/// Azure alone: the provisioned deployment itself spills over to one standard deployment of its resource.
///
/// As documented ("Manage traffic with spillover", learn.microsoft.com): if the provisioned deployment returns 429,
/// 500 or 503, the standard one serves the request, whatever its response. A resource that is down spills nothing.
#[derive(Clone, Debug)]
pub struct AzureAlone {
    first: usize,
    second: usize,
}

impl AzureAlone {
    /// `first` spills over to `second`.
    pub fn new(first: usize, second: usize) -> Self {
        Self { first, second }
    }
}

impl Policy for AzureAlone {
    fn next(&mut self, trip: &Trip, _: u64, _: &mut Random) -> Move {
        match (trip.tried.len(), trip.status) {
            (0, _) => Move::Send(self.first),
            (1, 429 | 500 | 503) => Move::Send(self.second),
            _ => Move::Fail(told(trip.status)),
        }
    }

    fn note(&mut self, _: usize, _: u16, _: Option<u64>, _: u64) {}

    fn limit_ms(&self) -> u64 {
        ROUTE_TIMEOUT_MS
    }
}

/// A client with one backend that retries as OpenAI's SDKs do: twice, after the delay that the response names if that
/// is up to a minute, otherwise after half a second, doubled each time, minus up to a quarter.
#[derive(Clone, Debug)]
pub struct OneBackend(
    /// The backend.
    pub usize,
);

impl Policy for OneBackend {
    fn next(&mut self, trip: &Trip, now_ms: u64, random: &mut Random) -> Move {
        let tries = trip.tried.len();
        if tries == 0 || trip.has_waited {
            return Move::Send(self.0);
        }
        let is_worth_another = matches!(trip.status, 0 | 408 | 409 | 429 | 500..);
        if tries > 2 || !is_worth_another {
            return Move::Fail(told(trip.status));
        }
        let named = trip.retry_after_ms.filter(|ms| *ms > 0 && *ms <= 60_000);
        let own = 500 << (tries - 1);
        Move::Wait(now_ms + named.unwrap_or_else(|| own - random.below(own / 4)))
    }

    fn note(&mut self, _: usize, _: u16, _: Option<u64>, _: u64) {}

    fn limit_ms(&self) -> u64 {
        600_000
    }
}

/// The first backend, and after an error the next one, without memory.
#[derive(Clone, Debug)]
pub struct FirstThenNext {
    order: Vec<usize>,
}

impl FirstThenNext {
    /// In the order of their priorities.
    pub fn new(members: &[Member]) -> Self {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|backend| members[*backend].priority);
        Self { order }
    }
}

impl Policy for FirstThenNext {
    fn next(&mut self, trip: &Trip, _: u64, _: &mut Random) -> Move {
        let next = self.order.get(trip.tried.len());
        next.map_or(Move::Fail(told(trip.status)), |backend| Move::Send(*backend))
    }

    fn note(&mut self, _: usize, _: u16, _: Option<u64>, _: u64) {}

    fn limit_ms(&self) -> u64 {
        ROUTE_TIMEOUT_MS
    }
}

/// All backends in turn, without retries.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    backends: usize,
    next: usize,
}

impl RoundRobin {
    /// With this many backends.
    pub fn new(backends: usize) -> Self {
        Self { backends, next: 0 }
    }
}

impl Policy for RoundRobin {
    fn next(&mut self, trip: &Trip, _: u64, _: &mut Random) -> Move {
        if !trip.tried.is_empty() {
            return Move::Fail(told(trip.status));
        }
        self.next = (self.next + 1) % self.backends;
        Move::Send(self.next)
    }

    fn note(&mut self, _: usize, _: u16, _: Option<u64>, _: u64) {}

    fn limit_ms(&self) -> u64 {
        ROUTE_TIMEOUT_MS
    }
}
