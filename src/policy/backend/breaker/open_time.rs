//! How long a breaker stays open.
//!
//! The first time is the rule's `trip_duration`, if it has one. Otherwise the kind of fault decides. A fault that
//! shows at once, such as a refused connection or a 503, costs the probe's client one quick failover, so the breaker
//! is probed soon and often. A timeout costs that client the whole time limit, so the breaker is probed rarely.
//!
//! Each failed probe doubles the open time. Jitter of up to 10 % keeps many proxies from returning together: upwards,
//! or downwards where it would exceed the longest open time. `retry-after` may lengthen the time. A `retry-after` of
//! zero names no time, because the backend has just failed.

use super::{Observation, Observed};
use crate::policy::pool::{BreakerSettings, Rule};
use crate::policy::response::classify::Fault;
use crate::policy::time::Millis;

/// The first open time of a breaker, and the longest.
struct OpenTime {
    first: Millis,
    longest: Millis,
}

/// After a fault that shows at once.
const QUICK: OpenTime = OpenTime { first: Millis::from_secs(1), longest: Millis::from_secs(7) };
/// After a fault that shows only at a time limit.
const SLOW: OpenTime = OpenTime { first: Millis::from_secs(10), longest: Millis::from_secs(60) };
/// After a wrong choice of the gateway: only a new configuration corrects it.
const MISCONFIGURED: OpenTime =
    OpenTime { first: Millis::from_secs(30), longest: Millis::new(u64::MAX) };

/// The most jitter of a doubled open time, in thousandths of it.
const JITTER_PERMILLE_MAX: u64 = 100;

/// The shortest open time that a `retry-after` can name. It is also the shortest that can be configured.
const NAMED_MIN: Millis = Millis::new(100);

/// The open time after an observation for which `rule` opens the breaker; `None`: no rule does.
pub(super) fn first(
    rule: Option<&Rule>,
    observation: &Observation,
    settings: &BreakerSettings,
) -> Millis {
    rule.and_then(|rule| named(rule, observation)).map_or_else(
        || open_time(rule, observation, settings).first,
        |named| named.min(settings.max_trip_duration),
    )
}

/// The open time after this many failed probes of a breaker that `rule` opened: the first one, doubled each time, or
/// the time that the backend named, if that is longer and the rule accepts it.
pub(super) fn next(
    rule: Option<&Rule>,
    failed_probes: u8,
    observation: &Observation,
    settings: &BreakerSettings,
    roll: u64,
) -> Millis {
    let OpenTime { first, longest } = open_time(rule, observation, settings);
    let factor = 1u64.checked_shl(u32::from(failed_probes)).unwrap_or(u64::MAX);
    let named = rule.and_then(|rule| named(rule, observation)).unwrap_or(Millis::ZERO);
    let longest = if named > longest { settings.max_trip_duration } else { longest };
    let length = spread(first.scale(factor, 1).max(named), longest, roll);
    // The time that the backend named is kept, if the limits allow it.
    if named < longest { length.max(named) } else { length }
}

/// No open time is longer than this.
pub(super) fn longest(settings: &BreakerSettings) -> Millis {
    let configured = settings.rules.iter().filter_map(|rule| rule.trip_duration);
    configured.fold(settings.max_trip_duration, Millis::max)
}

fn open_time(
    rule: Option<&Rule>,
    observation: &Observation,
    settings: &BreakerSettings,
) -> OpenTime {
    let longest = settings.max_trip_duration;
    let configured = match rule {
        Some(rule) => rule.trip_duration,
        None => settings.rules.iter().filter_map(|rule| rule.trip_duration).max(),
    };
    if let Some(first) = configured {
        return OpenTime { first, longest: longest.max(first) };
    }
    let by_fault = match observation.observed {
        Observed::Misconfigured => MISCONFIGURED,
        Observed::Fault(Fault::Timeout | Fault::ConnectTimeout | Fault::Status(408 | 504)) => SLOW,
        Observed::Fault(_) => QUICK,
        // A success that took too long.
        Observed::Success | Observed::Ignored => SLOW,
    };
    OpenTime { first: by_fault.first.min(longest), longest: by_fault.longest.min(longest) }
}

/// The open time that the backend named, if the rule accepts it. Zero means "now", but the backend has just failed,
/// so zero names no time.
fn named(rule: &Rule, observation: &Observation) -> Option<Millis> {
    let named = observation.retry_after.filter(|_| rule.accept_retry_after)?;
    (named > Millis::ZERO).then(|| named.max(NAMED_MIN))
}

/// `length` with up to 10 % of jitter: upwards if even the most stays within `longest`, otherwise downwards from
/// `longest`.
fn spread(length: Millis, longest: Millis, roll: u64) -> Millis {
    let jitter_permille = roll.checked_rem(JITTER_PERMILLE_MAX.saturating_add(1)).unwrap_or(0);
    if length.plus(length.scale(JITTER_PERMILLE_MAX, 1_000)) <= longest {
        length.plus(length.scale(jitter_permille, 1_000))
    } else {
        longest.scale(1_000_u64.saturating_sub(jitter_permille), 1_000)
    }
}
