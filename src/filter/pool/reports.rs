//! What the log and the metrics are told of a backend.

use super::Backend;
use crate::filter::host;
use crate::policy::backend::breaker::Transition;
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::time::Timestamp;

/// What is wrong with a backend's configuration when it turns all requests away with `status`.
pub(super) fn denied_part(status: u16) -> &'static str {
    if status < 400 { "host" } else { "credential" }
}

impl Backend {
    /// Says in log and metrics that the circuit breaker changed.
    pub(super) fn announce(&self, transition: Transition, now: Timestamp) {
        let name = &self.config.name;
        let until = match transition {
            Transition::Closed => None,
            Transition::Opened { until, .. } | Transition::Reopened { until, .. } => Some(until),
        };
        host::record(self.metrics.breaker_open_until_ms, until.map_or(0, Timestamp::as_ms));
        match until {
            None => log::info!("circuit breaker of backend {name} closed"),
            Some(until) => {
                let length = until.since(now);
                log::warn!("circuit breaker of backend {name} opened for {length}");
            }
        }
    }

    /// Says in the log why there is no way to the backend: once for each time that its breaker opens, and not
    /// for each request.
    pub(super) fn tell_misroute(&self, outcome: &Outcome) {
        let Outcome::Misrouted(misroute) = outcome else { return };
        let (name, cluster) = (&self.config.name, &self.config.cluster);
        let why = match misroute {
            Misroute::Full => format!("the circuit_breakers of its cluster {cluster} are reached"),
            Misroute::NoCluster => format!(
                "Envoy has no cluster of the name that the route's matcher has for it, which should be {cluster}"
            ),
            Misroute::DeadEndpoint | Misroute::NoHost => format!(
                "its cluster {cluster} has no host, or the route's matcher names one that does not exist: does \
                 its name resolve, are there endpoints?"
            ),
            Misroute::NoFilter => format!(
                "its cluster {cluster} lacks the attempt filter, so the request, which may have the credential of \
                 another backend, went there as it was"
            ),
            Misroute::NoRoute => "the route's cluster matcher has no entry for it".to_owned(),
            Misroute::WrongCluster => {
                format!("the route's cluster matcher names a cluster for it that is not {cluster}")
            }
        };
        log::error!("backend {name} cannot be reached: {why}");
    }

    /// Says in the log why a connection was not made: once for each reason, and again after a minute.
    pub(crate) fn tell_connection(&self, fault: Fault, words: Option<&str>, now: Timestamp) {
        let words = words.unwrap_or("no connection in time");
        if self.connection_words.is_news(words, now) {
            let what = if fault == Fault::Tls { "TLS failed" } else { "no connection" };
            log::warn!("{what} at backend {}: {words}", self.config.name);
        }
    }

    /// Says in the log that something is wrong that only the operator can put right.
    pub(super) fn complain(&self, status: u16, what: &str) {
        log::error!(
            "backend {} answered {status} to a request that another backend served: check its {what}",
            self.config.name
        );
    }

    /// Says in the log, once a minute, that something may be wrong: no backend served the request.
    pub(super) fn doubt(&self, status: u16, what: &str, now: Timestamp) {
        if self.refusal_words.is_news(what, now) {
            log::warn!(
                "backend {} answered {status} to a request that no backend served: if it does so to all, check \
                 its {what}",
                self.config.name
            );
        }
    }
}
