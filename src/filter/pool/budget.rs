//! Reserves in a backend's budget, and concludes reservations.
//!
//! A budget that cannot be used admits every request: the backend's own response is the authority, and a wrong count
//! must not turn anybody away. Such requests are counted (`spillway_unbudgeted_total`).

use super::metrics::PoolMetrics;
use crate::filter::host::shared;
use crate::filter::host::{self, Metric};
use crate::policy::time::Timestamp;
use crate::policy::tokens::budget::{
    self, Admission, BudgetSettings, Reservation, Settlement, Terms,
};
use crate::policy::tokens::estimate::Estimate;

/// The budget of one backend.
pub(crate) struct Budget {
    key: String,
    settings: BudgetSettings,
    unbudgeted: Metric,
    lost_updates: Metric,
}

/// What a backend states about its limits, except what concerns the throttle gate and the choice.
#[derive(Clone, Copy, Default)]
pub(crate) struct LimitHints {
    /// The used part of provisioned throughput, in thousandths.
    pub(crate) utilization_permille: Option<u32>,
    /// The tokens per minute that it grants now.
    pub(crate) tokens_per_minute: Option<i64>,
}

impl Budget {
    pub(super) fn new(key: String, settings: BudgetSettings, metrics: &PoolMetrics) -> Self {
        let PoolMetrics { unbudgeted, lost_updates, .. } = *metrics;
        Self { key, settings, unbudgeted, lost_updates }
    }

    /// The key of its record.
    pub(super) fn key(&self) -> &String {
        &self.key
    }

    /// The most tokens that it can ever have room for, if it counts tokens.
    pub(crate) fn token_limit(&self) -> Option<u64> {
        self.settings.token_limit()
    }

    /// Reserves for a request. If the budget cannot be used, nothing is reserved.
    ///
    /// # Errors
    /// When there will be room, if there is none now.
    pub(crate) fn reserve(
        &self,
        estimate: Estimate,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Option<Reservation>, Timestamp> {
        let mut is_unusable = false;
        let reserved = shared::count(&self.key, budget::VERSION, |record| {
            is_unusable = budget::is_unusable(record);
            match budget::reserve(record, &self.settings, estimate, terms, now) {
                Admission::Granted(reservation) => (true, Ok(Some(reservation))),
                Admission::Denied { until, clock_went_back } => (clock_went_back, Err(until)),
            }
        });
        if reserved.is_err() || is_unusable {
            host::increment(self.unbudgeted, 1);
        }
        reserved.unwrap_or(Ok(None))
    }

    /// Concludes the reservation of an attempt.
    pub(crate) fn conclude(&self, reservation: Reservation, ending: Settlement, now: Timestamp) {
        let concluded = reservation.conclude(ending, &self.settings, now, |change| {
            shared::count(&self.key, budget::VERSION, |record| (true, change(record)))
        });
        if concluded.is_err() {
            host::increment(self.lost_updates, 1);
        }
    }

    /// Corrects the budget by what the headers of a response state.
    pub(crate) fn correct(&self, reservation: &Reservation, hints: LimitHints, now: Timestamp) {
        let Self { key, settings, .. } = self;
        // If a correction is lost, the next response makes it.
        if let Some(permille) = hints.utilization_permille
            && settings.provisioned.is_some()
        {
            let _ = shared::count(key, budget::VERSION, |record| {
                (budget::utilization(record, settings, reservation, permille, now), ())
            });
        }
        // Usually the backend states the configured limit; then no record need be read.
        if let Some(limit) = hints.tokens_per_minute
            && settings.lowered(limit).is_some()
        {
            let _ = shared::count(key, budget::VERSION, |record| {
                (budget::limit_header(record, settings, limit, now), ())
            });
        }
    }
}
