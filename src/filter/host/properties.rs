//! The names of all properties and filter states that are read or written, and the ones that a request publishes.
//!
//! NUL separates the parts of a property's path. Writing a property sets the filter state `wasm.{name}`, which all
//! filters of the request and access logs can read. Envoy's own rate limit filter counts tokens over all replicas; it
//! reads a filter state of its own.

use super as host;
use crate::policy::tokens::estimate::UsedTokens;

/// How many bytes of the current request Envoy received: headers and body.
pub(crate) const TOTAL_SIZE: &str = "request\0total_size";

/// The name of an attempt's cluster.
pub(crate) const CLUSTER_NAME: &str = "xds\0cluster_name";

/// How the current stream ended, or where a response comes from that no backend sent.
pub(crate) const CODE_DETAILS: &str = "response\0code_details";

/// Envoy's response flags of the stream, as a little-endian number.
pub(crate) const RESPONSE_FLAGS: &str = "response\0flags";

/// Why an attempt's connection failed; empty when it did not.
pub(crate) const TRANSPORT_FAILURE: &str = "upstream\0transport_failure_reason";

/// Envoy's own address in the connection to a backend; missing while there is no connection.
pub(crate) const LOCAL_ADDRESS: &str = "upstream\0local_address";

/// The address of the host that Envoy chose for an attempt.
pub(crate) const HOST_ADDRESS: &str = "upstream\0address";

/// The property that the route's cluster matcher reads.
pub(crate) const TARGET: &str = "spillway.target";

/// The property with the id of the request's entry.
pub(crate) const REQUEST: &str = "spillway.request";

/// The property that an attempt sets when its VM has no such entry.
pub(crate) const APART: &str = "spillway.apart";

const POOL: &str = "spillway.pool";
const CONSUMER: &str = "spillway.consumer";
const BACKEND: &str = "spillway.backend";
const PROMPT_TOKENS: &str = "spillway.prompt_tokens";
const COMPLETION_TOKENS: &str = "spillway.completion_tokens";
const TOTAL_TOKENS: &str = "spillway.total_tokens";

/// The filter state that Envoy's rate limit filter adds to its count when it applies at the end of a stream.
const HITS_ADDEND: &str = "envoy.ratelimit.hits_addend";

/// Publishes the tokens of the response. Access logs can read them as `%FILTER_STATE(wasm.spillway.…:PLAIN)%`.
pub(crate) fn publish_tokens(usage: UsedTokens) {
    let mut digits = itoa::Buffer::new();
    let mut publish = |path, tokens| {
        let text = digits.format::<u64>(tokens);
        // If the host refuses, a log field is missing. The request is not affected.
        let _ = host::set_property(path, text.as_bytes());
    };
    publish(PROMPT_TOKENS, usage.prompt_tokens);
    publish(COMPLETION_TOKENS, usage.completion_tokens);
    publish(TOTAL_TOKENS, usage.total());
    let _ = host::set_envoy_filter_state(HITS_ADDEND, digits.format(usage.total()));
}

/// Publishes the consumer and the pool of the request.
pub(crate) fn publish_request(pool: &str, consumer: &str) {
    let _ = host::set_property(POOL, pool.as_bytes());
    let _ = host::set_property(CONSUMER, consumer.as_bytes());
}

/// Publishes the backend that serves the request.
pub(crate) fn publish_backend(name: &str) {
    let _ = host::set_property(BACKEND, name.as_bytes());
}
