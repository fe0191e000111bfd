//! What is done without a gateway, or with one that knows little.

use super::{Member, Move, Policy, Trip, told};
use crate::random::Random;
use crate::world::ROUTE_TIMEOUT_MS;

/// Azure alone: the provisioned deployment spills over to one standard deployment of its resource by itself.
///
/// As documented ("Manage traffic with spillover", learn.microsoft.com): a 429, 500 or 503 of the provisioned
/// deployment is served by the standard one, whatever that answers. A resource that is not there spills nothing.
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

/// A client that has one backend and tries again, as OpenAI's SDKs do: twice, after the time that the response names if
/// that is up to a minute, else after half a second, doubled each time, with up to a quarter less.
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

/// The first backend, and after an error the next one, without a memory.
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

/// All backends in turn, and none again.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    backends: usize,
    next: usize,
}

impl RoundRobin {
    /// So many backends.
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
