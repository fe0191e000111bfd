//! What the log and the metrics are told of a backend.

use super::{BackendPlan, Plan};
use crate::config::Backend;
use crate::filter::host;
use crate::policy::backend::breaker::Transition;
use crate::policy::pool::BackendIndex;
use crate::policy::response::classify::{Misroute, Outcome};
use crate::policy::time::Timestamp;

/// Says in log and metrics that a circuit breaker changed.
pub(super) fn announce(
    backend: &Backend,
    plan: &BackendPlan,
    transition: Transition,
    now: Timestamp,
) {
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

/// Says in the log why there is no way to a backend: once for each time that its breaker opens, and not
/// for each request.
pub(super) fn tell_misroute(backend: &Backend, outcome: &Outcome) {
    let Outcome::Misrouted(misroute) = outcome else { return };
    let (name, cluster) = (&backend.name, &backend.cluster);
    let why = match misroute {
        Misroute::Full => format!("the circuit_breakers of its cluster {cluster} are reached"),
        Misroute::NoCluster => format!(
            "Envoy has no cluster of the name that the route's matcher has for it, which should be {cluster}"
        ),
        Misroute::DeadEndpoint | Misroute::NoHost => {
            format!(
                "its cluster {cluster} has no host, or the route's matcher names one that does not exist: does \
                 its name resolve, are there endpoints?"
            )
        }
        Misroute::NoFilter => format!(
            "its cluster {cluster} lacks the attempt filter, so the request, which may have the credential of \
             another backend, went there as it was"
        ),
        Misroute::NoRoute => "the route's cluster matcher has no entry for it".to_owned(),
        Misroute::WrongCluster => {
            format!("the route's cluster matcher names a cluster for it that is not {cluster}")
        }
    };
    host::log(host::Level::Error, &format!("spillway: backend {name} cannot be reached: {why}"));
}

/// Says in the log that something is wrong that only the operator can put right.
pub(super) fn complain(plan: &Plan, pool: usize, backend: BackendIndex, status: u16, what: &str) {
    let Some((configured, _)) = plan.pool(pool) else { return };
    let Some(Backend { name, .. }) = configured.backends.get(backend.position()) else { return };
    let text = format!(
        "spillway: backend {name} answered {status} to a request that another backend served: \
         check its {what}"
    );
    host::log(host::Level::Error, &text);
}

/// What is wrong with a backend's configuration when it turns all requests away with `status`.
pub(super) fn denied_part(status: u16) -> &'static str {
    if status < 400 { "host" } else { "credential" }
}
