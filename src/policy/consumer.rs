//! What a consumer may use: tokens per minute, and a quota of tokens per hour, day or month.
//!
//! Both are reserved by the estimate and corrected to what was used, so they are exact across
//! workers while requests are in flight. Over the tokens per minute is 429: come back soon. Over
//! the quota is 403, as in API Management's token limit policy: coming back soon is no use.
//! When both are exceeded it is the quota.
//!
//! Periods are those of the UTC calendar. As with the minute, a clock that is put back into an
//! earlier period keeps what was used; one that is put ahead begins the period it comes to. More
//! than a limit counts as the limit, so that a large request can pass when nothing is used.
//!
//! *Consumers that are not listed* come by any name that a client can get authenticated, and each
//! name would be a record for ever. So they share [`UNLISTED_SLOTS`] records by a hash of the name:
//! two of them in one slot share one budget. Of ten such consumers hardly one in a hundred meets
//! another, of a hundred one in ten: those who matter should be listed.

use super::budget::{Minute, Taken};
use super::calendar;
use super::codec::Reader;
use super::estimate::{Estimate, Usage};
use super::records::key_of;
use super::time::{Millis, Timestamp};
use std::num::{NonZeroU32, NonZeroU64};

const VERSION: u8 = 2;
/// The records for consumers that are not listed: at 300 bytes each, a third of a megabyte at most.
pub const UNLISTED_SLOTS: u64 = 1_024;
/// Workers may read the clock in one order and write in the other.
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
    /// Whether its requests give way to others.
    pub class: Class,
}

/// Tokens in a period of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub tokens: NonZeroU64,
    /// In which period.
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
pub enum Admission {
    /// It may, and `bytes` is the record in which its tokens are reserved.
    Granted {
        /// The record to write.
        bytes: Vec<u8>,
        /// What is to be concluded once the record is written.
        reservation: ConsumerReservation,
        /// What is left after it.
        remaining: Remaining,
    },
    /// Not before `until`: its tokens per minute are used up (429).
    OverTokensPerMinute {
        /// The first moment at which there is room, if nothing else happens.
        until: Timestamp,
        /// What is left.
        remaining: Remaining,
        /// As with [`super::budget::Verdict::Denied`].
        bytes: Option<Vec<u8>>,
    },
    /// Not before `until`: its quota is used up (403).
    OverQuota {
        /// When the next period begins.
        until: Timestamp,
        /// What is left.
        remaining: Remaining,
        /// As with [`super::budget::Verdict::Denied`].
        bytes: Option<Vec<u8>>,
    },
}

/// What a consumer has left; `None` where it has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Of its tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Of its quota.
    pub quota: Option<u64>,
}

/// What a request holds in a consumer's budget. To be concluded exactly once.
#[must_use = "the tokens of a reservation that is not concluded stay used"]
#[derive(Debug, PartialEq, Eq)]
pub struct ConsumerReservation {
    minute: Option<Taken>,
    quota: Option<Drawn>,
}

impl ConsumerReservation {
    /// Corrects the tokens to those that were used; `None`: the request used none. `write` is called
    /// once, with the change to make in the consumer's record; it may run the change several times,
    /// and writes the bytes of the last run.
    pub fn conclude<R>(
        self,
        usage: Option<Usage>,
        settings: &ConsumerSettings,
        now: Timestamp,
        write: impl FnOnce(&dyn Fn(Option<&[u8]>) -> Vec<u8>) -> R,
    ) -> R {
        let tokens = usage.map_or(0, Usage::total);
        write(&|bytes| {
            let mut record = Record::decode(bytes).at(settings, now);
            if let Some(taken) = &self.minute {
                record.minute.correct(taken, tokens);
            }
            if let Some(drawn) = &self.quota {
                record.used.correct(drawn, tokens);
            }
            record.encode()
        })
    }
}

/// Reserves `estimate` in a consumer's record `bytes`; a record that cannot be read is fresh.
pub fn admit(
    bytes: Option<&[u8]>,
    settings: &ConsumerSettings,
    estimate: Estimate,
    now: Timestamp,
) -> Admission {
    let read = Record::decode(bytes);
    let mut record = read.at(settings, now);
    let tokens = estimate.total();
    let remaining = record.remaining(settings);
    let put_back = record.is_put_back_from(&read).then(|| record.encode());
    if let Some(quota) = settings.quota
        && record.used.exceed(tokens, quota.tokens.get())
    {
        return Admission::OverQuota {
            until: quota.period.bounds(now).1,
            remaining,
            bytes: put_back,
        };
    }
    if let Some(limit) = settings.tokens_per_minute
        && let Some(until) = record.minute.full_until(tokens, limit.get())
    {
        return Admission::OverTokensPerMinute { until, remaining, bytes: put_back };
    }
    let reservation = ConsumerReservation {
        minute: settings.tokens_per_minute.map(|limit| record.minute.take(tokens, limit.get())),
        quota: settings.quota.map(|quota| record.used.draw(tokens.min(quota.tokens.get()))),
    };
    Admission::Granted {
        bytes: record.encode(),
        reservation,
        remaining: record.remaining(settings),
    }
}

/// Whether a record was damaged, or written by another version. An empty one is new.
pub fn is_unusable(bytes: &[u8]) -> bool {
    !bytes.is_empty() && Record::read(bytes).is_none()
}

/// What a consumer has left in its record now.
pub fn remaining(bytes: Option<&[u8]>, settings: &ConsumerSettings, now: Timestamp) -> Remaining {
    Record::decode(bytes).at(settings, now).remaining(settings)
}

/// The slot, below [`UNLISTED_SLOTS`], of a consumer that is not listed.
pub fn unlisted_slot(name: &str) -> u64 {
    key_of(name).checked_rem(UNLISTED_SLOTS).unwrap_or(0)
}

/// The shared record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    minute: Minute,
    used: Used,
}

impl Record {
    fn at(mut self, settings: &ConsumerSettings, now: Timestamp) -> Self {
        self.minute = self.minute.at(now);
        if let Some(quota) = settings.quota {
            self.used = self.used.at(quota.period, now);
        }
        self
    }

    /// Whether the clock went back between `before` and here.
    fn is_put_back_from(&self, before: &Self) -> bool {
        self.minute.is_put_back_from(&before.minute) || self.used.since < before.used.since
    }

    fn remaining(&self, settings: &ConsumerSettings) -> Remaining {
        let minute =
            |limit: NonZeroU32| u64::from(limit.get()).saturating_sub(self.minute.tokens());
        Remaining {
            tokens_per_minute: settings.tokens_per_minute.map(minute),
            quota: settings.quota.map(|quota| quota.tokens.get().saturating_sub(self.used.tokens)),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(300);
        bytes.push(VERSION);
        self.minute.encode(&mut bytes);
        bytes.extend(self.used.since.as_ms().to_le_bytes());
        bytes.extend(self.used.number.to_le_bytes());
        bytes.extend(self.used.tokens.to_le_bytes());
        bytes
    }

    fn decode(bytes: Option<&[u8]>) -> Self {
        bytes.and_then(Self::read).unwrap_or_default()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        let minute = Minute::decode(&mut reader)?;
        let since = Timestamp::from_ms(reader.u64()?);
        Some(Self { minute, used: Used { since, number: reader.u64()?, tokens: reader.u64()? } })
    }
}

/// The tokens used in the current period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    /// When the period began.
    since: Timestamp,
    /// How many periods began before, so that what was drawn in another is not corrected here.
    number: u64,
    tokens: u64,
}

/// Tokens that were drawn from a quota.
#[derive(Debug, PartialEq, Eq)]
struct Drawn {
    number: u64,
    tokens: u64,
}

impl Used {
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
