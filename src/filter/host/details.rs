//! What Envoy says of why a stream ended or an attempt failed, in the core's words.
//!
//! Envoy's words are those of its access logs: "response code details" for streams, a sentence for a
//! connection that was not made.

use super as host;
use super::properties::{
    CODE_DETAILS, HOST_ADDRESS, LOCAL_ADDRESS, RESPONSE_FLAGS, TRANSPORT_FAILURE,
};
use crate::policy::response::classify::{Fault, Misroute};

/// The flag of a client that went away.
const DOWNSTREAM_DISCONNECT: u64 = 16_384;

/// The endpoint of lower priority that each cluster has, so that an attempt can fail when it has no
/// other: nobody listens on TCP port 1 (see the shipped configurations).
const DEAD_ENDPOINT: &[u8] = b"127.0.0.1:1";

/// The most of Envoy's words that is repeated in the log.
const QUOTED_CHARS_MAX: usize = 200;

/// Why there was no way to the backend whose attempt never began, if Envoy says so.
pub(crate) fn misroute() -> Option<Misroute> {
    match &*host::property(CODE_DETAILS)? {
        b"no_healthy_upstream" => Some(Misroute::NoHost),
        b"cluster_not_found" => Some(Misroute::NoCluster),
        b"upstream_reset_before_response_started{overflow}" => Some(Misroute::Full),
        // A backend answered, and no attempt filter saw the request.
        b"via_upstream" => Some(Misroute::NoFilter),
        _ => None,
    }
}

/// Whether the backend broke off a response of which something had gone to the client. Anything else
/// that ends one early is not the backend's doing: a client that does not read holds it back until one of
/// Envoy's timers fires, and a backend that stalls looks the same.
pub(crate) fn backend_broke_off() -> bool {
    host::property(CODE_DETAILS).is_some_and(|details| is_reset(&details))
}

fn is_reset(details: &[u8]) -> bool {
    details.starts_with(b"upstream_reset_after_response_started")
}

/// Whether the current attempt asked for a WebSocket and was answered with a success or a redirect instead.
/// Envoy shows such a response to no filter of the attempt; an error it does show.
pub(crate) fn is_without_upgrade() -> bool {
    host::property(CODE_DETAILS).is_some_and(|it| it == b"websocket_handshake_unsuccessful")
}

/// Whether the client of the current attempt went away.
pub(crate) fn is_client_gone() -> bool {
    let flags = host::property(RESPONSE_FLAGS).and_then(|bytes| bytes.try_into().ok());
    flags.map_or(0, u64::from_le_bytes) & DOWNSTREAM_DISCONNECT != 0
}

/// Whether Envoy ended the request of the current attempt, whoever was at it, because a limit of the whole
/// request has passed.
pub(crate) fn is_out_of_time() -> bool {
    const LIMITS: [&[u8]; 3] =
        [b"stream_idle_timeout", b"max_duration_timeout", b"request_overall_timeout"];
    host::property(CODE_DETAILS).is_some_and(|details| LIMITS.contains(&&*details))
}

/// Why the current attempt has no connection, and Envoy's own words for it; `None` when it has one.
pub(crate) fn no_connection() -> Option<(Fault, Option<String>)> {
    let reason = host::property(TRANSPORT_FAILURE).unwrap_or_default();
    if !reason.is_empty() {
        return Some((fault_of(&reason), Some(quoted(&reason))));
    }
    let is_connected = host::property(LOCAL_ADDRESS).is_some_and(|address| !address.is_empty());
    (!is_connected).then_some((Fault::ConnectTimeout, None))
}

/// Whether the current attempt went to the dead endpoint of its cluster.
pub(crate) fn is_dead_endpoint() -> bool {
    host::property(HOST_ADDRESS).is_some_and(|address| address == DEAD_ENDPOINT)
}

/// What kind of failure a sentence of Envoy's tells of.
fn fault_of(reason: &[u8]) -> Fault {
    let says =
        |word: &[u8]| reason.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    if says(b"tls") || says(b"ssl") || says(b"certificate") {
        Fault::Tls
    } else if says(b"timeout") || says(b"timed out") {
        Fault::ConnectTimeout
    } else {
        Fault::Connect
    }
}

/// The words as a log line can have them. Names from a peer's certificate may be among them.
fn quoted(reason: &[u8]) -> String {
    let text = String::from_utf8_lossy(reason);
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    text.chars().take(QUOTED_CHARS_MAX).map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_tls_is_told_from_a_refusal_and_from_a_silence() {
        for reason in [
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
            "delayed connect error: SSL handshake",
        ] {
            assert_eq!(fault_of(reason.as_bytes()), Fault::Tls, "{reason}");
        }
        for reason in ["delayed connect error: Connection refused", "immediate connect error", "?"]
        {
            assert_eq!(fault_of(reason.as_bytes()), Fault::Connect, "{reason}");
        }
        let slow = b"delayed connect error: Connection timed out";
        assert_eq!(fault_of(slow), Fault::ConnectTimeout);
    }

    #[test]
    fn what_a_peer_says_cannot_break_the_log() {
        assert_eq!(quoted(b"a\r\nb\0\xffc"), "a__b__c");
        assert_eq!(quoted(&[b'x'; 1_000]).len(), QUOTED_CHARS_MAX);
    }

    #[test]
    fn only_a_reset_of_the_backend_breaks_an_answer_off() {
        assert!(is_reset(b"upstream_reset_after_response_started{connection_termination}"));
        for other in ["upstream_per_try_idle_timeout", "stream_idle_timeout", "via_upstream", ""] {
            assert!(!is_reset(other.as_bytes()), "{other}");
        }
    }
}
