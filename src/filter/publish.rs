//! What a request tells the rest of Envoy, as filter state: for access logs, and for Envoy's own rate
//! limit filter, which counts tokens over all replicas.

use super::host;
use crate::policy::tokens::estimate::Usage;

/// The filter state that Envoy's rate limit filter adds to its count, when it asks at the end of a
/// stream.
const HITS_ADDEND: &str = "envoy.ratelimit.hits_addend";

/// The tokens of the answer. Readable in access logs as `%FILTER_STATE(wasm.spillway.…:PLAIN)%`.
pub(crate) fn tokens(usage: Usage) {
    let mut digits = itoa::Buffer::new();
    let mut publish = |path, tokens| {
        let text = digits.format::<u64>(tokens);
        // A host that refuses costs a log field, not the request.
        let _ = host::set_property(path, text.as_bytes());
    };
    publish("spillway.prompt_tokens", usage.prompt_tokens);
    publish("spillway.completion_tokens", usage.completion_tokens);
    publish("spillway.total_tokens", usage.total());
    let _ = host::set_envoy_filter_state(HITS_ADDEND, digits.format(usage.total()));
}

/// Who calls, and which pool serves.
pub(crate) fn request(pool: &str, consumer: &str) {
    let _ = host::set_property("spillway.pool", pool.as_bytes());
    let _ = host::set_property("spillway.consumer", consumer.as_bytes());
}

/// The backend that serves.
pub(crate) fn backend(name: &str) {
    let _ = host::set_property("spillway.backend", name.as_bytes());
}
