//! The limits of consumers, in our names and in those of API Management's token limit policies.
//!
//! A request header that Envoy's own authentication filters set names the consumer. It must not be a
//! header that carries a secret: its values appear in the configuration, in logs and in metrics.
//!
//! An entry of `by_name` replaces the default and does not add to it, so a consumer can have no limit
//! at all.

use super::backend::TOKENS_PER_MINUTE_MAX;
use super::header::header_or_off;
use super::reader::{Fields, Node};
use super::{Class, ConsumerSettings, Consumers, Period, Quota, text};
use std::num::{NonZeroU32, NonZeroU64};

/// Each has a shared record.
const CONSUMERS_MAX: usize = 1_024;

/// Far beyond any use, and exact as a double.
const QUOTA_TOKENS_MAX: u64 = 1_000_000_000_000_000;

const DEFAULT_BATCH_MAX_UTILIZATION_PERCENT: u8 = 50;

/// What `on` stands for; the names of API Management's own examples.
const USUAL_REMAINING_TOKENS_HEADER: &str = "remaining-tokens";
const USUAL_CONSUMED_TOKENS_HEADER: &str = "consumed-tokens";
const USUAL_REMAINING_QUOTA_HEADER: &str = "remaining-quota-tokens";

const SECRET_HEADERS: [&str; 4] = ["api-key", "authorization", "cookie", "proxy-authorization"];

const NO_COUNTER_KEY: &str = "there are no policy expressions here; write \"header\": the request \
     header that says who calls";

const PERIODS: [(&str, Period); 6] = [
    ("hour", Period::Hour),
    ("day", Period::Day),
    ("month", Period::Month),
    ("Hourly", Period::Hour),
    ("Daily", Period::Day),
    ("Monthly", Period::Month),
];

const CLASSES: [(&str, Class); 2] = [("interactive", Class::Interactive), ("batch", Class::Batch)];

/// The value of `consumers`. `served_by` is a response header that is in use already.
pub(super) fn consumers(node: &Node<'_>, served_by: Option<&str>) -> Option<Consumers> {
    node.object(|fields| {
        fields.refused("counter_key", NO_COUNTER_KEY);
        let header = fields.required("header", request_header);
        let default = fields.optional("default", limits);
        let by_name = fields.optional("by_name", |n| n.named(CONSUMERS_MAX, "consumers", named));
        let percent = fields.optional("batch_max_utilization_percent", |n| n.whole(0_u8..=100));
        let [remaining_tokens_header, consumed_tokens_header, remaining_quota_header] =
            response_headers(fields, served_by);
        Some(Consumers {
            header: header?,
            default: default.unwrap_or_default(),
            by_name: by_name.unwrap_or_default(),
            batch_max_utilization_percent: percent.unwrap_or(DEFAULT_BATCH_MAX_UTILIZATION_PERCENT),
            remaining_tokens_header,
            consumed_tokens_header,
            remaining_quota_header,
        })
    })
}

fn request_header(node: &Node<'_>) -> Option<String> {
    let name = text::header_name(node)?;
    if SECRET_HEADERS.contains(&name.as_str()) {
        node.problem(format!("found {name:?}, which carries a secret; use a header with a name"));
        return None;
    }
    if name.starts_with("x-spillway-") {
        node.problem(format!("found {name:?}, which is removed from every request"));
        return None;
    }
    Some(name)
}

/// The headers for the remaining tokens, the consumed tokens, and the remaining quota.
fn response_headers(fields: &mut Fields<'_>, served_by: Option<&str>) -> [Option<String>; 3] {
    let remaining =
        fields.optional_or_apim("remaining_tokens_header", "remaining_tokens_header_name", |n| {
            header_or_off(n, USUAL_REMAINING_TOKENS_HEADER)
        });
    let consumed =
        fields.optional_or_apim("consumed_tokens_header", "tokens_consumed_header_name", |n| {
            header_or_off(n, USUAL_CONSUMED_TOKENS_HEADER)
        });
    let quota = fields.optional_or_apim(
        "remaining_quota_header",
        "remaining_quota_tokens_header_name",
        |n| header_or_off(n, USUAL_REMAINING_QUOTA_HEADER),
    );
    let headers = [remaining, consumed, quota].map(Option::flatten);
    let mut seen: Vec<&str> = served_by.into_iter().collect();
    for name in headers.iter().flatten() {
        if seen.contains(&name.as_str()) {
            fields.problem(format!("found the response header {name:?} twice; use two names"));
        }
        seen.push(name);
    }
    headers
}

fn named(name: &str, node: &Node<'_>) -> Option<ConsumerSettings> {
    if !matches!(name.len(), 1..=128) || !name.bytes().all(|b| b.is_ascii_graphic()) {
        node.problem(
            "is no name of a consumer, allowed are names of 1 to 128 printable ASCII characters \
             without spaces",
        );
        return None;
    }
    limits(node)
}

fn limits(node: &Node<'_>) -> Option<ConsumerSettings> {
    node.object(|fields| {
        let tokens_per_minute =
            fields.optional("tokens_per_minute", |n| n.whole(1_u32..=TOKENS_PER_MINUTE_MAX));
        let quota = fields.optional("quota", quota);
        let apim_quota = apim_quota(fields);
        let class = fields.optional("class", |n| n.choice(&CLASSES));
        Some(ConsumerSettings {
            tokens_per_minute: tokens_per_minute.and_then(NonZeroU32::new),
            quota: quota.or(apim_quota),
            class: class.unwrap_or_default(),
        })
    })
}

fn quota(node: &Node<'_>) -> Option<Quota> {
    node.object(|fields| {
        let tokens = fields.required("tokens", |n| n.whole(1_u64..=QUOTA_TOKENS_MAX));
        let period = fields.required("period", |n| n.choice(&PERIODS));
        Some(Quota { tokens: NonZeroU64::new(tokens?)?, period: period? })
    })
}

/// `token_quota` and `token_quota_period`, as attributes of API Management's policies.
fn apim_quota(fields: &mut Fields<'_>) -> Option<Quota> {
    let tokens = fields.optional("token_quota", |n| n.whole(1_u64..=QUOTA_TOKENS_MAX));
    let period = fields.optional("token_quota_period", |n| n.choice(&PERIODS));
    match (fields.has("token_quota"), fields.has("token_quota_period")) {
        (true, true) if fields.has("quota") => {
            fields.problem_at("token_quota", "means the same as `quota`; give only one of them");
        }
        (true, false) => fields.problem_at("token_quota_period", "missing, but required"),
        (false, true) => fields.problem_at("token_quota", "missing, but required"),
        _ => {}
    }
    Some(Quota { tokens: NonZeroU64::new(tokens?)?, period: period? })
}
