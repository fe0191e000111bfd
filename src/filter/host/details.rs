//! What Envoy states about the end of a stream or the failure of an attempt, in the core's words.
//!
//! Envoy's words are those of its access logs: "response code details" for streams, and a sentence for a connection
//! that failed.

use super as host;
use super::properties::{
    CODE_DETAILS, HOST_ADDRESS, LOCAL_ADDRESS, RESPONSE_FLAGS, TRANSPORT_FAILURE,
};
use crate::policy::response::classify::{Fault, Misroute};

/// The response flag for a client that disconnected.
const DOWNSTREAM_DISCONNECT: u64 = 16_384;

/// The endpoint of lower priority in each cluster, so that an attempt can fail when no other host exists. Nobody
/// listens on TCP port 1 (see the shipped configurations).
const DEAD_ENDPOINT: &[u8] = b"127.0.0.1:1";

/// How much of Envoy's text the log repeats.
const QUOTED_CHARS_MAX: usize = 200;

/// Why the attempt never reached its backend, if Envoy states it.
pub(crate) fn misroute() -> Option<Misroute> {
    match &*host::property(CODE_DETAILS)? {
        b"no_healthy_upstream" => Some(Misroute::NoHost),
        b"cluster_not_found" => Some(Misroute::NoCluster),
        b"upstream_reset_before_response_started{overflow}" => Some(Misroute::Full),
        // A backend responded, but no attempt filter saw the request.
        b"via_upstream" => Some(Misroute::NoFilter),
        _ => None,
    }
}

/// Whether the backend broke off a response after a part of it went to the client. No other early end is the
/// backend's fault: a client that does not read delays the response until one of Envoy's timers fires, and a backend
/// that stalls looks the same.
pub(crate) fn backend_broke_off() -> bool {
    host::property(CODE_DETAILS).is_some_and(|details| is_reset(&details))
}

fn is_reset(details: &[u8]) -> bool {
    details.starts_with(b"upstream_reset_after_response_started")
}

/// Whether the current attempt asked for a WebSocket, and got a success or a redirect instead. Envoy shows such a
/// response to no filter of the attempt, unlike an error.
pub(crate) fn is_without_upgrade() -> bool {
    host::property(CODE_DETAILS).is_some_and(|it| it == b"websocket_handshake_unsuccessful")
}

/// Whether the client of the current attempt disconnected.
pub(crate) fn is_client_gone() -> bool {
    let flags = host::property(RESPONSE_FLAGS).and_then(|bytes| bytes.try_into().ok());
    flags.map_or(0, u64::from_le_bytes) & DOWNSTREAM_DISCONNECT != 0
}

/// Whether Envoy ended the current request at a limit that applies to the whole request.
pub(crate) fn is_out_of_time() -> bool {
    const LIMITS: [&[u8]; 3] =
        [b"stream_idle_timeout", b"max_duration_timeout", b"request_overall_timeout"];
    host::property(CODE_DETAILS).is_some_and(|details| LIMITS.contains(&&*details))
}

/// Why the current attempt has no connection, with Envoy's own words; `None` when it has one.
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

/// The fault that Envoy's sentence describes.
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

/// The text in a form that is safe in a log line. It may contain names from a peer's certificate.
fn quoted(reason: &[u8]) -> String {
    let text = String::from_utf8_lossy(reason);
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    text.chars().take(QUOTED_CHARS_MAX).map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_failure_a_refusal_and_a_timeout_are_distinguished() {
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
    fn only_a_reset_by_the_backend_breaks_a_response_off() {
        assert!(is_reset(b"upstream_reset_after_response_started{connection_termination}"));
        for other in ["upstream_per_try_idle_timeout", "stream_idle_timeout", "via_upstream", ""] {
            assert!(!is_reset(other.as_bytes()), "{other}");
        }
    }
}
