//! The service tier of a request and of its response.
//!
//! A request that is not read is only searched for a possible tier.

use super::bytes;
use super::request::facts::BodyFacts;

/// A service tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceTier {
    /// The tier of requests that name none.
    Default,
    /// Cheaper, while there is spare capacity.
    Flex,
    /// Faster, at a higher price.
    Priority,
    /// Any other.
    Other,
}

/// The name of the member in a request, around its underscore.
const REQUEST_NAME: [&[u8]; 2] = [b"service", b"tier"];

impl ServiceTier {
    /// The tier of this name; `None` for `auto`, which leaves it to the backend.
    pub fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"auto" => None,
            b"default" => Some(Self::Default),
            b"flex" => Some(Self::Flex),
            b"priority" => Some(Self::Priority),
            _ => Some(Self::Other),
        }
    }

    /// The tier that a body asks for.
    pub fn asked_for(facts: &BodyFacts) -> Option<Self> {
        Self::of(facts.service_tier.as_ref()?.value.as_bytes())
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Other => "other",
        }
    }
}

/// Whether a part of a request contains the name of the member, or an escape that could be one of its
/// letters. It need not be that member: the caller then reads the body.
pub fn may_be_named(bytes: &[u8]) -> bool {
    let [before, after] = REQUEST_NAME;
    let mut at = 0_usize;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at = at.saturating_add(bytes::underscore_or_backslash(rest));
        let (passed, rest) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
        match rest.split_first() {
            None => return false,
            Some((b'_', rest)) if passed.ends_with(before) && rest.starts_with(after) => {
                return true;
            }
            Some((b'\\', rest)) if escapes_letter(rest) => return true,
            Some(_) => at = at.saturating_add(1),
        }
    }
}

/// Whether what follows a backslash makes it one of the bytes of `service_tier`, as JSON has it. No
/// encoder writes these as escapes.
fn escapes_letter(rest: &[u8]) -> bool {
    matches!(
        rest,
        [b'u', b'0', b'0', b'5', b'f' | b'F', ..]
            | [b'u', b'0', b'0', b'6', b'3' | b'5' | b'9', ..]
            | [b'u', b'0', b'0', b'7', b'2' | b'3' | b'4' | b'6', ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_request_that_may_ask_for_a_tier_is_found() {
        for body in [
            r#"{"messages":[],"service_tier" : "flex"}"#,
            r#"{"messages":[{"content":"the service_tier"}]}"#,
            r#"{"messages":[],"\u0073ervice_tier":"flex"}"#,
            r#"{"messages":[],"service\u005Ftier":"flex"}"#,
            r#"{"messages":[],"service_t\u0069er":"flex"}"#,
            "service_tier",
        ] {
            assert!(may_be_named(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn what_encoders_write_of_themselves_asks_for_no_tier() {
        for body in [
            "",
            "{}",
            r#"{"a":"\u00e9\u003c\u003e\u0026\u0027\u0022\u002B\u0060\n\\ _ __ service-tier Service_Tier"}"#,
            r#"{"service_tie":1,"ervice_tier":2,"service__tier":3,"services_tier":4,"service_ tier":5}"#,
        ] {
            assert!(!may_be_named(body.as_bytes()), "{body}");
        }
    }
}
