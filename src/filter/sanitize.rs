//! Headers that must not cross the gateway.
//!
//! From the client: its credentials, which belong to no backend; what would steer Envoy's router or
//! Azure's own spillover in the place of the gateway; and `accept-encoding`, because answers are
//! read. From a backend: what describes one member and not the pool, and what would steer Envoy's
//! router here: a backend may stand behind an Envoy of its own, whose `x-envoy-ratelimited` forbids
//! this one every retry.

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

/// Removes from the response what only the gateway or its Envoy may say, and what describes one
/// member.
pub(crate) fn response(headers: &HeaderMap, keep_rate_limits: bool) {
    remove(Map::ResponseHeaders, headers, |name| is_unwanted(name, keep_rate_limits));
}

/// Removes the same from the response's trailers, which count like headers.
pub(crate) fn response_trailers(keep_rate_limits: bool) {
    if let Ok(trailers) = host::header_map(Map::ResponseTrailers) {
        remove(Map::ResponseTrailers, &trailers, |name| is_unwanted(name, keep_rate_limits));
    }
}

/// Removes all trailers of a request. No operation has any, and a backend that merges them with the
/// headers would take a client's credential from there.
pub(crate) fn request_trailers() {
    if let Ok(trailers) = host::header_map(Map::RequestTrailers) {
        remove(Map::RequestTrailers, &trailers, |_| true);
    }
}

fn is_unwanted(name: &[u8], keep_rate_limits: bool) -> bool {
    name.starts_with(b"x-spillway-")
        || name.starts_with(b"x-envoy-")
        || (!keep_rate_limits && is_rate_limit(name))
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
