//! Headers that must not cross the gateway.
//!
//! From the client: its credentials, which belong to no backend; headers that would steer Envoy's router, Azure's own
//! spillover or a backend's routing instead of the gateway; and `accept-encoding`, because the filter reads
//! responses. From a backend: what [`crate::openai::response::headers`] defines.

use super::header_map::HeaderMap;
use super::names::Verdicts;
use super::{self as host, Map};
use crate::openai::call::credentials::{self, SUBPROTOCOLS};
use crate::openai::response::headers::{Kind, Origin};

thread_local! {
    /// Whether a request header with a name must be removed.
    static REQUEST: Verdicts = const { Verdicts::new(request_kind) };

    /// The kind of a response header with a name.
    static RESPONSE: Verdicts = const { Verdicts::new(Kind::of) };
}

/// Removes request headers that a client must not send to a backend.
pub(crate) fn request(headers: &HeaderMap) {
    let mut offers_subprotocols = false;
    REQUEST.with(|kinds| {
        kinds.each(headers, |kind, name, value| {
            if kind == Kind::Unwanted || credentials::is_value(value) {
                remove_one(Map::RequestHeaders, name);
            }
            offers_subprotocols |= kind == Kind::Framing;
        });
    });
    if offers_subprotocols && let Some(subprotocols) = subprotocols(headers) {
        subprotocols.set_clean();
    }
}

/// The subprotocols that a client offers, if they contain credentials.
pub(crate) struct Subprotocols {
    /// The client's value.
    pub(crate) sent: Vec<u8>,
    /// The value without credentials.
    clean: Vec<u8>,
}

impl Subprotocols {
    /// Offers only the subprotocols without credentials.
    pub(crate) fn set_clean(&self) {
        // The host refuses only outside of the map's callback.
        let _ = if self.clean.is_empty() {
            host::remove_header(Map::RequestHeaders, SUBPROTOCOLS)
        } else {
            host::set_header(Map::RequestHeaders, SUBPROTOCOLS, &self.clean)
        };
    }
}

/// The values of all subprotocol headers; `None` when they contain no credential.
pub(crate) fn subprotocols(headers: &HeaderMap) -> Option<Subprotocols> {
    let values: Vec<&[u8]> = headers.all(SUBPROTOCOLS).collect();
    if values.is_empty() {
        return None;
    }
    let sent = values.join(&b", "[..]);
    let clean = credentials::without_subprotocols(&sent)?;
    Some(Subprotocols { sent, clean })
}

/// Removes response headers that a client must not see, and makes locations at the backend point to the gateway.
pub(crate) fn response(headers: &HeaderMap, origin: &Origin<'_>) {
    RESPONSE.with(|kinds| {
        kinds.each(headers, |kind, name, value| match kind {
            Kind::Plain => {}
            Kind::Place => set_place(headers, name, origin),
            _ if origin.must_not_pass(kind, value) => remove_one(Map::ResponseHeaders, name),
            _ => {}
        });
    });
}

/// Rewrites the headers called `name` to a location that the client can use; removes them if there is none.
fn set_place(headers: &HeaderMap, name: &[u8], origin: &Origin<'_>) {
    let mut values = headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| value);
    let (first, second) = (values.next().unwrap_or_default(), values.next());
    match origin.place(first).filter(|_| second.is_none()) {
        Some(place) if place == first => {}
        Some(place) => {
            if let Ok(name) = std::str::from_utf8(name) {
                // The host refuses only outside of the map's callback.
                let _ = host::set_header(Map::ResponseHeaders, name, place);
            }
        }
        None => remove_one(Map::ResponseHeaders, name),
    }
}

/// Does the same for the response's trailers, which work like headers. Locations are removed there.
pub(crate) fn response_trailers(origin: &Origin<'_>) {
    if let Ok(trailers) = host::header_map(Map::ResponseTrailers) {
        let is_unwanted = |name: &[u8], value: &[u8]| {
            let kind = Kind::of(name);
            kind == Kind::Place || origin.must_not_pass(kind, value)
        };
        for (name, _) in trailers.iter().filter(|(name, value)| is_unwanted(name, value)) {
            remove_one(Map::ResponseTrailers, name);
        }
    }
}

/// Removes all trailers of a request. No operation uses them, and a backend that merges them with the headers would
/// find a client's credential there.
pub(crate) fn request_trailers() {
    if let Ok(trailers) = host::header_map(Map::RequestTrailers) {
        trailers.iter().for_each(|(name, _)| remove_one(Map::RequestTrailers, name));
    }
}

/// The kind of a request header. Requests use only three kinds of the responses; `Framing` stands for offered
/// subprotocols.
fn request_kind(name: &[u8]) -> Kind {
    if steers(name) || credentials::is_header(name) {
        Kind::Unwanted
    } else if name == SUBPROTOCOLS.as_bytes() {
        Kind::Framing
    } else {
        Kind::Other
    }
}

/// Whether a request header could make Envoy, Azure or a server behind them do something else than what was asked
/// for.
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

fn remove_one(map: Map, name: &[u8]) {
    // The host refuses only outside of the map's callback.
    let _ = host::remove_header(map, name);
}
