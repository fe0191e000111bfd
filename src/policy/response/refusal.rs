//! Whether a 429 is about the backend, or only about the request.
//!
//! A throttle gate excludes all requests, so it must not close for what one client asked. A 429 that only this
//! request gets is no throttle; another backend may take the request:
//!
//! - The request is larger than the backend's whole limit, by its estimate or by what the response states. Azure then
//!   names a time such as a day (`retry-after: 86400`), after which it would refuse the request again. A limit per
//!   minute cannot explain more than [`LONGEST_THROTTLE`].
//! - The request asked for a service tier other than the default, which has a capacity of its own.
//! - The operation does not belong to a model, for example an upload, so no limit of the model is exhausted.
//! - The backend spilled the request over to another deployment of its resource, and the 429 comes from that one
//!   (Azure's `x-ms-spillover-from-deployment`).
//!
//! If the backend has no requests left, the 429 is a throttle, whatever the size of the request.

use super::classify::{AttemptTraits, Outcome};
use super::headers::Headers;
use super::rate_limits::RateLimits;
use super::retry_after;
use crate::policy::time::{Millis, Timestamp};
use memchr::memmem;

/// The longest delay that is believed. Limits are per minute and per day at most, and a day's limit is one of
/// requests: then the response states that none are left.
pub const LONGEST_THROTTLE: Millis = Millis::from_secs(3_600);

/// The outcome of a 429, or of an event stream that names a delay, by its headers.
pub fn outcome(
    status: u16,
    headers: &(impl Headers + ?Sized),
    traits: &AttemptTraits,
    now: Timestamp,
) -> Outcome {
    let delay = retry_after::delay(headers, now);
    let limits = RateLimits::read(headers);
    let is_too_large = traits.is_larger_than(limits.token_limit())
        || delay.is_some_and(|it| it > LONGEST_THROTTLE);
    let is_of_request = limits.spilled().is_some() || (is_too_large && limits.has_requests_left());
    if is_of_request { Outcome::Elsewhere { status } } else { by_request(status, delay, traits) }
}

/// The outcome of a refusal by what was asked; `delay` is the time that it names.
pub fn by_request(status: u16, delay: Option<Millis>, traits: &AttemptTraits) -> Outcome {
    if traits.asks_for_tier || !traits.is_model_operation || traits.is_clients_account {
        Outcome::Elsewhere { status }
    } else {
        Outcome::Throttled { delay }
    }
}

/// Whether the body of a 429 states that only this request is refused.
pub fn is_of_request(body: &[u8]) -> bool {
    /// OpenAI's texts for a prompt above the limit, and Azure's for one above what is allowed at present.
    const TOO_LARGE: [&str; 5] = [
        "Request too large",
        "request is too large",
        "tokens must be reduced",
        "maximum usage size",
        "exceeds the maximum number of tokens allowed",
    ];
    /// OpenAI's code for a tier without capacity.
    const NO_CAPACITY: &str = "\"resource_unavailable\"";
    let has = |phrase: &str| memmem::find(body, phrase.as_bytes()).is_some();
    TOO_LARGE.into_iter().any(has) || has(NO_CAPACITY) || stated_delay(body) > LONGEST_THROTTLE
}

/// The delay in the message of a 429, as in "Please retry after 86400 seconds"; zero: none.
fn stated_delay(body: &[u8]) -> Millis {
    const PHRASE: &[u8] = b"etry after ";
    let digits = memmem::find(body, PHRASE)
        .and_then(|at| body.get(at.saturating_add(PHRASE.len())..))
        .unwrap_or_default();
    let (number, rest) =
        digits.split_at(digits.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let seconds = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    seconds.filter(|_| rest.starts_with(b" second")).map_or(Millis::ZERO, Millis::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{at, ms};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const PLAIN: AttemptTraits = AttemptTraits { is_model_operation: true, ..AttemptTraits::NONE };
    const ELSEWHERE: Outcome = Outcome::Elsewhere { status: 429 };

    fn of(headers: &[(&str, &str)], traits: AttemptTraits) -> Outcome {
        outcome(429, headers, &traits, at(0))
    }

    fn throttled(delay_ms: u64) -> Outcome {
        Outcome::Throttled { delay: Some(ms(delay_ms)) }
    }

    #[test]
    fn no_minute_s_limit_explains_more_than_an_hour() {
        assert_eq!(of(&[("retry-after", "3600")], PLAIN), throttled(3_600_000));
        for header in [
            ("retry-after", "3601"),
            ("retry-after", "86400"),
            ("retry-after-ms", "86400000"),
            ("x-ratelimit-reset-tokens", "86400"),
            ("x-ratelimit-reset-tokens", "24h0m0s"),
        ] {
            assert_eq!(of(&[header], PLAIN), ELSEWHERE, "{header:?}");
        }
        let day = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6h")];
        assert_eq!(of(&day, PLAIN), throttled(6 * 3_600_000), "a day's requests are used up");
    }

    #[test]
    fn a_request_above_the_whole_limit_is_refused_alone() {
        let large = AttemptTraits { tokens: 1_001, ..PLAIN };
        let limit = ("x-ratelimit-limit-tokens", "1000");
        assert_eq!(of(&[("retry-after", "7"), limit], large), ELSEWHERE);
        assert_eq!(
            of(&[("retry-after", "7"), limit], AttemptTraits { tokens: 1_000, ..PLAIN }),
            throttled(7_000)
        );
        let configured = AttemptTraits { token_limit: Some(1_000), ..large };
        assert_eq!(of(&[("retry-after", "7")], configured), ELSEWHERE);
        for unknown in ["-1", "0", "", "many"] {
            let unknown = ("x-ratelimit-limit-tokens", unknown);
            assert_eq!(of(&[("retry-after", "7"), unknown], large), throttled(7_000));
        }
        let exhausted = [("retry-after", "7"), limit, ("x-ratelimit-remaining-requests", "0")];
        assert_eq!(of(&exhausted, large), throttled(7_000), "nobody may send a request");
    }

    #[test]
    fn a_request_without_a_model_or_with_a_tier_closes_no_gate() {
        let headers = [("retry-after", "7")];
        assert_eq!(of(&headers, AttemptTraits::NONE), ELSEWHERE);
        assert_eq!(of(&headers, AttemptTraits { asks_for_tier: true, ..PLAIN }), ELSEWHERE);
    }

    #[test]
    fn a_429_of_the_deployment_that_got_the_spill_is_no_throttle_of_the_backend() {
        for name in ["x-ms-spillover-from-deployment", "x-ms-spillover-from-ptu-1"] {
            assert_eq!(of(&[("retry-after", "7"), (name, "ptu-1")], PLAIN), ELSEWHERE, "{name}");
        }
    }

    #[test]
    fn a_message_shows_that_a_request_is_too_large() {
        for message in [
            "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit \
             30000, Requested 42000. The input or output tokens must be reduced in order to run.",
            "Your request exceeds the maximum usage size allowed during peak load.",
            "Requests have exceeded token rate limit. Please retry after 86400 seconds.",
        ] {
            let body = format!(r#"{{"error":{{"code":"429","message":"{message}"}}}}"#);
            assert!(is_of_request(body.as_bytes()), "{message}");
        }
        assert!(is_of_request(br#"{"error":{"code":"resource_unavailable"}}"#));
        for message in [
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, \
             Requested 1200. Please try again in 400ms.",
            "Requests have exceeded token rate limit. Please retry after 3600 seconds.",
            "Please retry after a second.",
            "Please retry after 99999999999999999999999 seconds.",
            "Please retry after",
            "",
        ] {
            assert!(!is_of_request(message.as_bytes()), "{message}");
        }
    }
}
