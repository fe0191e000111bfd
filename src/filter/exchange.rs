//! One request in flight, as both roles see it: what was asked, what was tried, what comes next.

use super::plan::{BackendPlan, Plan, PoolPlan};
use super::{host, shared, worker};
use crate::config::{Backend, Pool};
use crate::openai::operation::{Call, Endpoint, model_in_body, render};
use crate::openai::scan::BodyFacts;
use crate::openai::splice::{self, BodyFormat, Splices};
use crate::policy::breaker::{Observed, Ticket};
use crate::policy::classify::{Fault, Outcome};
use crate::policy::failover::{self, Ending, Ledger, Next, Stop};
use crate::policy::pool::BackendIndex;
use crate::policy::records::PoolRecord;
use crate::policy::retry_budget;
use crate::policy::select::{Choice, Needs, Turn, Unavailable, select};
use crate::policy::time::{Millis, Timestamp};
use crate::policy::trail::Trail;
use std::rc::Rc;

/// The property that the route's cluster matcher reads.
const TARGET: &str = "spillway.target";

/// A target that no matcher knows: Envoy answers 503 at once, and the gateway makes the reply.
const NO_TARGET: &[u8] = b"none";

/// What the client sent, as far as an attempt needs it.
pub(crate) struct Asked {
    pub(crate) call: Call,
    /// The model that the client named; empty when the operation has none.
    pub(crate) model: String,
    /// The body's facts and format, when it was read.
    pub(crate) body: Option<(BodyFacts, BodyFormat)>,
    pub(crate) content_length: Option<u64>,
    /// The client's own credential headers, when some backend is sent them.
    pub(crate) credentials: Vec<(&'static str, Vec<u8>)>,
    pub(crate) needs: Needs,
}

/// One request in flight.
pub(crate) struct Exchange {
    pub(crate) plan: Rc<Plan>,
    pub(crate) asked: Asked,
    /// What the last attempt left in the request headers, which all attempts share.
    pub(crate) sent: Sent,
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
}

/// How the request ends, as far as it is known.
#[derive(Clone)]
enum End {
    Open,
    Served(BackendIndex),
    Failed(Ending),
}

/// An attempt that began.
pub(crate) struct Begun {
    pub(crate) backend: BackendIndex,
    pub(crate) ticket: Ticket,
    pub(crate) at: Timestamp,
}

impl Exchange {
    pub(crate) fn new(plan: Rc<Plan>, pool: usize, asked: Asked) -> Self {
        Self {
            plan,
            asked,
            sent: Sent::default(),
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

    /// How many attempts began.
    pub(crate) fn attempts(&self) -> u8 {
        self.ledger.attempts()
    }

    /// Chooses the backend of the next attempt and points the route at it, or says what to do
    /// instead.
    pub(crate) fn go_on(&mut self, now: Timestamp) -> Next {
        let next = self.next(now);
        if next == Next::Retry {
            match self.select(Turn::Take, now) {
                Ok(planned) => self.plan_attempt(planned),
                Err(unavailable) => return Next::Stop(Stop::Exhausted(unavailable)),
            }
        }
        next
    }

    /// Points the route at no backend at all.
    pub(crate) fn give_up(&mut self, ending: Ending) {
        self.end = End::Failed(ending);
        let _ = host::set_property(TARGET, NO_TARGET);
    }

    /// The backend that answered is the one that serves.
    pub(crate) fn serve(&mut self, backend: BackendIndex) {
        self.end = End::Served(backend);
    }

    /// The request waited for `length` in the filter.
    pub(crate) fn waited(&mut self, length: Millis) {
        self.ledger.wait(length);
    }

    /// Begins the attempt that was planned; `None` when none was.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Option<Begun> {
        let Planned { choice, ticket } = self.planned.take()?;
        self.ledger.begin(choice.backend);
        if self.ledger.attempts() == 1
            && let Some((_, plan)) = self.pool()
            && let Ok(mut deposits) = plan.deposits.try_borrow_mut()
        {
            deposits.count(now);
        }
        Some(Begun { backend: choice.backend, ticket, at: now })
    }

    /// The path, and the edits of the body, for `backend`.
    pub(crate) fn rendering(&self, backend: &Backend) -> (String, Splices) {
        let deployment = backend.deployment.as_deref().unwrap_or(&self.asked.model);
        let endpoint = Endpoint {
            api: backend.api,
            base_path: &backend.base_path,
            deployment,
            api_version: backend.api_version.as_deref(),
        };
        let mut splices = Splices::default();
        if let Some((facts, format)) = &self.asked.body
            && model_in_body(&self.asked.call, &endpoint)
        {
            splices.extend(splice::model(facts, deployment, format));
        }
        (render(&self.asked.call, &endpoint), splices)
    }

    /// Takes note of how an attempt ended: ledger, trail, gate, breaker, metrics.
    pub(crate) fn record(
        &mut self,
        begun: &Begun,
        outcome: &Outcome,
        elapsed: Millis,
        headroom: Option<u16>,
        now: Timestamp,
    ) {
        self.ledger.end(begun.backend, outcome);
        if let Some((backend, plan)) = self.backend(begun.backend) {
            plan.metrics.count(outcome);
            if let Outcome::Misconfigured { status } = outcome {
                host::log(
                    host::Level::Error,
                    &format!(
                        "spillway: backend {} answered {status}: check its credential and its \
                         deployment; it is left alone for a while",
                        backend.name
                    ),
                );
            }
        }
        if let Outcome::Throttled { delay } = outcome {
            self.close_gates(begun.backend, *delay, now);
        }
        self.observe(begun, outcome, elapsed, now);
        if let Some(permille) = headroom {
            self.note_headroom(begun.backend, permille, now);
        }
    }

    /// Closes the throttle gates of `backend` and of all that share its quota.
    fn close_gates(&self, backend: BackendIndex, delay: Option<Millis>, now: Timestamp) {
        for (position, backend) in self.plan.sharing_gate_with(self.pool, backend) {
            let Some((pool, plan)) = self.plan.pool(position) else { continue };
            let settings = &pool.policy.throttle;
            let until = self.update_record(position, backend, |record| {
                record.gate.close(now, delay, settings);
                record.gate.closed_until(now, settings)
            });
            if let Some(until) = until.flatten()
                && let Some(backend) = plan.backends.get(backend.position())
            {
                host::record(backend.metrics.gate_closed_until_ms, until.as_ms());
            }
        }
    }

    /// Lets the circuit breaker count how an attempt ended.
    fn observe(&self, begun: &Begun, outcome: &Outcome, elapsed: Millis, now: Timestamp) {
        let (Some((pool, _)), Some((backend, plan))) = (self.pool(), self.backend(begun.backend))
        else {
            return;
        };
        let settings = &pool.policy.breaker;
        let observed = Observed::of(outcome, settings);
        if !begun.breaker.needs_window(settings, observed, elapsed) {
            return;
        }
        let met = if begun.ticket.probe {
            RulesMet::default()
        } else {
            self.count(&plan.windows_key, begun, observed, elapsed, now)
        };
        let retry_after = match outcome {
            Outcome::Fault { retry_after, .. } => *retry_after,
            _ => None,
        };
        let observation = Observation { ticket: begun.ticket, observed, elapsed, retry_after };
        let roll = worker::random();
        let transition = self.update_record(self.pool, begun.backend, |record| {
            record.breaker.conclude(&observation, met, settings, now, roll)
        });
        if let Some(transition) = transition.flatten() {
            announce(backend, plan, &transition, now);
        }
    }

    /// Counts an ordinary attempt for the breaker's rules.
    fn count(
        &self,
        key: &str,
        begun: &Begun,
        observed: Observed,
        elapsed: Millis,
        now: Timestamp,
    ) -> RulesMet {
        let Some((pool, plan)) = self.pool() else { return RulesMet::default() };
        let settings = &pool.policy.breaker;
        let counted = shared::update(key, |bytes| {
            let mut windows = WindowsRecord::decode(bytes.unwrap_or_default(), settings);
            let met = windows.count(settings, begun.ticket.epoch, observed, elapsed, now);
            (Some(WindowsRecord::encode(&windows, settings)), met)
        });
        counted.unwrap_or_else(|_| {
            host::increment(plan.metrics.lost_updates, 1);
            RulesMet::default()
        })
    }

    /// Keeps what a backend said of how much is left, when that changes anything.
    fn note_headroom(&self, backend: BackendIndex, permille: u16, now: Timestamp) {
        // TODO
        let _ = (backend, permille, now);
    }

    /// Changes the shared record of a backend; `None` when it could not be changed.
    fn update_record<R>(
        &self,
        position: usize,
        backend: BackendIndex,
        mut change: impl FnMut(&mut BackendRecord) -> R,
    ) -> Option<R> {
        let (pool, plan) = self.plan.pool(position)?;
        let key = pool.policy.member(backend)?.key;
        let updated = shared::update(&plan.record_key, |bytes| {
            PoolRecord::update(bytes, key, &mut change)
        });
        if updated.is_err() {
            host::increment(plan.metrics.lost_updates, 1);
        }
        updated.ok().flatten()
    }

    /// How the response that reaches the client ends the request.
    pub(crate) fn ending(&mut self, status: u16, now: Timestamp) -> Finish {
        match std::mem::replace(&mut self.end, End::Open) {
            End::Served(backend) => Finish::Served(backend),
            End::Failed(ending) => Finish::Failed(ending),
            // Envoy answered in the place of a backend: the body was too large, or it did not
            // carry out a retry that was asked for.
            End::Open if status < 500 => Finish::Envoy,
            End::Open => {
                let (throttled, soonest) = match self.select(Turn::Peek, now) {
                    Ok(_) => (false, Some(now)),
                    Err(unavailable) => (unavailable.throttled, unavailable.soonest),
                };
                Finish::Failed(Ending::Exhausted { throttled, soonest })
            }
        }
    }

    /// The request is over. A probe that was planned and not sent is given back.
    pub(crate) fn close(&mut self, now: Timestamp) {
        if let Some(Planned { choice, ticket }) = self.planned.take()
            && ticket.probe
        {
            let begun = Begun { backend: choice.backend, ticket, at: now };
            self.observe(&begun, &Outcome::Cancelled, Millis::ZERO, now);
        }
    }

    /// What the trail says, with the backends' names.
    pub(crate) fn trail(&self) -> String {
        let backends = self.pool().map(|(pool, _)| pool.backends.as_slice()).unwrap_or_default();
        self.trail.render(|backend| backends.get(backend.position()).map_or("?", |b| &b.name))
    }

    fn next(&self, now: Timestamp) -> Next {
        let Some((pool, plan)) = self.pool() else { return Next::Stop(Stop::Limited) };
        let settings = &pool.policy.failover;
        let selected = self.select(Turn::Peek, now).map(|planned| planned.choice);
        let next = self.ledger.next(selected, settings, now, || {
            let Ok(mut deposits) = plan.deposits.try_borrow_mut() else { return true };
            let withdrawn = shared::update(&plan.retry_budget_key, |record| {
                retry_budget::withdraw(record, &deposits, settings, now)
            });
            if withdrawn.is_ok() {
                deposits.clear();
            }
            withdrawn.unwrap_or(true) // a budget that cannot be read does not stop a failover
        });
        if next == Next::Stop(Stop::Limited) {
            host::increment(plan.metrics.limited, 1);
        }
        next
    }

    /// Selects a backend; with [`Turn::Take`], also leases its probe if it needs one.
    fn select(&self, turn: Turn, now: Timestamp) -> Result<Planned, Unavailable> {
        /// A probe that another worker leased first reads as an open breaker the next time.
        const PROBE_RACES: u32 = 3;
        let unknown = Unavailable { soonest: None, throttled: false };
        let Some((pool, plan)) = self.pool() else { return Err(unknown) };
        let Ok(mut rotation) = plan.rotation.try_borrow_mut() else { return Err(unknown) };
        for _ in 0..PROBE_RACES {
            let records = plan.records(pool);
            let choice = select(
                &pool.policy,
                &records,
                &self.asked.needs,
                self.ledger.tried(),
                &mut rotation,
                turn,
                now,
                worker::random(),
            )?;
            let Some(record) = records.get(choice.backend.position()) else { return Err(unknown) };
            if !choice.probe || turn == Turn::Peek {
                return Ok(Planned { choice, ticket: record.breaker.ticket() });
            }
            let leased = self.update_record(self.pool, choice.backend, |record| {
                record.breaker.lease_probe(&pool.policy.breaker, now)
            });
            if let Some(ticket) = leased.flatten() {
                return Ok(Planned { choice, ticket });
            }
        }
        Err(unknown)
    }

    fn plan_attempt(&mut self, planned: Planned) {
        let Some((backend, plan)) = self.backend(planned.choice.backend) else { return };
        let _ = host::set_property(TARGET, backend.name.as_bytes());
        self.planned = Some(planned);
    }
}
