//! Spillway: the core itself, driven in virtual time as the filter drives it in Envoy.
//!
//! This code decides nothing. Each function names the function of the filter that it mirrors, and does the same in
//! the same order. What belongs to Envoy is left out: bodies, edited headers, credentials, metrics, logs. Several
//! replicas share nothing; the workers of one share its records. Events follow each other, so no update of a record
//! loses a race.

mod health;
mod judged;
mod request;
mod setup;
mod shared;

use crate::azure::Head;
use crate::random::Random;
use crate::world::{Attempt, Gateway, ROUTE_TIMEOUT_MS, Seen, World};
use health::{CapacityHints, Evidence};
use request::{Ongoing, Stage};
pub use setup::Setup;
use shared::{Shared, Worker};
use spillway::policy::failover::{self, FinalResponse, Next, Stop};
use spillway::policy::response::classify::{self, Fault, Outcome};
use spillway::policy::time::{Millis, Timestamp};
use std::rc::Rc;

/// The start of the simulation on the wall clock, because zero in a record means "never".
const EPOCH_MS: u64 = 1_700_000_040_000;
/// Envoy's pause before a retry, as in the shipped configuration.
const RETRY_BACK_OFF_MS: u64 = 1;

/// The purpose of a wake-up: the lowest bits of a token. The bits above are the request.
const BEGIN: u64 = 0;
const WAITED_IN_GATEWAY: u64 = 1;
const WAITED_IN_ATTEMPT: u64 = 2;

/// Several replicas of Envoy with Spillway.
pub struct Spillway {
    setup: Rc<Setup>,
    replicas: Vec<Replica>,
    random: Random,
    /// By request.
    ongoing: Vec<Option<Box<Ongoing>>>,
}

struct Replica {
    shared: Shared,
    workers: Vec<Worker>,
}

/// What a worker can use: its own memory and that of its replica.
struct Desk<'a> {
    setup: &'a Setup,
    shared: &'a mut Shared,
    worker: &'a mut Worker,
    random: &'a mut Random,
    now: Timestamp,
}

impl Spillway {
    /// Replicas with a number of workers each.
    pub fn new(setup: Setup, replicas: usize, workers: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = Timestamp::from_ms(EPOCH_MS);
        let replicas = (0..replicas.max(1))
            .map(|_| Replica {
                shared: Shared::new(&setup, now),
                workers: (0..workers.max(1)).map(|_| Worker::new(&setup, &mut random)).collect(),
            })
            .collect();
        Self { setup: Rc::new(setup), replicas, random, ongoing: Vec::new() }
    }

    /// Lets a request act on its worker's desk, and removes it when that ends it.
    fn act(
        &mut self,
        request: usize,
        world: &mut World,
        act: impl FnOnce(&mut Ongoing, &mut Desk<'_>, &mut World),
    ) {
        let Some(mut ongoing) = self.ongoing.get_mut(request).and_then(Option::take) else {
            return;
        };
        let setup = Rc::clone(&self.setup);
        let Replica { shared, workers } = &mut self.replicas[ongoing.replica];
        let mut desk = Desk {
            setup: &setup,
            shared,
            worker: &mut workers[ongoing.worker],
            random: &mut self.random,
            now: Timestamp::from_ms(EPOCH_MS + world.now_ms()),
        };
        act(&mut ongoing, &mut desk, world);
        if !matches!(ongoing.stage, Stage::Over) {
            self.ongoing[request] = Some(ongoing);
        }
    }
}

impl Gateway for Spillway {
    /// As `Gateway::route`.
    fn arrived(&mut self, request: usize, world: &mut World) {
        let replica = self.random.below(self.replicas.len() as u64) as usize;
        let worker = self.random.below(self.replicas[replica].workers.len() as u64) as usize;
        self.ongoing.resize_with(self.ongoing.len().max(request + 1), || None);
        let asked = world.request(request);
        let ongoing = Ongoing::new(request, asked, replica, worker);
        self.ongoing[request] = Some(Box::new(ongoing));
        self.act(request, world, |ongoing, desk, world| {
            ongoing.understand(world.request(request), desk);
            match ongoing.admit(desk) {
                Ok(()) => advance(ongoing, desk, world),
                Err(()) => {
                    world.limit(request);
                    ongoing.stage = Stage::Over;
                }
            }
        });
    }

    fn responded(&mut self, attempt: Attempt, seen: &Seen, world: &mut World) {
        self.act(attempt.request, world, |ongoing, desk, world| match seen {
            Seen::Head(head) => head_came(ongoing, desk, &attempt, head, world),
            Seen::NoConnection => silence(ongoing, desk, Fault::Connect, world),
            Seen::Timeout => {
                // As `Response::silence`: only the pool's own time limit is known to be a timeout.
                let is_own = desk.setup.policy.failover.first_byte_timeout.is_some();
                let fault = if is_own { Fault::Timeout } else { Fault::Reset };
                silence(ongoing, desk, fault, world);
            }
        });
    }

    /// As `Response::conclude`, for a complete response.
    fn ended(&mut self, attempt: Attempt, world: &mut World) {
        self.act(attempt.request, world, |ongoing, desk, world| {
            ongoing.conclude(world.request(attempt.request), desk);
            ongoing.stage = Stage::Over;
        });
    }

    fn woken(&mut self, token: u64, world: &mut World) {
        let (request, what) = ((token / 4) as usize, token % 4);
        self.act(request, world, |ongoing, desk, world| match what {
            BEGIN => begin(ongoing, desk, world),
            // As `Routed::wake` and `Wake for Response`.
            WAITED_IN_GATEWAY => {
                ongoing.waited(desk.now);
                advance(ongoing, desk, world);
            }
            _ => {
                ongoing.waited(desk.now);
                if let Some((outcome, status)) = ongoing.refusal {
                    follow(ongoing, desk, outcome, status, world);
                }
            }
        });
    }
}

/// As `Routed::advance`.
fn advance(ongoing: &mut Ongoing, desk: &mut Desk<'_>, world: &mut World) {
    match ongoing.go_on(desk) {
        Next::Retry => begin(ongoing, desk, world),
        Next::Wait { until } => wait(ongoing, desk, until, WAITED_IN_GATEWAY, world),
        Next::Stop(Stop::Exhausted(unavailable)) => {
            let status = if unavailable.throttled { 429 } else { 503 };
            give_up(ongoing, desk, status, world);
        }
        Next::Stop(Stop::Limited | Stop::Refused | Stop::MayBeDone) => {
            give_up(ongoing, desk, 503, world);
        }
    }
}

/// As `Response::head` and `Response::settle`. The first event of a stream comes with the headers and is no error.
fn head_came(
    ongoing: &mut Ongoing,
    desk: &mut Desk<'_>,
    attempt: &Attempt,
    head: &Head,
    world: &mut World,
) {
    let traits = ongoing.traits(desk);
    let headers = head.headers.as_slice();
    let outcome = match classify::head(head.status, headers, traits, desk.now) {
        classify::Head::Decided(outcome) => outcome,
        classify::Head::FirstEvent => Outcome::Success,
        classify::Head::ErrorBody { otherwise } => {
            let body = head.body.as_bytes();
            classify::error_body(head.status, body, otherwise, traits, "model")
        }
    };
    let elapsed = ongoing.elapsed(desk.now);
    let hints = CapacityHints::read(headers);
    let evidence = Evidence { outcome, status: head.status, elapsed, hints };
    if failover::is_worth_another(&outcome) {
        let outcome = ongoing.fail(&evidence, desk);
        follow(ongoing, desk, outcome, head.status, world);
        return;
    }
    ongoing.serve(&evidence, desk);
    if outcome == Outcome::Success {
        world.serve(attempt);
    } else {
        world.refuse(ongoing.id, head.status);
        ongoing.stage = Stage::Over;
    }
}

/// As `Response::follow`.
fn follow(
    ongoing: &mut Ongoing,
    desk: &mut Desk<'_>,
    outcome: Outcome,
    status: u16,
    world: &mut World,
) {
    match ongoing.go_on(desk) {
        Next::Retry => retry(ongoing, world),
        Next::Wait { until } => {
            ongoing.refusal = Some((outcome, status));
            wait(ongoing, desk, until, WAITED_IN_ATTEMPT, world);
        }
        Next::Stop(stop) => stopped(ongoing, desk, outcome, status, &stop, world),
    }
}

/// As `Response::done` of an attempt without a response, and `Response::retry_elsewhere`.
fn silence(ongoing: &mut Ongoing, desk: &mut Desk<'_>, fault: Fault, world: &mut World) {
    let outcome = Outcome::Fault { fault, retry_after: None };
    let (elapsed, hints) = (ongoing.elapsed(desk.now), CapacityHints::default());
    let outcome = ongoing.fail(&Evidence { outcome, status: 0, elapsed, hints }, desk);
    match ongoing.go_on_at_once(desk) {
        Next::Retry => retry(ongoing, world),
        Next::Wait { .. } => give_up(ongoing, desk, 503, world),
        Next::Stop(stop) => stopped(ongoing, desk, outcome, 0, &stop, world),
    }
}

fn stopped(
    ongoing: &mut Ongoing,
    desk: &mut Desk<'_>,
    outcome: Outcome,
    status: u16,
    stop: &Stop,
    world: &mut World,
) {
    let size = desk.setup.policy.members.len();
    let status = match failover::ending(&outcome, status, stop, size, desk.now) {
        FinalResponse::Exhausted { throttled: true, .. } => 429,
        FinalResponse::PassOn | FinalResponse::PassOnError | FinalResponse::PassOnOnce => status,
        _ => 503,
    };
    give_up(ongoing, desk, status, world);
}

/// As `Request::give_up` and `Routed::exhausted`.
fn give_up(ongoing: &mut Ongoing, desk: &mut Desk<'_>, status: u16, world: &mut World) {
    ongoing.judge(false, desk);
    ongoing.charge_nothing(desk);
    ongoing.stage = Stage::Over;
    world.refuse(ongoing.id, status);
}

fn retry(ongoing: &mut Ongoing, world: &mut World) {
    ongoing.stage = Stage::Planned;
    world.wake(world.now_ms() + RETRY_BACK_OFF_MS, ongoing.id as u64 * 4 + BEGIN);
}

fn wait(ongoing: &mut Ongoing, desk: &Desk<'_>, until: Timestamp, what: u64, world: &mut World) {
    ongoing.stage = Stage::Waiting { since: desk.now };
    // A timer takes at least a millisecond.
    let length = until.since(desk.now).max(Millis::new(1));
    world.wake(world.now_ms() + length.as_ms(), ongoing.id as u64 * 4 + what);
}

/// As `Request::begin`.
fn begin(ongoing: &mut Ongoing, desk: &mut Desk<'_>, world: &mut World) {
    let Some(backend) = ongoing.begin(desk) else { return };
    let limit = desk.setup.policy.failover.first_byte_timeout;
    let limit_ms = limit.map_or(ROUTE_TIMEOUT_MS, Millis::as_ms);
    world.send(ongoing.id, backend, limit_ms);
}
