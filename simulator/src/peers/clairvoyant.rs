//! A gateway that sees into the backends: the optimum to which others are compared.
//!
//! It always knows whether a backend would serve a request, including random faults, and never asks in vain. It takes
//! the first priority that has room, and within it the backend with the least use for its weight. If none has room,
//! requests wait in order, as long as their clients are patient. It does not know which requests will come.

use super::Member;
use crate::world::{Attempt, Gateway, ROUTE_TIMEOUT_MS, Seen, World};
use std::collections::VecDeque;

/// A gateway that knows everything about the backends.
pub struct Clairvoyant {
    members: Vec<Member>,
    patience_ms: u64,
    used: Vec<u64>,
    waiting: VecDeque<usize>,
}

impl Clairvoyant {
    /// With these backends, and clients that wait for `patience_ms`.
    pub fn new(members: Vec<Member>, patience_ms: u64) -> Self {
        Self { used: vec![0; members.len()], members, patience_ms, waiting: VecDeque::new() }
    }

    /// Sends a request, or returns when it can be sent.
    fn send(&mut self, request: usize, world: &mut World) -> Result<(), u64> {
        let mut soonest = u64::MAX;
        let mut best: Option<(u8, u64, usize)> = None;
        for (backend, member) in self.members.iter().enumerate() {
            match world.out_until(backend, request) {
                Some(until) => soonest = soonest.min(until),
                None => {
                    let used = self.used[backend] / u64::from(member.weight.max(1));
                    let rank = (member.priority, used, backend);
                    best = Some(best.map_or(rank, |best| best.min(rank)));
                }
            }
        }
        let Some((_, _, backend)) = best else { return Err(soonest) };
        self.used[backend] += 1_000;
        world.send(request, backend, ROUTE_TIMEOUT_MS);
        Ok(())
    }

    /// Sends waiting requests in order, and sets the time of the next look.
    fn serve_waiting(&mut self, world: &mut World) {
        let mut soonest: Option<u64> = None;
        for request in std::mem::take(&mut self.waiting) {
            let gives_up_ms = world.request(request).at_ms + self.patience_ms;
            match self.send(request, world) {
                Ok(()) => {}
                Err(_) if world.now_ms() >= gives_up_ms => world.refuse(request, 429),
                Err(until) => {
                    let next = until.min(gives_up_ms).max(world.now_ms() + 1);
                    soonest = Some(soonest.map_or(next, |soonest| soonest.min(next)));
                    self.waiting.push_back(request);
                }
            }
        }
        if let Some(soonest) = soonest {
            world.wake(soonest, 0);
        }
    }
}

impl Gateway for Clairvoyant {
    fn arrived(&mut self, request: usize, world: &mut World) {
        self.waiting.push_back(request);
        self.serve_waiting(world);
    }

    fn responded(&mut self, attempt: Attempt, seen: &Seen, world: &mut World) {
        match seen {
            Seen::Head(head) if head.status == 200 => world.serve(&attempt),
            Seen::Head(head) => world.refuse(attempt.request, head.status),
            Seen::NoConnection | Seen::Timeout => world.refuse(attempt.request, 502),
        }
    }

    fn ended(&mut self, _: Attempt, world: &mut World) {
        if !self.waiting.is_empty() {
            self.serve_waiting(world);
        }
    }

    fn woken(&mut self, _: u64, world: &mut World) {
        self.serve_waiting(world);
    }
}
