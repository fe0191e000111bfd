//! What could be done by one who sees into the backends: the optimum that others are measured by.
//!
//! It knows at each moment whether a backend would serve a request, fault or not, and never asks in vain. It takes
//! the first priority that has room, and within it the backend that was used least for its weight. When none has
//! room, the request waits in order for as long as its client is patient. It does not know the future: of a
//! request that is about to come it knows nothing.

use super::Member;
use crate::world::{Attempt, Gateway, ROUTE_TIMEOUT_MS, Seen, World};
use std::collections::VecDeque;

/// One that knows everything.
pub struct Clairvoyant {
    members: Vec<Member>,
    patience_ms: u64,
    used: Vec<u64>,
    waiting: VecDeque<usize>,
}

impl Clairvoyant {
    /// These backends, and clients that wait for so long.
    pub fn new(members: Vec<Member>, patience_ms: u64) -> Self {
        Self { used: vec![0; members.len()], members, patience_ms, waiting: VecDeque::new() }
    }

    /// Sends a request, or says when it can be sent.
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

    /// Serves who waits, in order, and sets the time to look again.
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

    fn answered(&mut self, attempt: Attempt, answer: &Seen, world: &mut World) {
        match answer {
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
