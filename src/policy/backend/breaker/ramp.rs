//! How traffic returns after a breaker closed: in steps. Each step ends after a third of `ramp_duration`, or after
//! enough successes. After a short outage the first steps are skipped.

use super::Passage;
use crate::policy::time::{Millis, Timestamp};

/// The shares of traffic in percent, each with the number of successes that end its step.
const STEPS: [(u8, u8); 3] = [(10, 2), (25, 4), (50, 8)];
/// The most failed probes with which the first step is skipped, and with which the second one is skipped too.
const SHORT_OUTAGES: [u8; 2] = [8, 0];

/// What a ramp that began at `since` and saw `successes` lets pass at `now`.
pub(super) fn passage(
    since: Timestamp,
    successes: u8,
    duration: Millis,
    now: Timestamp,
) -> Passage {
    let growing = since != Timestamp::ZERO && since <= now && now.since(since) < duration;
    if !growing {
        return Passage::Closed;
    }
    let thirds = now.since(since).as_ms().saturating_mul(3).checked_div(duration.as_ms());
    let by_time = thirds.and_then(|thirds| usize::try_from(thirds).ok()).unwrap_or(0);
    let steps = STEPS.iter().enumerate();
    let mut left = steps.filter(|(step, (_, end))| *step >= by_time && successes < *end);
    left.next().map_or(Passage::Closed, |(_, (percent, _))| Passage::Ramp { percent: *percent })
}

/// Whether there were enough successes for the whole traffic.
pub(super) fn is_over(successes: u8) -> bool {
    STEPS.iter().all(|(_, end)| successes >= *end)
}

/// The successes with which a ramp begins after this many failed probes.
pub(super) fn left_out(failed_probes: u8) -> u8 {
    let steps = SHORT_OUTAGES.iter().filter(|most| failed_probes <= **most).count();
    let last = steps.checked_sub(1).and_then(|step| STEPS.get(step));
    last.map_or(0, |(_, end)| *end)
}
