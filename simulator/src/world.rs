//! Virtual time: the next event, and what a gateway can do about it.
//!
//! Events are ordered by time, and at the same time by the order in which they were created. Nothing else matters, so
//! a seed gives the same events again.

use crate::azure::{Azure, Head, Held, Reaction};
use crate::load::Request;
use crate::record::{Record, Size};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The longest silence of an attempt, as in the shipped configuration of Envoy.
pub const ROUTE_TIMEOUT_MS: u64 = 620_000;

/// A gateway that never finishes a request is stopped after this many events per request, on average.
const EVENTS_PER_REQUEST: u64 = 1_000;

/// The events that a gateway gets.
pub trait Gateway {
    /// A request arrived.
    fn arrived(&mut self, request: usize, world: &mut World);
    /// The headers of a response to an attempt came, or none will come.
    fn responded(&mut self, attempt: Attempt, seen: &Seen, world: &mut World);
    /// The response to the client ended.
    fn ended(&mut self, attempt: Attempt, world: &mut World);
    /// The time of [`World::wake`] came.
    fn woken(&mut self, token: u64, world: &mut World);
}

/// What a gateway sees after an attempt.
#[derive(Clone, Debug)]
pub enum Seen {
    /// The headers of a response.
    Head(Head),
    /// No connection was made.
    NoConnection,
    /// Nothing came in time.
    Timeout,
}

/// One attempt of a request at a backend.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The request.
    pub request: usize,
    /// The backend.
    pub backend: usize,
    /// When it was sent.
    pub at_ms: u64,
}

/// The state of a simulation.
pub struct World {
    now_ms: u64,
    azure: Azure,
    requests: Vec<Request>,
    events: BinaryHeap<Reverse<Event>>,
    next: u64,
    record: Record,
}

struct Event {
    at_ms: u64,
    number: u64,
    what: What,
}

enum What {
    Arrival(usize),
    Reaction { attempt: Attempt, seen: Seen, held: Option<Held>, rest_ms: u64 },
    End { attempt: Attempt, held: Held },
    Wake(u64),
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.number) == (other.at_ms, other.number)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

/// Lets a gateway serve all requests, and returns what happened.
pub fn run(azure: Azure, requests: Vec<Request>, gateway: &mut dyn Gateway) -> Record {
    let record = Record::new(requests.iter().map(Size::of).collect(), azure.quotas());
    let mut world =
        World { now_ms: 0, azure, requests, events: BinaryHeap::new(), next: 0, record };
    for request in 0..world.requests.len() {
        world.schedule(world.requests[request].at_ms, What::Arrival(request));
    }
    let most = (world.requests.len() as u64 + 1) * EVENTS_PER_REQUEST;
    while let Some(Reverse(event)) = world.events.pop()
        && world.next < most
    {
        world.now_ms = event.at_ms;
        world.happen(event.what, gateway);
    }
    world.record
}

impl World {
    /// The time, in milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// A request.
    pub fn request(&self, request: usize) -> &Request {
        &self.requests[request]
    }

    /// The number of backends.
    pub fn backends(&self) -> usize {
        self.azure.deployments().len()
    }

    /// Until when a backend does not serve a request; `None`: it would serve it now. Only the optimum may ask.
    pub fn out_until(&mut self, backend: usize, request: usize) -> Option<u64> {
        self.azure.out_until(backend, &self.requests[request], self.now_ms)
    }

    /// Sends a request to a backend. The attempt ends after `limit_ms` without a response.
    pub fn send(&mut self, request: usize, backend: usize, limit_ms: u64) {
        let attempt = Attempt { request, backend, at_ms: self.now_ms };
        let asked = &self.requests[request];
        self.record.attempt(&attempt, self.azure.is_dead(backend, self.now_ms));
        let (after_ms, seen, held, rest_ms) = match self.azure.ask(backend, asked, self.now_ms) {
            Reaction::Refused { after_ms } => (after_ms, Seen::NoConnection, None, 0),
            Reaction::Silent => (limit_ms, Seen::Timeout, None, 0),
            Reaction::Response { head_ms, held, .. } if head_ms > limit_ms => {
                if let Some(held) = held {
                    self.azure.end(backend, asked, held, false, self.now_ms);
                }
                (limit_ms, Seen::Timeout, None, 0)
            }
            Reaction::Response { head_ms, rest_ms, head, held } => {
                (head_ms, Seen::Head(head), held, rest_ms)
            }
        };
        let reaction = What::Reaction { attempt, seen, held, rest_ms };
        self.schedule(self.now_ms + after_ms, reaction);
    }

    /// Wakes the gateway at a time.
    pub fn wake(&mut self, at_ms: u64, token: u64) {
        self.schedule(at_ms.max(self.now_ms), What::Wake(token));
    }

    /// The client gets the response of an attempt, which succeeded.
    pub fn serve(&mut self, attempt: &Attempt) {
        let request = &self.requests[attempt.request];
        let tokens = self.azure.measure(attempt.backend, request);
        self.record.served(attempt, request, tokens, self.now_ms);
    }

    /// The client gets an error although no limit of its own forbids the request.
    pub fn refuse(&mut self, request: usize, status: u16) {
        let could = (0..self.backends()).any(|backend| self.out_until(backend, request).is_none());
        let at_ms = self.requests[request].at_ms;
        self.record.refused(request, at_ms, status, could, self.now_ms);
    }

    /// The client exceeds its own limit.
    pub fn limit(&mut self, request: usize) {
        self.record.limited(request);
    }

    fn schedule(&mut self, at_ms: u64, what: What) {
        self.events.push(Reverse(Event { at_ms, number: self.next, what }));
        self.next += 1;
    }

    fn happen(&mut self, what: What, gateway: &mut dyn Gateway) {
        match what {
            What::Arrival(request) => gateway.arrived(request, self),
            What::Wake(token) => gateway.woken(token, self),
            What::Reaction { attempt, seen, held, rest_ms } => {
                self.record.responded(&attempt, &seen, self.now_ms);
                let end = held.map(|held| What::End { attempt, held });
                gateway.responded(attempt, &seen, self);
                match end {
                    // The whole response is there, so nothing happens before its end.
                    Some(end) if rest_ms == 0 => self.happen(end, gateway),
                    Some(end) => self.schedule(self.now_ms + rest_ms, end),
                    None => {}
                }
            }
            What::End { attempt, held } => {
                let request = &self.requests[attempt.request];
                self.azure.end(attempt.backend, request, held, true, self.now_ms);
                gateway.ended(attempt, self);
            }
        }
    }
}
