//! One request in flight, as both roles see it: what was asked, what was tried, what comes next.

use super::plan::{BackendPlan, Plan, PoolPlan};
use super::records::{self, Evidence};
use super::{host, shared, worker};
use crate::config::{Backend, Pool};
use crate::openai::body::Body;
use crate::openai::operation::{Call, Endpoint, model_in_body, render};
use crate::openai::splice::{self, Splices};
use crate::policy::breaker::Ticket;
use crate::policy::failover::{self, Ending, Ledger, Next, Stop};
use crate::policy::pool::BackendIndex;
use crate::policy::records::BackendRecord;
use crate::policy::retry_budget;
use crate::policy::rotation::Turn;
use crate::policy::select::{Choice, Denials, Needs, Request, Unavailable, select, skipped};
use crate::policy::time::{Millis, Timestamp};
use crate::policy::trail::Trail;
use std::rc::Rc;

/// The property that the route's cluster matcher reads.
const TARGET: &str = "spillway.target";

/// A target that no matcher knows: Envoy answers 503 at once, and the gateway makes the reply.
const NO_TARGET: &[u8] = b"none";

/// How often a selection is made anew because another worker leased the probe first. It then reads
/// as an open breaker, so a second race needs a second backend that is due for a probe.
const PROBE_RACES: u32 = 4;

/// What the client sent, as far as an attempt needs it.
pub(crate) struct Asked {
    pub(crate) call: Call,
    /// The model that the client named; empty when it named none.
    pub(crate) model: String,
    /// What the body says, when it was read.
    pub(crate) body: Option<Body>,
    pub(crate) content_length: Option<u64>,
    /// The client's own credential headers, when some backend is sent them.
    pub(crate) credentials: Vec<(&'static str, Vec<u8>)>,
    pub(crate) needs: Needs,
}

impl Asked {
    /// Whether it is about something that one resource keeps.
    pub(crate) fn names_stored_object(&self) -> bool {
        let in_body = self.body.as_ref().is_some_and(|body| body.facts.previous_response);
        self.call.names_stored_object() || in_body
    }
}

/// One request in flight.
pub(crate) struct Exchange {
    pub(crate) asked: Asked,
    /// What the last attempt left in the request headers, which all attempts share.
    pub(crate) sent: Sent,
    plan: Rc<Plan>,
    pool: usize,
    ledger: Ledger,
    planned: Option<Planned>,
    end: End,
    trail: Trail,
}

/// What an attempt wrote into the request headers and the next one must replace.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) credentials: Vec<&'static str>,
    pub(crate) content_length: Option<u64>,
}

/// A backend that was chosen, before its attempt begins.
#[derive(Clone, Copy)]
struct Planned {
    choice: Choice,
    ticket: Ticket,
    record: BackendRecord,
}

/// How the request ends, as far as it is known.
enum End {
    Open,
    Served(BackendIndex),
    Failed(Option<BackendIndex>, Ending),
}

/// An attempt that began.
pub(crate) struct Begun {
    pub(crate) backend: BackendIndex,
    pub(crate) at: Timestamp,
    /// What its result is judged by.
    pub(crate) ticket: Ticket,
    /// The circuit breaker when it was chosen.
    pub(crate) record: BackendRecord,
}

/// What the gateway does with the response that is about to reach the client.
pub(crate) enum Finish {
    /// It goes on.
    Pass {
        /// Who served it, if it is a backend's.
        backend: Option<BackendIndex>,
        /// The time to come back that replaces the backend's own.
        soonest: Option<Timestamp>,
    },
    /// It is replaced: the pool is exhausted.
    Exhausted {
        /// Whether throttling is the only reason.
        throttled: bool,
        /// When the soonest backend is expected back.
        soonest: Option<Timestamp>,
    },
}

impl Exchange {
    pub(crate) fn new(plan: Rc<Plan>, pool: usize, asked: Asked) -> Self {
        Self {
            asked,
            sent: Sent::default(),
            plan,
            pool,
            ledger: Ledger::default(),
            planned: None,
            end: End::Open,
            trail: Trail::default(),
        }
    }

    /// The pool's configuration and what runs it.
    pub(crate) fn pool(&self) -> Option<(&Pool, &PoolPlan)> {
        self.plan.pool(self.pool)
    }

    /// A backend's configuration and what runs it.
    pub(crate) fn backend(&self, backend: BackendIndex) -> Option<(&Backend, &BackendPlan)> {
        let (pool, plan) = self.pool()?;
        Some((pool.backends.get(backend.position())?, plan.backends.get(backend.position())?))
    }

    /// How many backends the pool has.
    pub(crate) fn pool_size(&self) -> usize {
        self.pool().map_or(0, |(pool, _)| pool.backends.len())
    }

    /// How many attempts began.
    pub(crate) fn attempts(&self) -> u8 {
        self.ledger.attempts()
    }

    /// Chooses the backend of the next attempt and points the route at it, or says what to do
    /// instead.
    pub(crate) fn go_on(&mut self, now: Timestamp) -> Next {
        let next = self.next(now);
        match next {
            Next::Retry => match self.select(Turn::Take, now) {
                Ok(planned) => self.plan_attempt(planned),
                // Another worker leased the only probe in between.
                Err(unavailable) => return Next::Stop(Stop::Exhausted(unavailable)),
            },
            Next::Stop(Stop::Limited) => {
                if let Some((_, plan)) = self.pool() {
                    host::increment(plan.metrics.limited, 1);
                }
            }
            Next::Wait { .. } | Next::Stop(Stop::Exhausted(_)) => {}
        }
        next
    }

    /// Begins the attempt that was planned; `None` when none was.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Option<Begun> {
        let Planned { choice, ticket, record } = self.planned.take()?;
        self.ledger.begin(choice.backend);
        let (_, plan) = self.plan.pool(self.pool)?;
        if self.ledger.attempts() == 1
            && let Ok(mut deposits) = plan.deposits.try_borrow_mut()
        {
            deposits.count(now);
        }
        Some(Begun { backend: choice.backend, at: now, ticket, record })
    }

    /// The path, and the edits of the body, that make the request fit `backend`.
    pub(crate) fn rendering(&self, backend: &Backend) -> (String, Splices) {
        let endpoint = Endpoint {
            api: backend.api,
            base_path: &backend.base_path,
            deployment: backend.deployment.as_deref().unwrap_or(&self.asked.model),
            api_version: backend.api_version.as_deref(),
        };
        let edit = self
            .asked
            .body
            .as_ref()
            .filter(|_| model_in_body(&self.asked.call, &endpoint))
            .and_then(|body| splice::model(&body.facts, endpoint.deployment, &body.kind));
        (render(&self.asked.call, &endpoint), Splices::new(edit))
    }

    /// Takes note of how an attempt ended: ledger, trail, and the records that all workers share.
    pub(crate) fn record(&mut self, begun: &Begun, evidence: &Evidence, now: Timestamp) {
        self.ledger.end(begun.backend, &evidence.outcome);
        let closed_until = records::write(&self.plan, self.pool, begun, evidence, now);
        if self.plan.config.response.trail
            && let Some(result) = failover::result_in_trail(&evidence.outcome, evidence.status)
        {
            let closed_for = closed_until.map(|until| until.since(now));
            self.trail.attempt(begun.backend, result, closed_for);
        }
    }

    /// The backend that answered is the one that serves.
    pub(crate) fn serve(&mut self, backend: BackendIndex) {
        self.end = End::Served(backend);
        let tier = self.pool().and_then(|(pool, plan)| {
            let first = pool.policy.tiers.first()?;
            (!first.members.contains(backend)).then_some(plan)
        });
        if let Some(plan) = tier {
            host::increment(plan.metrics.spills, 1);
        }
    }

    /// Nothing more is tried: `backend` is the last that was, if any.
    pub(crate) fn give_up(&mut self, backend: Option<BackendIndex>, ending: Ending) {
        self.end = End::Failed(backend, ending);
        // Should Envoy retry nevertheless, there is nowhere to go.
        let _ = host::set_property(TARGET, NO_TARGET);
    }

    /// The request waited for `length` in the filter.
    pub(crate) fn waited(&mut self, length: Millis) {
        self.ledger.wait(length);
    }

    /// What becomes of the response that is about to reach the client.
    pub(crate) fn finish(&mut self, status: u16, now: Timestamp) -> Finish {
        match std::mem::replace(&mut self.end, End::Open) {
            End::Served(backend) => Finish::Pass { backend: Some(backend), soonest: None },
            End::Failed(backend, Ending::PassOn) => Finish::Pass { backend, soonest: None },
            End::Failed(backend, Ending::PassOnError) => {
                Finish::Pass { backend, soonest: Some(now) }
            }
            End::Failed(_, Ending::Exhausted { throttled, soonest }) => {
                Finish::Exhausted { throttled, soonest }
            }
            // Envoy answered by itself: the request was too large, or malformed.
            End::Open if status < 500 => Finish::Pass { backend: None, soonest: None },
            // Envoy did not make the attempt that was planned, or not the retry.
            End::Open => match self.select(Turn::Peek, now) {
                Ok(_) => Finish::Exhausted { throttled: false, soonest: Some(now) },
                Err(Unavailable { throttled, soonest }) => Finish::Exhausted { throttled, soonest },
            },
        }
    }

    /// The request is over. A probe that was planned and not sent is given back.
    pub(crate) fn close(&mut self, now: Timestamp) {
        if let Some(Planned { choice, ticket, record }) = self.planned.take()
            && ticket.probe
        {
            let begun = Begun { backend: choice.backend, at: now, ticket, record };
            records::release_probe(&self.plan, self.pool, &begun, now);
        }
    }

    /// What the trail says, with the backends' names; `None` when it is off.
    pub(crate) fn trail(&self) -> Option<String> {
        let name = |backend| self.backend(backend).map(|(backend, _)| &*backend.name);
        self.plan.config.response.trail.then(|| self.trail.render(name))
    }

    fn next(&mut self, now: Timestamp) -> Next {
        let selected = self.select(Turn::Peek, now).map(|planned| planned.choice);
        let Some((pool, plan)) = self.pool() else { return Next::Stop(Stop::Limited) };
        let settings = &pool.policy.failover;
        self.ledger.next(selected, settings, now, || {
            let Ok(mut deposits) = plan.deposits.try_borrow_mut() else { return true };
            let granted = shared::update(&plan.retry_budget_key, |record| {
                let (record, granted) = retry_budget::withdraw(record, &deposits, settings, now);
                (Some(record), granted)
            });
            if granted.is_ok() {
                deposits.clear();
            }
            granted.unwrap_or(true) // a budget that cannot be read does not stop a failover
        })
    }

    /// Selects a backend. With [`Turn::Take`] it is really taken: the rotation moves on, the probe
    /// is leased, and the trail notes who was passed over.
    fn select(&mut self, turn: Turn, now: Timestamp) -> Result<Planned, Unavailable> {
        let nobody = Unavailable { soonest: None, throttled: false };
        let whole = Rc::clone(&self.plan);
        let Some((pool, plan)) = whole.pool(self.pool) else { return Err(nobody) };
        let Ok(mut rotation) = plan.rotation.try_borrow_mut() else { return Err(nobody) };
        for _ in 0..PROBE_RACES {
            let records = plan.records(pool);
            let request = Request {
                needs: &self.asked.needs,
                tried: self.ledger.tried(),
                denied: &Denials::NONE,
                now,
                roll: worker::random(),
            };
            let choice = select(&pool.policy, &records, &request, &mut rotation, turn);
            if whole.config.response.trail && turn == Turn::Take {
                let chosen = choice.as_ref().ok();
                for (backend, reason) in skipped(&pool.policy, &records, &request, chosen) {
                    self.trail.skip(backend, reason, now);
                }
            }
            let choice = choice?;
            let record = records.get(choice.backend.position()).copied().unwrap_or_default();
            if turn == Turn::Peek || !choice.probe {
                return Ok(Planned { choice, ticket: record.breaker.ticket(), record });
            }
            if let Some(ticket) = records::lease_probe(&whole, self.pool, choice.backend, now) {
                return Ok(Planned { choice, ticket, record });
            }
        }
        Err(nobody)
    }

    fn plan_attempt(&mut self, planned: Planned) {
        if let Some((backend, _)) = self.backend(planned.choice.backend) {
            // When the host refuses, the route is the last attempt's, whose cluster does not fit
            // the backend: the attempt refuses itself.
            let _ = host::set_property(TARGET, backend.name.as_bytes());
        }
        self.planned = Some(planned);
    }
}
