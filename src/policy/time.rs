//! Points in time and durations, in milliseconds.
//!
//! The host's wall clock may step. Every operation saturates, so a step can make a duration zero but can never
//! overflow or make it negative.

use std::fmt;

/// A duration in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

impl Millis {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// `ms` milliseconds.
    pub const fn new(ms: u64) -> Self {
        Self(ms)
    }

    /// `s` seconds, saturating.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000))
    }

    /// The duration in milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The duration in whole seconds, rounded up, as for `retry-after`.
    pub const fn as_secs_ceil(self) -> u64 {
        self.0.div_ceil(1_000)
    }

    /// `self * factor / divisor`, saturating; a `divisor` of zero counts as one.
    pub fn scale(self, factor: u64, divisor: u64) -> Self {
        let scaled = u128::from(self.0)
            .saturating_mul(u128::from(factor))
            .checked_div(u128::from(divisor.max(1)))
            .unwrap_or(u128::MAX);
        Self(u64::try_from(scaled).unwrap_or(u64::MAX))
    }

    /// The sum, saturating.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// A point in time: milliseconds since the Unix epoch, by the host's wall clock.
///
/// Zero means "never" wherever a record stores an optional point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The epoch; in records: never.
    pub const ZERO: Self = Self(0);

    /// The point `ms` milliseconds after the epoch.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The point `length` later, saturating.
    pub const fn plus(self, length: Millis) -> Self {
        Self(self.0.saturating_add(length.as_ms()))
    }

    /// The time from `earlier` to here; zero when `earlier` is later (the clock stepped back).
    pub const fn since(self, earlier: Self) -> Millis {
        Millis::new(self.0.saturating_sub(earlier.0))
    }
}
