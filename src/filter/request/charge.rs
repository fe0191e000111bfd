//! What a request used: in its backend's budget, of its consumer's tokens, and what is published about it.

use super::{OnItsWay, Request};
use crate::filter::host;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::properties;
use crate::filter::pool::consumers::Consumers;
use crate::filter::pool::health::{Evidence, RunningAttempt};
use crate::openai::service_tier::ServiceTier;
use crate::policy::response::classify::Outcome;
use crate::policy::time::{Millis, Timestamp};
use crate::policy::tokens::budget::Settlement;
use crate::policy::tokens::estimate::UsedTokens;

/// How many tokens a response used.
pub(crate) enum Tokens {
    /// The response stated its usage.
    Stated(UsedTokens),
    /// It did not; this is the best known number.
    Guessed(UsedTokens),
    /// None: the backend refused the request.
    None,
}

impl Request {
    /// Whether the tokens of its response are counted.
    pub(crate) fn is_metered(&self) -> bool {
        self.asked.call.is_charged() && self.is_published()
    }

    /// Whether its usage is published, even if it is zero.
    pub(super) fn is_published(&self) -> bool {
        self.pool.is_metered
    }

    /// Whether response headers state tokens that are known only when the response ends.
    pub(crate) fn awaits_tokens(&self) -> bool {
        self.asked.call.is_charged()
            && self.pools.consumers.as_ref().is_some_and(Consumers::has_headers)
    }

    /// A response to the client ended, completely or not: `tokens` is its usage.
    pub(crate) fn conclude(
        &mut self,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        tokens: Tokens,
        tier: Option<ServiceTier>,
        now: Timestamp,
    ) {
        self.response = OnItsWay::Nothing;
        self.count_tier(tier);
        self.pool.note(&self.pools, attempt, evidence, now);
        let is_spilled = matches!(evidence.outcome, Outcome::Spilled { .. });
        match evidence.outcome {
            // It was reported when its headers came.
            Outcome::Spilled { .. } => {}
            // Something went to the client, so no other backend can be asked.
            Outcome::Fault { .. } if self.asked.is_of_model() => {
                self.pool.accuse(&self.pools, attempt, evidence, now, now);
            }
            Outcome::Fault { .. } => {}
            Outcome::Success => {
                self.pool.note_completion(attempt, now);
                self.pool.observe(attempt, evidence, now);
            }
            _ => self.pool.observe(attempt, evidence, now),
        }
        let used = match tokens {
            // The stated usage is that of another request.
            _ if !self.asked.call.is_charged() => None,
            Tokens::Stated(usage) => {
                self.learn(&usage);
                Some(usage)
            }
            Tokens::Guessed(usage) => Some(usage),
            Tokens::None => None,
        };
        // A request that spilled over used the tokens of another deployment.
        let ending = used.filter(|_| !is_spilled).map_or(Settlement::Released, Settlement::Settled);
        attempt.conclude(ending, now);
        self.consumer.conclude(used, now);
        if self.is_published() {
            properties::publish_tokens(used.unwrap_or_default());
        }
    }

    /// Counts the service tier that served a request which asked for one. The response's `stated` tier wins, if it
    /// was read.
    fn count_tier(&self, stated: Option<ServiceTier>) {
        if let Some(asked) = self.tier() {
            host::increment(self.pool.metrics.tier(stated.unwrap_or(asked)), 1);
        }
    }

    /// How a 429 concludes a reservation. Its delay has the same bounds as the gate's.
    pub(super) fn throttled(&self, delay: Option<Millis>) -> Settlement {
        let settings = &self.pool.policy.throttle;
        let retry_after = delay.unwrap_or(settings.default_retry_after);
        Settlement::Throttled { retry_after: Some(retry_after.min(settings.max_retry_after)) }
    }

    fn learn(&self, usage: &UsedTokens) {
        if let Some(mut estimator) = self.pool.estimator.change() {
            estimator.learn(&self.asked.size, usage);
        }
    }

    /// Returns the consumer's tokens, unless a response uses or used them.
    pub(crate) fn charge_nothing(&mut self, now: impl FnOnce() -> Timestamp) {
        let is_on_its_way =
            matches!(self.response, OnItsWay::Flowing(_) | OnItsWay::Interrupted(_));
        if !is_on_its_way && !self.consumer.is_settled() {
            self.consumer.conclude(None, now());
        }
    }
}
