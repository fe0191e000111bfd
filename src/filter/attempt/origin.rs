//! What is known of the backend that answers an attempt.

use crate::filter::request::Exchange;
use crate::openai::response::headers::Origin;
use crate::policy::pool::BackendIndex;

/// Does something with what is known of the backend that answers an attempt of `exchange`.
pub(crate) fn with_origin(
    exchange: Option<&Exchange>,
    backend: BackendIndex,
    owns_credential: bool,
    act: impl FnOnce(&Origin<'_>),
) {
    let found = exchange.and_then(|it| Some((it, it.backend(backend)?)));
    let deployment = found.map_or("", |(exchange, (backend, _))| exchange.deployment(backend));
    let key = found.and_then(|(_, (_, plan))| plan.key_header.as_ref());
    let key = key.map_or(&b""[..], |(_, value)| value.strip_prefix(b"Bearer ").unwrap_or(value));
    act(&Origin {
        host: found.map_or("", |(_, (backend, _))| &*backend.host),
        deployment: if exchange.is_some_and(|it| it.asked.model == deployment) {
            ""
        } else {
            deployment
        },
        key,
        owns_credential,
        keeps_rate_limits: exchange.is_some_and(Exchange::keeps_rate_limits),
    });
}
