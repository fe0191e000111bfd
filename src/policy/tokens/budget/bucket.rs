//! The leaky bucket of provisioned throughput.
//!
//! Tokens are normalised: a cached token costs nothing, and an output token as much as several input tokens. Azure
//! admits requests while the level is below the capacity, so the last admitted request may raise it above. The level
//! drains all the time, and is corrected when a request ends.
//!
//! A token has [`PARTS_PER_TOKEN`] parts, so a drain of n tokens per minute is exactly n parts per millisecond, and
//! nothing is ever rounded.
//!
//! *Azure's statements correct the level.* A 429 states the time until the level is below the capacity; the level is
//! raised to that. The utilization in a response is harder: it was true at some time between the sending of that
//! request and now, and it may or may not include requests that were sent since. Setting the level to it would lose
//! those, and with many requests in flight the level would jump with every response. But it bounds the level: above
//! it by everything that was poured in since, and below it by everything that was taken out and drained since. The
//! level is moved only if it is out of these bounds, and only to the nearer one. For this, the record counts
//! everything that ever went in and out. Corrections count too, so an older response cannot undo a newer one.
//!
//! *An over-estimate is taken out once.* If the level is too high, the usual cause is requests in flight for which
//! Azure counts less than was estimated, perhaps nothing until they end. What a utilization takes out is *written
//! off* the reservations of these requests, in proportion. Their settlement takes out only the rest.
//!
//! A lost reservation (its worker died) would never be taken out. So the level is at most what drains in a minute
//! above the capacity, and a lost reservation costs at most a minute. It counts as reserved for at most
//! [`GENERATIONS`] times [`GENERATION`]; so does a stream that takes longer.
//!
//! *Room.* Requests are admitted below [`ROOM_PERMILLE`] of the capacity, so that small differences from Azure's
//! bucket cause no 429. This wastes nothing: a bucket that is never empty drains at full speed.

use super::{ProvisionedSettings, SKEW};
use crate::policy::codec::{Reader, Writer};
use crate::policy::time::{Millis, Timestamp};
use crate::policy::tokens::estimate::UsedTokens;

/// Milliseconds per minute: see above.
const PARTS_PER_TOKEN: u64 = 60_000;
const PARTS_PER_PERMILLE: u64 = 60;
/// The part of the capacity below which a request is admitted, in thousandths.
pub(super) const ROOM_PERMILLE: u16 = 980;
/// Reservations of this period count as reserved together, and are forgotten together.
const GENERATION: Millis = Millis::from_secs(30);
/// How many generations are remembered, including the current one.
const GENERATIONS: usize = 3;
/// The highest level above the capacity, as the time that it takes to drain.
const HIGHEST: Millis = Millis::from_secs(60);

/// The bucket. The default is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// The parts in it at the time `at`.
    level: u64,
    /// The time of that level.
    at: Timestamp,
    /// All parts that ever went in, wrapping.
    poured: u64,
    /// All parts that were ever taken out other than by draining, wrapping.
    taken_out: u64,
    /// The part of [`Self::reserved`] that was taken out already.
    written_off: u64,
    /// The number of the current generation of reservations; it only grows.
    generation: u64,
    /// The parts that are reserved and not yet concluded, by generation modulo [`GENERATIONS`].
    reserved: [u64; GENERATIONS],
}

/// What one request poured in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Poured {
    parts: u64,
    at: Timestamp,
    /// The counts of the bucket before that.
    poured_before: u64,
    taken_out_before: u64,
    generation: u64,
}

impl Bucket {
    /// Drains it until `now`, and returns whether the clock went back since it was written. After a clock that was
    /// set back, it continues from now with the same level.
    pub(super) fn drain_until(&mut self, settings: &ProvisionedSettings, now: Timestamp) -> bool {
        let clock_went_back = self.at > now.plus(SKEW);
        let drained = settings.drain().saturating_mul(now.since(self.at).as_ms());
        self.level = self.level.saturating_sub(drained);
        if now > self.at || clock_went_back {
            self.forget(now, clock_went_back);
            self.at = now;
        }
        clock_went_back
    }

    /// Begins the generation of `now`, and forgets the reservations of generations that are too old. If the clock
    /// went back, all are.
    fn forget(&mut self, now: Timestamp, clock_went_back: bool) {
        let number = |at: Timestamp| at.as_ms().checked_div(GENERATION.as_ms()).unwrap_or(0);
        let all = GENERATIONS as u64;
        let gap = if clock_went_back { all } else { number(now).saturating_sub(number(self.at)) };
        for _ in 0..gap.min(all) {
            self.generation = self.generation.wrapping_add(1);
            if let Some(reserved) = self.reserved.get_mut(position(self.generation)) {
                *reserved = 0;
            }
        }
        self.written_off = self.written_off.min(self.reserved());
    }

    /// The parts that are reserved and not yet concluded.
    fn reserved(&self) -> u64 {
        self.reserved.into_iter().fold(0, u64::saturating_add)
    }

    /// Until when the level is at least `permille` of the capacity; `None`: it is below.
    pub(super) fn full_until(
        &self,
        settings: &ProvisionedSettings,
        permille: u16,
    ) -> Option<Timestamp> {
        // At least one part: an empty bucket always has room.
        let threshold = share(settings.capacity(), u32::from(permille)).max(1);
        let excess = self.level.checked_sub(threshold)?;
        let drained = excess.checked_div(settings.drain()).unwrap_or(u64::MAX);
        Some(self.at.plus(Millis::new(drained.saturating_add(1))))
    }

    /// The level in thousandths of the capacity.
    pub(super) fn permille(&self, settings: &ProvisionedSettings) -> u64 {
        let permille = self.level.saturating_mul(1_000).checked_div(settings.capacity().max(1));
        permille.unwrap_or(u64::MAX)
    }

    /// Pours a request in.
    pub(super) fn pour(&mut self, settings: &ProvisionedSettings, usage: &UsedTokens) -> Poured {
        let Self { level: before, poured, taken_out, generation, .. } = *self;
        self.move_to(settings, before.saturating_add(parts(settings, usage)));
        let parts = self.level.saturating_sub(before);
        if let Some(reserved) = self.reserved.get_mut(position(generation)) {
            *reserved = reserved.saturating_add(parts);
        }
        Poured {
            parts,
            at: self.at,
            poured_before: poured,
            taken_out_before: taken_out,
            generation,
        }
    }

    /// Changes what a request poured in to that of the actual `usage`; `None`: nothing.
    pub(super) fn correct(
        &mut self,
        settings: &ProvisionedSettings,
        poured: &Poured,
        usage: Option<&UsedTokens>,
    ) {
        let actual = usage.map_or(0, |usage| parts(settings, usage));
        let left = poured.parts.saturating_sub(self.give_up(poured));
        let (more, less) = (actual.saturating_sub(left), left.saturating_sub(actual));
        self.move_to(settings, self.level.saturating_add(more).saturating_sub(less));
    }

    /// Ends a reservation, and returns how much of it was written off.
    fn give_up(&mut self, poured: &Poured) -> u64 {
        let all = self.reserved();
        if self.generation.wrapping_sub(poured.generation) >= GENERATIONS as u64 {
            return 0;
        }
        if let Some(reserved) = self.reserved.get_mut(position(poured.generation)) {
            *reserved = reserved.saturating_sub(poured.parts);
        }
        let permille = self.written_off.saturating_mul(1_000).checked_div(all).unwrap_or(0);
        let written_off = share(poured.parts, u32::try_from(permille).unwrap_or(1_000));
        self.written_off = self.written_off.saturating_sub(written_off).min(self.reserved());
        written_off
    }

    /// Azure refused: the level will not be below the capacity before `retry_after` has passed.
    pub(super) fn throttle(&mut self, settings: &ProvisionedSettings, retry_after: Millis) {
        let excess = settings.drain().saturating_mul(retry_after.as_ms());
        let level = settings.capacity().saturating_add(excess).saturating_sub(1);
        self.move_to(settings, self.level.max(level));
    }

    /// Azure stated, in the response to the request of `poured`, that the level was `permille`.
    pub(super) fn observe(
        &mut self,
        settings: &ProvisionedSettings,
        poured: &Poured,
        permille: u32,
    ) {
        let said = share(settings.capacity(), permille);
        let poured_since = self.poured.wrapping_sub(poured.poured_before);
        let taken_out_since = self.taken_out.wrapping_sub(poured.taken_out_before);
        let drained = settings.drain().saturating_mul(self.at.since(poured.at).as_ms());
        let least = said.saturating_sub(drained).saturating_sub(taken_out_since);
        let most = said.saturating_add(poured_since);
        let level = self.level.min(most).max(least);
        let written_off = self.written_off.saturating_add(self.level.saturating_sub(level));
        self.written_off = written_off.min(self.reserved());
        self.move_to(settings, level);
    }

    pub(super) fn encode(&self, record: &mut Writer<'_>) {
        let Self { level, at, poured, taken_out, written_off, generation, reserved } = *self;
        for field in [level, at.as_ms(), poured, taken_out, written_off, generation] {
            record.u64(field);
        }
        for parts in reserved {
            record.u64(parts);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut bucket = Self {
            level: reader.u64()?,
            at: Timestamp::from_ms(reader.u64()?),
            poured: reader.u64()?,
            taken_out: reader.u64()?,
            written_off: reader.u64()?,
            generation: reader.u64()?,
            reserved: [0; GENERATIONS],
        };
        for parts in &mut bucket.reserved {
            *parts = reader.u64()?;
        }
        Some(bucket)
    }

    fn move_to(&mut self, settings: &ProvisionedSettings, level: u64) {
        let above = settings.drain().saturating_mul(HIGHEST.as_ms());
        let level = level.min(settings.capacity().saturating_add(above));
        self.poured = self.poured.wrapping_add(level.saturating_sub(self.level));
        self.taken_out = self.taken_out.wrapping_add(self.level.saturating_sub(level));
        self.level = level;
    }
}

impl ProvisionedSettings {
    /// The drain in parts per millisecond.
    fn drain(&self) -> u64 {
        self.tokens_per_minute.get()
    }

    /// The capacity in parts.
    fn capacity(&self) -> u64 {
        self.burst_tokens.saturating_mul(PARTS_PER_TOKEN)
    }
}

/// Where the reservations of this generation are counted.
fn position(generation: u64) -> usize {
    usize::try_from(generation.rem_euclid(GENERATIONS as u64)).unwrap_or(0)
}

fn parts(settings: &ProvisionedSettings, usage: &UsedTokens) -> u64 {
    let input = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    let per_output =
        u64::from(settings.output_token_weight_permille).saturating_mul(PARTS_PER_PERMILLE);
    let output = usage.completion_tokens.saturating_mul(per_output);
    input.saturating_mul(PARTS_PER_TOKEN).saturating_add(output)
}

/// `permille` thousandths of `parts`, rounded down. 128 bits would be exact without this, but slow.
fn share(parts: u64, permille: u32) -> u64 {
    let permille = u64::from(permille);
    let (whole, rest) = (parts.div_euclid(1_000), parts.rem_euclid(1_000));
    let of_rest = rest.saturating_mul(permille).div_euclid(1_000);
    whole.saturating_mul(permille).saturating_add(of_rest)
}
