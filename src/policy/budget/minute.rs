//! A sliding minute of tokens: slots of a second each, of the current second and the sixty before.
//!
//! The oldest second is forgotten as a whole, and only when its last millisecond is a minute old.
//! With sixty slots, what was taken late in a second would be forgotten up to a second too soon,
//! while Azure still counts it and refuses. So tokens count for at least 60 s and at most 61 s.
//!
//! Slots are numbered by a count of their own that only grows, so that what a request took can be
//! corrected in the slot that it was taken in, even after the wall clock was stepped. A step ahead
//! is time that passed. A step back is no time at all: the newest slot becomes that of the second
//! that it is now, and everything is forgotten a minute later, as it should be. A second back is
//! no step: two workers may just have read the clock in one order and written in the other.

use crate::policy::codec::Reader;
use crate::policy::time::{Millis, Timestamp};

/// The number of slots: sixty whole seconds, and the one that has only begun.
const SLOTS: usize = 61;

/// The tokens of the last minute. The default is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Minute {
    /// The second of the newest slot since the epoch.
    second: u64,
    /// The number of the newest slot.
    number: u64,
    /// The tokens, newest slot first.
    slots: [u32; SLOTS],
}

/// Tokens that were taken from a minute.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) struct Taken {
    number: u64,
    tokens: u32,
}

impl Default for Minute {
    fn default() -> Self {
        Self { second: 0, number: 0, slots: [0; SLOTS] }
    }
}

impl Minute {
    /// The minute up to `now`.
    pub(in crate::policy) fn at(mut self, now: Timestamp) -> Self {
        let second = now.as_ms().div_euclid(1_000);
        let gap = second.saturating_sub(self.second);
        if gap > 0 {
            let forgotten = usize::try_from(gap).map_or(SLOTS, |gap| gap.min(SLOTS));
            self.slots.rotate_right(forgotten);
            self.slots.iter_mut().take(forgotten).for_each(|slot| *slot = 0);
            self.number = self.number.wrapping_add(gap);
        }
        if gap > 0 || self.second.saturating_sub(second) > 1 {
            self.second = second;
        }
        self
    }

    /// Whether the clock went back between `before` and here.
    pub(in crate::policy) fn is_put_back_from(&self, before: &Self) -> bool {
        self.second < before.second
    }

    /// The tokens of the minute.
    pub(in crate::policy) fn tokens(&self) -> u64 {
        self.slots.iter().map(|slot| u64::from(*slot)).fold(0, u64::saturating_add)
    }

    /// Until when `tokens` do not fit below `limit`; `None`: they fit. More than the
    /// limit count as the limit, so they fit when the minute is empty.
    pub(in crate::policy) fn full_until(&self, tokens: u64, limit: u32) -> Option<Timestamp> {
        let room = u64::from(limit).saturating_sub(tokens);
        let mut left = self.tokens();
        if left <= room {
            return None;
        }
        // The oldest slot leaves in the second after the newest one's, the next one a second later.
        for (second, slot) in (self.second.saturating_add(1)..).zip(self.slots.into_iter().rev()) {
            left = left.saturating_sub(u64::from(slot));
            if left <= room {
                return Some(Timestamp::ZERO.plus(Millis::from_secs(second)));
            }
        }
        None
    }

    /// Takes `tokens`, at most `limit`.
    pub(in crate::policy) fn take(&mut self, tokens: u64, limit: u32) -> Taken {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX).min(limit);
        if let Some(newest) = self.slots.first_mut() {
            *newest = newest.saturating_add(tokens);
        }
        Taken { number: self.number, tokens }
    }

    /// Makes what was taken `tokens`, unless it is forgotten.
    pub(in crate::policy) fn correct(&mut self, taken: &Taken, tokens: u64) {
        let age = self.number.wrapping_sub(taken.number);
        let Ok(age) = usize::try_from(age) else { return };
        if let Some(slot) = self.slots.get_mut(age) {
            let others = u64::from(slot.saturating_sub(taken.tokens));
            *slot = u32::try_from(others.saturating_add(tokens)).unwrap_or(u32::MAX);
        }
    }

    pub(in crate::policy) fn encode(&self, record: &mut Vec<u8>) {
        record.extend(self.second.to_le_bytes());
        record.extend(self.number.to_le_bytes());
        self.slots.iter().for_each(|slot| record.extend(slot.to_le_bytes()));
    }

    pub(in crate::policy) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut minute = Self { second: reader.u64()?, number: reader.u64()?, ..Self::default() };
        for slot in &mut minute.slots {
            *slot = reader.u32()?;
        }
        Some(minute)
    }
}
