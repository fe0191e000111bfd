//! The throttle gate: a 429 closes it until the time that the backend named.
//!
//! A throttle is not a fault. The backend works and states when it has room again. So nothing is counted, nothing is
//! probed, and full traffic returns in the millisecond of the deadline.
//!
//! The gate remembers the size of the refused request. That size may be the reason for the 429, so a much smaller
//! request may pass when no other backend is left. This costs little: after each refusal the next one must be at most
//! half as large.
//!
//! Of two responses the later deadline wins, so that an old response never shortens a throttle. A deadline that no
//! response could have set (further ahead than `max_retry_after`) shows that the wall clock was set back. It is void,
//! or the gate would stay closed for the length of the step.

use crate::policy::pool::ThrottleSettings;
use crate::policy::time::{Millis, Timestamp};

/// How many times larger a refused request must be than one that passes.
const MUCH_SMALLER: u64 = 2;

/// A backend's throttle gate. The default is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// When it opens; zero: it was never closed.
    pub until: Timestamp,
    /// The tokens of the smallest request that was refused since it closed; zero: unknown.
    pub tokens: u32,
}

impl Gate {
    /// When the gate opens, or `None` when it is open.
    pub fn closed_until(&self, now: Timestamp, settings: &ThrottleSettings) -> Option<Timestamp> {
        let possible = self.until <= now.plus(settings.max_retry_after);
        (self.until > now && possible).then_some(self.until)
    }

    /// Closes the gate for `delay`, or for the default if the backend named no time. It stays closed for at most
    /// `max_retry_after`, and never shorter than before. `tokens` are those that the refused request was expected to
    /// use; zero: unknown.
    pub fn close(
        &mut self,
        now: Timestamp,
        delay: Option<Millis>,
        tokens: u64,
        settings: &ThrottleSettings,
    ) {
        let delay = delay.unwrap_or(settings.default_retry_after).min(settings.max_retry_after);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let current = self.closed_until(now, settings);
        self.tokens = if current.is_some() { self.tokens.min(tokens) } else { tokens };
        self.until = current.unwrap_or(Timestamp::ZERO).max(now.plus(delay));
    }

    /// Whether a request with these tokens is much smaller than the refused ones.
    pub fn lets_pass(&self, tokens: u64) -> bool {
        tokens > 0 && tokens.saturating_mul(MUCH_SMALLER) <= u64::from(self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{at, ms, throttle};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_gate_reopens_exactly_at_its_deadline() {
        let mut gate = Gate::default();
        gate.close(at(1_000), Some(ms(300)), 0, &throttle());
        assert_eq!(gate.closed_until(at(1_299), &throttle()), Some(at(1_300)));
        assert_eq!(gate.closed_until(at(1_300), &throttle()), None);
    }

    #[test]
    fn the_default_and_the_cap_apply() {
        let mut gate = Gate::default();
        gate.close(at(0), None, 0, &throttle());
        assert_eq!(gate.until, at(10_000));
        gate.close(at(0), Some(ms(86_400_000)), 0, &throttle());
        assert_eq!(gate.until, at(60_000));
        gate.close(at(0), Some(ms(u64::MAX)), 0, &throttle());
        assert_eq!(gate.until, at(60_000));
    }

    #[test]
    fn a_shorter_response_never_shortens_the_throttle() {
        let mut gate = Gate::default();
        gate.close(at(1_000), Some(ms(5_000)), 0, &throttle());
        gate.close(at(2_000), Some(ms(100)), 0, &throttle());
        assert_eq!(gate.until, at(6_000));
        gate.close(at(2_000), Some(ms(9_000)), 0, &throttle());
        assert_eq!(gate.until, at(11_000));
    }

    #[test]
    fn a_deadline_that_no_response_could_have_set_is_void() {
        let mut gate = Gate { until: at(1_000_000), tokens: 0 };
        assert_eq!(gate.closed_until(at(5), &throttle()), None);
        gate.close(at(5), Some(ms(200)), 0, &throttle());
        assert_eq!(gate.until, at(205));
    }

    #[test]
    fn a_request_of_half_the_size_of_the_refused_ones_may_pass() {
        let mut gate = Gate::default();
        assert!(!gate.lets_pass(1));
        gate.close(at(0), Some(ms(5_000)), 1_000, &throttle());
        assert!(gate.lets_pass(500) && !gate.lets_pass(501));
        assert!(!gate.lets_pass(0), "its size is unknown");
        gate.close(at(1_000), Some(ms(4_000)), 400, &throttle());
        assert!(gate.lets_pass(200) && !gate.lets_pass(201), "that was refused, too");
        gate.close(at(2_000), Some(ms(5_000)), 9_000, &throttle());
        assert!(!gate.lets_pass(201), "a larger one proves nothing");
        gate.close(at(8_000), Some(ms(5_000)), 9_000, &throttle());
        assert!(gate.lets_pass(4_500), "it was open in between");
        gate.close(at(9_000), Some(ms(5_000)), 0, &throttle());
        assert!(!gate.lets_pass(1));
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let mut gate = Gate::default();
        gate.close(at(u64::MAX - 5), None, 0, &throttle());
        assert_eq!(gate.closed_until(at(u64::MAX - 5), &throttle()), Some(at(u64::MAX)));
    }
}
