//! What an attempt showed, written into the records that all workers share, and into metrics.

use super::exchange::Begun;
use super::plan::{BackendPlan, Plan};
use super::{host, shared, worker};
use crate::config::Backend;
use crate::policy::breaker::{Observation, Observed, RulesMet, Ticket, Transition};
use crate::policy::classify::Outcome;
use crate::policy::headroom::Headroom;
use crate::policy::pool::BackendIndex;
use crate::policy::records::{BackendRecord, NotUpdated, PoolRecord, WindowsRecord};
use crate::policy::time::{Millis, Timestamp};

/// What an attempt showed.
pub(crate) struct Evidence {
    pub(crate) outcome: Outcome,
    /// The status of the answer; 0: none came.
    pub(crate) status: u16,
    /// The time to the first byte, or to the end without one.
    pub(crate) elapsed: Millis,
    /// The thousandths of its capacity that the backend said are left.
    pub(crate) headroom_permille: Option<u16>,
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
    if let Some(permille) = evidence.headroom_permille
        && begun.record.headroom.worth_writing(permille, now)
    {
        update(plan, pool, begun.backend, |record| {
            record.headroom = Headroom { permille, at: now };
        });
    }
    match evidence.outcome {
        Outcome::Throttled { delay } => close_gates(plan, pool, begun.backend, delay, now),
        _ => None,
    }
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
        headroom_permille: None,
    };
    observe(plan, pool, begun, &evidence, now);
}

/// Closes the throttle gates of a backend and of all that share its quota, in whatever pool.
fn close_gates(
    plan: &Plan,
    pool: usize,
    backend: BackendIndex,
    delay: Option<Millis>,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut own = None;
    for (other_pool, other) in plan.sharing_gate_with(pool, backend) {
        let Some((configured, pool_plan)) = plan.pool(other_pool) else { continue };
        let settings = &configured.policy.throttle;
        let until = update(plan, other_pool, other, |record| {
            record.gate.close(now, delay, settings);
            record.gate.closed_until(now, settings)
        })
        .flatten();
        if let (Some(until), Some(plan)) = (until, pool_plan.backends.get(other.position())) {
            host::record(plan.metrics.gate_closed_until_ms, until.as_ms());
        }
        if (other_pool, other) == (pool, backend) {
            own = until;
        }
    }
    own
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
    let met = if begun.ticket.probe {
        RulesMet::default()
    } else {
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
    }
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
    mut change: impl FnMut(&mut BackendRecord) -> R,
) -> Option<R> {
    let (configured, pool_plan) = plan.pool(pool)?;
    let key = configured.policy.member(backend)?.key;
    let updated = shared::update(&pool_plan.record_key, |bytes| {
        let changed = match PoolRecord::update(bytes, key, &mut change) {
            // It reads as fresh, so it begins afresh: else no gate closed until a new configuration.
            Err(NotUpdated::Unreadable) => {
                let fresh = PoolRecord::reseat(None, &configured.policy);
                PoolRecord::update(Some(&fresh), key, &mut change)
            }
            changed => changed,
        };
        match changed {
            Ok((bytes, changed)) => (Some(bytes), Some(changed)),
            // A newer configuration has no such backend: there is nothing to keep its state for.
            Err(_) => (None, None),
        }
    });
    updated.unwrap_or_else(|_| {
        host::increment(pool_plan.metrics.lost_updates, 1);
        None
    })
}
