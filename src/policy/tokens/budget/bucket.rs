//! The leaky bucket of provisioned throughput.
//!
//! Tokens are normalised: a cached one costs nothing and one of output as much as several of input.
//! Azure admits while the level is below the capacity, so the last request admitted may take it
//! above; the level drains all the time, and is corrected when a request is over.
//!
//! A token has [`PARTS_PER_TOKEN`] parts, so that a drain of n tokens per minute is exactly as
//! many parts per millisecond: nothing is ever rounded.
//!
//! *What Azure says corrects the level.* A 429 names the time until the level is below the capacity;
//! so much it is at least. The utilization in a response is harder: it was true at some time between
//! the sending of that request and now, and requests that went since may or may not be in it. To
//! set the level to it would lose those, and with many requests in flight the level would jump with
//! every response. But it bounds the level: at most all that was poured in since comes on top, and
//! at most all that was taken out and drained since goes off. The level is moved only when it is
//! out of these bounds, and only as far as the next one. For this the record counts all that ever
//! went in and out; corrections count too, so that an older response cannot undo a newer one.
//!
//! A reservation that is lost (its worker died) would never be taken out. So the level is at most
//! what drains in a minute above the capacity, and a lost one costs a minute at most.

use super::{ProvisionedSettings, SKEW};
use crate::policy::codec::{Reader, Writer};
use crate::policy::time::{Millis, Timestamp};
use crate::policy::tokens::estimate::UsedTokens;

/// Milliseconds in a minute: see above.
const PARTS_PER_TOKEN: u64 = 60_000;
const PARTS_PER_PERMILLE: u64 = 60;
/// How far above the capacity the level can be, by the time that it takes to drain.
const HIGHEST: Millis = Millis::from_secs(60);

/// The bucket. The default is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// The parts in it.
    level: u64,
    /// When that was its level.
    at: Timestamp,
    /// All parts that ever went in, wrapping.
    poured: u64,
    /// All parts that were ever taken out other than by draining, wrapping.
    taken_out: u64,
}

/// What one request poured in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Poured {
    parts: u64,
    at: Timestamp,
    /// The counts of the bucket before.
    poured_before: u64,
    taken_out_before: u64,
}

impl Bucket {
    /// Drains it until `now`, and says whether the clock went back since it was written. A clock
    /// that was put back starts from here with the level as it is.
    pub(super) fn drain_until(&mut self, settings: &ProvisionedSettings, now: Timestamp) -> bool {
        let is_put_back = self.at > now.plus(SKEW);
        let drained = settings.drain().saturating_mul(now.since(self.at).as_ms());
        self.level = self.level.saturating_sub(drained);
        if now > self.at || is_put_back {
            self.at = now;
        }
        is_put_back
    }

    /// Until when the level is not below `permille` of the capacity; `None`: it is.
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
        let (poured_before, taken_out_before) = (self.poured, self.taken_out);
        let before = self.level;
        self.move_to(settings, before.saturating_add(parts(settings, usage)));
        let parts = self.level.saturating_sub(before);
        Poured { parts, at: self.at, poured_before, taken_out_before }
    }

    /// Makes what was poured in that of the actual `usage`; `None`: nothing.
    pub(super) fn correct(
        &mut self,
        settings: &ProvisionedSettings,
        poured: &Poured,
        usage: Option<&UsedTokens>,
    ) {
        let actual = usage.map_or(0, |usage| parts(settings, usage));
        let more = actual.saturating_sub(poured.parts);
        let less = poured.parts.saturating_sub(actual);
        self.move_to(settings, self.level.saturating_add(more).saturating_sub(less));
    }

    /// Azure refused: the level will be below the capacity after `retry_after`, not sooner.
    pub(super) fn throttle(&mut self, settings: &ProvisionedSettings, retry_after: Millis) {
        let excess = settings.drain().saturating_mul(retry_after.as_ms());
        let level = settings.capacity().saturating_add(excess).saturating_sub(1);
        self.move_to(settings, self.level.max(level));
    }

    /// Azure said, in the response to the request that poured `poured`, that it was at `permille`.
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
        self.move_to(settings, self.level.min(most).max(least));
    }

    pub(super) fn encode(&self, record: &mut Writer<'_>) {
        for field in [self.level, self.at.as_ms(), self.poured, self.taken_out] {
            record.u64(field);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            level: reader.u64()?,
            at: Timestamp::from_ms(reader.u64()?),
            poured: reader.u64()?,
            taken_out: reader.u64()?,
        })
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
    /// Parts per millisecond.
    fn drain(&self) -> u64 {
        self.tokens_per_minute.get()
    }

    /// In parts.
    fn capacity(&self) -> u64 {
        self.burst_tokens.saturating_mul(PARTS_PER_TOKEN)
    }
}

fn parts(settings: &ProvisionedSettings, usage: &UsedTokens) -> u64 {
    let input = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    let per_output =
        u64::from(settings.output_token_weight_permille).saturating_mul(PARTS_PER_PERMILLE);
    let output = usage.completion_tokens.saturating_mul(per_output);
    input.saturating_mul(PARTS_PER_TOKEN).saturating_add(output)
}

/// The thousandths of `parts`, rounded down. 128 bits would be exact without this, and slow.
fn share(parts: u64, permille: u32) -> u64 {
    let permille = u64::from(permille);
    let (whole, rest) = (parts.div_euclid(1_000), parts.rem_euclid(1_000));
    let of_rest = rest.saturating_mul(permille).div_euclid(1_000);
    whole.saturating_mul(permille).saturating_add(of_rest)
}
