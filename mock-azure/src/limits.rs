//! Admission: what a deployment of each kind lets in, and what its headers say about it.
//!
//! The three kinds differ in how they count, in how they refuse and in which headers they send,
//! but a request meets all of them at the same two points: on arrival with an estimate,
//! and at its end with what it really used.

mod bucket;
mod window;

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Kind;
use crate::problems::{Exceeded, Problem};

use bucket::Bucket;
use window::{RequestWindow, TokenWindow};

/// The limits of one deployment with what has been counted.
#[derive(Debug)]
pub(crate) enum Limits {
    Unlimited,
    Standard { tokens: TokenWindow, requests: RequestWindow },
    Provisioned(Bucket),
}

impl Limits {
    pub(crate) fn new(kind: Kind, now: Instant) -> Self {
        match kind {
            Kind::Unlimited => Self::Unlimited,
            Kind::Standard { tokens_per_minute, requests_per_minute } => Self::Standard {
                tokens: TokenWindow::new(tokens_per_minute),
                requests: RequestWindow::new(requests_per_minute, now),
            },
            Kind::Provisioned { tokens_per_minute, burst_tokens } => {
                Self::Provisioned(Bucket::new(tokens_per_minute, burst_tokens, now))
            }
        }
    }

    /// Admits or refuses a request of this estimated size. A refused one counts as a request too.
    pub(crate) fn admit(
        &mut self,
        estimate: u64,
        now: Instant,
    ) -> Result<Vec<(String, String)>, Problem> {
        let verdict = match self {
            Self::Unlimited => Ok(()),
            Self::Standard { tokens, requests } => match requests.admit(now) {
                Ok(()) => tokens.admit(estimate, now).map_err(|wait| (Exceeded::Tokens, wait)),
                Err(wait) => Err((Exceeded::Requests, wait)),
            },
            Self::Provisioned(bucket) => {
                bucket.admit(estimate, now).map_err(|wait| (Exceeded::Provisioned, wait))
            }
        };
        let headers = self.headers(now);
        verdict.map(|()| headers.clone()).map_err(|(exceeded, wait)| {
            let mut problem = Problem::throttled(exceeded, Some(millis_ceil(wait)));
            problem.headers.extend(headers);
            problem
        })
    }

    /// Corrects an admission when the request has ended; only provisioned throughput does that.
    pub(crate) fn settle(&mut self, estimate: u64, actual: u64, now: Instant) {
        if let Self::Provisioned(bucket) = self {
            bucket.correct(estimate, actual, now);
        }
    }

    /// Provisioned utilisation in percent.
    pub(crate) fn utilisation_percent(&mut self, now: Instant) -> Option<f64> {
        match self {
            Self::Provisioned(bucket) => Some(bucket.utilisation_percent(now)),
            _ => None,
        }
    }

    fn headers(&mut self, now: Instant) -> Vec<(String, String)> {
        let header = |name: &str, value: u64| (name.to_owned(), value.to_string());
        match self {
            Self::Unlimited => Vec::new(),
            Self::Standard { tokens, requests } => vec![
                header("x-ratelimit-limit-requests", requests.limit()),
                header("x-ratelimit-remaining-requests", requests.remaining(now)),
                header("x-ratelimit-reset-requests", requests.reset_in(now).as_secs()),
                header("x-ratelimit-limit-tokens", tokens.limit()),
                header("x-ratelimit-remaining-tokens", tokens.remaining(now)),
                header("x-ratelimit-reset-tokens", tokens.reset_in(now).as_secs()),
            ],
            Self::Provisioned(bucket) => {
                let percent = bucket.utilisation_percent(now);
                vec![("azure-openai-deployment-utilization".to_owned(), format!("{percent:.1}%"))]
            }
        }
    }
}

/// Whole milliseconds, rounded up, at least one: a delay of zero would promise too much.
fn millis_ceil(wait: Duration) -> u64 {
    let millis = wait.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests;
