//! The service tier that a response states.
//!
//! It is a member of the top level, near the end of a JSON body or in the last events of a stream. It is
//! searched, not parsed: quotes within a text are escaped, so the text of a model cannot contain the quoted
//! name of the member.

use crate::openai::service_tier::ServiceTier;
use memchr::memmem;

/// The bytes before the value.
const NAME: &[u8] = b"\"service_tier\"";

/// The longest end of a chunk that can belong to an incomplete member.
const CARRIED_BYTES: usize = 64;

/// Looks for the tier in a response that comes in chunks. The last one that is stated counts.
#[derive(Debug, Default)]
pub struct TierWatch {
    tail: Vec<u8>,
    tier: Option<ServiceTier>,
}

impl TierWatch {
    /// Reads the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.tail.is_empty() {
            self.tail.extend_from_slice(bytes.get(..CARRIED_BYTES).unwrap_or(bytes));
            self.tier = last(&self.tail).or(self.tier);
        }
        self.tier = last(bytes).or(self.tier);
        if bytes.len() >= CARRIED_BYTES {
            self.tail.clear();
            self.tail.extend(bytes.iter().skip(bytes.len().saturating_sub(CARRIED_BYTES)));
        } else {
            if self.tail.is_empty() {
                self.tail.extend_from_slice(bytes);
            }
            let surplus = self.tail.len().saturating_sub(CARRIED_BYTES);
            self.tail.drain(..surplus);
        }
    }

    /// The tier that was stated last.
    pub fn tier(&self) -> Option<ServiceTier> {
        self.tier
    }
}

/// The last tier that is stated completely in `bytes`.
fn last(bytes: &[u8]) -> Option<ServiceTier> {
    let value_at = |at: usize| {
        let value = bytes.get(at.saturating_add(NAME.len())..)?.trim_ascii_start();
        let value = value.strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', value)?;
        ServiceTier::of(value.get(..end)?)
    };
    memmem::find_iter(bytes, NAME).filter_map(value_at).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn tier(chunks: &[&[u8]]) -> Option<ServiceTier> {
        let mut watch = TierWatch::default();
        chunks.iter().for_each(|chunk| watch.push(chunk));
        watch.tier()
    }

    #[test]
    fn the_last_tier_that_a_response_states_counts_however_it_is_cut() {
        let body = br#"{"x":"\"service_tier\":\"priority\"","a":{"service_tier":"auto"},
            "service_tier" : "flex","usage":{},"service_tier":"default","z":1}"#;
        assert_eq!(tier(&[body]), Some(ServiceTier::Default));
        for size in 1..body.len() {
            let chunks: Vec<&[u8]> = body.chunks(size).collect();
            assert_eq!(tier(&chunks), Some(ServiceTier::Default), "{size}");
        }
    }

    #[test]
    fn what_states_none_has_none() {
        for body in [&b""[..], b"{}", b"{\"service_tier\":null}", b"{\"service_tier\":\"auto\"}"] {
            assert_eq!(tier(&[body]), None);
        }
        assert_eq!(tier(&[b"{\"service_tier\":\"scale\"}"]), Some(ServiceTier::Other));
    }
}
