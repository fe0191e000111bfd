//! Models of other gateways: small policies in front of the same backends.
//!
//! Each follows what its makers document or publish, with the source beside its code. None has the latency or the
//! limits of the real program, so the models show the programs at their best.

mod apim;
mod clairvoyant;
mod litellm;
mod plain;

pub use apim::ApiManagement;
pub use clairvoyant::Clairvoyant;
pub use litellm::LiteLlm;
pub use plain::{AzureAlone, FirstThenNext, OneBackend, RoundRobin};

use crate::azure::Head;
use crate::random::Random;
use crate::world::{Attempt, Gateway, Seen, World};

/// A backend in a gateway's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The lowest number is used first.
    pub priority: u8,
    /// The share among those of the same priority.
    pub weight: u8,
}

/// The next step of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Sends it to a backend.
    Send(usize),
    /// Asks again at this time.
    Wait(u64),
    /// Gives the client an error.
    Fail(u16),
}

/// The state of one request.
#[derive(Clone, Debug, Default)]
pub struct Trip {
    /// The backends that it tried.
    pub tried: Vec<usize>,
    /// The status of the last response, or 0.
    pub status: u16,
    /// The delay that it named, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// Whether the request has waited since.
    pub has_waited: bool,
}

/// The policy of a gateway.
pub trait Policy {
    /// The next step of a request that arrived, failed or waited.
    fn next(&mut self, trip: &Trip, now_ms: u64, random: &mut Random) -> Move;

    /// An attempt ended with a status, 0 for none.
    fn note(&mut self, backend: usize, status: u16, retry_after_ms: Option<u64>, now_ms: u64);

    /// How long an attempt may take to its first byte.
    fn limit_ms(&self) -> u64;
}

/// Replicas of a gateway, each with its own policy.
pub struct Peer<P> {
    replicas: Vec<P>,
    random: Random,
    trips: Vec<Trip>,
    /// The replica of each request.
    at: Vec<usize>,
}

impl<P: Policy> Peer<P> {
    /// With these replicas.
    pub fn new(replicas: Vec<P>, seed: u64) -> Self {
        Self { replicas, random: Random::new(seed), trips: Vec::new(), at: Vec::new() }
    }

    fn go_on(&mut self, request: usize, world: &mut World) {
        let policy = &mut self.replicas[self.at[request]];
        let trip = &mut self.trips[request];
        match policy.next(trip, world.now_ms(), &mut self.random) {
            Move::Send(backend) => {
                trip.tried.push(backend);
                trip.has_waited = false;
                world.send(request, backend, policy.limit_ms());
            }
            Move::Wait(until_ms) => world.wake(until_ms.max(world.now_ms() + 1), request as u64),
            Move::Fail(status) => world.refuse(request, status),
        }
    }
}

impl<P: Policy> Gateway for Peer<P> {
    fn arrived(&mut self, request: usize, world: &mut World) {
        self.trips.resize_with(self.trips.len().max(request + 1), Trip::default);
        self.at.resize(self.trips.len(), 0);
        self.at[request] = self.random.below(self.replicas.len() as u64) as usize;
        self.go_on(request, world);
    }

    fn responded(&mut self, attempt: Attempt, seen: &Seen, world: &mut World) {
        let (status, retry_after_ms) = match seen {
            Seen::Head(head) => (head.status, retry_after_ms(head)),
            Seen::NoConnection | Seen::Timeout => (0, None),
        };
        let policy = &mut self.replicas[self.at[attempt.request]];
        policy.note(attempt.backend, status, retry_after_ms, world.now_ms());
        if status == 200 {
            world.serve(&attempt);
            return;
        }
        let trip = &mut self.trips[attempt.request];
        (trip.status, trip.retry_after_ms) = (status, retry_after_ms);
        self.go_on(attempt.request, world);
    }

    fn ended(&mut self, _: Attempt, _: &mut World) {}

    fn woken(&mut self, token: u64, world: &mut World) {
        let request = token as usize;
        self.trips[request].has_waited = true;
        self.go_on(request, world);
    }
}

/// The delay that a response names, as most gateways read it: in whole seconds.
fn retry_after_ms(head: &Head) -> Option<u64> {
    let value = head.headers.iter().find(|(name, _)| *name == "retry-after");
    value.and_then(|(_, value)| value.parse::<u64>().ok()).map(|seconds| seconds * 1_000)
}

/// The status that a client gets for an attempt without a response.
fn told(status: u16) -> u16 {
    if status == 0 { 502 } else { status }
}

/// A random one of `candidates`, in proportion to their weights.
fn by_weight(members: &[Member], candidates: &[usize], random: &mut Random) -> Option<usize> {
    let weight = |backend: &usize| u64::from(members[*backend].weight.max(1));
    let mut left = random.below(candidates.iter().map(weight).sum());
    let found = candidates.iter().find(|backend| {
        let is_it = left < weight(backend);
        left = left.saturating_sub(weight(backend));
        is_it
    });
    found.copied()
}

/// The backends of the lowest priority among those for which `is_left`.
fn first_group(members: &[Member], is_left: impl Fn(usize) -> bool) -> Vec<usize> {
    let left = || (0..members.len()).filter(|backend| is_left(*backend));
    let lowest = left().map(|backend| members[backend].priority).min();
    left().filter(|backend| Some(members[*backend].priority) == lowest).collect()
}

#[cfg(test)]
mod tests;
