//! Headers that must not cross the gateway.
//!
//! From the client: its credentials, which belong to no backend; what would steer Envoy's router or
//! Azure's own spillover in the place of the gateway; and `accept-encoding`, because answers are
//! read. From a backend: what describes one member and not the pool.

use super::host::{self, HeaderMap, Map};

/// The client's credentials.
pub(crate) const CREDENTIALS: [&str; 2] = ["api-key", "authorization"];

/// Removes from the request what a client must not send on.
pub(crate) fn request(headers: &HeaderMap) {
    remove(Map::RequestHeaders, headers, |name| {
        name.starts_with("x-spillway-")
            || name.starts_with("x-envoy-")
            || CREDENTIALS.contains(&name)
            || matches!(name, "accept-encoding" | "x-ms-spillover-deployment")
    });
}

/// Removes from the response what only the gateway may say, and what describes one member.
pub(crate) fn response(headers: &HeaderMap, keep_rate_limits: bool) {
    remove(Map::ResponseHeaders, headers, |name| {
        name.starts_with("x-spillway-") || (!keep_rate_limits && is_rate_limit(name))
    });
}

/// Removes from the response what only the gateway may say.
pub(crate) fn own(headers: &HeaderMap) {
    remove(Map::ResponseHeaders, headers, |name| name.starts_with("x-spillway-"));
}

fn is_rate_limit(name: &str) -> bool {
    name.starts_with("x-ratelimit-")
        || name.starts_with("x-rate-limit-")
        || name == "azure-openai-deployment-utilization"
}

fn remove(map: Map, headers: &HeaderMap, unwanted: impl Fn(&str) -> bool) {
    for (name, _) in headers.iter() {
        // Envoy accepts only tokens as names (RFC 9110 5.1), so each is UTF-8.
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if unwanted(name) {
            // The host refuses only outside of the map's callback, and this is in it.
            let _ = host::remove_header(map, name);
        }
    }
}
