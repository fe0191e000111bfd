//! Writes what an attempt showed into the records that all workers share, and into metrics.

use super::budget::LimitHints;
use super::reports::denied_part;
use super::{Backend, Pool, Pools};
use crate::filter::host;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::header_map::HeaderMap;
use crate::filter::host::random;
use crate::filter::host::shared;
use crate::policy::backend::breaker::{
    Breaker, Lease, Observation, Observed, RulesMet, Ticket, needs_count,
};
use crate::policy::backend::headroom::Headroom;
use crate::policy::backend::records::{
    BackendRecord, COMPLETION_WORTH_WRITING, NotUpdated, PoolRecord, Records, Reseated, Snapshot,
    WindowsRecord,
};
use crate::policy::backend::rules;
use crate::policy::failover::blame;
use crate::policy::pool::{BreakerSettings, OperationSet};
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::response::rate_limits::RateLimits;
use crate::policy::time::{Millis, Timestamp};
use crate::policy::tokens::budget::{Reservation, Settlement};
use std::cell::RefCell;
use std::rc::Rc;

/// How long a backend is not chosen after Envoy had as many requests there as it allows itself. It is long enough for
/// a client that retries to get another backend.
const OVERFLOW: Millis = Millis::from_secs(1);

/// A running attempt.
pub(crate) struct RunningAttempt {
    pub(crate) backend: Rc<Backend>,
    pub(crate) at: Timestamp,
    /// Its result is judged by this.
    pub(crate) ticket: Ticket,
    /// The backend's record when it was chosen.
    pub(crate) record: BackendRecord,
    /// Its reservation in the backend's budget, until that is concluded.
    pub(crate) reservation: RefCell<Option<Reservation>>,
    /// The tokens that the request is expected to use; zero: unknown.
    pub(crate) tokens: u64,
}

impl RunningAttempt {
    /// A copy for judging its result later, without a reservation.
    pub(crate) fn witness(&self) -> Self {
        let Self { at, ticket, record, tokens, .. } = *self;
        let backend = Rc::clone(&self.backend);
        Self { backend, at, ticket, record, reservation: RefCell::default(), tokens }
    }

    /// Concludes its reservation in the backend's budget; further calls do nothing.
    pub(crate) fn conclude(&self, ending: Settlement, now: Timestamp) {
        let taken = self.reservation.change().and_then(|mut held| held.take());
        if let Some(reservation) = taken
            && let Some(budget) = &self.backend.budget
        {
            budget.conclude(reservation, ending, now);
        }
    }
}

/// What an attempt showed.
#[derive(Clone, Copy)]
pub(crate) struct Evidence {
    pub(crate) outcome: Outcome,
    /// The status of the response; 0: no response came.
    pub(crate) status: u16,
    /// The time to the first byte, or to the end if no byte came.
    pub(crate) elapsed: Millis,
    pub(crate) hints: CapacityHints,
}

/// What response headers state about the backend's remaining capacity.
#[derive(Clone, Copy, Default)]
pub(crate) struct CapacityHints {
    /// The remaining capacity in thousandths.
    pub(crate) headroom_permille: Option<u16>,
    pub(crate) limits: LimitHints,
    /// The status with which the backend refused a request that another deployment of its resource then served.
    pub(crate) spilled: Option<u16>,
}

impl CapacityHints {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let limits = RateLimits::read(headers);
        if let Some(error) = limits.spilled() {
            // The headers describe the other deployment. This one has nothing left, unless it failed.
            let headroom_permille = (error < 500).then_some(0);
            return Self { headroom_permille, spilled: Some(error), ..Self::default() };
        }
        Self {
            headroom_permille: limits.left_permille(),
            limits: LimitHints {
                utilization_permille: limits.utilization_permille(),
                tokens_per_minute: limits.token_limit(),
            },
            spilled: None,
        }
    }
}

impl Pool {
    /// Writes what an attempt showed about its backend's remaining capacity. If that closes the backend's throttle
    /// gate, it returns until when.
    pub(crate) fn note(
        &self,
        pools: &Pools,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Option<Timestamp> {
        attempt.backend.metrics.count(&evidence.outcome);
        self.note_headroom(attempt, evidence, now);
        match evidence.outcome {
            Outcome::Throttled { delay } => self.close_gates(pools, attempt, delay, now),
            // This Envoy has no room, so the gates of backends with the same quota stay open.
            Outcome::Misrouted(Misroute::Full) => {
                let throttle = self.policy.throttle;
                self.update(&attempt.backend, |record| {
                    record.gate.close(now, Some(OVERFLOW), 0, &throttle);
                    record.gate.closed_until(now, &throttle)
                })?
            }
            _ => None,
        }
    }

    /// Notes that a backend served an operation, if that is new, and that it accepted the credential.
    pub(crate) fn note_service(&self, attempt: &RunningAttempt, operation: OperationSet) {
        attempt.backend.has_served.set(true);
        if attempt.record.served.covers(operation) && attempt.record.denied == 0 {
            return;
        }
        self.update(&attempt.backend, |record| {
            record.served.0 |= operation.0;
            record.denied = 0;
        });
    }

    /// Counts an attempt that is its backend's fault; it ended at `ended`.
    pub(crate) fn convict(
        &self,
        pools: &Pools,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        ended: Timestamp,
        now: Timestamp,
    ) {
        let backend = &attempt.backend;
        let is_probe = attempt.ticket.is_probe();
        match evidence.outcome {
            Outcome::Denied { status } => {
                backend.complain(status, denied_part(status));
                let is_first = backend.has_served.take();
                let is_enough =
                    self.update(backend, |record| blame::count_denial(record, is_first));
                if is_probe || is_enough == Some(true) {
                    let outcome = Outcome::Misconfigured { status };
                    self.observe(attempt, &Evidence { outcome, ..*evidence }, now);
                }
            }
            Outcome::Misconfigured { status } => {
                backend.complain(status, "deployment");
                self.observe(attempt, evidence, now);
            }
            Outcome::Throttled { delay } => {
                let left = delay.map(|delay| ended.plus(delay).since(now));
                if left != Some(Millis::ZERO) {
                    self.close_gates(pools, attempt, left, now);
                }
                self.observe(attempt, evidence, now);
            }
            Outcome::Fault { fault: Fault::Reset | Fault::NotReceived, .. } if !is_probe => {
                let is_known =
                    self.update(backend, |record| blame::is_same_reset(record, attempt.at, ended));
                if is_known != Some(true) {
                    self.observe(attempt, evidence, now);
                }
            }
            _ => self.observe(attempt, evidence, now),
        }
    }

    /// Counts an attempt that failed without another backend to compare with, unless its backend completes other
    /// requests. A probe counts at once, because finding out is its purpose.
    pub(crate) fn accuse(
        &self,
        pools: &Pools,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        ended: Timestamp,
        now: Timestamp,
    ) {
        let seen_by_others = self.recent_record(&attempt.backend, now).completed_at;
        let completed = attempt.backend.completed_at.get().max(seen_by_others);
        if attempt.ticket.is_probe() || blame::counts_alone(completed, ended) {
            self.convict(pools, attempt, evidence, ended, now);
        }
    }

    /// An attempt that failed does not count against its backend.
    pub(crate) fn acquit(&self, attempt: &RunningAttempt, evidence: &Evidence, now: Timestamp) {
        if attempt.ticket.is_probe() {
            self.release_probe(attempt, now);
        }
        match evidence.outcome {
            Outcome::Denied { status } => attempt.backend.doubt(status, denied_part(status), now),
            Outcome::Misconfigured { status } => attempt.backend.doubt(status, "deployment", now),
            _ => {}
        }
    }

    /// Notes that a backend completed a request, so it does not fail every request. Other workers need not know the
    /// exact time.
    pub(crate) fn note_completion(&self, attempt: &RunningAttempt, now: Timestamp) {
        attempt.backend.completed_at.set(now);
        let known = attempt.record.completed_at;
        if known > now || now.since(known) >= COMPLETION_WORTH_WRITING {
            self.update(&attempt.backend, |record| record.completed_at = now);
        }
    }

    /// Writes what response headers show before it is known how the response ends: the backend's remaining capacity,
    /// and that a probe succeeded. A response may take minutes, and the first byte is proof enough to let others
    /// follow.
    pub(crate) fn write_head(&self, attempt: &RunningAttempt, evidence: &Evidence, now: Timestamp) {
        // When another deployment served the request, the result of this one is also known now.
        if attempt.ticket.is_probe() || matches!(evidence.outcome, Outcome::Spilled { .. }) {
            self.observe(attempt, evidence, now);
        }
        self.note_headroom(attempt, evidence, now);
        if let Some(reservation) = attempt.reservation.view()
            && let Some(reservation) = &*reservation
            && let Some(budget) = &attempt.backend.budget
        {
            budget.correct(reservation, evidence.hints.limits, now);
        }
    }

    /// Takes the half-open lease of a backend, if no other worker took it.
    pub(crate) fn lease_probe(
        &self,
        backend: &Backend,
        lease: Lease,
        now: Timestamp,
    ) -> Option<Ticket> {
        let settings = &self.policy.breaker;
        self.update(backend, |record| record.breaker.lease_probe(lease, settings, now)).flatten()
    }

    /// Returns the half-open lease of an attempt that proved nothing.
    pub(crate) fn release_probe(&self, attempt: &RunningAttempt, now: Timestamp) {
        let outcome = Outcome::Cancelled;
        let hints = CapacityHints::default();
        self.observe(attempt, &Evidence { outcome, status: 0, elapsed: Millis::ZERO, hints }, now);
    }

    /// Notes what a backend states about its remaining capacity, if that changes anything.
    fn note_headroom(&self, attempt: &RunningAttempt, evidence: &Evidence, now: Timestamp) {
        if let Some(permille) = evidence.hints.headroom_permille
            && attempt.record.headroom.worth_writing(permille, now)
        {
            self.update(&attempt.backend, |record| {
                record.headroom = Headroom { permille, at: now };
            });
        }
    }

    /// Closes the throttle gates of the backend that refused an attempt, and of all that share its quota, in all
    /// pools. Returns until when the backend's own gate is closed.
    fn close_gates(
        &self,
        pools: &Pools,
        attempt: &RunningAttempt,
        delay: Option<Millis>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (index, tokens) = (attempt.backend.index, attempt.tokens);
        let member = self.policy.member(index)?;
        let closed = self.change(|bytes| {
            let closed = PoolRecord::close_gate(bytes, &self.policy, index, delay, tokens, now)?;
            Ok((closed.clone(), Snapshot::new(closed)))
        });
        if let Some(records) = &closed {
            self.show_gates(records, now);
        }
        for other in pools.all.iter().filter(|other| !std::ptr::eq(&***other, self)) {
            let Some(group) = member.quota_group else { break };
            let closed = other.change(|bytes| {
                let policy = &other.policy;
                let closed = PoolRecord::close_group(bytes, policy, group, delay, tokens, now)?;
                Ok((closed.clone(), Snapshot::new(closed)))
            });
            if let Some(records) = &closed {
                other.show_gates(records, now);
            }
        }
        closed?.of(index, member).gate.closed_until(now, &self.policy.throttle)
    }

    /// Writes the closed throttle gates into metrics.
    fn show_gates(&self, records: &Snapshot, now: Timestamp) {
        for (member, backend) in self.policy.members.iter().zip(&self.backends) {
            let gate = records.of(backend.index, member).gate;
            if let Some(until) = gate.closed_until(now, &self.policy.throttle) {
                host::record(backend.metrics.gate_closed_until_ms, until.as_ms());
            }
        }
    }

    /// Reports the result of an attempt to the circuit breaker.
    pub(crate) fn observe(&self, attempt: &RunningAttempt, evidence: &Evidence, now: Timestamp) {
        let settings = &self.policy.breaker;
        let observed = Observed::of(&evidence.outcome, settings);
        let elapsed = evidence.elapsed;
        let breaker = &attempt.record.breaker;
        let ends_run = || self.ends_run(attempt, observed, elapsed, now);
        let is_needed =
            attempt.ticket.is_probe() || breaker.needs_window(settings, observed, elapsed);
        if !is_needed && !ends_run() {
            return;
        }
        let is_counted =
            breaker.counts_ordinary(attempt.ticket) && needs_count(settings, observed, elapsed);
        let is_plain = rules::is_plain_success(settings, observed, elapsed);
        let met = if is_counted
            && (!is_plain || attempt.backend.count_later(settings, attempt.ticket, now))
        {
            self.count(attempt, &Counted { observed, elapsed, is_plain }, now)
        } else {
            RulesMet::default()
        };
        if is_counted && is_plain && !breaker.grows_by(observed) && !ends_run() {
            return;
        }
        let retry_after = match evidence.outcome {
            Outcome::Fault { retry_after, .. } => retry_after,
            _ => None,
        };
        let observation = Observation { ticket: attempt.ticket, observed, elapsed, retry_after };
        let roll = random::number();
        let transition = self.update(&attempt.backend, |record| {
            record.breaker.conclude(&observation, met, settings, now, roll)
        });
        if let Some(transition) = transition.flatten() {
            attempt.backend.announce(transition, now);
            attempt.backend.tell_misroute(&evidence.outcome);
        }
    }

    /// Whether a success ends a run of faults that some rule counts. The attempt's record may be older than the run,
    /// so the present one is read too. Nothing is written.
    fn ends_run(
        &self,
        attempt: &RunningAttempt,
        observed: Observed,
        elapsed: Millis,
        now: Timestamp,
    ) -> bool {
        let settings = &self.policy.breaker;
        let is_run = |breaker: &Breaker| breaker.counts_in_row_change(settings, observed, elapsed);
        if !settings.ends_runs(observed, elapsed) {
            return false;
        }
        is_run(&attempt.record.breaker) || {
            let present = self.recent_record(&attempt.backend, now).breaker;
            present.counts_ordinary(attempt.ticket) && is_run(&present)
        }
    }

    /// Adds a result to the shared counts, together with the successes of this worker. Returns the rules that it met.
    fn count(&self, attempt: &RunningAttempt, result: &Counted, now: Timestamp) -> RulesMet {
        let backend = &attempt.backend;
        let Counted { observed, elapsed, is_plain } = *result;
        let (settings, epoch) = (&self.policy.breaker, attempt.ticket.epoch);
        let successes = backend.successes.take().of(epoch);
        let count = |restarts: bool| {
            shared::update(&backend.windows_key, WindowsRecord::VERSION, |bytes| {
                let (bytes, met) = WindowsRecord::update(bytes, settings, |windows| {
                    if restarts && windows.is_later_than(epoch) {
                        windows.restart(epoch);
                    }
                    if successes > 0 {
                        windows.add(settings, epoch, successes, now);
                    }
                    if is_plain {
                        return (!windows.is_later_than(epoch)).then_some(RulesMet::default());
                    }
                    windows.count(settings, epoch, observed, elapsed, now)
                });
                (met.is_some().then_some(bytes), met)
            })
        };
        let counted = match count(false) {
            // The counts belong to a later epoch. If the breaker is still in the attempt's epoch, a breaker that was
            // forgotten since left these counts, and they mean nothing. Erasing them requires the present record.
            Ok(None) => {
                self.forget_records();
                let present = self.recent_record(backend, now).breaker;
                if present.counts_ordinary(attempt.ticket) { count(true) } else { Ok(None) }
            }
            counted => counted,
        };
        if counted.is_err() {
            host::increment(self.metrics.lost_updates, 1);
        }
        counted.ok().flatten().unwrap_or_default()
    }

    /// Changes the shared record of a backend; `None` when it could not be changed.
    fn update<R>(
        &self,
        backend: &Backend,
        mut with: impl FnMut(&mut BackendRecord) -> R,
    ) -> Option<R> {
        let mut found = None;
        self.update_in_place(backend.key, &mut |record| found = Some(with(record)))?;
        found
    }

    /// The same for all closures, so that the module contains this code once.
    fn update_in_place(&self, key: u64, with: &mut dyn FnMut(&mut BackendRecord)) -> Option<()> {
        self.change(|bytes| PoolRecord::update(bytes, key, &mut *with))
    }

    /// Changes the shared record of the pool; `None` when it could not be changed.
    fn change<R>(
        &self,
        mut with: impl FnMut(Option<&[u8]>) -> Result<(Vec<u8>, R), NotUpdated>,
    ) -> Option<R> {
        let changed = shared::update(&self.record_key, PoolRecord::VERSION, |bytes| {
            let changed = match with(bytes) {
                // A damaged record reads as fresh, so it is made anew.
                Err(NotUpdated::Unreadable) => {
                    let Reseated { bytes, .. } =
                        PoolRecord::reseat(None, &self.policy, Timestamp::ZERO);
                    with(Some(&bytes))
                }
                changed => changed,
            };
            match changed {
                Ok((bytes, found)) => (Some(bytes), Some(found)),
                // The record lacks the backend, and has no room for it.
                Err(_) => (None, None),
            }
        });
        self.forget_records();
        let changed = changed.ok().flatten();
        if changed.is_none() {
            host::increment(self.metrics.lost_updates, 1);
        }
        changed
    }
}

impl Backend {
    /// Counts a plain success in this worker. Returns whether it is time to add them to the shared counts.
    fn count_later(&self, settings: &BreakerSettings, ticket: Ticket, now: Timestamp) -> bool {
        let mut successes = self.successes.get();
        let is_due = successes.count(settings, ticket.epoch, now);
        self.successes.set(successes);
        is_due
    }
}

/// A result that counts for some rule.
struct Counted {
    observed: Observed,
    elapsed: Millis,
    /// Whether the worker itself has counted it among its successes.
    is_plain: bool,
}
