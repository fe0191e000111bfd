//! How long a backend states that it is out.
//!
//! Azure states the time in up to six headers, and the most exact one must win: a provisioned deployment is often
//! full for 300 ms, which `retry-after` rounds up to a whole second. The order is `retry-after-ms`,
//! `x-ms-retry-after-ms`, `retry-after` (RFC 9110: seconds or a date), then the reset header of the exhausted
//! dimension. A meaningless value (negative, not a number, empty, beyond all bounds) counts as missing: the next
//! header in the order is used.
//!
//! This module does not bound how long a gate stays closed; see [`crate::policy::backend::gate`].

use super::headers::Headers;
use super::http_date;
use super::rate_limits::{RateLimits, Value, finite, text};
use crate::policy::time::{Millis, Timestamp};

/// The longest time that is accepted: 100 years.
const LONGEST_MS: f64 = 3.2e12;

/// The delay that `headers` state, including the reset headers of the rate limits.
pub fn delay(headers: &(impl Headers + ?Sized), now: Timestamp) -> Option<Millis> {
    explicit(headers, now).or_else(|| reset(headers))
}

/// The delay in a header with no other meaning.
///
/// A 5xx is read with this: its rate-limit headers say nothing about the fault.
pub fn explicit(headers: &(impl Headers + ?Sized), now: Timestamp) -> Option<Millis> {
    let named = |name| headers.get(name).and_then(text);
    named("retry-after-ms")
        .and_then(milliseconds)
        .or_else(|| named("x-ms-retry-after-ms").and_then(milliseconds))
        .or_else(|| {
            let value = named("retry-after")?;
            seconds(value)
                .or_else(|| http_date::parse(value.as_bytes(), now).map(|date| date.since(now)))
        })
}

/// If both dimensions are exhausted, both must reset, so the longer time counts.
fn reset(headers: &(impl Headers + ?Sized)) -> Option<Millis> {
    let limits = RateLimits::read(headers);
    let after = |value: Value<'_>| {
        value.text().and_then(|value| seconds(value).or_else(|| duration(value)))
    };
    let (requests, tokens) = (after(limits.reset_requests), after(limits.reset_tokens));
    // Negative requests mean "unknown", but negative tokens do occur when none are left.
    let no_requests = limits.remaining_requests.number().is_some_and(|left| left == 0.0);
    let no_tokens = limits.remaining_tokens.number().is_some_and(|left| left <= 0.0);
    let exhausted = requests.filter(|_| no_requests).max(tokens.filter(|_| no_tokens));
    exhausted.or(requests).or(tokens)
}

fn milliseconds(value: &str) -> Option<Millis> {
    finite(value).and_then(rounded_up)
}

fn seconds(value: &str) -> Option<Millis> {
    finite(value).and_then(|seconds| rounded_up(seconds * 1_000.0))
}

/// A Go duration such as `6m0s`, `120ms` or `2m52.8s`.
fn duration(value: &str) -> Option<Millis> {
    let mut rest = value;
    let mut total_ms = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let unit_ms = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-3,
            "ns" => 1e-6,
            _ => return None,
        };
        total_ms += finite(number)? * unit_ms;
        rest = tail;
    }
    rounded_up(total_ms)
}

/// Whole milliseconds, rounded up: a millisecond too early is another 429. A remainder below a thousandth is noise of
/// the binary fraction.
fn rounded_up(ms: f64) -> Option<Millis> {
    if !(0.0..=LONGEST_MS).contains(&ms) {
        return None;
    }
    let whole = (ms - 0.001).ceil().max(0.0) as u64;
    Some(Millis::new(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Timestamp = Timestamp::from_ms(784_111_777_000);

    fn delay_ms(headers: &[(&str, &str)]) -> Option<u64> {
        delay(headers, NOW).map(Millis::as_ms)
    }

    #[test]
    fn the_most_exact_header_wins() {
        let all = [
            ("x-ratelimit-reset-tokens", "64"),
            ("x-ratelimit-reset-requests", "10"),
            ("retry-after", "1"),
            ("x-ms-retry-after-ms", "400"),
            ("retry-after-ms", "312"),
        ];
        let expected = [64_000, 10_000, 1_000, 400, 312];
        for (count, expected) in (1..).zip(expected) {
            assert_eq!(delay_ms(&all[..count]), Some(expected));
        }
        assert_eq!(delay_ms(&[]), None);
    }

    #[test]
    fn seconds_may_be_fractions_and_are_rounded_up_to_milliseconds() {
        assert_eq!(delay_ms(&[("retry-after", "0.3")]), Some(300));
        assert_eq!(delay_ms(&[("retry-after", " 2.3 ")]), Some(2_300));
        assert_eq!(delay_ms(&[("retry-after-ms", "312.5")]), Some(313));
        assert_eq!(delay_ms(&[("retry-after", "86400")]), Some(86_400_000));
        assert_eq!(delay_ms(&[("retry-after", "0")]), Some(0));
    }

    #[test]
    fn a_date_is_relative_to_now_and_a_past_one_is_zero() {
        assert_eq!(delay_ms(&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")]), Some(10_000));
        assert_eq!(delay_ms(&[("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT")]), Some(0));
        assert_eq!(delay_ms(&[("retry-after", "Sun Nov  6 08:50:37 1994")]), Some(60_000));
    }

    #[test]
    fn odd_values_are_as_good_as_absent() {
        for odd in ["", " ", "-1", "NaN", "inf", "-inf", "soon", "1e300", "12 s", "0x10", "-0.5"] {
            assert_eq!(
                delay_ms(&[
                    ("retry-after-ms", odd),
                    ("x-ms-retry-after-ms", odd),
                    ("retry-after", "7")
                ]),
                Some(7_000),
                "{odd:?}"
            );
            assert_eq!(delay_ms(&[("retry-after", odd)]), None, "{odd:?}");
        }
        let bytes: &[(&str, &[u8])] = &[("retry-after", b"\xff\xfe"), ("retry-after-ms", b"5")];
        assert_eq!(delay(bytes, NOW), Some(Millis::new(5)));
    }

    #[test]
    fn go_durations_are_read() {
        for (value, ms) in [
            ("6m0s", 360_000),
            ("120ms", 120),
            ("2m52.8s", 172_800),
            ("1h", 3_600_000),
            ("500us", 1),
            ("0s", 0),
        ] {
            assert_eq!(delay_ms(&[("x-ratelimit-reset-requests", value)]), Some(ms), "{value}");
        }
        for value in ["-5s", "5", "s", "5s6", "5d", "1.2.3s", "5 s"] {
            assert_eq!(duration(value), None, "{value}");
        }
    }

    #[test]
    fn the_reset_of_the_exhausted_dimension_counts() {
        let resets = [("x-ratelimit-reset-requests", "10"), ("x-ratelimit-reset-tokens", "64")];
        let with = |more: &[(&'static str, &'static str)]| {
            let headers: Vec<_> = resets.iter().chain(more).copied().collect();
            delay_ms(&headers)
        };
        assert_eq!(with(&[]), Some(10_000));
        assert_eq!(with(&[("x-ratelimit-remaining-requests", "0")]), Some(10_000));
        assert_eq!(with(&[("x-ratelimit-remaining-tokens", "0")]), Some(64_000));
        assert_eq!(with(&[("x-ratelimit-remaining-tokens", "-27689")]), Some(64_000));
        assert_eq!(with(&[("x-ratelimit-remaining-requests", "-1")]), Some(10_000));
        let both = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-remaining-tokens", "0")];
        assert_eq!(with(&both), Some(64_000));
    }

    #[test]
    fn the_spelling_with_a_further_hyphen_is_read() {
        assert_eq!(delay_ms(&[("x-rate-limit-reset-tokens", "55")]), Some(55_000));
    }

    #[test]
    fn rate_limit_resets_are_not_explicit() {
        assert_eq!(explicit(&[("x-ratelimit-reset-tokens", "55")][..], NOW), None);
    }
}
