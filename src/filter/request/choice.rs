//! Chooses the backend of the next attempt, and reserves there.
//!
//! The core makes the choice. It reads one record per pool. Only the chosen backend is asked for the rest: room in
//! its budget, and the lease if the attempt is a probe. If one of these is denied, the choice is made again without
//! the backend.
//!
//! When no backend is left and the request cannot wait, the choice is made again as if no budget had denied the
//! request, and as if gates that much larger requests closed were open: the backend's own response is the authority.
//! If there is still none, an open circuit breaker may be probed early.

use super::Request;
use crate::filter::host;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::properties::TARGET;
use crate::filter::host::random;
use crate::filter::host::shared;
use crate::filter::pool::health::RunningAttempt;
use crate::filter::pool::{Backend, Pool};
use crate::policy::backend::breaker::Ticket;
use crate::policy::backend::records::{BackendRecord, Records, Snapshot};
use crate::policy::choice::rotation::Rotation;
use crate::policy::choice::{
    Choice, Denials, Situation, Unavailable, select, select_early, select_last, skipped,
    worth_waiting_for,
};
use crate::policy::failover::retry_budget;
use crate::policy::failover::{Next, Stop};
use crate::policy::pool::MAX_BACKENDS;
use crate::policy::time::Timestamp;
use crate::policy::tokens::budget::{Reservation, Settlement, Terms};
use std::cell::RefCell;
use std::rc::Rc;

/// How often a choice can be repeated: each backend can deny its budget once, and a probe that another worker leased
/// first reads as an open breaker the next time.
const CHOICES_MAX: usize = MAX_BACKENDS + 4;

/// The result for a pool whose state cannot be read.
const NOBODY: Unavailable = Unavailable { soonest: None, throttled: false, is_undecided: true };

/// Which backends may be chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Usual,
    /// Also one whose budget has no room, or whose gate was closed by much larger requests, because no other is left.
    Last,
    /// One whose circuit breaker is open, because no other is left.
    Early,
}

/// A chosen backend, before its attempt begins.
pub(crate) struct Pick {
    pub(super) choice: Choice,
    pub(super) backend: Rc<Backend>,
    pub(super) at: Timestamp,
    pub(super) ticket: Ticket,
    pub(super) record: BackendRecord,
    pub(super) reservation: Option<Reservation>,
    /// The tokens that the request is expected to use; zero: unknown.
    pub(super) tokens: u64,
}

impl Pick {
    /// Returns what is held of a backend to which nothing was sent.
    pub(super) fn give_back(self, pool: &Pool, now: Timestamp) {
        let attempt = self.begin(now);
        attempt.conclude(Settlement::Released, now);
        if attempt.ticket.is_probe() {
            pool.release_probe(&attempt, now);
        }
    }

    /// The attempt begins.
    pub(super) fn begin(self, at: Timestamp) -> RunningAttempt {
        let Self { backend, ticket, record, reservation, tokens, .. } = self;
        let reservation = RefCell::new(reservation);
        RunningAttempt { backend, at, ticket, record, reservation, tokens }
    }
}

impl Request {
    /// Chooses the backend of the next attempt and sets it as the route's target, or returns what to do instead.
    pub(crate) fn go_on(&mut self, now: Timestamp) -> Next {
        self.proceed(true, now)
    }

    /// The same for a request that cannot wait now.
    pub(crate) fn go_on_at_once(&mut self, now: Timestamp) -> Next {
        self.proceed(false, now)
    }

    fn proceed(&mut self, can_wait: bool, now: Timestamp) -> Next {
        if self.may_be_done {
            return Next::Stop(Stop::MayBeDone);
        }
        self.denied = Denials::NONE;
        let next = if self.ledger.has_attempts_left(&self.pool.policy.failover) {
            self.take(can_wait, now)
        } else {
            let selected = self.peek(now);
            self.next(selected, now)
        };
        if matches!(next, Next::Stop(Stop::Limited | Stop::Refused)) {
            host::increment(self.pool.metrics.limited, 1);
        }
        next
    }

    /// Takes a backend for the next attempt, if there is one. The retry budget is asked after that, so that only
    /// failovers that happen are counted.
    fn take(&mut self, can_wait: bool, now: Timestamp) -> Next {
        let unavailable = match self.select(Turn::Usual, now) {
            Ok(pick) => return self.take_or_leave(pick, now),
            Err(unavailable) => unavailable,
        };
        let next = self.next(Err(unavailable), now);
        if !(can_wait && matches!(next, Next::Wait { .. })) {
            // The request would fail now. So a backend decides instead, even as the probe of an open circuit breaker.
            self.denied.forgive_budgets();
            for turn in [Turn::Last, Turn::Early] {
                if let Ok(pick) = self.select(turn, now)
                    && self.take_or_leave(pick, now) == Next::Retry
                {
                    return Next::Retry;
                }
            }
        }
        next
    }

    /// Continues with the chosen backend, or gives it back.
    fn take_or_leave(&mut self, pick: Pick, now: Timestamp) -> Next {
        let next = self.next(Ok(pick.choice), now);
        match next {
            Next::Retry => self.plan_attempt(pick),
            Next::Wait { .. } | Next::Stop(_) => pick.give_back(&self.pool, now),
        }
        next
    }

    /// The backend that would be chosen, if its budget and its probe allow it.
    pub(super) fn peek(&mut self, now: Timestamp) -> Result<Choice, Unavailable> {
        let pool = Rc::clone(&self.pool);
        let Some(mut rotation) = pool.rotation.change() else { return Err(NOBODY) };
        self.choose(Turn::Usual, &pool.records(), &mut rotation, now, random::number())
    }

    /// Applies `max_attempts`, `max_wait` and the retry budget to the selection.
    fn next(&self, selected: Result<Choice, Unavailable>, now: Timestamp) -> Next {
        let pool = &self.pool;
        let settings = &pool.policy.failover;
        let recovers = selected.as_ref().err().and_then(|_| {
            let spent = Situation { tried: self.ledger.spent(), ..self.situation(now, 0) };
            worth_waiting_for(&pool.policy, &pool.records(), &spent)
        });
        self.ledger.next(selected, recovers, settings, now, || {
            let Some(mut deposits) = pool.deposits.change() else { return true };
            let granted = shared::update(&pool.retry_budget_key, retry_budget::VERSION, |record| {
                let (record, granted) = retry_budget::withdraw(record, &deposits, settings, now);
                (Some(record), granted)
            });
            if granted.is_ok() {
                deposits.clear();
            }
            granted.unwrap_or(true) // a budget that cannot be read does not stop a failover
        })
    }

    /// Selects and takes a backend: the rotation advances, tokens are reserved, and the probe is leased. The trail
    /// notes the skipped backends, even if none was left.
    fn select(&mut self, turn: Turn, now: Timestamp) -> Result<Pick, Unavailable> {
        let pool = Rc::clone(&self.pool);
        let Some(mut rotation) = pool.rotation.change() else { return Err(NOBODY) };
        for _ in 0..CHOICES_MAX {
            let records = pool.records();
            let roll = random::number();
            let choice = self.choose(turn, &records, &mut rotation, now, roll)?;
            let tokens = self.asked.needs.tokens;
            let Some(untaken) = Pick::untaken(choice, &pool, &records, tokens, now) else { break };
            let Some(pick) = self.hold(turn, untaken, now) else { continue };
            // Not earlier: a backend that denies the request must not use up its turn.
            rotation.take();
            if turn == Turn::Usual {
                self.note_skipped(&records, Some(&choice), now, roll);
            }
            if choice.probe.is_none() {
                pool.keep_records(records, now);
            }
            return Ok(pick);
        }
        Err(NOBODY)
    }

    /// Chooses among the backends of `turn`. If none is left, the trail notes the skipped ones.
    fn choose(
        &mut self,
        turn: Turn,
        records: &Snapshot,
        rotation: &mut Rotation,
        now: Timestamp,
        roll: u64,
    ) -> Result<Choice, Unavailable> {
        let situation = self.situation(now, roll);
        if turn == Turn::Early {
            return select_early(&self.pool.policy, records, &situation, rotation).ok_or(NOBODY);
        }
        if turn == Turn::Last {
            return select_last(&self.pool.policy, records, &situation, rotation);
        }
        let choice = select(&self.pool.policy, records, &situation, rotation);
        if choice.is_err() {
            self.note_skipped(records, None, now, roll);
        }
        choice
    }

    /// Reserves tokens at the chosen backend, and leases its probe; `None` when either is denied.
    fn hold(&mut self, turn: Turn, untaken: Pick, now: Timestamp) -> Option<Pick> {
        let choice = untaken.choice;
        let budget = untaken.backend.budget.as_ref().filter(|_| self.asked.call.is_charged());
        let terms =
            Terms { ceiling_permille: self.ceiling_permille(), passes_limits: turn != Turn::Usual };
        let reserved =
            budget.map_or(Ok(None), |budget| budget.reserve(self.asked.estimate, terms, now));
        let reservation = match reserved {
            Ok(reservation) => reservation,
            Err(until) => {
                self.denied.budget(choice.backend, until);
                return None;
            }
        };
        let mut pick = Pick { reservation, ..untaken };
        if let Some(lease) = choice.probe {
            match self.pool.lease_probe(&pick.backend, lease, now) {
                Some(ticket) => pick.ticket = ticket,
                None => {
                    pick.give_back(&self.pool, now);
                    return None;
                }
            }
        }
        Some(pick)
    }

    fn situation(&self, now: Timestamp, roll: u64) -> Situation<'_> {
        Situation {
            needs: &self.asked.needs,
            tried: self.ledger.tried(),
            judged: self.ledger.judged(),
            throttled: self.ledger.throttled(),
            denied: &self.denied,
            now,
            roll,
        }
    }

    fn note_skipped(
        &mut self,
        records: &Snapshot,
        choice: Option<&Choice>,
        now: Timestamp,
        roll: u64,
    ) {
        if !self.pools.response.trail {
            return;
        }
        for (backend, reason) in
            skipped(&self.pool.policy, records, &self.situation(now, roll), choice)
        {
            self.trail.skip(backend, reason, now);
        }
    }

    fn plan_attempt(&mut self, pick: Pick) {
        // If the host refuses, the route still leads to the last attempt's cluster, which is not this backend's. Then
        // the attempt refuses itself.
        let _ = host::set_property(TARGET, pick.backend.config.name.as_bytes());
        self.pick = Some(pick);
    }
}

impl Pick {
    /// A choice for which nothing is held yet.
    fn untaken(
        choice: Choice,
        pool: &Pool,
        records: &Snapshot,
        tokens: u64,
        now: Timestamp,
    ) -> Option<Self> {
        let backend = Rc::clone(pool.backend(choice.backend)?);
        let record = records.of(choice.backend, pool.policy.member(choice.backend)?);
        let ticket = record.breaker.ticket();
        Some(Self { choice, backend, at: now, ticket, record, reservation: None, tokens })
    }
}
