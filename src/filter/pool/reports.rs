//! What the log and the metrics report about a backend.

use super::Backend;
use crate::filter::host;
use crate::policy::backend::breaker::Transition;
use crate::policy::response::classify::{Fault, Misroute, Outcome};
use crate::policy::time::Timestamp;

/// The part of a backend's configuration that is probably wrong when it refuses requests with `status`.
pub(super) fn denied_part(status: u16) -> &'static str {
    if status < 400 { "host" } else { "credential" }
}

impl Backend {
    /// Reports a change of the circuit breaker to the log and the metrics.
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

    /// Logs why Envoy cannot reach the backend: once each time that its breaker opens, not for each request.
    pub(super) fn tell_misroute(&self, outcome: &Outcome) {
        let Outcome::Misrouted(misroute) = outcome else { return };
        let (name, cluster) = (&self.config.name, &self.config.cluster);
        let why = match misroute {
            Misroute::Full => format!("the circuit_breakers of its cluster {cluster} are reached"),
            Misroute::NoCluster => format!(
                "the route's cluster matcher names a cluster that does not exist; it should name {cluster}"
            ),
            Misroute::DeadEndpoint | Misroute::NoHost => format!(
                "its cluster {cluster} has no host, or the route's matcher names one that does not exist: does \
                 its name resolve, are there endpoints?"
            ),
            Misroute::NoFilter => format!(
                "its cluster {cluster} lacks the attempt filter, so the request went there unchanged, possibly \
                 with the credential of another backend"
            ),
            Misroute::NoRoute => "the route's cluster matcher has no entry for it".to_owned(),
            Misroute::WrongCluster => {
                format!("the route's cluster matcher names a cluster for it that is not {cluster}")
            }
        };
        log::error!("backend {name} cannot be reached: {why}");
    }

    /// Logs why a connection failed: once for each reason, and again after a minute.
    pub(crate) fn tell_connection(&self, fault: Fault, words: Option<&str>, now: Timestamp) {
        let words = words.unwrap_or("no connection in time");
        if self.connection_words.is_news(words, now) {
            let what = if fault == Fault::Tls { "TLS failed" } else { "no connection" };
            log::warn!("{what} at backend {}: {words}", self.config.name);
        }
    }

    /// Logs a fault that only the operator can correct.
    pub(super) fn complain(&self, status: u16, what: &str) {
        log::error!(
            "backend {} answered {status} to a request that another backend served: check its {what}",
            self.config.name
        );
    }

    /// Logs a possible fault of the configuration, once a minute: no backend served the request.
    pub(super) fn doubt(&self, status: u16, what: &str, now: Timestamp) {
        if self.refusal_words.is_news(what, now) {
            log::warn!(
                "backend {} answered {status} to a request that no backend served: if all requests get it, \
                 check its {what}",
                self.config.name
            );
        }
    }
}
