//! The headers in which the roles talk to Envoy's router and to clients.

/// The response header that makes the router retry.
pub(crate) const RETRY: &str = "x-spillway-retry";

/// How many attempts the request took.
pub(crate) const ATTEMPTS: &str = "x-spillway-attempts";

/// What was tried and passed over.
pub(crate) const TRAIL: &str = "x-spillway-trail";

/// What the SDKs believe before they look at the status: they repeat a 5xx unless this says `false`.
pub(crate) const SHOULD_RETRY: &str = "x-should-retry";

/// The status of a response after which the connection is a WebSocket's.
pub(crate) const SWITCHING_PROTOCOLS: u16 = 101;
