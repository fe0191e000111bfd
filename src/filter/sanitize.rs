//! Headers that must not cross the gateway.
//!
//! From the client: its credentials, which belong to no backend; what would steer Envoy's router, Azure's
//! own spillover or a backend's routing in the place of the gateway; and `accept-encoding`, because
//! answers are read. From a backend: what describes one member and not the pool, its cookies, where
//! else it can be reached, and what would steer Envoy's router here: a backend may stand behind an Envoy of
//! its own, whose `x-envoy-ratelimited` forbids this one every retry.

use super::header_map::HeaderMap;
use super::host::{self, Map};
use crate::openai::credentials::{self, SUBPROTOCOLS};

/// Removes from the request what a client must not send on.
pub(crate) fn request(headers: &HeaderMap) {
    remove(Map::RequestHeaders, headers, |name| steers(name) || credentials::is_header(name));
    if let Some(subprotocols) = subprotocols(headers) {
        subprotocols.set_clean();
    }
}

/// The subprotocols that a client offers, when there are credentials among them.
pub(crate) struct Subprotocols {
    /// As they came.
    pub(crate) sent: Vec<u8>,
    /// Without credentials.
    clean: Vec<u8>,
}

impl Subprotocols {
    /// Offers those that are no credentials.
    pub(crate) fn set_clean(&self) {
        // The host refuses only outside of the map's callback, and this is in it.
        let _ = if self.clean.is_empty() {
            host::remove_header(Map::RequestHeaders, SUBPROTOCOLS)
        } else {
            host::set_header(Map::RequestHeaders, SUBPROTOCOLS, &self.clean)
        };
    }
}

/// What a client offers in all headers with subprotocols; `None` when no credential is there.
pub(crate) fn subprotocols(headers: &HeaderMap) -> Option<Subprotocols> {
    let values: Vec<&[u8]> = headers
        .iter()
        .filter(|(name, _)| *name == SUBPROTOCOLS.as_bytes())
        .map(|(_, value)| value)
        .collect();
    let sent = values.join(&b", "[..]);
    let clean = credentials::without_subprotocols(&sent)?;
    Some(Subprotocols { sent, clean })
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
        || matches!(name, b"set-cookie" | b"set-cookie2" | b"alt-svc")
        || (!keep_rate_limits && is_rate_limit(name))
}

/// Whether a request header would have Envoy, Azure or a server behind either do something else than
/// what was asked for.
fn steers(name: &[u8]) -> bool {
    match name {
        [b'x', b'-', rest @ ..] => {
            rest.starts_with(b"spillway-")
                || rest.starts_with(b"envoy-")
                || rest.starts_with(b"http-method")
                || rest.starts_with(b"original-")
                || rest.starts_with(b"rewrite-")
                || matches!(
                    rest,
                    b"method-override"
                        | b"forwarded-prefix"
                        | b"forwarded-path"
                        | b"forwarded-uri"
                        | b"ms-spillover-deployment"
                )
        }
        _ => matches!(name, b"accept-encoding" | b"azureml-model-deployment"),
    }
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
