//! The Envoy stats, defined once when configuring.
//!
//! A name contains its labels as `.label.value`. The shipped `stats_tags` turn them into Prometheus labels; therefore
//! names in the configuration contain no dots.

use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::{self, Metric, MetricKind};
use crate::openai::service_tier::ServiceTier;
use crate::policy::response::classify::Outcome;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// The metrics that this worker defined. The host makes and keeps a new entry for each definition, even of a
    /// known name, so memory would grow with every new configuration.
    static DEFINED: RefCell<HashMap<String, Metric>> = RefCell::default();
}

/// The metric of this name, defined once. If the host refused, it is asked again.
fn defined(kind: MetricKind, name: &str) -> Metric {
    DEFINED.with(|defined| {
        let Some(mut defined) = defined.change() else {
            return host::define_metric(kind, name);
        };
        if let Some(metric) = defined.get(name) {
            return *metric;
        }
        let metric = host::define_metric(kind, name);
        if metric.is_defined() {
            defined.insert(name.to_owned(), metric);
        }
        metric
    })
}

/// The outcomes of an attempt, in the order of [`BackendMetrics::attempts`].
const OUTCOMES: [&str; 10] = [
    "success",
    "client_error",
    "throttled",
    "fault",
    "misconfigured",
    "elsewhere",
    "cancelled",
    "misrouted",
    "denied",
    "spilled",
];

/// The metrics of one backend.
pub(crate) struct BackendMetrics {
    attempts: [Metric; OUTCOMES.len()],
    /// Until when the throttle gate is closed, in milliseconds since the epoch.
    pub(crate) gate_closed_until_ms: Metric,
    /// Until when the circuit breaker is open, in milliseconds since the epoch; 0: it is closed.
    pub(crate) breaker_open_until_ms: Metric,
}

impl BackendMetrics {
    pub(crate) fn define(pool: &str, backend: &str) -> Self {
        let gauge = |name: &str| {
            let name = format!("spillway_{name}.pool.{pool}.backend.{backend}");
            defined(MetricKind::Gauge, &name)
        };
        Self {
            attempts: OUTCOMES.map(|outcome| {
                defined(
                    MetricKind::Counter,
                    &format!(
                        "spillway_attempts_total.pool.{pool}.backend.{backend}.outcome.{outcome}"
                    ),
                )
            }),
            gate_closed_until_ms: gauge("gate_closed_until_ms"),
            breaker_open_until_ms: gauge("breaker_open_until_ms"),
        }
    }

    /// Counts an attempt that ended with `outcome`.
    pub(crate) fn count(&self, outcome: &Outcome) {
        let position = match outcome {
            Outcome::Success => 0,
            Outcome::ClientError => 1,
            Outcome::Throttled { .. } => 2,
            Outcome::Fault { .. } => 3,
            Outcome::Misconfigured { .. } => 4,
            Outcome::Elsewhere { .. } => 5,
            Outcome::Cancelled => 6,
            Outcome::Misrouted(_) => 7,
            Outcome::Denied { .. } => 8,
            Outcome::Spilled { .. } => 9,
        };
        if let Some(&metric) = self.attempts.get(position) {
            host::increment(metric, 1);
        }
    }
}

/// The service tiers that can serve a request, in the order of [`PoolMetrics::tiers`].
const SERVED_TIERS: [&str; 4] = [
    "served_default_tier_total",
    "served_flex_tier_total",
    "served_priority_tier_total",
    "served_other_tier_total",
];

/// The metrics of one pool.
pub(crate) struct PoolMetrics {
    /// Requests served below the first tier.
    pub(crate) spills: Metric,
    /// Requests that got 429 or 503 because no backend could serve.
    pub(crate) exhausted: Metric,
    /// Failovers that the retry budget or `max_attempts` did not allow.
    pub(crate) limited: Metric,
    /// Changes of shared records that were given up after too many lost races.
    pub(crate) lost_updates: Metric,
    /// Admissions for which the token record of a backend or consumer could not be used.
    pub(crate) unbudgeted: Metric,
    /// Requests that asked for a service tier, by the tier that served them.
    tiers: [Metric; SERVED_TIERS.len()],
}

impl PoolMetrics {
    pub(crate) fn define(pool: &str) -> Self {
        let counter =
            |name: &str| defined(MetricKind::Counter, &format!("spillway_{name}.pool.{pool}"));
        Self {
            spills: counter("spills_total"),
            exhausted: counter("exhausted_total"),
            limited: counter("failovers_limited_total"),
            lost_updates: counter("lost_updates_total"),
            unbudgeted: counter("unbudgeted_total"),
            tiers: SERVED_TIERS.map(counter),
        }
    }

    /// The counter of the requests that `tier` served.
    pub(crate) fn tier(&self, tier: ServiceTier) -> Metric {
        let [default, flex, priority, other] = self.tiers;
        match tier {
            ServiceTier::Default => default,
            ServiceTier::Flex => flex,
            ServiceTier::Priority => priority,
            ServiceTier::Other => other,
        }
    }
}
