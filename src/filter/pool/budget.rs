//! Reserving in the budgets of backends, and concluding what was reserved.
//!
//! A budget that cannot be used admits: the backend's own answer is the authority, and a wrong count
//! must not keep anybody from it. Such requests are counted (`spillway_unbudgeted_total`).

use super::BackendPlan;
use super::metrics::PoolMetrics;
use crate::filter::host;
use crate::filter::host::shared;
use crate::policy::time::Timestamp;
use crate::policy::tokens::budget::{self, Admission, BudgetSettings, Reservation, Settlement};
use crate::policy::tokens::estimate::Estimate;

/// The budget of one backend.
pub(crate) struct BudgetPlan {
    pub(crate) key: String,
    pub(crate) settings: BudgetSettings,
}

/// What a backend said of its limits, beside what the throttle gate and the choice make of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct SaidOfLimits {
    /// The used thousandths of provisioned throughput.
    pub(crate) utilization_permille: Option<u32>,
    /// The tokens per minute that it grants at present.
    pub(crate) tokens_per_minute: Option<i64>,
}

/// Reserves for a request in the budget of a backend. `ceiling_permille` is how far provisioned
/// throughput may be used for it. A backend without a budget has nothing to reserve in.
///
/// # Errors
/// When there is room again, if there is none now.
pub(crate) fn reserve(
    plan: &BackendPlan,
    metrics: &PoolMetrics,
    estimate: Estimate,
    ceiling_permille: Option<u16>,
    now: Timestamp,
) -> Result<Option<Reservation>, Timestamp> {
    let Some(BudgetPlan { key, settings }) = &plan.budget else { return Ok(None) };
    let mut is_unusable = false;
    let reserved = shared::count(key, budget::VERSION, |record| {
        is_unusable = budget::is_unusable(record);
        match budget::reserve(record, settings, estimate, ceiling_permille, now) {
            Admission::Granted(reservation) => (true, Ok(Some(reservation))),
            Admission::Denied { until, is_put_back } => (is_put_back, Err(until)),
        }
    });
    if reserved.is_err() || is_unusable {
        host::increment(metrics.unbudgeted, 1);
    }
    reserved.unwrap_or(Ok(None))
}

/// Concludes what an attempt reserved.
pub(crate) fn conclude(
    plan: &BackendPlan,
    metrics: &PoolMetrics,
    reservation: Reservation,
    ending: Settlement,
    now: Timestamp,
) {
    let Some(BudgetPlan { key, settings }) = &plan.budget else { return };
    let concluded = reservation.conclude(ending, settings, now, |change| {
        shared::count(key, budget::VERSION, |record| (true, change(record)))
    });
    if concluded.is_err() {
        host::increment(metrics.lost_updates, 1);
    }
}

/// Corrects a budget by what the backend said with the head of an answer.
pub(crate) fn correct(
    plan: &BackendPlan,
    reservation: &Reservation,
    said: SaidOfLimits,
    now: Timestamp,
) {
    let Some(BudgetPlan { key, settings }) = &plan.budget else { return };
    // A correction that is lost is made by the next answer.
    if let Some(permille) = said.utilization_permille
        && settings.provisioned.is_some()
    {
        let _ = shared::count(key, budget::VERSION, |record| {
            (budget::utilization(record, settings, reservation, permille, now), ())
        });
    }
    // Mostly it is the configured limit that is said, for which no record need be read.
    if let Some(limit) = said.tokens_per_minute
        && settings.lowered(limit).is_some()
    {
        let _ = shared::count(key, budget::VERSION, |record| {
            (budget::limit_header(record, settings, limit, now), ())
        });
    }
}
