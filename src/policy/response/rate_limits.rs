//! The response headers that state a backend's remaining capacity, collected in one pass.
//!
//! Every response is searched for all of them and has a dozen others. So each header is read once, instead of all
//! headers once for each name.

use super::headers::Headers;

/// The values of these headers. Of two for the same value, the one with the usual spelling wins, then the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimits<'a> {
    /// The remaining requests; negative means unknown.
    pub(in crate::policy) remaining_requests: Value<'a>,
    /// The remaining tokens; may be negative.
    pub(in crate::policy) remaining_tokens: Value<'a>,
    pub(in crate::policy) limit_requests: Value<'a>,
    pub(in crate::policy) limit_tokens: Value<'a>,
    pub(in crate::policy) reset_requests: Value<'a>,
    pub(in crate::policy) reset_tokens: Value<'a>,
    /// The used part of provisioned throughput.
    pub(in crate::policy) utilization: Value<'a>,
    /// Whether another deployment of the resource served the request.
    is_spilled: bool,
    /// The status with which the backend refused the spilled request.
    spillover_error: Value<'a>,
}

/// The value of one of these headers.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::policy) struct Value<'a> {
    bytes: Option<&'a [u8]>,
    /// Whether it has the spelling that Azure documents.
    is_usual: bool,
}

/// `deployment` follows, or in older documentation the deployment's name.
const SPILLED_FROM: &[u8] = b"x-ms-spillover-from-";

const USUAL: &[u8] = b"x-ratelimit-";

/// This spelling also occurs.
const HYPHENATED: &[u8] = b"x-rate-limit-";

impl<'a> RateLimits<'a> {
    /// Reads them from `headers`.
    pub fn read(headers: &'a (impl Headers + ?Sized)) -> Self {
        let mut limits = Self::default();
        for (name, value) in headers.iter() {
            limits.note(name, value);
        }
        limits
    }

    fn note(&mut self, name: &[u8], value: &'a [u8]) {
        let (kind, is_usual) = match (name.strip_prefix(USUAL), name.strip_prefix(HYPHENATED)) {
            (Some(kind), _) => (kind, true),
            (None, Some(kind)) => (kind, false),
            (None, None) if name == b"azure-openai-deployment-utilization" => {
                self.utilization.note(value, true);
                return;
            }
            (None, None) => {
                self.note_spillover(name, value);
                return;
            }
        };
        let slot = match kind {
            b"remaining-requests" => &mut self.remaining_requests,
            b"remaining-tokens" => &mut self.remaining_tokens,
            b"limit-requests" => &mut self.limit_requests,
            b"limit-tokens" => &mut self.limit_tokens,
            b"reset-requests" => &mut self.reset_requests,
            b"reset-tokens" => &mut self.reset_tokens,
            _ => return,
        };
        slot.note(value, is_usual);
    }

    fn note_spillover(&mut self, name: &[u8], value: &'a [u8]) {
        if name == b"x-ms-spillover-error" {
            self.spillover_error.note(value, true);
        } else if name.starts_with(SPILLED_FROM) {
            self.is_spilled = true;
        }
    }

    /// The status with which the backend refused a request that another deployment of its resource served, 0 when
    /// none is stated; `None`: the backend itself responded.
    pub fn spilled(&self) -> Option<u16> {
        let status = || self.spillover_error.text().and_then(|status| status.parse().ok());
        self.is_spilled.then(|| status().unwrap_or(0))
    }

    /// Whether requests are left, as far as it is known.
    pub fn has_requests_left(&self) -> bool {
        self.remaining_requests.number() != Some(0.0)
    }
}

impl<'a> Value<'a> {
    fn note(&mut self, bytes: &'a [u8], is_usual: bool) {
        if self.bytes.is_none() || (is_usual && !self.is_usual) {
            *self = Self { bytes: Some(bytes), is_usual };
        }
    }

    /// The text without surrounding white space; `None` when it is empty.
    pub(in crate::policy) fn text(self) -> Option<&'a str> {
        self.bytes.and_then(text)
    }

    /// The finite number that it states.
    pub(in crate::policy) fn number(self) -> Option<f64> {
        // Nearly all are whole numbers with a few digits, which are parsed without a conversion to text.
        self.bytes.and_then(|bytes| whole(bytes).map(f64::from).or_else(|| finite(text(bytes)?)))
    }
}

/// The text of a header's value without surrounding white space; `None` when it is empty.
pub(in crate::policy) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(str::trim).filter(|value| !value.is_empty())
}

/// A finite number; anything else is `None`.
pub(in crate::policy) fn finite(value: &str) -> Option<f64> {
    value.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// The number that a few digits state.
fn whole(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit & 15)?;
        Some(number.wrapping_mul(10).wrapping_add(u32::from(digit)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_usual_spelling_comes_first_and_then_the_first_header() {
        let headers = [
            ("x-rate-limit-limit-tokens", "1"),
            ("x-ratelimit-limit-tokens", "2"),
            ("x-ratelimit-limit-tokens", "3"),
            ("x-rate-limit-limit-requests", "4"),
            ("x-rate-limit-limit-requests", "5"),
            ("x-ratelimit-limit", "6"),
        ];
        let limits = RateLimits::read(&headers[..]);
        assert_eq!(limits.limit_tokens.number(), Some(2.0));
        assert_eq!(limits.limit_requests.number(), Some(4.0));
        assert_eq!(limits.remaining_tokens.number(), None);
    }

    #[test]
    fn a_number_is_the_same_however_it_is_read() {
        for text in ["0", "7", "0012", "123456789", "999999999", "1234567890", "1.5", "-3", "+4"] {
            let value = Value { bytes: Some(text.as_bytes()), is_usual: true };
            assert_eq!(value.number(), text.parse().ok(), "{text}");
        }
        for none in ["", "-", "1x", "x", "NaN", "inf", "1_000", "0x10"] {
            let value = Value { bytes: Some(none.as_bytes()), is_usual: true };
            assert_eq!(value.number(), None, "{none}");
        }
    }
}
