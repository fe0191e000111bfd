//! What can be counted from outside: Envoy stats, defined once at configure.
//!
//! A name carries its labels as `.label.value`, from which the shipped `stats_tags` make Prometheus
//! labels; names in the configuration hold no dots for this reason.

use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::{self, Metric, MetricKind};
use crate::openai::service_tier::ServiceTier;
use crate::policy::response::classify::Outcome;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// What was defined by this worker. The host makes a new entry for each definition, also of a name that it
    /// knows, and keeps it: a gateway that is configured often would grow for ever.
    static DEFINED: RefCell<HashMap<String, Metric>> = RefCell::default();
}

/// The metric of this name, which is defined once. One that the host refuses is asked for again.
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

/// How an attempt can end, in the order of [`BackendMetrics::attempts`].
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

/// The requests that each service tier served, in the order of [`PoolMetrics::tiers`].
const SERVED_TIERS: [&str; 4] = [
    "served_default_tier_total",
    "served_flex_tier_total",
    "served_priority_tier_total",
    "served_other_tier_total",
];

/// The metrics of one pool.
pub(crate) struct PoolMetrics {
    /// Requests that were answered below the first tier.
    pub(crate) spills: Metric,
    /// Requests that were answered 429 or 503 because no backend could serve.
    pub(crate) exhausted: Metric,
    /// Failovers that the retry budget or `max_attempts` did not allow.
    pub(crate) limited: Metric,
    /// Changes of shared records that were given up after too many lost races.
    pub(crate) lost_updates: Metric,
    /// Admissions for which the record of a backend's or consumer's tokens could not be used.
    pub(crate) unbudgeted: Metric,
    /// Requests that asked for a service tier, by the one that served them.
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

    /// The count of the requests that `tier` served.
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
