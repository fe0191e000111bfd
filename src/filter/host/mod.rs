//! Every call to Envoy, in one place: bytes in, bytes out, every status a `Result`.
//!
//! A panic ends every stream of the worker, and the usual SDK panics on unexpected statuses and unknown contexts. So
//! [`raw`] declares the functions of the ABI, and [`super::exports`] contains those that Envoy calls. A header map is
//! passed in one call and one allocation.

pub(crate) mod body;
pub(crate) mod contexts;
pub(crate) mod details;
pub(crate) mod exclusive;
pub(crate) mod header_map;
pub(crate) mod logger;
mod names;
pub(crate) mod properties;
pub(crate) mod random;
mod raw;
pub(crate) mod sanitize;
pub(crate) mod shared;
pub(crate) mod timers;
pub(crate) mod told;

use self::header_map::{HeaderMap, serialize};
use crate::policy::time::{Millis, Timestamp};
use prost::encoding::{WireType, encode_key, encode_varint};

/// The host refused a call; the number is the ABI's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused(u32);

impl Refused {
    const NOT_FOUND: Self = Self(1);
    const CAS_MISMATCH: Self = Self(8);
    const MALFORMED: Self = Self(4);

    /// Whether a compare-and-set lost a race against another worker.
    pub(crate) fn is_lost_race(self) -> bool {
        self == Self::CAS_MISMATCH
    }
}

/// A header map of the current stream.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Map {
    RequestHeaders = 0,
    RequestTrailers = 1,
    ResponseHeaders = 2,
    ResponseTrailers = 3,
}

/// A buffer of the current stream or of the plugin.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    PluginConfiguration = 7,
}

/// A direction of the current stream.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Direction {
    Request = 0,
    Response = 1,
}

/// What Envoy does next with the part of a stream that a callback received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Action {
    /// Envoy passes it on.
    Continue = 0,
    /// Envoy holds it. It keeps a held body, and shows it again together with what follows.
    Pause = 1,
}

/// The kind of a metric.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum MetricKind {
    Counter = 0,
    Gauge = 1,
}

/// A point in time of the monotonic clock, which nobody sets. Only differences between two of them mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Timestamp);

impl Instant {
    /// The point `length` later.
    pub(crate) fn plus(self, length: Millis) -> Self {
        Self(self.0.plus(length))
    }

    /// The time from `earlier` to here; zero when `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Millis {
        self.0.since(earlier.0)
    }
}

/// A defined metric; the default one records nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Metric(Option<u32>);

impl Metric {
    /// Whether the host accepted it.
    pub(crate) fn is_defined(self) -> bool {
        self.0.is_some()
    }
}

/// The wall clock. If the host refuses, the time is the epoch, at which every gate is open.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_ms(raw::time_ns().unwrap_or(0) / 1_000_000)
}

/// The monotonic clock. Envoy never refuses it.
pub(crate) fn instant() -> Instant {
    Instant(Timestamp::from_ms(raw::monotonic_ns().unwrap_or(0) / 1_000_000))
}

/// Calls `on_tick` of the current context's root every `period_ms`; 0 stops it.
pub(crate) fn set_tick_period_ms(period_ms: u32) -> Result<(), Refused> {
    raw::check(raw::proxy_set_tick_period_milliseconds(period_ms))
}

/// Up to `max` bytes of a buffer from `start`; fewer at its end.
pub(crate) fn buffer(buffer: Buffer, start: usize, max: usize) -> Result<Vec<u8>, Refused> {
    if max == 0 {
        return Ok(Vec::new()); // a message without a body has no buffer
    }
    raw::buffer(buffer as u32, start, max)
}

/// Removes `count` bytes from the front of a buffer.
pub(crate) fn drain_front(buffer: Buffer, count: usize) -> Result<(), Refused> {
    raw::set_buffer(buffer as u32, 0, count, &[])
}

/// Replaces the first `count` bytes of a buffer by `bytes`.
pub(crate) fn replace_front(buffer: Buffer, count: usize, bytes: &[u8]) -> Result<(), Refused> {
    raw::set_buffer(buffer as u32, 0, count, bytes)
}

/// Appends `bytes` to a buffer.
pub(crate) fn append(buffer: Buffer, bytes: &[u8]) -> Result<(), Refused> {
    raw::set_buffer(buffer as u32, usize::try_from(u32::MAX).unwrap_or(usize::MAX), 0, bytes)
}

/// All headers of a map. They can be read only during the map's own callback, or before it returned Continue.
pub(crate) fn header_map(map: Map) -> Result<HeaderMap, Refused> {
    HeaderMap::parse(raw::header_map(map as u32)?).ok_or(Refused::MALFORMED)
}

/// Sets a header; it replaces all that have its name.
pub(crate) fn set_header(map: Map, name: &str, value: impl AsRef<[u8]>) -> Result<(), Refused> {
    raw::set_header(map as u32, name, value.as_ref())
}

/// Removes all headers of a name.
pub(crate) fn remove_header(map: Map, name: impl AsRef<[u8]>) -> Result<(), Refused> {
    raw::remove_header(map as u32, name.as_ref())
}

/// A property, whose path has NUL between its parts; `None` when it is not set.
pub(crate) fn property(path: &str) -> Option<Vec<u8>> {
    raw::property(path).ok()
}

/// Sets the filter state `wasm.{path}`, which all filters of the request can read.
pub(crate) fn set_property(path: &str, value: &[u8]) -> Result<(), Refused> {
    raw::set_property(path, value)
}

/// A shared record with the version to pass to [`set_shared_data`]; `None` when there is none.
pub(crate) fn shared_data(key: &str) -> Result<Option<(Vec<u8>, u32)>, Refused> {
    match raw::shared_data(key) {
        Ok(record) => Ok(Some(record)),
        Err(Refused::NOT_FOUND) => Ok(None),
        Err(refused) => Err(refused),
    }
}

/// Writes a shared record if its version is still `version`; 0 always writes it.
pub(crate) fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<(), Refused> {
    raw::set_shared_data(key, value, version)
}

/// Resumes a paused direction of the current stream.
pub(crate) fn resume(direction: Direction) -> Result<(), Refused> {
    raw::check(raw::proxy_continue_stream(direction as u32))
}

/// Makes the stream of `context` the current one until the callback ends.
pub(crate) fn enter(context: u32) -> Result<(), Refused> {
    raw::check(raw::proxy_set_effective_context(context))
}

/// Makes Envoy match the route anew, with the properties as they are now.
pub(crate) fn clear_route_cache() -> Result<(), Refused> {
    raw::foreign_function("clear_route_cache", &[]).map(drop)
}

/// Sets a filter state that one of Envoy's own filters reads. Envoy must know its key.
pub(crate) fn set_envoy_filter_state(key: &str, value: &str) -> Result<(), Refused> {
    raw::foreign_function("set_envoy_filter_state", &fields(&[key, value])).map(drop)
}

/// A protobuf message whose first fields contain these texts.
fn fields(texts: &[&str]) -> Vec<u8> {
    let mut message = Vec::with_capacity(64);
    for (number, text) in (1_u32..).zip(texts) {
        encode_key(number, WireType::LengthDelimited, &mut message);
        encode_varint(u64::try_from(text.len()).unwrap_or(u64::MAX), &mut message);
        message.extend_from_slice(text.as_bytes());
    }
    message
}

/// Sends a reply to the current stream's client. `details` is for Envoy's access log.
pub(crate) fn reply(
    status: u16,
    details: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(), Refused> {
    raw::local_response(u32::from(status), details, body, &serialize(headers))
}

/// Defines a metric. The host makes a new entry each time. If it refuses, the metric records nothing.
pub(crate) fn define_metric(kind: MetricKind, name: &str) -> Metric {
    Metric(raw::define_metric(kind as u32, name).ok())
}

/// Adds to a counter.
pub(crate) fn increment(metric: Metric, by: i64) {
    if let Metric(Some(id)) = metric {
        raw::proxy_increment_metric(id, by);
    }
}

/// Sets a gauge.
pub(crate) fn record(metric: Metric, value: u64) {
    if let Metric(Some(id)) = metric {
        raw::proxy_record_metric(id, value);
    }
}
