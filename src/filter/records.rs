//! What an attempt showed, written into the records that all workers share, and into metrics.

use super::budgets::{self, SaidOfLimits};
use super::header_map::HeaderMap;
use super::host;
use super::plan::{BackendPlan, Plan};
use super::{shared, worker};
use crate::config::Backend;
use crate::policy::breaker::{Observation, Observed, RulesMet, Ticket, Transition, needs_count};
use crate::policy::budget::{Ending, Reservation};
use crate::policy::classify::{Misroute, Outcome};
use crate::policy::headroom::Headroom;
use crate::policy::pool::{BackendIndex, PoolPolicy};
use crate::policy::rate_limits::RateLimits;
use crate::policy::records::{
    BackendRecord, NotUpdated, PoolRecord, Records, Snapshot, WindowsRecord,
};
use crate::policy::time::{Millis, Timestamp};
use std::cell::RefCell;

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

/// What an attempt showed.
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
}

impl Said {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let limits = RateLimits::read(headers);
        Self {
            headroom_permille: limits.left_permille(),
            limits: SaidOfLimits {
                utilization_permille: limits.utilization_permille(),
                tokens_per_minute: limits.token_limit(),
            },
        }
    }
}

/// Writes `evidence` of an attempt at a backend of `pool`. Returns until when the backend's throttle
/// gate is closed, if this closed it.
pub(crate) fn write(
    plan: &Plan,
    pool: usize,
    begun: &Begun,
    evidence: &Evidence,
    now: Timestamp,
) -> Option<Timestamp> {
    let (configured, pool_plan) = plan.pool(pool)?;
    let backend = configured.backends.get(begun.backend.position())?;
    let backend_plan = pool_plan.backends.get(begun.backend.position())?;
    backend_plan.metrics.count(&evidence.outcome);
    if let Outcome::Misconfigured { status } = evidence.outcome {
        let name = &backend.name;
        host::log(
            host::Level::Error,
            &format!(
                "spillway: backend {name} answered {status}: check its credential and deployment"
            ),
        );
    }
    observe(plan, pool, begun, evidence, now);
    note_headroom(plan, pool, begun, evidence, now);
    match evidence.outcome {
        Outcome::Throttled { delay } => close_gates(plan, pool, begun.backend, delay, now),
        _ => None,
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
    if begun.ticket.probe {
        observe(plan, pool, begun, evidence, now);
    }
    note_headroom(plan, pool, begun, evidence, now);
    if let Ok(reservation) = begun.reservation.try_borrow()
        && let Some(reservation) = &*reservation
        && let Some(backend) = backend_plan(plan, pool, begun.backend)
    {
        budgets::correct(backend, reservation, evidence.said.limits, now);
    }
}

/// Concludes what an attempt reserved in its backend's budget; once, however often it is called.
pub(crate) fn conclude(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    reservation: &RefCell<Option<Reservation>>,
    ending: Ending,
    now: Timestamp,
) {
    let taken = reservation.try_borrow_mut().ok().and_then(|mut held| held.take());
    if let Some(reservation) = taken
        && let Some((_, pool_plan)) = plan.pool(pool)
        && let Some(backend) = pool_plan.backends.get(backend.position())
    {
        budgets::conclude(backend, &pool_plan.metrics, reservation, ending, now);
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
    now: Timestamp,
) -> Option<Ticket> {
    let (configured, _) = plan.pool(pool)?;
    let settings = &configured.policy.breaker;
    update(plan, pool, backend, |record| record.breaker.lease_probe(settings, now)).flatten()
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
fn observe(plan: &Plan, pool: usize, begun: &Begun, evidence: &Evidence, now: Timestamp) {
    let Some((configured, pool_plan)) = plan.pool(pool) else { return };
    let settings = &configured.policy.breaker;
    let observed = Observed::of(&evidence.outcome, settings);
    let elapsed = evidence.elapsed;
    if !begun.ticket.probe && !begun.record.breaker.needs_window(settings, observed, elapsed) {
        return;
    }
    let Some(backend_plan) = pool_plan.backends.get(begun.backend.position()) else { return };
    let is_counted = begun.record.breaker.counts_ordinary(begun.ticket)
        && needs_count(settings, observed, elapsed);
    let met = if is_counted {
        shared::update(&backend_plan.windows_key, |bytes| {
            let (bytes, met) = WindowsRecord::update(bytes, settings, |windows| {
                windows.count(settings, begun.ticket.epoch, observed, elapsed, now)
            });
            (Some(bytes), met)
        })
        .unwrap_or_else(|_| {
            host::increment(pool_plan.metrics.lost_updates, 1);
            RulesMet::default()
        })
    } else {
        RulesMet::default()
    };
    let retry_after = match evidence.outcome {
        Outcome::Fault { retry_after, .. } => retry_after,
        _ => None,
    };
    let observation = Observation { ticket: begun.ticket, observed, elapsed, retry_after };
    let roll = worker::random();
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

/// Says in the log why there is no way to a backend: once for each time that its breaker opens, and not
/// for each request.
fn tell_misroute(backend: &Backend, outcome: &Outcome) {
    let Outcome::Misrouted(misroute) = outcome else { return };
    let (name, cluster) = (&backend.name, &backend.cluster);
    let why = match misroute {
        Misroute::NoCluster => format!("Envoy has no cluster {cluster}"),
        Misroute::NoHost => {
            format!(
                "its cluster {cluster} has no host: does its name resolve, are there endpoints?"
            )
        }
        Misroute::NoRoute => "the route's cluster matcher has no entry for it".to_owned(),
        Misroute::WrongCluster => {
            format!("the route's cluster matcher names a cluster for it that is not {cluster}")
        }
    };
    host::log(host::Level::Error, &format!("spillway: backend {name} cannot be reached: {why}"));
}

/// Says in log and metrics that a circuit breaker changed.
fn announce(backend: &Backend, plan: &BackendPlan, transition: Transition, now: Timestamp) {
    let name = &backend.name;
    let until = match transition {
        Transition::Closed => None,
        Transition::Opened { until, .. } | Transition::Reopened { until, .. } => Some(until),
    };
    host::record(plan.metrics.breaker_open_until_ms, until.map_or(0, Timestamp::as_ms));
    let (level, text) = match until {
        None => (host::Level::Info, format!("spillway: backend {name} is back: breaker closed")),
        Some(until) => {
            let length = until.since(now);
            (
                host::Level::Warn,
                format!("spillway: backend {name} is left alone for {length}: breaker open"),
            )
        }
    };
    host::log(level, &text);
}

/// Changes the shared record of a backend; `None` when it could not be changed.
fn update<R>(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    mut with: impl FnMut(&mut BackendRecord) -> R,
) -> Option<R> {
    let key = plan.pool(pool)?.0.policy.member(backend)?.key;
    change(plan, pool, |bytes, _| PoolRecord::update(bytes, key, &mut with))
}

/// Changes the shared record of a pool; `None` when it could not be changed.
fn change<R>(
    plan: &Plan,
    pool: usize,
    mut with: impl FnMut(Option<&[u8]>, &PoolPolicy) -> Result<(Vec<u8>, R), NotUpdated>,
) -> Option<R> {
    let (configured, pool_plan) = plan.pool(pool)?;
    let policy = &configured.policy;
    let changed = shared::update(&pool_plan.record_key, |bytes| {
        let changed = match with(bytes, policy) {
            // Damaged or of another version: it reads as fresh, so it is made anew.
            Err(NotUpdated::Unreadable) => with(Some(&PoolRecord::reseat(None, policy)), policy),
            changed => changed,
        };
        match changed {
            Ok((bytes, found)) => (Some(bytes), Some(found)),
            // A newer configuration has no such backend: there is nothing to keep its state for.
            Err(_) => (None, None),
        }
    });
    changed.unwrap_or_else(|_| {
        host::increment(pool_plan.metrics.lost_updates, 1);
        None
    })
}
