//! What a request took: of its backend's budget, of its consumer's tokens, and what is told of it.

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

/// How many tokens a response took.
pub(crate) enum Tokens {
    /// It said so.
    Stated(UsedTokens),
    /// It did not, and this is the best that is known.
    Guessed(UsedTokens),
    /// None: it refused the request.
    None,
}

impl Request {
    /// Whether the tokens of its response are counted.
    pub(crate) fn is_metered(&self) -> bool {
        self.asked.call.is_charged() && self.is_published()
    }

    /// Whether what it took is published, be it nothing.
    pub(super) fn is_published(&self) -> bool {
        self.pool.is_metered
    }

    /// Whether the response says something of tokens that is known only when the response ends.
    pub(crate) fn awaits_tokens(&self) -> bool {
        self.asked.call.is_charged()
            && self.pools.consumers.as_ref().is_some_and(Consumers::has_headers)
    }

    /// A response that went to the client, or was to, came to its end, whichever: `tokens` is what it took.
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
            // Its head was looked at when it came.
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
            // What it states is what another request took.
            _ if !self.asked.call.is_charged() => None,
            Tokens::Stated(usage) => {
                self.learn(&usage);
                Some(usage)
            }
            Tokens::Guessed(usage) => Some(usage),
            Tokens::None => None,
        };
        // Another deployment took the tokens of a request that was spilled over.
        let ending = used.filter(|_| !is_spilled).map_or(Settlement::Released, Settlement::Settled);
        attempt.conclude(ending, now);
        self.consumer.conclude(used, now);
        if self.is_published() {
            properties::publish_tokens(used.unwrap_or_default());
        }
    }

    /// Counts which service tier served a request that asked for one: the one that the response `stated`,
    /// where that was read.
    fn count_tier(&self, stated: Option<ServiceTier>) {
        if let Some(asked) = self.tier() {
            host::increment(self.pool.metrics.tier(stated.unwrap_or(asked)), 1);
        }
    }

    /// How a refusal ends what was reserved: until when, is held to the same limits as the gate.
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

    /// Gives the consumer its tokens back, unless a response takes them or took them.
    pub(crate) fn charge_nothing(&mut self, now: impl FnOnce() -> Timestamp) {
        let is_on_its_way =
            matches!(self.response, OnItsWay::Flowing(_) | OnItsWay::Interrupted(_));
        if !is_on_its_way && !self.consumer.is_settled() {
            self.consumer.conclude(None, now());
        }
    }
}
