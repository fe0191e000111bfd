//! Headers that must not cross the gateway.
//!
//! From the client: its credentials, which belong to no backend; what would steer Envoy's router or
//! Azure's own spillover in the place of the gateway; and `accept-encoding`, because answers are
//! read. From a backend: what describes one member and not the pool.

use super::header_map::HeaderMap;
use super::host::{self, Map};

/// The client's credentials.
pub(crate) const CREDENTIALS: [&str; 2] = ["api-key", "authorization"];

/// Removes from the request what a client must not send on.
pub(crate) fn request(headers: &HeaderMap) {
    remove(Map::RequestHeaders, headers, |name| {
        name.starts_with(b"x-spillway-")
            || name.starts_with(b"x-envoy-")
            || CREDENTIALS.iter().any(|credential| credential.as_bytes() == name)
            || matches!(name, b"accept-encoding" | b"x-ms-spillover-deployment")
    });
}

/// Removes from the response what only the gateway may say, and what describes one member.
pub(crate) fn response(headers: &HeaderMap, keep_rate_limits: bool) {
    remove(Map::ResponseHeaders, headers, |name| {
        name.starts_with(b"x-spillway-") || (!keep_rate_limits && is_rate_limit(name))
    });
}

fn is_rate_limit(name: &[u8]) -> bool {
    name.starts_with(b"x-ratelimit-")
        || name.starts_with(b"x-rate-limit-")
        || name == b"azure-openai-deployment-utilization"
}

fn remove(map: Map, headers: &HeaderMap, unwanted: impl Fn(&[u8]) -> bool) {
    for (name, _) in headers.iter().filter(|(name, _)| unwanted(name)) {
        // Envoy accepts only tokens as names (RFC 9110 5.1), so each is UTF-8.
        if let Ok(name) = std::str::from_utf8(name) {
            // The host refuses only outside of the map's callback, and this is in it.
            let _ = host::remove_header(map, name);
        }
    }
}
