//! How much capacity a backend's own headers state as left, and how that scales its share of its tier.
//!
//! A nearly full backend should get less before it returns 429. With at least 15 % left nothing changes. Below, the
//! share falls linearly to a floor of 5 %, never to nothing: headers are hints, and only a response to a request
//! brings a new one. For the same reason a hint fades: over ten seconds, the sub-window of Azure's request limits, it
//! returns linearly to neutral.
//!
//! Values that prove nothing are ignored: `-1/-1/0` has meant "not available", and a request with -27978 tokens
//! remaining was served.

use crate::policy::response::rate_limits::{self, RateLimits, Value};
use crate::policy::time::{Millis, Timestamp};

/// The whole capacity: the value of a backend about which nothing is known.
const NEUTRAL_PERMILLE: u16 = 1_000;
/// The share falls when less than this is left.
const AMPLE_PERMILLE: u16 = 150;
/// The smallest share.
const FLOOR_PERMILLE: u16 = 50;
/// The age at which a hint has no effect.
const FADED: Millis = Millis::from_secs(10);
/// A share that differs by less is not worth a contended write.
const NOTABLE_PERMILLE: u16 = 50;

/// What a backend last stated about its remaining capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The remaining thousandths.
    pub permille: u16,
    /// When it stated that.
    pub at: Timestamp,
}

impl Default for Headroom {
    fn default() -> Self {
        Self { permille: NEUTRAL_PERMILLE, at: Timestamp::ZERO }
    }
}

impl Headroom {
    /// The part of its weight that the backend should get, 50 to 1000 thousandths.
    pub fn share_permille(&self, now: Timestamp) -> u16 {
        // A time in the future shows that the clock was set back, so the age is unknown.
        if self.permille >= AMPLE_PERMILLE || self.at > now {
            return NEUTRAL_PERMILLE;
        }
        let age_ms = now.since(self.at).min(FADED).as_ms();
        let said = share_of(self.permille);
        let regained = u64::from(NEUTRAL_PERMILLE.saturating_sub(said))
            .saturating_mul(age_ms)
            .checked_div(FADED.as_ms())
            .and_then(|regained| u16::try_from(regained).ok());
        said.saturating_add(regained.unwrap_or(0))
    }

    /// Whether `new` thousandths, stated `now`, would change the share notably.
    pub fn worth_writing(&self, new: u16, now: Timestamp) -> bool {
        self.share_permille(now).abs_diff(share_of(new)) >= NOTABLE_PERMILLE
    }
}

impl RateLimits<'_> {
    /// The remaining thousandths: the least of requests, tokens and provisioned throughput; `None` when the headers
    /// prove nothing.
    pub fn left_permille(&self) -> Option<u16> {
        let left = |remaining: Value<'_>, limit: Value<'_>| {
            let (remaining, limit) = (remaining.number()?, limit.number()?);
            (remaining >= 0.0 && limit > 0.0).then(|| permille(remaining / limit))
        };
        [
            left(self.remaining_requests, self.limit_requests),
            left(self.remaining_tokens, self.limit_tokens),
            self.used().map(|used| permille(1.0 - used)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The stated limit of tokens per minute, not validated.
    pub fn token_limit(&self) -> Option<i64> {
        // The conversion saturates.
        self.limit_tokens.number().map(|limit| limit as i64)
    }

    /// The used thousandths of provisioned throughput; they may exceed 1000.
    pub fn utilization_permille(&self) -> Option<u32> {
        // The conversion saturates.
        self.used().map(|used| (used * f64::from(NEUTRAL_PERMILLE)).round() as u32)
    }

    /// The used part of provisioned throughput, from a value such as `11.2%`; it may exceed one.
    fn used(&self) -> Option<f64> {
        let value = self.utilization.text()?;
        let percent = rate_limits::finite(value.strip_suffix('%').unwrap_or(value).trim_end())?;
        (percent >= 0.0).then_some(percent / 100.0)
    }
}

fn share_of(left_permille: u16) -> u16 {
    if left_permille >= AMPLE_PERMILLE {
        return NEUTRAL_PERMILLE;
    }
    let range = u32::from(NEUTRAL_PERMILLE.saturating_sub(FLOOR_PERMILLE));
    let share =
        range.saturating_mul(u32::from(left_permille)).checked_div(u32::from(AMPLE_PERMILLE));
    FLOOR_PERMILLE.saturating_add(share.and_then(|share| u16::try_from(share).ok()).unwrap_or(0))
}

fn permille(part: f64) -> u16 {
    (part.clamp(0.0, 1.0) * f64::from(NEUTRAL_PERMILLE)).round() as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::at;
    use crate::policy::response::headers::Headers;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(headers: &(impl Headers + ?Sized)) -> Option<u16> {
        RateLimits::read(headers).left_permille()
    }

    fn requests_and_tokens(requests: (&str, &str), tokens: (&str, &str)) -> Option<u16> {
        read(
            &[
                ("x-ratelimit-remaining-requests", requests.0),
                ("x-ratelimit-limit-requests", requests.1),
                ("x-ratelimit-remaining-tokens", tokens.0),
                ("x-ratelimit-limit-tokens", tokens.1),
            ][..],
        )
    }

    fn utilized(value: &str) -> Option<u16> {
        read(&[("azure-openai-deployment-utilization", value)][..])
    }

    #[test]
    fn the_scarcer_of_requests_and_tokens_counts() {
        assert_eq!(requests_and_tokens(("19", "20"), ("1000", "20000")), Some(50));
        assert_eq!(requests_and_tokens(("1", "20"), ("20000", "20000")), Some(50));
        assert_eq!(requests_and_tokens(("0", "20"), ("20000", "20000")), Some(0));
        assert_eq!(requests_and_tokens(("40", "20"), ("9", "9")), Some(1_000));
    }

    #[test]
    fn utilization_is_a_percentage_that_may_exceed_a_hundred() {
        assert_eq!(utilized("11.2%"), Some(888));
        assert_eq!(utilized("137.0%"), Some(0));
        assert_eq!(utilized(" 90 "), Some(100));
        for odd in ["", "%", "-3%", "NaN%", "full"] {
            assert_eq!(utilized(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_budget_gets_the_stated_limit_and_utilization_unchanged() {
        let limit =
            |value| RateLimits::read(&[("x-ratelimit-limit-tokens", value)][..]).token_limit();
        assert_eq!([limit("150000"), limit("-1"), limit("0")], [Some(150_000), Some(-1), Some(0)]);
        assert_eq!([limit("1e300"), limit("many"), limit("")], [Some(i64::MAX), None, None]);
        let used = |value| {
            let headers = [("azure-openai-deployment-utilization", value)];
            RateLimits::read(&headers[..]).utilization_permille()
        };
        assert_eq!([used("11.2%"), used("137%"), used("-1%")], [Some(112), Some(1_370), None]);
        assert_eq!(used("1e300%"), Some(u32::MAX));
    }

    #[test]
    fn what_proves_nothing_is_left_out() {
        assert_eq!(requests_and_tokens(("-1", "-1"), ("-1", "0")), None);
        assert_eq!(requests_and_tokens(("10", "20"), ("-27978", "30000")), Some(500));
        assert_eq!(requests_and_tokens(("5", "0"), ("", "x")), None);
        assert_eq!(read(&[] as &[(&str, &str)]), None);
    }

    #[test]
    fn the_share_falls_linearly_below_fifteen_percent_to_a_floor() {
        for (left, share) in [(1_000, 1_000), (150, 1_000), (75, 525), (0, 50), (u16::MAX, 1_000)] {
            assert_eq!(
                Headroom { permille: left, at: at(5) }.share_permille(at(5)),
                share,
                "{left}"
            );
        }
    }

    #[test]
    fn a_hint_fades_in_ten_seconds() {
        let full = Headroom { permille: 0, at: at(1_000) };
        for (now, share) in
            [(1_000, 50), (6_000, 525), (11_000, 1_000), (90_000, 1_000), (999, 1_000)]
        {
            assert_eq!(full.share_permille(at(now)), share, "at {now}");
        }
        assert_eq!(Headroom::default().share_permille(at(0)), 1_000);
    }

    #[test]
    fn only_a_notable_change_is_worth_a_shared_write() {
        let calm = Headroom::default();
        assert!(!calm.worth_writing(900, at(5)));
        assert!(!calm.worth_writing(150, at(5)));
        assert!(calm.worth_writing(100, at(5)));
        let scarce = Headroom { permille: 100, at: at(10_000) };
        assert!(!scarce.worth_writing(100, at(10_100)));
        assert!(scarce.worth_writing(100, at(13_000)));
        assert!(scarce.worth_writing(1_000, at(10_100)));
        assert!(!scarce.worth_writing(1_000, at(20_000)));
    }
}
