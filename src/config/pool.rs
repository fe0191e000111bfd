//! One pool: its models, its backends, and how it treats them.

use super::backend::backend;
use super::credential::Environment;
use super::duration::{HOUR, duration};
use super::reader::Node;
use super::text;
use super::unique::TakenNames;
use super::{Affinity, Backend, Pool, breaker};
use crate::policy::pool::{FailoverSettings, MAX_BACKENDS, Member, PoolPolicy, ThrottleSettings};
use crate::policy::time::Millis;

const MODELS_MAX: usize = 256;

const DEFAULT_RETRY_AFTER: Millis = Millis::from_secs(10);
const DEFAULT_MAX_RETRY_AFTER: Millis = Millis::from_secs(60);

/// More attempts help little and cost the client time.
const DEFAULT_MAX_ATTEMPTS: u8 = 6;
const DEFAULT_RETRY_PERCENT: u8 = 20;
const DEFAULT_MIN_RETRIES_PER_SECOND: u32 = 10;
const DEFAULT_HOLD_BYTES: u32 = 65_536;
const DEFAULT_HOLD_TIME: Millis = Millis::new(500);

const NO_SERVICES: &str = "API Management names its backends here, and their hosts elsewhere; list \
     them in `backends`, each with its name and host (priority and weight carry over)";

const NO_SESSION_AFFINITY: &str = "API Management's cookies are not supported; use \
     \"affinity\": {\"header\": \"…\"} or {\"body\": true}";

/// The value of one item of `pools`.
pub(super) fn pool(
    node: &Node<'_>,
    seen: &mut TakenNames,
    environment: &Environment<'_>,
) -> Option<Pool> {
    node.object(|fields| {
        fields.refused("services", NO_SERVICES);
        fields.refused("session_affinity", NO_SESSION_AFFINITY);
        let name = fields.required("name", |n| seen.pools.claim(n, text::name(n)?));
        let models = fields.optional("models", |n| models(n, seen));
        // Without models the pool's name is the model.
        if let (Some(name), false) = (&name, fields.has("models"))
            && let Some(place) = seen.models.earlier_claim(node, name)
        {
            let problem = format!("not given, so it is {name:?}, which {place} has already");
            fields.problem_at("models", problem);
        }
        let backends = fields.required("backends", |n| {
            n.list(1..=MAX_BACKENDS, "backends", |n| backend(n, seen, environment))
        });
        let throttle = fields.optional("throttle", throttle).unwrap_or(DEFAULT_THROTTLE);
        let breaker = fields.optional("circuit_breaker", breaker::settings);
        let (backends, members): (Vec<Backend>, Vec<Member>) =
            backends.unwrap_or_default().into_iter().unzip();
        let flex_fallback = fields.optional("flex_fallback", |n| n.flag()).unwrap_or(false);
        // A request that falls back may use one backend twice.
        let attempts = members.len().saturating_add(usize::from(flex_fallback));
        let failover = fields.optional("failover", |n| failover(n, attempts));
        let failover = failover.unwrap_or_else(|| default_failover(attempts));
        let affinity = fields.optional("affinity", affinity);
        let responses_websocket = fields.optional("responses_websocket", |n| n.flag());
        let breaker = breaker.unwrap_or_else(breaker::default_settings);
        let name = name?;
        Some(Pool {
            models: models.unwrap_or_else(|| vec![name.clone()]),
            name,
            backends,
            policy: PoolPolicy::new(members, throttle, breaker, failover),
            affinity,
            responses_websocket: responses_websocket.unwrap_or(false),
            flex_fallback,
        })
    })
}

fn models(node: &Node<'_>, seen: &mut TakenNames) -> Option<Vec<String>> {
    node.list(1..=MODELS_MAX, "models", |n| seen.models.claim(n, text::model(n)?))
}

const DEFAULT_THROTTLE: ThrottleSettings = ThrottleSettings {
    default_retry_after: DEFAULT_RETRY_AFTER,
    max_retry_after: DEFAULT_MAX_RETRY_AFTER,
};

/// Each default adapts to the other setting, so that stating only one of them is never an error.
fn throttle(node: &Node<'_>) -> Option<ThrottleSettings> {
    node.object(|fields| {
        let default =
            fields.optional("default_retry_after", |n| duration(n, Millis::new(1)..=HOUR));
        let longest = fields.optional("max_retry_after", |n| duration(n, Millis::new(1)..=HOUR));
        if let (Some(default), Some(longest)) = (default, longest)
            && default > longest
        {
            fields.problem_at("default_retry_after", "is longer than max_retry_after");
        }
        let shortened = longest.map_or(DEFAULT_RETRY_AFTER, |it| it.min(DEFAULT_RETRY_AFTER));
        let lengthened =
            default.map_or(DEFAULT_MAX_RETRY_AFTER, |it| it.max(DEFAULT_MAX_RETRY_AFTER));
        Some(ThrottleSettings {
            default_retry_after: default.unwrap_or(shortened),
            max_retry_after: longest.unwrap_or(lengthened),
        })
    })
}

fn default_failover(backends: usize) -> FailoverSettings {
    let all = u8::try_from(backends).unwrap_or(u8::MAX).max(1);
    FailoverSettings {
        max_attempts: all.min(DEFAULT_MAX_ATTEMPTS),
        retry_percent: DEFAULT_RETRY_PERCENT,
        min_retries_per_second: DEFAULT_MIN_RETRIES_PER_SECOND,
        max_wait: Millis::ZERO,
        first_byte_timeout: None,
        hold_bytes: DEFAULT_HOLD_BYTES,
        hold_time: DEFAULT_HOLD_TIME,
    }
}

fn failover(node: &Node<'_>, backends: usize) -> Option<FailoverSettings> {
    let default = default_failover(backends);
    node.object(|fields| {
        let max_attempts = fields.optional("max_attempts", |n| n.whole(1_u8..=16));
        let (retry_percent, min_retries_per_second) =
            fields.optional("retry_budget", retry_budget).unwrap_or(DEFAULT_RETRY_BUDGET);
        let max_wait =
            fields.optional("max_wait", |n| duration(n, Millis::ZERO..=Millis::from_secs(60)));
        let first_byte_timeout = fields.optional("first_byte_timeout", |n| {
            duration(n, Millis::new(10)..=Millis::from_secs(3_600))
        });
        let (hold_bytes, hold_time) = fields.optional("hold", hold).unwrap_or(DEFAULT_HOLD);
        // A request that waited for a backend that throttled it uses that backend twice.
        let waits = max_wait.is_some_and(|length| length > Millis::ZERO);
        let default_attempts = default.max_attempts.saturating_mul(if waits { 2 } else { 1 });
        Some(FailoverSettings {
            max_attempts: max_attempts.unwrap_or(default_attempts),
            retry_percent,
            min_retries_per_second,
            max_wait: max_wait.unwrap_or(default.max_wait),
            first_byte_timeout,
            hold_bytes,
            hold_time,
        })
    })
}

const DEFAULT_RETRY_BUDGET: (u8, u32) = (DEFAULT_RETRY_PERCENT, DEFAULT_MIN_RETRIES_PER_SECOND);

fn retry_budget(node: &Node<'_>) -> Option<(u8, u32)> {
    node.object(|fields| {
        let percent = fields.optional("percent", |n| n.whole(0_u8..=100));
        let floor = fields.optional("min_per_second", |n| n.whole(0_u32..=10_000));
        let (default_percent, default_floor) = DEFAULT_RETRY_BUDGET;
        Some((percent.unwrap_or(default_percent), floor.unwrap_or(default_floor)))
    })
}

const DEFAULT_HOLD: (u32, Millis) = (DEFAULT_HOLD_BYTES, DEFAULT_HOLD_TIME);

fn hold(node: &Node<'_>) -> Option<(u32, Millis)> {
    node.object(|fields| {
        let bytes = fields.optional("bytes", |n| n.whole(1_024_u32..=1_048_576));
        let time = fields.optional("time", |n| duration(n, Millis::ZERO..=Millis::from_secs(10)));
        Some((bytes.unwrap_or(DEFAULT_HOLD_BYTES), time.unwrap_or(DEFAULT_HOLD_TIME)))
    })
}

fn affinity(node: &Node<'_>) -> Option<Affinity> {
    node.object(|fields| {
        let header = fields.optional("header", text::header_name);
        let body = fields.optional("body", |n| match n.flag()? {
            true => Some(Affinity::Body),
            false => {
                n.problem("found false, allowed is true; leave affinity out to have none");
                None
            }
        });
        if fields.has("header") == fields.has("body") {
            fields.problem("allowed is exactly one of header and body");
        }
        header.map(Affinity::Header).or(body)
    })
}
