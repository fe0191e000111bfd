//! A sliding window of counts in a fixed width.
//!
//! Ten slots of a tenth of the interval each, addressed by the wall clock, so workers that share a window need no
//! common start. The oldest slot is forgotten as a whole: a window covers between nine tenths of its interval and all
//! of it.
//!
//! The clock may step. After a step forward, everything older than the interval is forgotten. After a step back by
//! less than the interval, counting continues in the newest slot. After a longer step back, the window restarts. In
//! each case it is correct again within its own length.

use super::codec::Reader;
use super::time::{Millis, Timestamp};

/// The number of slots.
pub const SLOTS: usize = 10;

/// The bytes of a window in a record.
pub(super) const WINDOW_BYTES: usize = 8 + SLOTS * 8;

/// Counted attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts that were faults.
    pub faults: u32,
    /// All attempts.
    pub total: u32,
}

impl Counts {
    /// The sum, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            faults: self.faults.saturating_add(other.faults),
            total: self.total.saturating_add(other.total),
        }
    }
}

/// Counts of the recent past. The default is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The number of the newest slot since the epoch.
    newest: u64,
    /// The counts, newest slot first.
    slots: [Counts; SLOTS],
}

impl Window {
    /// Adds `counts` at `now`.
    pub fn add(&mut self, counts: Counts, interval: Millis, now: Timestamp) {
        self.advance(slot(interval, now));
        if let Some(newest) = self.slots.first_mut() {
            *newest = newest.plus(counts);
        }
    }

    /// The counts of the interval up to `now`.
    pub fn counts(&self, interval: Millis, now: Timestamp) -> Counts {
        let mut current = *self;
        current.advance(slot(interval, now));
        current.slots.iter().copied().fold(Counts::default(), Counts::plus)
    }

    /// Adds the counts of `other`, a window of the same interval. Each goes into the slot of its time.
    pub fn merge(&mut self, other: &Self, interval: Millis, now: Timestamp) {
        let mut other = *other;
        other.advance(slot(interval, now));
        self.advance(other.newest);
        let ahead = self.newest.saturating_sub(other.newest);
        let Ok(ahead) = usize::try_from(ahead) else { return };
        for (own, more) in self.slots.iter_mut().skip(ahead).zip(other.slots) {
            *own = own.plus(more);
        }
    }

    /// Appends the [`WINDOW_BYTES`] of the window to a record.
    pub(super) fn encode(&self, record: &mut Vec<u8>) {
        record.extend(self.newest.to_le_bytes());
        for slot in self.slots {
            record.extend(slot.faults.to_le_bytes());
            record.extend(slot.total.to_le_bytes());
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut window = Self { newest: reader.u64()?, ..Self::default() };
        for slot in &mut window.slots {
            *slot = Counts { faults: reader.u32()?, total: reader.u32()? };
        }
        Some(window)
    }

    fn advance(&mut self, slot: u64) {
        let gap = slot.saturating_sub(self.newest);
        let back = self.newest.saturating_sub(slot);
        if gap >= SLOTS as u64 || back >= SLOTS as u64 {
            *self = Self { newest: slot, slots: Default::default() };
        } else if let Ok(gap) = usize::try_from(gap)
            && gap > 0
        {
            self.slots.rotate_right(gap);
            self.slots.iter_mut().take(gap).for_each(|slot| *slot = Counts::default());
            self.newest = slot;
        }
    }
}

fn slot(interval: Millis, now: Timestamp) -> u64 {
    let width = interval.as_ms().div_ceil(SLOTS as u64).max(1);
    now.as_ms().checked_div(width).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Dice, at, ms};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const FAULT: Counts = Counts { faults: 1, total: 1 };
    const SECOND: Millis = Millis::from_secs(1);

    fn faults(window: &Window, now: u64) -> u32 {
        window.counts(SECOND, at(now)).faults
    }

    #[test]
    fn a_count_is_forgotten_after_the_interval_and_not_before_nine_tenths() {
        let mut window = Window::default();
        window.add(FAULT, SECOND, at(10_000));
        assert_eq!(faults(&window, 10_999), 1);
        assert_eq!(faults(&window, 11_000), 0);
        window.add(FAULT, SECOND, at(20_099));
        assert_eq!(faults(&window, 20_999), 1);
        assert_eq!(faults(&window, 21_000), 0);
    }

    #[test]
    fn an_idle_gap_of_any_length_empties_it() {
        let mut window = Window::default();
        window.add(FAULT, SECOND, at(10_000));
        for gap in [1_000, 1_001, 10_000, u64::MAX / 2] {
            assert_eq!(faults(&window, 10_000 + gap), 0, "{gap}");
        }
    }

    #[test]
    fn a_small_step_back_keeps_the_counts_and_a_large_one_starts_afresh() {
        let mut window = Window::default();
        window.add(FAULT, SECOND, at(10_000));
        window.add(FAULT, SECOND, at(9_500));
        assert_eq!(faults(&window, 9_500), 2);
        assert_eq!(faults(&window, 11_000), 0);
        assert_eq!(faults(&window, 8_000), 0);
        window.add(FAULT, SECOND, at(2_000));
        assert_eq!(faults(&window, 2_000), 1);
        assert_eq!(faults(&window, 3_000), 0);
    }

    #[test]
    fn the_counts_saturate() {
        let full = Counts { faults: u32::MAX, total: u32::MAX };
        let mut window = Window::default();
        window.add(full, SECOND, at(0));
        window.add(full, SECOND, at(500));
        assert_eq!(window.counts(SECOND, at(500)), full);
    }

    #[test]
    fn an_interval_of_zero_or_of_all_time_works() {
        let mut window = Window::default();
        window.add(FAULT, Millis::ZERO, at(7));
        assert_eq!(window.counts(Millis::ZERO, at(7)).faults, 1);
        let mut window = Window::default();
        window.add(FAULT, ms(u64::MAX), at(u64::MAX));
        assert_eq!(window.counts(ms(u64::MAX), at(u64::MAX)).faults, 1);
    }

    #[test]
    fn merging_two_windows_equals_counting_in_one() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let (mut left, mut right, mut both) = <(Window, Window, Window)>::default();
            let mut now = 50_000;
            for _ in 0..40 {
                now += dice.below(150);
                let target = if dice.below(2) == 0 { &mut left } else { &mut right };
                target.add(FAULT, SECOND, at(now));
                both.add(FAULT, SECOND, at(now));
            }
            left.merge(&right, SECOND, at(now));
            assert_eq!(left.counts(SECOND, at(now)), both.counts(SECOND, at(now)), "seed {seed}");
        }
    }

    #[test]
    fn a_window_agrees_with_a_list_of_the_events() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut window = Window::default();
            let mut events: Vec<u64> = Vec::new();
            let mut now = 1_000_000;
            for _ in 0..300 {
                now += if dice.below(20) == 0 { dice.below(3_000) } else { dice.below(60) };
                window.add(FAULT, SECOND, at(now));
                events.push(now);
                let oldest_slot = (now / 100).saturating_sub(9);
                let expected = events.iter().filter(|event| *event / 100 >= oldest_slot).count();
                assert_eq!(faults(&window, now) as usize, expected, "seed {seed}, now {now}");
            }
        }
    }
}
