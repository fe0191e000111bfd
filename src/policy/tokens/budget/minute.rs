//! A sliding minute of tokens: one slot per second, for the current second and the sixty before.
//!
//! The oldest second is forgotten as a whole, and only when its last millisecond is a minute old. With sixty slots,
//! tokens taken late in a second would be forgotten up to a second too early, while Azure still counts them and
//! refuses. So tokens count for at least 60 s and at most 61 s.
//!
//! Slots have consecutive numbers, which only grow. So the tokens of a request can be corrected in the slot in which
//! they were taken, even after a step of the wall clock. A step forward is time that passed. After a step back no
//! time passed: the newest slot becomes the slot of the present second, and everything is forgotten a minute later,
//! as it should be. One second back is no step: two workers may have read the clock in one order and written in the
//! other.
//!
//! Most requests need only one slot and the sum of all. So the slots are a ring that stays in place in the record,
//! and the sum is stored beside it. It is recomputed every second, so a damaged sum is wrong for no longer.

use crate::policy::codec::{Reader, Writer};
use crate::policy::time::{Millis, Timestamp};

/// The number of slots: sixty whole seconds, and the current one.
const SLOTS: usize = 61;
const SLOT_BYTES: usize = 4;
/// The size of [`Slots`] in a record.
pub(in crate::policy) const SLOTS_BYTES: usize = SLOTS * SLOT_BYTES;

/// The fields of a minute beside its slots. The default belongs to slots that are all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct MinuteHead {
    /// The second of the newest slot, since the epoch.
    second: u64,
    /// The number of the newest slot.
    number: u64,
    /// The tokens of all slots.
    tokens: u64,
}

/// The tokens of the last minute.
#[derive(Debug)]
pub(in crate::policy) struct Minute<'a> {
    head: MinuteHead,
    slots: Slots<'a>,
}

/// The tokens of each second in a record, by number modulo [`SLOTS`].
#[derive(Debug)]
struct Slots<'a>(&'a mut [[u8; SLOT_BYTES]]);

/// Tokens that were taken from a minute.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) struct Taken {
    number: u64,
    tokens: u32,
}

impl MinuteHead {
    pub(in crate::policy) fn encode(&self, record: &mut Writer<'_>) {
        record.u64(self.second);
        record.u64(self.number);
        record.u64(self.tokens);
    }

    pub(in crate::policy) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { second: reader.u64()?, number: reader.u64()?, tokens: reader.u64()? })
    }
}

impl<'a> Minute<'a> {
    /// The minute with this head, whose slots are the [`SLOTS_BYTES`] `slots` of a record.
    pub(in crate::policy) fn new(head: MinuteHead, slots: &'a mut [u8]) -> Self {
        Self { head, slots: Slots(slots.as_chunks_mut().0) }
    }

    /// What must be written beside the slots.
    pub(in crate::policy) fn head(&self) -> &MinuteHead {
        &self.head
    }

    /// Moves it to `now`, and returns whether the clock went back since it was written.
    pub(in crate::policy) fn move_to(&mut self, now: Timestamp) -> bool {
        let second = now.as_ms().div_euclid(1_000);
        let gap = second.saturating_sub(self.head.second);
        if gap > 0 {
            self.forget(gap);
        }
        let clock_went_back = self.head.second.saturating_sub(second) > 1;
        if gap > 0 || clock_went_back {
            self.head.second = second;
        }
        clock_went_back
    }

    /// The tokens of the minute.
    pub(in crate::policy) fn tokens(&self) -> u64 {
        self.head.tokens
    }

    /// Until when `tokens` do not fit below `limit`; `None`: they fit. More tokens than the limit count as the limit,
    /// so they fit when the minute is empty.
    pub(in crate::policy) fn full_until(&self, tokens: u64, limit: u32) -> Option<Timestamp> {
        let room = u64::from(limit).saturating_sub(tokens);
        let mut left = self.head.tokens;
        if left <= room {
            return None;
        }
        // The oldest slot is dropped in the second after that of the newest one, and the next slot a second later.
        let seconds = self.head.second.saturating_add(1)..;
        let oldest = index(self.head.number).saturating_add(1);
        for (second, slot) in seconds.zip(self.slots.from(oldest)) {
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
        let number = self.head.number;
        self.change(number, |slot| slot.saturating_add(tokens));
        Taken { number, tokens }
    }

    /// Raises the taken tokens to `tokens` if that is more, unless they are forgotten.
    pub(in crate::policy) fn raise(&mut self, taken: &Taken, tokens: u64) {
        if tokens > u64::from(taken.tokens) {
            self.correct(taken, tokens);
        }
    }

    /// Changes the taken tokens to `tokens`, unless they are forgotten.
    pub(in crate::policy) fn correct(&mut self, taken: &Taken, tokens: u64) {
        let age = self.head.number.wrapping_sub(taken.number);
        if age < SLOTS as u64 {
            self.change(taken.number, |slot| {
                let others = u64::from(slot.saturating_sub(taken.tokens));
                u32::try_from(others.saturating_add(tokens)).unwrap_or(u32::MAX)
            });
        }
    }

    fn change(&mut self, number: u64, change: impl FnOnce(u32) -> u32) {
        if let Some(slot) = self.slots.0.get_mut(index(number)) {
            let before = u32::from_le_bytes(*slot);
            let after = change(before);
            *slot = after.to_le_bytes();
            let others = self.head.tokens.saturating_sub(u64::from(before));
            self.head.tokens = others.saturating_add(u64::from(after));
        }
    }

    /// Makes room for the next `seconds`, each in the oldest slot.
    fn forget(&mut self, seconds: u64) {
        let next = index(self.head.number).saturating_add(1);
        let forgotten = usize::try_from(seconds).map_or(SLOTS, |seconds| seconds.min(SLOTS));
        self.slots.clear(next, forgotten);
        self.head.number = self.head.number.wrapping_add(seconds);
        self.head.tokens = self.slots.sum();
    }
}

impl Slots<'_> {
    /// All slots in the order of the ring, beginning at `start`, which is at most [`SLOTS`].
    fn from(&self, start: usize) -> impl Iterator<Item = u32> {
        let (before, after) = self.0.split_at_checked(start).unwrap_or_default();
        after.iter().chain(before).map(|slot| u32::from_le_bytes(*slot))
    }

    /// Empties `count` slots in the order of the ring, beginning at `start`.
    fn clear(&mut self, start: usize, count: usize) {
        let (before, after) = self.0.split_at_mut_checked(start).unwrap_or_default();
        after.iter_mut().chain(before).take(count).for_each(|slot| *slot = [0; SLOT_BYTES]);
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|slot| u64::from(u32::from_le_bytes(*slot))).fold(0, u64::wrapping_add)
    }
}

/// The position of the slot with this number.
fn index(number: u64) -> usize {
    usize::try_from(number.rem_euclid(SLOTS as u64)).unwrap_or(0)
}
