//! What a consumer may use: tokens per minute, and a quota of tokens per hour, day or month.
//!
//! Both are reserved by the estimate and corrected to the usage, so they are exact across workers while requests are
//! in flight. Above the tokens per minute the reply is 429: retry soon. Above the quota it is 403, as in API
//! Management's token limit policy, because a retry soon does not help. If both are exceeded, the quota decides.
//!
//! Periods are those of the UTC calendar. As with the minute, a clock that is set back into an earlier period keeps
//! the usage, and one that is set ahead begins the new period. A request larger than a limit counts as the limit, so
//! that it can pass when nothing is used.
//!
//! *Consumers that are not listed* can have any name that a client can authenticate with, and a record for each name
//! would stay forever. So they share [`UNLISTED_SLOTS`] records by a hash of the name, and two of them in one slot
//! share one budget. Of ten such consumers hardly one in a hundred shares a slot, of a hundred one in ten: important
//! consumers should be listed. The hash is keyed by a secret of the process, so nobody can find a name that shares
//! another one's slot.
//!
//! *Other versions.* A month is long, and Envoy may get a newer module meanwhile. So the used part of a quota is also
//! read from records of older versions; their minute restarts.

use super::budget::{Minute, MinuteHead, SLOTS_BYTES, Taken};
use super::estimate::{Estimate, UsedTokens};
use crate::policy::calendar;
use crate::policy::codec::{self, Reader, Writer};
use crate::policy::time::{Millis, Timestamp};
use std::hash::Hasher;
use std::num::{NonZeroU32, NonZeroU64};

/// The newest version of a record that can be read.
pub const VERSION: u8 = 3;
/// The version, and everything except the slots of the minute.
const HEAD_BYTES: usize = 49;
const RECORD_BYTES: usize = HEAD_BYTES + SLOTS_BYTES;
/// The size of the quota's part of a record.
const USED_BYTES: usize = 24;
/// The records of consumers that are not listed: at 300 bytes each, at most a third of a megabyte.
pub const UNLISTED_SLOTS: u64 = 1_024;
/// Two workers may read the clock in one order and write in the other.
const SKEW: Millis = Millis::from_secs(1);
const DAY: Millis = Millis::from_secs(86_400);
const HOUR: Millis = Millis::from_secs(3_600);

/// What a consumer may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// Tokens in any minute, prompt and completion together.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Tokens in a period of the calendar.
    pub quota: Option<Quota>,
    /// Whether its requests yield to others.
    pub class: Class,
}

/// Tokens in a period of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub tokens: NonZeroU64,
    /// The period.
    pub period: Period,
}

/// How requests compete for provisioned throughput.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Uses it only below a configured utilization.
    Batch,
    /// Uses all of it.
    #[default]
    Interactive,
}

/// A period of the UTC calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From a full hour to the next.
    Hour,
    /// From the first of a month to the first of the next.
    Month,
}

impl Period {
    /// When the period of `now` began, and when the next one begins.
    pub fn bounds(self, now: Timestamp) -> (Timestamp, Timestamp) {
        match self {
            Self::Hour => multiple(now, HOUR),
            Self::Day => multiple(now, DAY),
            Self::Month => {
                let days = now.as_ms().checked_div(DAY.as_ms()).unwrap_or(0);
                let (year, month) = calendar::month_of_day(days);
                let next = if month == 12 {
                    (year.saturating_add(1), 1)
                } else {
                    (year, month.saturating_add(1))
                };
                (first_of(year, month), first_of(next.0, next.1))
            }
        }
    }
}

/// Whether a consumer may send a request.
#[derive(Debug, PartialEq, Eq)]
pub enum ConsumerAdmission {
    /// It may. Its tokens are reserved in the record, which must be written.
    Granted {
        /// It must be concluded once the record is written.
        reservation: ConsumerReservation,
        /// What is left after that.
        remaining: Remaining,
    },
    /// It may not yet.
    Denied {
        /// The exceeded limit.
        limit: Limit,
        /// The first moment at which it is not exceeded, if nothing else happens.
        until: Timestamp,
        /// What is left.
        remaining: Remaining,
        /// The same as in [`super::budget::Admission::Denied`].
        clock_went_back: bool,
    },
}

/// A limit that a consumer can exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Its tokens per minute are used up (429).
    TokensPerMinute,
    /// Its quota is used up (403), until the next period begins.
    Quota,
}

/// What a consumer has left; `None` where it has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Of its tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Of its quota.
    pub quota: Option<u64>,
}

/// What a request holds in a consumer's budget. It must be concluded exactly once.
#[must_use = "the tokens of a reservation that is not concluded stay used"]
#[derive(Debug, PartialEq, Eq)]
pub struct ConsumerReservation {
    minute: Option<Taken>,
    quota: Option<Drawn>,
}

impl ConsumerReservation {
    /// Corrects the tokens to those that were used; `None`: the request used none. `write` is called once, with the
    /// change of the consumer's record, which returns what is left. It may run the change several times, on the
    /// present record, and writes the last result.
    pub fn conclude<R>(
        self,
        usage: Option<UsedTokens>,
        settings: &ConsumerSettings,
        now: Timestamp,
        write: impl FnOnce(&dyn Fn(&mut Vec<u8>) -> Remaining) -> R,
    ) -> R {
        let tokens = usage.map_or(0, UsedTokens::total);
        write(&|bytes| {
            change(bytes, |record| {
                record.move_to(settings, now);
                if let Some(taken) = &self.minute {
                    record.minute.correct(taken, tokens);
                }
                if let Some(drawn) = &self.quota {
                    record.used.correct(drawn, tokens);
                }
                record.remaining(settings)
            })
        })
    }
}

/// Reserves `estimate` in a consumer's record `bytes`; an unreadable record is fresh.
pub fn admit(
    bytes: &mut Vec<u8>,
    settings: &ConsumerSettings,
    estimate: Estimate,
    now: Timestamp,
) -> ConsumerAdmission {
    change(bytes, |record| {
        let clock_went_back = record.move_to(settings, now);
        if let Some((limit, until)) = record.over(settings, estimate.total(), now) {
            let remaining = record.remaining(settings);
            return ConsumerAdmission::Denied { limit, until, remaining, clock_went_back };
        }
        let reservation = record.take(settings, estimate.total());
        ConsumerAdmission::Granted { reservation, remaining: record.remaining(settings) }
    })
}

/// Whether a record is damaged. An empty one is new, and from one of an older version the quota is kept.
pub fn is_unusable(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && !codec::is_sound(bytes, VERSION, RECORD_BYTES)
        && used_of_older(bytes).is_none()
}

/// What a consumer has left in its record now.
pub fn remaining(bytes: Option<&[u8]>, settings: &ConsumerSettings, now: Timestamp) -> Remaining {
    change(&mut bytes.unwrap_or_default().to_vec(), |record| {
        record.move_to(settings, now);
        record.remaining(settings)
    })
}

/// The slot, below [`UNLISTED_SLOTS`], of a consumer that is not listed.
pub fn unlisted_slot(name: &str, secret: &SlotSecret) -> u64 {
    #[expect(deprecated, reason = "the only keyed hash of the standard library, and a sound one")]
    let mut hash = std::hash::SipHasher::new_with_keys(secret.0[0], secret.0[1]);
    hash.write(name.as_bytes());
    hash.finish().checked_rem(UNLISTED_SLOTS).unwrap_or(0)
}

/// The secret that spreads unlisted consumers over the slots. They do not know it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SlotSecret([u64; 2]);

impl SlotSecret {
    /// The newest version of its record that can be read.
    pub const VERSION: u8 = 1;

    /// The secret of these random numbers.
    pub fn new(random: [u64; 2]) -> Self {
        Self(random)
    }

    /// The record that [`Self::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut record = vec![Self::VERSION];
        self.0.iter().for_each(|half| record.extend(half.to_le_bytes()));
        record
    }

    /// The secret in a record; `None` when it is unreadable.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(record);
        let is_sound = codec::is_sound(record, Self::VERSION, 17) && reader.u8().is_some();
        is_sound.then_some(Self([reader.u64()?, reader.u64()?]))
    }
}

impl std::fmt::Debug for SlotSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// Changes the record in `bytes`, in place as in [`super::budget`].
fn change<R>(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Record<'_>) -> R) -> R {
    let older = used_of_older(bytes);
    codec::make_sound(bytes, VERSION, RECORD_BYTES);
    let (head, slots) = bytes.split_at_mut_checked(HEAD_BYTES).unwrap_or_default();
    let mut record = Record::read(head, slots);
    if let Some(used) = older {
        record.used = used;
    }
    let found = change(&mut record);
    let Record { minute, used } = record;
    let mut writer = Writer::new(head);
    writer.u8(VERSION);
    minute.head().encode(&mut writer);
    writer.u64(used.since.as_ms());
    writer.u64(used.number);
    writer.u64(used.tokens);
    found
}

/// The used part of a quota in a record of an older version. Each version has another length.
fn used_of_older(bytes: &[u8]) -> Option<Used> {
    let version = bytes.first().filter(|version| (1..VERSION).contains(*version))?;
    let used = match (version, bytes.len()) {
        // The last bytes, after a minute of 60 and of 61 slots.
        (1, 281) | (2, 285) => bytes.last_chunk::<USED_BYTES>()?.as_slice(),
        // Marked as an older version, but with the layout of this one.
        (_, RECORD_BYTES) => bytes.split_at_checked(HEAD_BYTES)?.0.last_chunk::<USED_BYTES>()?,
        _ => return None,
    };
    Used::decode(&mut Reader::new(used))
}

/// The shared record, with its slots in place.
#[derive(Debug)]
struct Record<'a> {
    minute: Minute<'a>,
    used: Used,
}

impl<'a> Record<'a> {
    fn read(head: &[u8], slots: &'a mut [u8]) -> Self {
        let (minute, used) = Self::decode(head).unwrap_or_default();
        Self { minute: Minute::new(minute, slots), used }
    }

    fn decode(head: &[u8]) -> Option<(MinuteHead, Used)> {
        let mut reader = Reader::new(head);
        reader.u8()?;
        let minute = MinuteHead::decode(&mut reader)?;
        Some((minute, Used::decode(&mut reader)?))
    }

    /// Moves it to `now`, and returns whether the clock went back since it was written.
    fn move_to(&mut self, settings: &ConsumerSettings, now: Timestamp) -> bool {
        let clock_went_back = self.minute.move_to(now);
        let Some(quota) = settings.quota else { return clock_went_back };
        let since = self.used.since;
        self.used = self.used.at(quota.period, now);
        clock_went_back || self.used.since < since
    }

    /// The limit that `tokens` more would exceed, and until when it applies.
    fn over(
        &self,
        settings: &ConsumerSettings,
        tokens: u64,
        now: Timestamp,
    ) -> Option<(Limit, Timestamp)> {
        if let Some(quota) = settings.quota
            && self.used.exceed(tokens, quota.tokens.get())
        {
            return Some((Limit::Quota, quota.period.bounds(now).1));
        }
        let until = self.minute.full_until(tokens, settings.tokens_per_minute?.get())?;
        Some((Limit::TokensPerMinute, until))
    }

    fn take(&mut self, settings: &ConsumerSettings, tokens: u64) -> ConsumerReservation {
        let minute = settings.tokens_per_minute.map(|limit| self.minute.take(tokens, limit.get()));
        let quota = settings.quota.map(|quota| self.used.draw(tokens.min(quota.tokens.get())));
        ConsumerReservation { minute, quota }
    }

    fn remaining(&self, settings: &ConsumerSettings) -> Remaining {
        let minute =
            |limit: NonZeroU32| u64::from(limit.get()).saturating_sub(self.minute.tokens());
        Remaining {
            tokens_per_minute: settings.tokens_per_minute.map(minute),
            quota: settings.quota.map(|quota| quota.tokens.get().saturating_sub(self.used.tokens)),
        }
    }
}

/// The tokens used in the current period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    /// When the period began.
    since: Timestamp,
    /// How many periods there were before, so that tokens from another period are not corrected here.
    number: u64,
    tokens: u64,
}

/// Tokens that were taken from a quota.
#[derive(Debug, PartialEq, Eq)]
struct Drawn {
    number: u64,
    tokens: u64,
}

impl Used {
    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let since = Timestamp::from_ms(reader.u64()?);
        Some(Self { since, number: reader.u64()?, tokens: reader.u64()? })
    }

    fn at(mut self, period: Period, now: Timestamp) -> Self {
        let (start, _) = period.bounds(now);
        if start > self.since {
            self = Self { since: start, number: self.number.wrapping_add(1), tokens: 0 };
        } else if self.since > now.plus(SKEW) {
            self.since = start;
        }
        self
    }

    fn exceed(&self, more: u64, limit: u64) -> bool {
        self.tokens.saturating_add(more.min(limit)) > limit
    }

    fn draw(&mut self, tokens: u64) -> Drawn {
        let before = self.tokens;
        self.tokens = before.saturating_add(tokens);
        Drawn { number: self.number, tokens: self.tokens.saturating_sub(before) }
    }

    fn correct(&mut self, drawn: &Drawn, tokens: u64) {
        if self.number == drawn.number {
            self.tokens = self.tokens.saturating_sub(drawn.tokens).saturating_add(tokens);
        }
    }
}

fn multiple(now: Timestamp, length: Millis) -> (Timestamp, Timestamp) {
    let start = now.as_ms().saturating_sub(now.as_ms().checked_rem(length.as_ms()).unwrap_or(0));
    let start = Timestamp::from_ms(start);
    (start, start.plus(length))
}

fn first_of(year: i64, month: i64) -> Timestamp {
    let days = calendar::days_since_epoch(year, month, 1).and_then(|days| u64::try_from(days).ok());
    Timestamp::from_ms(days.map_or(u64::MAX, |days| days.saturating_mul(DAY.as_ms())))
}

#[cfg(test)]
mod tests;
