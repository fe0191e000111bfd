//! The trail: which backends a request tried and which were skipped, for a person to read.
//!
//! The entries are in the order of events, separated by `, `. Each is the backend's name, followed by fields that are
//! separated by `;`:
//!
//! ```text
//! ptu-uksouth;429;gate=312ms, payg-france;skip=breaker;breaker=4200ms, payg-sweden;200
//! ```
//!
//! - An attempt has its result: the status, or `connect`, `timeout`, `reset`, `in-band` (a throttle within a 200),
//!   `empty` (a success without a body), `no-upgrade` (no WebSocket, although the request asked for one),
//!   `stream-error`, `spilled` (another deployment of the resource served it). `gate=` states how long it closed the
//!   gate. A `connect` with another cause than a refused connection has `reason=tls` or `reason=timeout`. `tier=` is
//!   the service tier, if the request asked for one. A backend that Envoy cannot reach has `no-route`, `no-cluster`,
//!   `no-host` or `wrong-cluster`; if Envoy has too many requests there already, it has `overflow`.
//! - A skipped backend has `skip=` with the reason: `gate`, `breaker`, `budget`, `credential`, `ramp`, `operation`,
//!   `prompt-length`. With the first three, a field states after which time it is back.
//!
//! The trail is bounded, because it becomes a header: entries beyond [`MAX_ENTRIES`] are only counted, as in `, +3`.
//! A backend that stays excluded for the same reason is not repeated.

use crate::policy::choice::Ineligible;
use crate::policy::pool::BackendIndex;
use crate::policy::response::classify::Misroute;
use crate::policy::time::{Millis, Timestamp};
use std::fmt::Write;

/// The most entries of a trail.
pub const MAX_ENTRIES: usize = 24;

/// The result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// No connection.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// A throttle within a 200.
    InBand,
    /// Envoy cannot reach it.
    Misrouted(Misroute),
    /// A success without a body.
    Empty,
    /// It did not switch to the WebSocket that was asked for.
    NoUpgrade,
    /// The connection broke.
    Reset,
    /// Another deployment of the backend's resource served the request.
    Spilled,
    /// A response with this status.
    Status(u16),
    /// An error within the event stream.
    StreamError,
    /// No first byte in time.
    Timeout,
    /// No connection, because the TLS handshake failed.
    Tls,
}

/// One event of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It tried a backend.
    Attempt {
        /// Its position.
        backend: BackendIndex,
        /// The result.
        result: AttemptResult,
        /// How long that closed the backend's gate.
        gate: Option<Millis>,
        /// The service tier, if the request asked for one.
        tier: Option<&'static str>,
    },
    /// It skipped a backend.
    Skip {
        /// Its position.
        backend: BackendIndex,
        /// The reason.
        reason: Ineligible,
        /// The time until the backend is back, if that is known.
        remaining: Option<Millis>,
    },
}

/// The events of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    entries: Vec<Entry>,
    dropped: u32,
}

impl Trail {
    /// Adds an attempt that ended with `result` and closed the backend's gate for `gate`.
    pub fn attempt(&mut self, backend: BackendIndex, result: AttemptResult, gate: Option<Millis>) {
        self.push(Entry::Attempt { backend, result, gate, tier: None });
    }

    /// The last attempt asked for this service tier.
    pub fn with_tier(&mut self, name: &'static str) {
        if let Some(Entry::Attempt { tier, .. }) = self.entries.last_mut() {
            *tier = Some(name);
        }
    }

    /// Adds a skipped backend.
    pub fn skip(&mut self, backend: BackendIndex, reason: Ineligible, now: Timestamp) {
        let remaining = match reason {
            Ineligible::Breaker { until }
            | Ineligible::Budget { until }
            | Ineligible::Gate { until } => Some(until.since(now)),
            Ineligible::Credential
            | Ineligible::Operation
            | Ineligible::PromptLength
            | Ineligible::Ramp
            | Ineligible::Tried => None,
        };
        let is_known = self.entries.iter().any(|entry| {
            matches!(entry, Entry::Skip { backend: known, reason: same, .. }
                if *known == backend && *same == reason)
        });
        if !is_known {
            self.push(Entry::Skip { backend, reason, remaining });
        }
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The trail as text. It is safe in a header, whatever the names are.
    pub fn render<'a>(&self, name: impl Fn(BackendIndex) -> Option<&'a str>) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            if !text.is_empty() {
                text.push_str(", ");
            }
            match entry {
                Entry::Attempt { backend, result, gate, tier } => {
                    push_name(&mut text, name(*backend));
                    push_result(&mut text, *result);
                    push_length(&mut text, "gate", *gate);
                    if let Some(tier) = tier {
                        text.push_str(";tier=");
                        text.push_str(tier);
                    }
                }
                Entry::Skip { backend, reason, remaining } => {
                    let reason = reason_word(*reason);
                    push_name(&mut text, name(*backend));
                    text.push_str(";skip=");
                    text.push_str(reason);
                    push_length(&mut text, reason, *remaining);
                }
            }
        }
        if self.dropped > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, ", +{}", self.dropped);
        }
        text
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}

fn push_name(text: &mut String, name: Option<&str>) {
    let is_safe = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | ';');
    text.extend(name.unwrap_or("?").chars().map(|c| if is_safe(c) { c } else { '_' }));
}

fn push_result(text: &mut String, result: AttemptResult) {
    let word = match result {
        AttemptResult::Connect => "connect",
        AttemptResult::ConnectTimeout => "connect;reason=timeout",
        AttemptResult::Tls => "connect;reason=tls",
        AttemptResult::Misrouted(Misroute::Full) => "overflow",
        AttemptResult::Misrouted(Misroute::NoCluster) => "no-cluster",
        AttemptResult::Misrouted(Misroute::DeadEndpoint | Misroute::NoHost) => "no-host",
        AttemptResult::Misrouted(Misroute::NoFilter) => "no-filter",
        AttemptResult::Misrouted(Misroute::NoRoute) => "no-route",
        AttemptResult::Misrouted(Misroute::WrongCluster) => "wrong-cluster",
        AttemptResult::InBand => "in-band",
        AttemptResult::Empty => "empty",
        AttemptResult::NoUpgrade => "no-upgrade",
        AttemptResult::Reset => "reset",
        AttemptResult::Spilled => "spilled",
        AttemptResult::StreamError => "stream-error",
        AttemptResult::Timeout => "timeout",
        AttemptResult::Status(status) => {
            let _ = write!(text, ";{status}");
            return;
        }
    };
    text.push(';');
    text.push_str(word);
}

fn push_length(text: &mut String, name: &str, length: Option<Millis>) {
    if let Some(length) = length {
        let _ = write!(text, ";{name}={length}");
    }
}

fn reason_word(reason: Ineligible) -> &'static str {
    match reason {
        Ineligible::Breaker { .. } => "breaker",
        Ineligible::Budget { .. } => "budget",
        Ineligible::Credential => "credential",
        Ineligible::Gate { .. } => "gate",
        Ineligible::Operation => "operation",
        Ineligible::PromptLength => "prompt-length",
        Ineligible::Ramp => "ramp",
        Ineligible::Tried => "tried",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{at, backend, ms};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NAMES: [&str; 3] = ["ptu-uksouth", "france", "sweden"];

    fn name(backend: BackendIndex) -> Option<&'static str> {
        NAMES.get(backend.position()).copied()
    }

    #[test]
    fn the_trail_reads_in_the_order_of_events() {
        let mut trail = Trail::default();
        trail.attempt(backend(0), AttemptResult::Status(429), Some(ms(312)));
        trail.skip(backend(1), Ineligible::Gate { until: at(1_080) }, at(1_000));
        trail.attempt(backend(2), AttemptResult::Status(200), None);
        trail.with_tier("flex");
        let expected =
            "ptu-uksouth;429;gate=312ms, france;skip=gate;gate=80ms, sweden;200;tier=flex";
        assert_eq!(trail.render(name), expected);
        assert_eq!(trail.entries().len(), 3);
        assert_eq!(Trail::default().render(name), "");
    }

    #[test]
    fn every_result_and_reason_has_a_word() {
        let mut trail = Trail::default();
        for result in [
            AttemptResult::Connect,
            AttemptResult::ConnectTimeout,
            AttemptResult::Tls,
            AttemptResult::Misrouted(Misroute::Full),
            AttemptResult::Misrouted(Misroute::NoCluster),
            AttemptResult::Misrouted(Misroute::NoHost),
            AttemptResult::Misrouted(Misroute::NoRoute),
            AttemptResult::Misrouted(Misroute::WrongCluster),
            AttemptResult::Timeout,
            AttemptResult::Empty,
            AttemptResult::NoUpgrade,
            AttemptResult::Reset,
            AttemptResult::InBand,
            AttemptResult::StreamError,
            AttemptResult::Spilled,
        ] {
            trail.attempt(backend(1), result, None);
        }
        for reason in [
            Ineligible::Breaker { until: at(9) },
            Ineligible::Budget { until: at(90) },
            Ineligible::Credential,
            Ineligible::Ramp,
            Ineligible::Operation,
            Ineligible::PromptLength,
        ] {
            trail.skip(backend(2), reason, at(4));
        }
        assert_eq!(
            trail.render(name),
            "france;connect, france;connect;reason=timeout, france;connect;reason=tls, \
             france;overflow, france;no-cluster, france;no-host, france;no-route, france;wrong-cluster, \
             france;timeout, france;empty, france;no-upgrade, france;reset, france;in-band, \
             france;stream-error, france;spilled, sweden;skip=breaker;breaker=5ms, sweden;skip=budget;budget=86ms, \
             sweden;skip=credential, sweden;skip=ramp, sweden;skip=operation, \
             sweden;skip=prompt-length"
        );
    }

    #[test]
    fn the_same_skip_is_noted_once() {
        let mut trail = Trail::default();
        trail.skip(backend(1), Ineligible::Gate { until: at(80) }, at(0));
        trail.skip(backend(1), Ineligible::Gate { until: at(80) }, at(50));
        assert_eq!(trail.render(name), "france;skip=gate;gate=80ms");
    }

    #[test]
    fn the_length_is_bounded() {
        let mut trail = Trail::default();
        for _ in 0..MAX_ENTRIES + 3 {
            trail.attempt(backend(2), AttemptResult::Reset, None);
        }
        let text = trail.render(name);
        assert_eq!(text.matches("sweden").count(), MAX_ENTRIES);
        assert!(text.ends_with("sweden;reset, +3"), "{text}");
    }

    #[test]
    fn names_cannot_break_the_header() {
        let mut trail = Trail::default();
        trail.attempt(backend(0), AttemptResult::Status(200), None);
        trail.attempt(backend(63), AttemptResult::Status(200), None);
        let hostile =
            |backend: BackendIndex| (backend.position() == 0).then_some("a,b;c\r\nd \u{e9}");
        assert_eq!(trail.render(hostile), "a_b_c__d__;200, ?;200");
    }
}
