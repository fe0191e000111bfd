//! The headers that the roles use to talk to Envoy's router and to clients.

/// The response header that makes the router retry.
pub(crate) const RETRY: &str = "x-spillway-retry";

/// How many attempts the request took.
pub(crate) const ATTEMPTS: &str = "x-spillway-attempts";

/// The attempts and the skipped backends.
pub(crate) const TRAIL: &str = "x-spillway-trail";

/// SDKs obey this before the status: they repeat a 5xx unless it is `false`.
pub(crate) const SHOULD_RETRY: &str = "x-should-retry";

/// The status after which the connection belongs to a WebSocket.
pub(crate) const SWITCHING_PROTOCOLS: u16 = 101;
