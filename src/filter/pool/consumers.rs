//! The consumers, and what they may still use.
//!
//! The name comes from a request header that Envoy's own authentication filters set. Consumers that are not listed by
//! name share the default's limits, but not its counts. Each name belongs to one of a fixed number of records,
//! because the number of keys in shared data must not grow with the callers.

use super::metrics::PoolMetrics;
use crate::config;
use crate::filter::host;
use crate::filter::host::random;
use crate::filter::host::shared;
use crate::openai::response::reply::{self, Reply};
use crate::policy::keys::Keys;
use crate::policy::time::Timestamp;
use crate::policy::tokens::consumer::{
    self, Class, ConsumerAdmission, ConsumerReservation, ConsumerSettings, Limit, Remaining,
    SlotSecret, UNLISTED_SLOTS,
};
use crate::policy::tokens::estimate::{Estimate, UsedTokens};
use std::collections::HashMap;
use std::rc::Rc;

/// The consumers of a configuration, made ready to run.
pub(crate) struct Consumers {
    /// The request header that contains the name.
    pub(crate) header: String,
    listed: HashMap<String, Record>,
    unlisted: Vec<Record>,
    slot_secret: SlotSecret,
    batch_ceiling_permille: u16,
    headers: Headers,
}

/// The names of the response headers that are switched on.
struct Headers {
    remaining_tokens: Option<String>,
    consumed_tokens: Option<String>,
    remaining_quota: Option<String>,
}

/// One consumer's record in shared data, and its limits.
#[derive(Clone)]
struct Record {
    key: Rc<str>,
    settings: ConsumerSettings,
}

/// A request that its consumer may make.
pub(crate) struct Admitted {
    /// Up to which level provisioned throughput may be used for it, in thousandths; `None`: all of it.
    pub(crate) ceiling_permille: Option<u16>,
    held: Option<(Record, ConsumerReservation)>,
    remaining: Remaining,
    count: Count,
}

/// The tokens of a request.
enum Count {
    /// The estimate: the response has not ended yet.
    Expected(u64),
    /// The settled number.
    Settled(u64),
}

impl Consumers {
    /// Prepares `consumers` and seeds their records.
    pub(crate) fn new(consumers: &config::Consumers, keys: &Keys) -> Self {
        let record = |key: String, settings: &ConsumerSettings| {
            let key = if is_limited(settings) { seeded(key) } else { key };
            Record { key: key.into(), settings: *settings }
        };
        let listed = consumers.by_name.iter();
        let listed =
            listed.map(|(name, settings)| (name.clone(), record(keys.consumer(name), settings)));
        let slots = if is_limited(&consumers.default) { UNLISTED_SLOTS } else { 1 };
        let unlisted = (0..slots).map(|slot| record(keys.consumer_slot(slot), &consumers.default));
        Self {
            header: consumers.header.clone(),
            listed: listed.collect(),
            unlisted: unlisted.collect(),
            slot_secret: slot_secret(&keys.slot_secret()),
            batch_ceiling_permille: u16::from(consumers.batch_max_utilization_percent)
                .saturating_mul(10),
            headers: Headers {
                remaining_tokens: consumers.remaining_tokens_header.clone(),
                consumed_tokens: consumers.consumed_tokens_header.clone(),
                remaining_quota: consumers.remaining_quota_header.clone(),
            },
        }
    }

    /// Admits a request of the consumer called `name`. An empty name is not listed.
    ///
    /// # Errors
    /// The reply to a request that exceeds a limit.
    pub(crate) fn admit(
        &self,
        name: &str,
        estimate: Estimate,
        metrics: &PoolMetrics,
        now: Timestamp,
    ) -> Result<Admitted, (Reply, Vec<(String, String)>)> {
        let Some(record) = self.record(name) else { return Ok(Admitted::unlimited(estimate)) };
        let is_batch = record.settings.class == Class::Batch;
        let mut admitted = Admitted {
            ceiling_permille: is_batch.then_some(self.batch_ceiling_permille),
            ..Admitted::unlimited(estimate)
        };
        if !is_limited(&record.settings) {
            return Ok(admitted);
        }
        let mut is_unusable = false;
        let admission = shared::count(&record.key, consumer::VERSION, |bytes| {
            is_unusable = consumer::is_unusable(bytes);
            match consumer::admit(bytes, &record.settings, estimate, now) {
                ConsumerAdmission::Granted { reservation, remaining } => {
                    (true, Ok((reservation, remaining)))
                }
                ConsumerAdmission::Denied { limit, until, remaining, clock_went_back } => {
                    let wait_ms = until.since(now).as_ms();
                    let reply = match limit {
                        Limit::TokensPerMinute => reply::consumer_over_limit(wait_ms),
                        Limit::Quota => reply::consumer_over_quota(wait_ms),
                    };
                    (clock_went_back, Err((reply, remaining)))
                }
            }
        });
        if admission.is_err() || is_unusable {
            host::increment(metrics.unbudgeted, 1);
        }
        match admission {
            Ok(Ok((reservation, remaining))) => {
                admitted.held = Some((record.clone(), reservation));
                admitted.remaining = remaining;
                Ok(admitted)
            }
            Ok(Err((reply, remaining))) => {
                let mut headers = Vec::new();
                self.response_headers(remaining, 0, |name, value| {
                    headers.push((name.to_owned(), value.to_owned()));
                });
                Err((reply, headers))
            }
            // A record that cannot be used refuses nobody.
            Err(_) => Ok(admitted),
        }
    }

    /// Whether responses state anything about tokens.
    pub(crate) fn has_headers(&self) -> bool {
        let Headers { remaining_tokens, consumed_tokens, remaining_quota } = &self.headers;
        [remaining_tokens, consumed_tokens, remaining_quota].into_iter().any(Option::is_some)
    }

    /// Passes the headers about the consumer's tokens that are switched on to `say`.
    pub(crate) fn headers_of(&self, admitted: &Admitted, say: impl FnMut(&str, &str)) {
        let (Count::Expected(tokens) | Count::Settled(tokens)) = admitted.count;
        self.response_headers(admitted.remaining, tokens, say);
    }

    fn response_headers(
        &self,
        remaining: Remaining,
        consumed: u64,
        mut say: impl FnMut(&str, &str),
    ) {
        for (name, value) in [
            (&self.headers.remaining_tokens, remaining.tokens_per_minute),
            (&self.headers.consumed_tokens, Some(consumed)),
            (&self.headers.remaining_quota, remaining.quota),
        ] {
            if let (Some(name), Some(value)) = (name, value) {
                say(name, itoa::Buffer::new().format(value));
            }
        }
    }

    fn record(&self, name: &str) -> Option<&Record> {
        self.listed.get(name).or_else(|| {
            let slot = consumer::unlisted_slot(name, &self.slot_secret);
            let slots = u64::try_from(self.unlisted.len()).ok()?;
            self.unlisted.get(usize::try_from(slot.checked_rem(slots)?).ok()?)
        })
    }
}

impl Admitted {
    /// A request without any limit.
    pub(crate) fn unlimited(estimate: Estimate) -> Self {
        Self {
            ceiling_permille: None,
            held: None,
            remaining: Remaining::default(),
            count: Count::Expected(estimate.total()),
        }
    }

    /// Whether its usage is known.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.count, Count::Settled(_))
    }

    /// Corrects the reservation to the usage; `None`: nothing was used. What is settled stays.
    pub(crate) fn conclude(&mut self, usage: Option<UsedTokens>, now: Timestamp) {
        if self.is_settled() {
            return;
        }
        self.count = Count::Settled(usage.map_or(0, UsedTokens::total));
        let Some((record, reservation)) = self.held.take() else { return };
        let Record { key, settings } = &record;
        let concluded = reservation.conclude(usage, settings, now, |change| {
            shared::count(key, consumer::VERSION, |record| (true, change(record)))
        });
        match concluded {
            Ok(remaining) => self.remaining = remaining,
            Err(_) => {
                log::warn!("a consumer's tokens could not be settled");
            }
        }
    }
}

/// The key of a consumer's record, which then exists.
fn seeded(key: String) -> String {
    let key = shared::own_key(key, consumer::VERSION);
    shared::seed(&key);
    key
}

/// The secret of all workers, made by the first of them. It lasts as long as the process, so every consumer keeps its
/// slot when the configuration changes.
fn slot_secret(key: &str) -> SlotSecret {
    let key = shared::own_key(key.to_owned(), SlotSecret::VERSION);
    let own = SlotSecret::new([random::secret(), random::secret()]);
    let agreed = shared::update(&key, SlotSecret::VERSION, |record| {
        match record.and_then(SlotSecret::decode) {
            Some(agreed) => (None, agreed),
            None => (Some(own.encode()), own),
        }
    });
    // If the workers cannot agree, each has its own slots. Clients still cannot choose theirs.
    agreed.unwrap_or(own)
}

fn is_limited(settings: &ConsumerSettings) -> bool {
    settings.tokens_per_minute.is_some() || settings.quota.is_some()
}
