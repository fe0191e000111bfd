//! What an attempt showed, written into the records that all workers share, and into metrics.

use super::budget::{self, SaidOfLimits};
use super::reports::{announce, complain, denied_part, tell_misroute};
use super::{BackendPlan, Plan};
use crate::config::Backend;
use crate::filter::host;
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
use crate::policy::pool::{BackendIndex, BreakerSettings, OperationSet, PoolPolicy};
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::response::rate_limits::RateLimits;
use crate::policy::time::{Millis, Timestamp};
use crate::policy::tokens::budget::{Reservation, Settlement};
use std::cell::RefCell;

/// How long a backend is left alone to which Envoy has as much on its way as it allows itself. Long enough
/// for a client that was told to come back to meet another one.
const OVERFLOW: Millis = Millis::from_secs(1);

/// An attempt that began.
pub(crate) struct Begun {
    pub(crate) backend: BackendIndex,
    pub(crate) at: Timestamp,
    /// What its result is judged by.
    pub(crate) ticket: Ticket,
    /// The circuit breaker when it was chosen.
    pub(crate) record: BackendRecord,
    /// What it holds in the backend's budget, until that is concluded.
    pub(crate) reservation: RefCell<Option<Reservation>>,
}

impl Begun {
    /// What is needed of it to judge its result later. What it held is concluded.
    pub(crate) fn witness(&self) -> Self {
        let Self { backend, at, ticket, record, .. } = *self;
        Self { backend, at, ticket, record, reservation: RefCell::default() }
    }
}

/// What an attempt showed.
#[derive(Clone, Copy)]
pub(crate) struct Evidence {
    pub(crate) outcome: Outcome,
    /// The status of the answer; 0: none came.
    pub(crate) status: u16,
    /// The time to the first byte, or to the end without one.
    pub(crate) elapsed: Millis,
    pub(crate) said: Said,
}

/// What the head of an answer says of how much the backend has left.
#[derive(Clone, Copy, Default)]
pub(crate) struct Said {
    /// The thousandths of its capacity that are left.
    pub(crate) headroom_permille: Option<u16>,
    pub(crate) limits: SaidOfLimits,
    /// The status with which the backend refused what another deployment of its resource answered.
    pub(crate) spilled: Option<u16>,
}

impl Said {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let limits = RateLimits::read(headers);
        if let Some(error) = limits.spilled() {
            // The headers speak of the other deployment. This one has nothing left, unless it failed.
            let headroom_permille = (error < 500).then_some(0);
            return Self { headroom_permille, spilled: Some(error), ..Self::default() };
        }
        Self {
            headroom_permille: limits.left_permille(),
            limits: SaidOfLimits {
                utilization_permille: limits.utilization_permille(),
                tokens_per_minute: limits.token_limit(),
            },
            spilled: None,
        }
    }
}

/// Writes what an attempt showed of how much its backend has left. Returns until when the backend's
/// throttle gate is closed, if this closed it.
pub(crate) fn note(
    plan: &Plan,
    pool: usize,
    begun: &Begun,
    evidence: &Evidence,
    now: Timestamp,
) -> Option<Timestamp> {
    backend_plan(plan, pool, begun.backend)?.metrics.count(&evidence.outcome);
    note_headroom(plan, pool, begun, evidence, now);
    match evidence.outcome {
        Outcome::Throttled { delay } => close_gates(plan, pool, begun.backend, delay, now),
        // It is this Envoy that has no room, so the gates of those who share a quota stay open.
        Outcome::Misrouted(Misroute::Full) => {
            let throttle = plan.pool(pool)?.0.policy.throttle;
            update(plan, pool, begun.backend, |record| {
                record.gate.close(now, Some(OVERFLOW), &throttle);
                record.gate.closed_until(now, &throttle)
            })?
        }
        _ => None,
    }
}

/// Keeps that a backend served an operation, if that is news, and that it took the credential.
pub(crate) fn note_service(plan: &Plan, pool: usize, begun: &Begun, operation: OperationSet) {
    if let Some(backend) = backend_plan(plan, pool, begun.backend) {
        backend.has_served.set(true);
    }
    if begun.record.served.covers(operation) && begun.record.denied == 0 {
        return;
    }
    update(plan, pool, begun.backend, |record| {
        record.served.0 |= operation.0;
        record.denied = 0;
    });
}

/// Counts an attempt for which its backend is to blame; it ended at `ended`.
pub(crate) fn convict(
    plan: &Plan,
    pool: usize,
    begun: &Begun,
    evidence: &Evidence,
    ended: Timestamp,
    now: Timestamp,
) {
    let is_probe = begun.ticket.is_probe();
    match evidence.outcome {
        Outcome::Denied { status } => {
            complain(plan, pool, begun.backend, status, denied_part(status));
            let is_first =
                backend_plan(plan, pool, begun.backend).is_some_and(|it| it.has_served.take());
            let is_enough =
                update(plan, pool, begun.backend, |record| blame::count_denial(record, is_first));
            if is_probe || is_enough == Some(true) {
                let outcome = Outcome::Misconfigured { status };
                observe(plan, pool, begun, &Evidence { outcome, ..*evidence }, now);
            }
        }
        Outcome::Misconfigured { status } => {
            complain(plan, pool, begun.backend, status, "deployment");
            observe(plan, pool, begun, evidence, now);
        }
        Outcome::Throttled { delay } => {
            let left = delay.map(|delay| ended.plus(delay).since(now));
            if left != Some(Millis::ZERO) {
                close_gates(plan, pool, begun.backend, left, now);
            }
            observe(plan, pool, begun, evidence, now);
        }
        Outcome::Fault { fault: Fault::Reset | Fault::NotReceived, .. } if !is_probe => {
            let is_known = update(plan, pool, begun.backend, |record| {
                blame::is_same_reset(record, begun.at, ended)
            });
            if is_known != Some(true) {
                observe(plan, pool, begun, evidence, now);
            }
        }
        _ => observe(plan, pool, begun, evidence, now),
    }
}

/// Counts an attempt that failed without another backend to compare it with, unless its backend serves
/// others. A probe counts at once: it is sent to find out.
pub(crate) fn accuse(
    plan: &Plan,
    pool: usize,
    begun: &Begun,
    evidence: &Evidence,
    ended: Timestamp,
    now: Timestamp,
) {
    let Some(backend) = backend_plan(plan, pool, begun.backend) else { return };
    let seen_by_others =
        present(plan, pool, begun.backend, now).map_or(Timestamp::ZERO, |it| it.completed_at);
    let completed = backend.completed_at.get().max(seen_by_others);
    if begun.ticket.is_probe() || blame::counts_alone(completed, ended) {
        convict(plan, pool, begun, evidence, ended, now);
    }
}

/// An attempt that failed does not count against its backend.
pub(crate) fn acquit(plan: &Plan, pool: usize, begun: &Begun, evidence: &Evidence, now: Timestamp) {
    if begun.ticket.is_probe() {
        release_probe(plan, pool, begun, now);
    }
    let (status, what) = match evidence.outcome {
        Outcome::Denied { status } => (status, denied_part(status)),
        Outcome::Misconfigured { status } => (status, "deployment"),
        _ => return,
    };
    if let Some((configured, pool_plan)) = plan.pool(pool)
        && let Some(backend) = pool_plan.backends.get(begun.backend.position())
        && backend.refusal_words.is_news(what, now)
        && let Some(Backend { name, .. }) = configured.backends.get(begun.backend.position())
    {
        let text = format!(
            "spillway: backend {name} answered {status} to a request that no backend served: if \
             it does so to all, check its {what}"
        );
        host::log(host::Level::Warn, &text);
    }
}

/// Keeps that a backend completed a request: it does not fail whatever it is asked. Other workers need not
/// know it to the millisecond.
pub(crate) fn note_completion(plan: &Plan, pool: usize, begun: &Begun, now: Timestamp) {
    if let Some(backend) = backend_plan(plan, pool, begun.backend) {
        backend.completed_at.set(now);
    }
    let known = begun.record.completed_at;
    if known > now || now.since(known) >= COMPLETION_WORTH_WRITING {
        update(plan, pool, begun.backend, |record| record.completed_at = now);
    }
}

/// Writes what the head of an answer shows before it is known how the answer ends: how much the
/// backend has left, and that a probe succeeded. An answer may take minutes; the first byte is proof
/// enough to let others follow.
pub(crate) fn write_head(
    plan: &Plan,
    pool: usize,
    begun: &Begun,
    evidence: &Evidence,
    now: Timestamp,
) {
    // What a backend did that had another deployment answer is known now, too.
    if begun.ticket.is_probe() || matches!(evidence.outcome, Outcome::Spilled { .. }) {
        observe(plan, pool, begun, evidence, now);
    }
    note_headroom(plan, pool, begun, evidence, now);
    if let Ok(reservation) = begun.reservation.try_borrow()
        && let Some(reservation) = &*reservation
        && let Some(backend) = backend_plan(plan, pool, begun.backend)
    {
        budget::correct(backend, reservation, evidence.said.limits, now);
    }
}

/// Concludes what an attempt reserved in its backend's budget; once, however often it is called.
pub(crate) fn conclude(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    reservation: &RefCell<Option<Reservation>>,
    ending: Settlement,
    now: Timestamp,
) {
    let taken = reservation.try_borrow_mut().ok().and_then(|mut held| held.take());
    if let Some(reservation) = taken
        && let Some((_, pool_plan)) = plan.pool(pool)
        && let Some(backend) = pool_plan.backends.get(backend.position())
    {
        budget::conclude(backend, &pool_plan.metrics, reservation, ending, now);
    }
}

fn backend_plan(plan: &Plan, pool: usize, backend: BackendIndex) -> Option<&BackendPlan> {
    plan.pool(pool)?.1.backends.get(backend.position())
}

/// Takes the half-open lease of a backend, if no other worker did.
pub(crate) fn lease_probe(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    lease: Lease,
    now: Timestamp,
) -> Option<Ticket> {
    let (configured, _) = plan.pool(pool)?;
    let settings = &configured.policy.breaker;
    update(plan, pool, backend, |record| record.breaker.lease_probe(lease, settings, now)).flatten()
}

/// Gives back the half-open lease of an attempt that proved nothing.
pub(crate) fn release_probe(plan: &Plan, pool: usize, begun: &Begun, now: Timestamp) {
    let evidence = Evidence {
        outcome: Outcome::Cancelled,
        status: 0,
        elapsed: Millis::ZERO,
        said: Said::default(),
    };
    observe(plan, pool, begun, &evidence, now);
}

/// Keeps what a backend said of how much it has left, when that changes anything.
fn note_headroom(plan: &Plan, pool: usize, begun: &Begun, evidence: &Evidence, now: Timestamp) {
    if let Some(permille) = evidence.said.headroom_permille
        && begun.record.headroom.worth_writing(permille, now)
    {
        update(plan, pool, begun.backend, |record| {
            record.headroom = Headroom { permille, at: now };
        });
    }
}

/// Closes the throttle gates of a backend and of all that share its quota, in whatever pool.
/// Returns until when its own is closed.
fn close_gates(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    delay: Option<Millis>,
    now: Timestamp,
) -> Option<Timestamp> {
    let policy = &plan.pool(pool)?.0.policy;
    let member = policy.member(backend)?;
    let closed = change(plan, pool, |bytes, policy| {
        let closed = PoolRecord::close_gate(bytes, policy, backend, delay, now)?;
        Ok((closed.clone(), Snapshot::new(closed)))
    });
    if let Some(records) = &closed {
        show_gates(plan, pool, records, now);
    }
    for other in (0..plan.pools.len()).filter(|other| *other != pool) {
        let Some(group) = member.quota_group else { break };
        let closed = change(plan, other, |bytes, policy| {
            let closed = PoolRecord::close_group(bytes, policy, group, delay, now)?;
            Ok((closed.clone(), Snapshot::new(closed)))
        });
        if let Some(records) = &closed {
            show_gates(plan, other, records, now);
        }
    }
    closed?.of(backend, member).gate.closed_until(now, &policy.throttle)
}

/// Shows in metrics which throttle gates of a pool are closed.
fn show_gates(plan: &Plan, pool: usize, records: &Snapshot, now: Timestamp) {
    let Some((configured, pool_plan)) = plan.pool(pool) else { return };
    let policy = &configured.policy;
    let members = policy.members.iter().zip(&pool_plan.backends);
    for (position, (member, backend)) in members.enumerate() {
        let Some(index) = BackendIndex::new(position) else { continue };
        let gate = records.of(index, member).gate;
        if let Some(until) = gate.closed_until(now, &policy.throttle) {
            host::record(backend.metrics.gate_closed_until_ms, until.as_ms());
        }
    }
}

/// Lets the circuit breaker see how an attempt ended.
pub(crate) fn observe(
    plan: &Plan,
    pool: usize,
    begun: &Begun,
    evidence: &Evidence,
    now: Timestamp,
) {
    let Some((configured, pool_plan)) = plan.pool(pool) else { return };
    let settings = &configured.policy.breaker;
    let observed = Observed::of(&evidence.outcome, settings);
    let elapsed = evidence.elapsed;
    let breaker = &begun.record.breaker;
    let ends_run = || ends_run(plan, pool, begun, observed, elapsed, now);
    let is_needed = begun.ticket.is_probe() || breaker.needs_window(settings, observed, elapsed);
    if !is_needed && !ends_run() {
        return;
    }
    let Some(backend_plan) = pool_plan.backends.get(begun.backend.position()) else { return };
    let is_counted =
        breaker.counts_ordinary(begun.ticket) && needs_count(settings, observed, elapsed);
    let is_plain = rules::is_plain_success(settings, observed, elapsed);
    let met = if is_counted && (!is_plain || count_later(backend_plan, settings, begun, now)) {
        count(plan, pool, begun, &Counted { observed, elapsed, is_plain }, now)
    } else {
        RulesMet::default()
    };
    if is_counted && is_plain && !ends_run() {
        return;
    }
    let retry_after = match evidence.outcome {
        Outcome::Fault { retry_after, .. } => retry_after,
        _ => None,
    };
    let observation = Observation { ticket: begun.ticket, observed, elapsed, retry_after };
    let roll = random::number();
    let transition = update(plan, pool, begun.backend, |record| {
        record.breaker.conclude(&observation, met, settings, now, roll)
    });
    if let Some(transition) = transition.flatten()
        && let Some(backend) = configured.backends.get(begun.backend.position())
    {
        announce(backend, backend_plan, transition, now);
        tell_misroute(backend, &evidence.outcome);
    }
}

/// Whether a success ends a run of faults that some rule counts. The run may have begun after the
/// attempt was chosen, by the record that it carries. To see that takes one more read, and no write.
fn ends_run(
    plan: &Plan,
    pool: usize,
    begun: &Begun,
    observed: Observed,
    elapsed: Millis,
    now: Timestamp,
) -> bool {
    let Some((configured, _)) = plan.pool(pool) else { return false };
    let settings = &configured.policy.breaker;
    let is_run = |breaker: &Breaker| breaker.counts_in_row_change(settings, observed, elapsed);
    settings.ends_runs(observed, elapsed)
        && (is_run(&begun.record.breaker)
            || present(plan, pool, begun.backend, now)
                .is_some_and(|it| it.breaker.counts_ordinary(begun.ticket) && is_run(&it.breaker)))
}

/// A result that belongs into the counts of some rule.
struct Counted {
    observed: Observed,
    elapsed: Millis,
    /// It is among the successes that the worker counted for itself.
    is_plain: bool,
}

/// Counts a plain success for this worker. Whether it is time to add them to the shared counts.
fn count_later(
    plan: &BackendPlan,
    settings: &BreakerSettings,
    begun: &Begun,
    now: Timestamp,
) -> bool {
    let mut successes = plan.successes.get();
    let is_due = successes.count(settings, begun.ticket.epoch, now);
    plan.successes.set(successes);
    is_due
}

/// Adds a result to the shared counts, and with it the successes of this worker. Says which rules it
/// reached.
fn count(plan: &Plan, pool: usize, begun: &Begun, result: &Counted, now: Timestamp) -> RulesMet {
    let Some((configured, pool_plan)) = plan.pool(pool) else { return RulesMet::default() };
    let Some(backend) = pool_plan.backends.get(begun.backend.position()) else {
        return RulesMet::default();
    };
    let Counted { observed, elapsed, is_plain } = *result;
    let (settings, epoch) = (&configured.policy.breaker, begun.ticket.epoch);
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
        // The counts are of a later epoch, but the breaker's own is still that of the attempt: they were
        // left by a breaker that was forgotten since, and mean nothing.
        Ok(None)
            if present(plan, pool, begun.backend, now)
                .is_some_and(|it| it.breaker.counts_ordinary(begun.ticket)) =>
        {
            count(true)
        }
        counted => counted,
    };
    if counted.is_err() {
        host::increment(pool_plan.metrics.lost_updates, 1);
    }
    counted.ok().flatten().unwrap_or_default()
}

/// What workers share of a backend, not older than a millisecond.
fn present(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    now: Timestamp,
) -> Option<BackendRecord> {
    let (configured, pool_plan) = plan.pool(pool)?;
    let member = configured.policy.member(backend)?;
    Some(pool_plan.recent_record(backend, member, now))
}

/// Changes the shared record of a backend; `None` when it could not be changed.
fn update<R>(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    mut with: impl FnMut(&mut BackendRecord) -> R,
) -> Option<R> {
    let mut found = None;
    update_in_place(plan, pool, backend, &mut |record| found = Some(with(record)))?;
    found
}

/// The same for all kinds of changes: one copy of it is enough for the module.
fn update_in_place(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    with: &mut dyn FnMut(&mut BackendRecord),
) -> Option<()> {
    let key = plan.pool(pool)?.0.policy.member(backend)?.key;
    change(plan, pool, |bytes, _| PoolRecord::update(bytes, key, &mut *with))
}

/// Changes the shared record of a pool; `None` when it could not be changed.
fn change<R>(
    plan: &Plan,
    pool: usize,
    mut with: impl FnMut(Option<&[u8]>, &PoolPolicy) -> Result<(Vec<u8>, R), NotUpdated>,
) -> Option<R> {
    let (configured, pool_plan) = plan.pool(pool)?;
    let policy = &configured.policy;
    let changed = shared::update(&pool_plan.record_key, PoolRecord::VERSION, |bytes| {
        let changed = match with(bytes, policy) {
            // Damaged: it reads as fresh, so it is made anew.
            Err(NotUpdated::Unreadable) => {
                let Reseated { bytes, .. } = PoolRecord::reseat(None, policy, Timestamp::ZERO);
                with(Some(&bytes), policy)
            }
            changed => changed,
        };
        match changed {
            Ok((bytes, found)) => (Some(bytes), Some(found)),
            // There is no room for a backend that the record does not have.
            Err(_) => (None, None),
        }
    });
    pool_plan.forget_records();
    let changed = changed.ok().flatten();
    if changed.is_none() {
        host::increment(pool_plan.metrics.lost_updates, 1);
    }
    changed
}
