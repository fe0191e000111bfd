//! Choosing the backend of the next attempt, and taking hold of it.
//!
//! The choice itself is the core's. It reads one record per pool. What it does not read is asked of
//! the chosen backend only: room in its budget, and the lease if the attempt is to be a probe. When
//! that is denied, the choice is made anew without the backend.

use super::Exchange;
use crate::config::Pool;
use crate::filter::host;
use crate::filter::host::properties::TARGET;
use crate::filter::host::random;
use crate::filter::host::shared;
use crate::filter::pool::budget;
use crate::filter::pool::health::{self, Begun};
use crate::filter::pool::{Plan, PoolPlan};
use crate::policy::backend::breaker::Ticket;
use crate::policy::backend::records::{BackendRecord, Records, Snapshot};
use crate::policy::choice::rotation::Rotation;
use crate::policy::choice::{
    Choice, Denials, Request, Unavailable, select, select_early, skipped, worth_waiting_for,
};
use crate::policy::failover::retry_budget;
use crate::policy::failover::{Next, Stop};
use crate::policy::pool::MAX_BACKENDS;
use crate::policy::time::Timestamp;
use crate::policy::tokens::budget::{Reservation, Settlement};
use std::cell::RefCell;
use std::rc::Rc;

/// How often a choice is made anew: each backend can deny its budget once, and a probe that another
/// worker leased first reads as an open breaker the next time.
const CHOICES_MAX: usize = MAX_BACKENDS + 4;

/// What a pool that cannot be looked at has.
const NOBODY: Unavailable = Unavailable { soonest: None, throttled: false, is_undecided: true };

/// Whose turn is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Usual,
    /// The one of a backend whose circuit breaker is open, because there is nobody else.
    Early,
}

/// A backend that was chosen, before its attempt begins.
pub(crate) struct Planned {
    pub(super) choice: Choice,
    pub(super) at: Timestamp,
    pub(super) ticket: Ticket,
    pub(super) record: BackendRecord,
    pub(super) reservation: Option<Reservation>,
}

impl Planned {
    /// Gives back what is held of a backend to which nothing was sent.
    pub(super) fn give_back(self, plan: &Plan, pool: usize, now: Timestamp) {
        let Self { choice, ticket, record, reservation, .. } = self;
        let reservation = RefCell::new(reservation);
        health::conclude(plan, pool, choice.backend, &reservation, Settlement::Released, now);
        if ticket.is_probe() {
            let begun = Begun { backend: choice.backend, at: now, ticket, record, reservation };
            health::release_probe(plan, pool, &begun, now);
        }
    }
}

impl Exchange {
    /// Chooses the backend of the next attempt and points the route at it, or says what to do
    /// instead.
    pub(crate) fn go_on(&mut self, now: Timestamp) -> Next {
        if self.may_be_done {
            return Next::Stop(Stop::MayBeDone);
        }
        self.denied = Denials::NONE;
        let has_attempts_left = self
            .pool()
            .is_none_or(|(pool, _)| self.ledger.has_attempts_left(&pool.policy.failover));
        let next = if has_attempts_left {
            self.take(now)
        } else {
            let selected = self.peek(now);
            self.next(selected, now)
        };
        if let (Next::Stop(Stop::Limited | Stop::Refused), Some((_, plan))) = (&next, self.pool()) {
            host::increment(plan.metrics.limited, 1);
        }
        next
    }

    /// Takes hold of a backend for the next attempt, if there is one. The retry budget is asked when
    /// it is held, so that a failover is only counted when it is made.
    fn take(&mut self, now: Timestamp) -> Next {
        match self.select(Turn::Usual, now) {
            Ok(planned) => self.take_or_leave(planned, now),
            Err(unavailable) => match self.next(Err(unavailable), now) {
                // It would fail, so it may be the probe of an open circuit breaker.
                stop @ Next::Stop(Stop::Exhausted(_)) => match self.select(Turn::Early, now) {
                    Ok(planned) => Some(self.take_or_leave(planned, now)),
                    Err(_) => None,
                }
                .filter(|next| *next == Next::Retry)
                .unwrap_or(stop),
                next => next,
            },
        }
    }

    /// Goes on with what is held, or gives it back.
    fn take_or_leave(&mut self, planned: Planned, now: Timestamp) -> Next {
        let next = self.next(Ok(planned.choice), now);
        match next {
            Next::Retry => self.plan_attempt(planned),
            Next::Wait { .. } | Next::Stop(_) => planned.give_back(&self.plan, self.pool, now),
        }
        next
    }

    /// Which backend would be chosen, if its budget and its probe allow it.
    pub(super) fn peek(&mut self, now: Timestamp) -> Result<Choice, Unavailable> {
        let whole = Rc::clone(&self.plan);
        let Some((pool, plan)) = whole.pool(self.pool) else { return Err(NOBODY) };
        let Ok(mut rotation) = plan.rotation.try_borrow_mut() else { return Err(NOBODY) };
        self.choose(Turn::Usual, pool, &plan.records(), &mut rotation, now, random::number())
    }

    /// What the ledger and the retry budget say to what was selected.
    fn next(&self, selected: Result<Choice, Unavailable>, now: Timestamp) -> Next {
        let Some((pool, plan)) = self.pool() else { return Next::Stop(Stop::Limited) };
        let settings = &pool.policy.failover;
        let recovers = selected.as_ref().err().and_then(|_| {
            let spent = Request { tried: self.ledger.spent(), ..self.request(now, 0) };
            worth_waiting_for(&pool.policy, &plan.records(), &spent)
        });
        self.ledger.next(selected, recovers, settings, now, || {
            let Ok(mut deposits) = plan.deposits.try_borrow_mut() else { return true };
            let granted = shared::update(&plan.retry_budget_key, retry_budget::VERSION, |record| {
                let (record, granted) = retry_budget::withdraw(record, &deposits, settings, now);
                (Some(record), granted)
            });
            if granted.is_ok() {
                deposits.clear();
            }
            granted.unwrap_or(true) // a budget that cannot be read does not stop a failover
        })
    }

    /// Selects a backend and takes hold of it: the rotation moves on, tokens are reserved, the probe is
    /// leased. The trail notes who was passed over, also when nobody was left.
    fn select(&mut self, turn: Turn, now: Timestamp) -> Result<Planned, Unavailable> {
        let whole = Rc::clone(&self.plan);
        let Some((pool, plan)) = whole.pool(self.pool) else { return Err(NOBODY) };
        let Ok(mut rotation) = plan.rotation.try_borrow_mut() else { return Err(NOBODY) };
        for _ in 0..CHOICES_MAX {
            let records = plan.records();
            let roll = random::number();
            let choice = self.choose(turn, pool, &records, &mut rotation, now, roll)?;
            let record = pool.policy.member(choice.backend);
            let record = record.map(|member| records.of(choice.backend, member));
            let untaken = Planned::untaken(choice, record.unwrap_or_default(), now);
            let Some(planned) = self.hold(&whole, plan, untaken, now) else { continue };
            // Only now: whoever denies the request must not have had its turn.
            rotation.take();
            if turn == Turn::Usual {
                self.note_skipped(pool, &records, Some(&choice), now, roll);
            }
            if choice.probe.is_none() {
                plan.keep_records(records, now);
            }
            return Ok(planned);
        }
        Err(NOBODY)
    }

    /// Whose turn it is. The trail notes who was passed over when nobody is left.
    fn choose(
        &mut self,
        turn: Turn,
        pool: &Pool,
        records: &Snapshot,
        rotation: &mut Rotation,
        now: Timestamp,
        roll: u64,
    ) -> Result<Choice, Unavailable> {
        let request = self.request(now, roll);
        if turn == Turn::Early {
            return select_early(&pool.policy, records, &request, rotation).ok_or(NOBODY);
        }
        let choice = select(&pool.policy, records, &request, rotation);
        if choice.is_err() {
            self.note_skipped(pool, records, None, now, roll);
        }
        choice
    }

    /// Reserves tokens at the chosen backend, and leases its probe; `None` when either is denied.
    fn hold(
        &mut self,
        whole: &Plan,
        plan: &PoolPlan,
        untaken: Planned,
        now: Timestamp,
    ) -> Option<Planned> {
        let choice = untaken.choice;
        let backend = plan.backends.get(choice.backend.position())?;
        let ceiling = self.ceiling_permille();
        let reserved = if self.asked.call.is_charged() {
            budget::reserve(backend, &plan.metrics, self.asked.estimate, ceiling, now)
        } else {
            Ok(None)
        };
        let reservation = match reserved {
            Ok(reservation) => reservation,
            Err(until) => {
                self.denied.budget(choice.backend, until);
                return None;
            }
        };
        let mut planned = Planned { reservation, ..untaken };
        if let Some(lease) = choice.probe {
            match health::lease_probe(whole, self.pool, choice.backend, lease, now) {
                Some(ticket) => planned.ticket = ticket,
                None => {
                    planned.give_back(whole, self.pool, now);
                    return None;
                }
            }
        }
        Some(planned)
    }

    fn request(&self, now: Timestamp, roll: u64) -> Request<'_> {
        Request {
            needs: &self.asked.needs,
            tried: self.ledger.tried(),
            judged: self.ledger.judged(),
            denied: &self.denied,
            now,
            roll,
        }
    }

    fn note_skipped(
        &mut self,
        pool: &Pool,
        records: &Snapshot,
        choice: Option<&Choice>,
        now: Timestamp,
        roll: u64,
    ) {
        if !self.plan.config.response.trail {
            return;
        }
        for (backend, reason) in skipped(&pool.policy, records, &self.request(now, roll), choice) {
            self.trail.skip(backend, reason, now);
        }
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

impl Planned {
    /// A choice of which nothing is held yet.
    fn untaken(choice: Choice, record: BackendRecord, now: Timestamp) -> Self {
        let ticket = record.breaker.ticket();
        Self { choice, at: now, ticket, record, reservation: None }
    }
}
