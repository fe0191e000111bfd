//! What a backend can take: tokens and requests per minute, and provisioned throughput.
//!
//! Waiting for a 429 costs a round trip, and Azure counts refused calls. So before a request is sent, its estimated
//! tokens are *reserved* in the chosen backend's record. Afterwards the reservation is *concluded*: corrected to the
//! tokens that the request used, or given back. A denial states until when there is no room, which is exact if
//! nothing else happens.
//!
//! *No refund.* Azure counts against tokens per minute what a request may use, when it comes, and does not correct
//! that downwards. So a request counts there as the larger of its estimate and its usage, even if it failed after it
//! was sent. Only a request that was never sent, or was refused, is given back. Provisioned throughput is corrected
//! to the usage, as at Azure.
//!
//! *Never the last word.* If no other backend is left, a request may pass the limits ([`Terms::passes_limits`]): the
//! backend's own 429 is the authority. The request is still counted.
//!
//! *Exactly once.* A [`Reservation`] can be neither copied nor cloned, and [`Reservation::conclude`] consumes it. The
//! change of the record that it passes on may run again after a lost race, because it only reads the reservation.
//! [`reserve`] may run again too: its first reservation is then dropped with the bytes that were not written.
//!
//! *In place.* A record is changed in the bytes that the host returned, which are then written back. Bytes that will
//! not be written may be changed too; they mean nothing then.
//!
//! *Overshoot.* Unless limits are passed, reservations never exceed tokens per minute; only usage beyond the
//! estimates does. A request larger than the limit counts as the limit, so that it can be sent when nothing else is
//! used. Requests never exceed their window. Provisioned throughput is exceeded by at most one request, as at Azure
//! (see `bucket`).
//!
//! *Lowered limit.* At times Azure gives a deployment less than the configured limit, for hours, and states it in
//! `x-ratelimit-limit-tokens`. It applies until [`LOWERED_FOR`] after it was last stated. A limit above the
//! configured one, or none, is ignored.
//!
//! The record has a fixed width and room for all kinds of limits; those that are not configured stay unchanged. A
//! record that is unreadable, or of an older version, is fresh: it is made anew, and its counts are missing for a
//! minute.

mod bucket;
mod minute;
mod requests;

use self::bucket::{Bucket, Poured};
pub(super) use self::minute::{Minute, MinuteHead, SLOTS_BYTES, Taken};
use self::requests::Requests;
use super::estimate::{Estimate, UsedTokens};
use crate::policy::codec::{self, Reader, Writer};
use crate::policy::time::{Millis, Timestamp};
use std::num::{NonZeroU32, NonZeroU64};

/// The newest version of a record that can be read.
pub const VERSION: u8 = 4;
/// The version, and everything except the slots of the minute.
const HEAD_BYTES: usize = 121;
const RECORD_BYTES: usize = HEAD_BYTES + SLOTS_BYTES;
/// How long a limit below the configured one applies after it was last stated.
pub const LOWERED_FOR: Millis = Millis::from_secs(300);
/// The age of a lowered limit at which storing it again is worth a contended write.
const REPEATED_AFTER: Millis = Millis::from_secs(60);
/// Two workers may read the clock in one order and write in the other.
const SKEW: Millis = Millis::from_secs(1);
/// A change of the level by less of its capacity is not worth a contended write.
const NOTABLE_PERMILLE: u64 = 5;

/// The limits of a backend. Without any, everything is granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Tokens in any minute, prompt and completion together.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests per minute. As at Azure, each window of ten seconds has a sixth of it, rounded up.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Provisioned throughput.
    pub provisioned: Option<ProvisionedSettings>,
}

impl BudgetSettings {
    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        *self != Self::default()
    }

    /// The most tokens that it takes in a minute, whatever the kind of its limits.
    pub fn token_limit(&self) -> Option<u64> {
        let provisioned = self.provisioned.map(|settings| settings.tokens_per_minute.get());
        let limit = self.tokens_per_minute.map(|limit| u64::from(limit.get()));
        provisioned.into_iter().chain(limit).min()
    }

    /// The `limit` of tokens per minute that a response states, if it is below the configured one.
    pub fn lowered(&self, limit: i64) -> Option<u32> {
        let configured = self.tokens_per_minute?.get();
        u32::try_from(limit).ok().filter(|tokens| (1..configured).contains(tokens))
    }
}

/// Provisioned throughput, in tokens of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvisionedSettings {
    /// The drain: the number of units times the tokens per minute of one unit.
    pub tokens_per_minute: NonZeroU64,
    /// The capacity, after which requests are refused. See [`Self::default_burst_tokens`].
    pub burst_tokens: u64,
    /// What a token of output counts, in thousandths of a token of input.
    pub output_token_weight_permille: u32,
}

impl ProvisionedSettings {
    /// The drain of ten seconds. Azure does not document the size of its bucket. It allows slight bursts, and names
    /// waits of at most some seconds. About ten seconds fit this, and Azure also counts requests over ten seconds.
    pub const fn default_burst_tokens(tokens_per_minute: NonZeroU64) -> u64 {
        tokens_per_minute.get().div_ceil(6)
    }
}

/// Whether a backend's budget has room for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It has. The request is reserved in the record, which must be written. Then the reservation must be concluded.
    Granted(Reservation),
    /// It has not.
    Denied {
        /// The first moment with room, if nothing else happens.
        until: Timestamp,
        /// Whether the record must still be written, because the clock was set back: its time must restart from now.
        /// Otherwise the record did not change.
        clock_went_back: bool,
    },
}

/// What a request holds in a backend's budget. It must be concluded exactly once.
#[must_use = "the tokens of a reservation that is not concluded are lost for up to a minute"]
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    estimate: Estimate,
    minute: Option<Taken>,
    bucket: Option<Poured>,
}

/// What applies to one request in addition to the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Provisioned throughput must be used less than this, in thousandths of its burst. So requests of class `batch`
    /// leave the rest to others.
    pub ceiling_permille: Option<u16>,
    /// Whether the limits are ignored, because no other backend is left. The ceiling still applies.
    pub passes_limits: bool,
}

/// How an attempt ended, as its budget sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It used tokens.
    Settled(UsedTokens),
    /// It was sent and failed, or its client left. Azure counted it when it came.
    Failed,
    /// It used none: it was never sent, or was refused.
    Released,
    /// The backend refused it with a 429, and named a delay. The tokens are given back. The request stays counted,
    /// because Azure counts it too.
    Throttled {
        /// The time until its utilization is below 100 %, bounded as for the throttle gate.
        retry_after: Option<Millis>,
    },
}

impl Reservation {
    /// The estimate.
    pub fn estimate(&self) -> Estimate {
        self.estimate
    }

    /// Concludes the attempt. `write` is called once, with the change of the backend's record. It may run the change
    /// several times, on the present record, and writes the last result.
    pub fn conclude<R>(
        self,
        ending: Settlement,
        settings: &BudgetSettings,
        now: Timestamp,
        write: impl FnOnce(&dyn Fn(&mut Vec<u8>)) -> R,
    ) -> R {
        write(&|bytes| {
            change(bytes, |record| record.conclude(&self, ending, settings, now));
        })
    }
}

/// Reserves `estimate` in a backend's record `bytes`; an unreadable record is fresh.
pub fn reserve(
    bytes: &mut Vec<u8>,
    settings: &BudgetSettings,
    estimate: Estimate,
    terms: Terms,
    now: Timestamp,
) -> Admission {
    change(bytes, |record| {
        let clock_went_back = record.move_to(settings, now);
        match record.full_until(settings, estimate, terms, now) {
            Some(until) => Admission::Denied { until, clock_went_back },
            None => Admission::Granted(record.take(settings, estimate, now)),
        }
    })
}

/// Whether a record is damaged, or of an older version. An empty one is new.
pub fn is_unusable(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !codec::is_sound(bytes, VERSION, RECORD_BYTES)
}

/// Corrects the level of provisioned throughput by the utilization that the response to the request of `reservation`
/// states, in thousandths; it may exceed 1000. `false`: nothing need be written.
pub fn utilization(
    bytes: &mut Vec<u8>,
    settings: &BudgetSettings,
    reservation: &Reservation,
    permille: u32,
    now: Timestamp,
) -> bool {
    let (Some(provisioned), Some(poured)) = (&settings.provisioned, &reservation.bucket) else {
        return false;
    };
    change(bytes, |record| {
        record.move_to(settings, now);
        let before = record.bucket.permille(provisioned);
        record.bucket.observe(provisioned, poured, permille);
        let after = record.bucket.permille(provisioned);
        before.abs_diff(after) >= NOTABLE_PERMILLE
    })
}

/// Lowers the limit of tokens per minute to the `limit` that a response states, for [`LOWERED_FOR`]. `false`: nothing
/// need be written.
pub fn limit_header(
    bytes: &mut Vec<u8>,
    settings: &BudgetSettings,
    limit: i64,
    now: Timestamp,
) -> bool {
    let Some(tokens) = settings.lowered(limit) else { return false };
    change(bytes, |record| {
        record.move_to(settings, now);
        let is_known = record.lowered.tokens == tokens
            && record.lowered.holds(now)
            && now.since(record.lowered.at) < REPEATED_AFTER;
        record.lowered = Lowered { tokens, at: now };
        !is_known
    })
}

/// The tokens per minute that can be reserved in a record now; `None` without a limit.
pub fn remaining_tokens(
    bytes: Option<&[u8]>,
    settings: &BudgetSettings,
    now: Timestamp,
) -> Option<u64> {
    let configured = settings.tokens_per_minute?;
    look(bytes, |record| {
        record.move_to(settings, now);
        let limit = record.lowered.limit(configured, now);
        Some(u64::from(limit).saturating_sub(record.minute.tokens()))
    })
}

/// The present level of a record's provisioned throughput, in thousandths of its burst; `None` if it has none.
pub fn provisioned_permille(
    bytes: Option<&[u8]>,
    settings: &BudgetSettings,
    now: Timestamp,
) -> Option<u64> {
    let provisioned = settings.provisioned?;
    look(bytes, |record| {
        record.move_to(settings, now);
        Some(record.bucket.permille(&provisioned))
    })
}

/// Changes the record in `bytes`.
fn change<R>(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Record<'_>) -> R) -> R {
    codec::make_sound(bytes, VERSION, RECORD_BYTES);
    let (head, slots) = bytes.split_at_mut_checked(HEAD_BYTES).unwrap_or_default();
    let mut record = Record::read(head, slots);
    let found = change(&mut record);
    let Record { minute, requests, bucket, lowered } = record;
    let mut writer = Writer::new(head);
    writer.u8(VERSION);
    minute.head().encode(&mut writer);
    requests.encode(&mut writer);
    bucket.encode(&mut writer);
    writer.u32(lowered.tokens);
    writer.u64(lowered.at.as_ms());
    found
}

/// Reads a copy of the record in `bytes`, which stays unchanged.
fn look<R>(bytes: Option<&[u8]>, find: impl FnOnce(&mut Record<'_>) -> R) -> R {
    change(&mut bytes.unwrap_or_default().to_vec(), find)
}

/// The shared record, with its slots in place.
#[derive(Debug)]
struct Record<'a> {
    minute: Minute<'a>,
    requests: Requests,
    bucket: Bucket,
    lowered: Lowered,
}

impl<'a> Record<'a> {
    fn read(head: &[u8], slots: &'a mut [u8]) -> Self {
        let (minute, requests, bucket, lowered) = Self::decode(head).unwrap_or_default();
        Self { minute: Minute::new(minute, slots), requests, bucket, lowered }
    }

    fn decode(head: &[u8]) -> Option<(MinuteHead, Requests, Bucket, Lowered)> {
        let mut reader = Reader::new(head);
        reader.u8()?;
        Some((
            MinuteHead::decode(&mut reader)?,
            Requests::decode(&mut reader)?,
            Bucket::decode(&mut reader)?,
            Lowered { tokens: reader.u32()?, at: Timestamp::from_ms(reader.u64()?) },
        ))
    }

    /// Moves it to `now`, and returns whether the clock went back since it was written. If it did and the record is
    /// not written, the record's time stands still until the clock is where it was.
    fn move_to(&mut self, settings: &BudgetSettings, now: Timestamp) -> bool {
        let mut clock_went_back = self.minute.move_to(now);
        self.requests = self.requests.at(now);
        if let Some(provisioned) = &settings.provisioned {
            clock_went_back |= self.bucket.drain_until(provisioned, now);
        }
        if self.lowered.is_of_the_future(now) {
            self.lowered = Lowered::default();
            clock_went_back = true;
        }
        clock_went_back
    }

    /// The latest time until which a limit has no room. From then on all have.
    fn full_until(
        &self,
        settings: &BudgetSettings,
        estimate: Estimate,
        terms: Terms,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let room = (!terms.passes_limits).then_some(bucket::ROOM_PERMILLE);
        let ceiling = [room, terms.ceiling_permille].into_iter().flatten().min();
        let provisioned = settings
            .provisioned
            .zip(ceiling)
            .and_then(|(provisioned, ceiling)| self.bucket.full_until(&provisioned, ceiling));
        if terms.passes_limits {
            return provisioned;
        }
        let tokens = settings
            .tokens_per_minute
            .and_then(|configured| self.minute_full_until(configured, estimate.total(), now));
        let requests =
            settings.requests_per_minute.and_then(|limit| self.requests.full_until(limit.get()));
        tokens.max(requests).max(provisioned)
    }

    /// With a lowered limit there may be room sooner, because that limit expires.
    fn minute_full_until(
        &self,
        configured: NonZeroU32,
        tokens: u64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let limit = self.lowered.limit(configured, now);
        let until = self.minute.full_until(tokens, limit)?;
        if limit == configured.get() {
            return Some(until);
        }
        let unlowered = self.minute.full_until(tokens, configured.get());
        let expires = self.lowered.at.plus(LOWERED_FOR);
        Some(until.min(expires.max(unlowered.unwrap_or(expires))))
    }

    fn take(
        &mut self,
        settings: &BudgetSettings,
        estimate: Estimate,
        now: Timestamp,
    ) -> Reservation {
        let minute = settings.tokens_per_minute.map(|configured| {
            self.minute.take(estimate.total(), self.lowered.limit(configured, now))
        });
        if settings.requests_per_minute.is_some() {
            self.requests.take();
        }
        let bucket = settings
            .provisioned
            .map(|settings| self.bucket.pour(&settings, &UsedTokens::from(estimate)));
        Reservation { estimate, minute, bucket }
    }

    fn conclude(
        &mut self,
        reservation: &Reservation,
        ending: Settlement,
        settings: &BudgetSettings,
        now: Timestamp,
    ) {
        let usage = match &ending {
            Settlement::Settled(usage) => Some(usage),
            Settlement::Failed | Settlement::Released | Settlement::Throttled { .. } => None,
        };
        self.move_to(settings, now);
        if let Some(taken) = &reservation.minute {
            match ending {
                Settlement::Settled(usage) => self.minute.raise(taken, usage.total()),
                Settlement::Failed => {}
                Settlement::Released | Settlement::Throttled { .. } => {
                    self.minute.correct(taken, 0)
                }
            }
        }
        let Some(provisioned) = &settings.provisioned else { return };
        if let Some(poured) = &reservation.bucket {
            self.bucket.correct(provisioned, poured, usage);
        }
        if let Settlement::Throttled { retry_after: Some(retry_after) } = ending {
            self.bucket.throttle(provisioned, retry_after);
        }
    }
}

/// A limit that the backend stated, lower than the configured one. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lowered {
    /// Zero: none.
    tokens: u32,
    at: Timestamp,
}

impl Lowered {
    fn holds(&self, now: Timestamp) -> bool {
        self.tokens > 0 && !self.is_of_the_future(now) && now.since(self.at) < LOWERED_FOR
    }

    /// Whether the clock was set back since. Then its age is unknown, so it is void.
    fn is_of_the_future(&self, now: Timestamp) -> bool {
        self.at > now.plus(SKEW)
    }

    fn limit(&self, configured: NonZeroU32, now: Timestamp) -> u32 {
        if self.holds(now) { self.tokens.min(configured.get()) } else { configured.get() }
    }
}

#[cfg(test)]
mod tests;
