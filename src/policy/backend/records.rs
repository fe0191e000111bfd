//! What workers share about a pool and its backends, as bytes.
//!
//! A selection looks at every backend of a pool, so one record holds them all and one read is enough. Every entry
//! contains the key of its backend, so a record of another configuration is read member by member, in any order. The
//! counts of the breaker's rules change far more often, and only recording a result needs them. They are a record per
//! backend.
//!
//! Records begin with a version byte, are little-endian and have a fixed width. Unreadable parts (a wrong length, an
//! impossible state) are fresh: trying a backend once more is better than refusing it because of a damaged record. A
//! record of an older version is read as far as possible. One of a newer version reads as fresh and must not be
//! written (see [`is_newer`]): another module of the same process uses it, or used it before this one replaced it.
//!
//! Configuring calls [`PoolRecord::reseat`]. A backend whose name stays keeps gate, breaker and headroom; faults in a
//! row restart, because the rules may differ. Entries of other backends stay too: another listener may have a pool of
//! the same name, and Envoy may refuse the listener that is being configured.

mod windows;

pub use self::windows::WindowsRecord;

use super::breaker::{Breaker, Early, State};
use super::gate::Gate;
use super::headroom::Headroom;
use crate::policy::codec::Reader;
use crate::policy::pool::{BackendIndex, MAX_RULES, Member, OperationSet, PoolPolicy};
use crate::policy::time::{Millis, Timestamp};

const POOL_VERSION: u8 = 4;
const POOL_HEAD_BYTES: usize = 2;
const KEY_BYTES: usize = 8;
const BACKEND_BYTES: usize = 93;
const ENTRY_BYTES: usize = KEY_BYTES + BACKEND_BYTES;
/// Entries of version 3, which end before [`Gate::tokens`].
const ENTRY_BYTES_V3: usize = ENTRY_BYTES - 4;
/// Entries of version 2, which end before [`BackendRecord::completed_at`].
const ENTRY_BYTES_V2: usize = ENTRY_BYTES_V3 - 24;
/// Entries of version 1, which end before [`BackendRecord::served`].
const ENTRY_BYTES_V1: usize = ENTRY_BYTES_V2 - 16;
/// The most entries of a record: its head counts them in one byte.
const ENTRIES_MAX: usize = 255;
const NO_RULE: u8 = u8::MAX;
/// The longest ramp that can be configured.
const LONGEST_RAMP: Millis = Millis::from_secs(3_600);

/// The age at which the time of the last completed request is written again.
pub const COMPLETION_WORTH_WRITING: Millis = Millis::from_secs(3);

/// The key of a backend, and its state.
type Entry = [u8; ENTRY_BYTES];

/// What workers share about one backend. The default is a backend about which nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendRecord {
    /// Its throttle gate.
    pub gate: Gate,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// The remaining capacity that it stated.
    pub headroom: Headroom,
    /// The operations that it was seen to serve.
    pub served: OperationSet,
    /// How often in a row it refused the gateway's credential.
    pub denied: u32,
    /// When a connection to it was last reset; zero: never.
    pub last_reset: Timestamp,
    /// When it last completed a request, at most [`COMPLETION_WORTH_WRITING`] too early; zero: never.
    pub completed_at: Timestamp,
}

impl BackendRecord {
    /// Whether forgetting it changes no decision at `now`.
    fn is_idle(&self, now: Timestamp) -> bool {
        let is_closed = match self.breaker.state {
            State::Closed { since, .. } => since.plus(LONGEST_RAMP) <= now,
            State::Open { .. } | State::HalfOpen { .. } => false,
        };
        is_closed && self.gate.until <= now && self.breaker.consecutive == [0; MAX_RULES]
    }
}

/// The records of a pool's members, wherever they are stored.
pub trait Records {
    /// The record of `member`, which is the pool's `backend`; fresh if there is none.
    fn of(&self, backend: BackendIndex, member: &Member) -> BackendRecord;
}

impl<T: AsRef<[BackendRecord]> + ?Sized> Records for T {
    fn of(&self, backend: BackendIndex, _: &Member) -> BackendRecord {
        self.as_ref().get(backend.position()).copied().unwrap_or_default()
    }
}

/// A pool's record as it was read. A member's part is decoded on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(Vec<u8>);

impl Snapshot {
    /// The snapshot of the record `bytes`. If it is unreadable, all members are fresh.
    pub fn new(bytes: Vec<u8>) -> Self {
        if entries(&bytes).is_some() {
            Self(bytes)
        } else {
            Self(migrated(&bytes).unwrap_or_default())
        }
    }
}

impl Snapshot {
    /// All readable backends of the record, by their keys.
    fn backends(&self) -> impl Iterator<Item = (u64, BackendRecord)> {
        entries(&self.0).unwrap_or_default().iter().filter_map(|entry| {
            let key = u64::from_le_bytes(*entry.first_chunk()?);
            Some((key, decode_backend(entry.last_chunk()?)?))
        })
    }
}

impl Records for Snapshot {
    #[inline]
    fn of(&self, backend: BackendIndex, member: &Member) -> BackendRecord {
        let (_, body) = self.0.split_at_checked(POOL_HEAD_BYTES).unwrap_or_default();
        find(body.as_chunks().0, member.key, backend.position()).unwrap_or_default()
    }
}

/// Why a pool's record was not updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotUpdated {
    /// The record has no room for one more backend.
    Full,
    /// The policy has no such backend or quota group.
    UnknownBackend,
    /// There is no readable record. [`PoolRecord::reseat`] makes one.
    Unreadable,
}

/// The record of a pool for a new configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reseated {
    /// The record.
    pub bytes: Vec<u8>,
    /// How many backends of other configurations were dropped for lack of room, although something important is known
    /// about them.
    pub dropped: usize,
}

/// The record of a pool: a [`BackendRecord`] for each backend.
#[derive(Clone, Copy, Debug)]
pub struct PoolRecord;

impl PoolRecord {
    /// The newest version that can be read.
    pub const VERSION: u8 = POOL_VERSION;

    /// The backends' records in the order of the policy's members; fresh if there is none.
    pub fn decode(bytes: &[u8], policy: &PoolPolicy) -> Vec<BackendRecord> {
        let snapshot = Snapshot::new(bytes.to_vec());
        let members = policy.members.iter().enumerate();
        members
            .filter_map(|(position, member)| {
                Some(snapshot.of(BackendIndex::new(position)?, member))
            })
            .collect()
    }

    /// Changes the record of the backend with this key, and leaves all others unchanged. A missing backend is added.
    ///
    /// # Errors
    /// [`NotUpdated`] states why there was no update; `change` was not called then.
    pub fn update<R>(
        bytes: Option<&[u8]>,
        key: u64,
        change: impl FnOnce(&mut BackendRecord) -> R,
    ) -> Result<(Vec<u8>, R), NotUpdated> {
        let mut change = Some(change);
        let mut result = None;
        let bytes = Self::update_each(bytes, std::iter::once(key), |record| {
            if let Some(change) = change.take() {
                result = Some(change(record));
            }
        })?;
        result.map(|result| (bytes, result)).ok_or(NotUpdated::UnknownBackend)
    }

    /// Closes the gate of `backend`, and those of all members of its quota group. `tokens` are those that the refused
    /// request was expected to use; zero: unknown.
    ///
    /// # Errors
    /// [`NotUpdated`] states why there was no update.
    pub fn close_gate(
        bytes: Option<&[u8]>,
        policy: &PoolPolicy,
        backend: BackendIndex,
        delay: Option<Millis>,
        tokens: u64,
        now: Timestamp,
    ) -> Result<Vec<u8>, NotUpdated> {
        let throttled = policy.member(backend).ok_or(NotUpdated::UnknownBackend)?;
        let shares_quota = |member: &&Member| {
            throttled.quota_group.is_some() && member.quota_group == throttled.quota_group
        };
        let others = policy.members.iter().filter(shares_quota).map(|member| member.key);
        let keys = std::iter::once(throttled.key).chain(others.filter(|key| *key != throttled.key));
        Self::update_each(bytes, keys, |record| {
            record.gate.close(now, delay, tokens, &policy.throttle);
        })
    }

    /// Closes the gates of the members of a quota group, after a 429 in another pool.
    ///
    /// # Errors
    /// [`NotUpdated`] states why there was no update.
    pub fn close_group(
        bytes: Option<&[u8]>,
        policy: &PoolPolicy,
        quota_group: u16,
        delay: Option<Millis>,
        tokens: u64,
        now: Timestamp,
    ) -> Result<Vec<u8>, NotUpdated> {
        let mut members = policy.members.iter().enumerate();
        let (position, _) = members
            .find(|(_, member)| member.quota_group == Some(quota_group))
            .ok_or(NotUpdated::UnknownBackend)?;
        let backend = BackendIndex::new(position).ok_or(NotUpdated::UnknownBackend)?;
        Self::close_gate(bytes, policy, backend, delay, tokens, now)
    }

    /// The record of a new configuration. Members in `old` keep their state, and so do backends that only other
    /// configurations have. If there is no room for all of those, the first to go are those without anything that
    /// matters at `now`.
    pub fn reseat(old: Option<&[u8]>, policy: &PoolPolicy, now: Timestamp) -> Reseated {
        let old = Snapshot::new(old.unwrap_or_default().to_vec());
        let members = policy.members.iter().take(ENTRIES_MAX).enumerate();
        let mut entries: Vec<(u64, BackendRecord)> = members
            .filter_map(|(position, member)| {
                let mut record = old.of(BackendIndex::new(position)?, member);
                record.breaker.consecutive = Default::default();
                Some((member.key, record))
            })
            .collect();
        let others = old.backends().filter(|(key, record)| {
            *record != BackendRecord::default()
                && policy.members.iter().all(|member| member.key != *key)
        });
        let (idle, busy): (Vec<_>, Vec<_>) = others.partition(|(_, record)| record.is_idle(now));
        let room = ENTRIES_MAX.saturating_sub(entries.len());
        let dropped = busy.len().saturating_sub(room);
        entries.extend(busy.into_iter().chain(idle).take(room));
        let mut bytes = vec![POOL_VERSION, u8::try_from(entries.len()).unwrap_or(u8::MAX)];
        for (key, record) in entries {
            bytes.extend(key.to_le_bytes());
            encode_backend(&record, &mut bytes);
        }
        Reseated { bytes, dropped }
    }

    /// Changes the records of the backends with these keys. Missing ones are added.
    fn update_each(
        bytes: Option<&[u8]>,
        keys: impl Iterator<Item = u64>,
        mut change: impl FnMut(&mut BackendRecord),
    ) -> Result<Vec<u8>, NotUpdated> {
        let bytes = bytes.unwrap_or_default();
        let readable = entries(bytes).map(|_| bytes.to_vec());
        let mut updated = readable.or_else(|| migrated(bytes)).ok_or(NotUpdated::Unreadable)?;
        for key in keys {
            let entry = entry_of(&mut updated, key).ok_or(NotUpdated::Full)?;
            let Some(state) = entry.last_chunk_mut::<BACKEND_BYTES>() else { continue };
            let before = decode_backend(state);
            let mut record = before.unwrap_or_default();
            change(&mut record);
            if before != Some(record) {
                let mut encoded = Vec::with_capacity(BACKEND_BYTES);
                encode_backend(&record, &mut encoded);
                state.iter_mut().zip(encoded).for_each(|(old, new)| *old = new);
            }
        }
        Ok(updated)
    }
}

/// Whether a record was written by a version newer than `version`. It reads as fresh, and must not be written. All
/// kinds of records begin with their version.
pub fn is_newer(record: &[u8], version: u8) -> bool {
    record.first().is_some_and(|found| *found > version)
}

/// The entries of a record; `None` when it is unreadable.
fn entries(bytes: &[u8]) -> Option<&[Entry]> {
    let (&[version, count], body) = bytes.split_first_chunk::<POOL_HEAD_BYTES>()?;
    let (entries, rest) = body.as_chunks();
    let is_whole = entries.len() == usize::from(count) && rest.is_empty();
    (version == POOL_VERSION && is_whole).then_some(entries)
}

/// A record of an older version in the format of this one. Fields that it lacks are fresh.
fn migrated(bytes: &[u8]) -> Option<Vec<u8>> {
    let (&[version, count], body) = bytes.split_first_chunk::<POOL_HEAD_BYTES>()?;
    let entry_bytes = match version {
        1 => ENTRY_BYTES_V1,
        2 => ENTRY_BYTES_V2,
        3 => ENTRY_BYTES_V3,
        _ => return None,
    };
    if body.len() != entry_bytes.saturating_mul(usize::from(count)) {
        return None;
    }
    let mut migrated = vec![POOL_VERSION, count];
    for entry in body.chunks_exact(entry_bytes) {
        migrated.extend(entry);
        migrated.resize(migrated.len().saturating_add(ENTRY_BYTES).saturating_sub(entry_bytes), 0);
    }
    Some(migrated)
}

/// The entry with this key in a readable record, added if it is missing; `None`: no room.
fn entry_of(record: &mut Vec<u8>, key: u64) -> Option<&mut Entry> {
    let key = key.to_le_bytes();
    let known = entries(record)?.iter().position(|entry| entry.starts_with(&key));
    let position = match known {
        Some(position) => position,
        None => {
            let count = record.get_mut(1)?;
            let position = usize::from(*count);
            *count = count.checked_add(1)?;
            record.extend(key);
            encode_backend(&BackendRecord::default(), record);
            position
        }
    };
    let (_, body) = record.split_at_mut_checked(POOL_HEAD_BYTES)?;
    body.as_chunks_mut().0.get_mut(position)
}

/// Usually the entry is at the member's position. After a change of configuration it may be anywhere.
#[inline]
fn find(entries: &[Entry], key: u64, position: usize) -> Option<BackendRecord> {
    let wanted = key.to_le_bytes();
    let entry = entries
        .get(position)
        .filter(|entry| entry.starts_with(&wanted))
        .or_else(|| entries.iter().find(|entry| entry.starts_with(&wanted)))?;
    decode_backend(entry.last_chunk()?)
}

fn encode_backend(record: &BackendRecord, bytes: &mut Vec<u8>) {
    let breaker = &record.breaker;
    let (tag, number, time) = match breaker.state {
        State::Closed { since, successes } => (0, successes, since),
        State::Open { until, failed_probes } => (1, failed_probes, until),
        State::HalfOpen { lease_until, failed_probes } => (2, failed_probes, lease_until),
    };
    bytes.extend(record.gate.until.as_ms().to_le_bytes());
    bytes.extend([tag, number, breaker.rule.unwrap_or(NO_RULE)]);
    bytes.extend(time.as_ms().to_le_bytes());
    bytes.extend(breaker.epoch.to_le_bytes());
    breaker.consecutive.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
    bytes.extend(record.headroom.permille.to_le_bytes());
    bytes.extend(record.headroom.at.as_ms().to_le_bytes());
    bytes.extend(record.served.0.to_le_bytes());
    bytes.extend(record.denied.to_le_bytes());
    bytes.extend(record.last_reset.as_ms().to_le_bytes());
    let Early { from, due } = breaker.early;
    [record.completed_at, from, due]
        .into_iter()
        .for_each(|time| bytes.extend(time.as_ms().to_le_bytes()));
    bytes.extend(record.gate.tokens.to_le_bytes());
}

#[inline]
fn decode_backend(bytes: &[u8; BACKEND_BYTES]) -> Option<BackendRecord> {
    let mut reader = Reader::new(bytes);
    let until = Timestamp::from_ms(reader.u64()?);
    let (tag, number, rule) = (reader.u8()?, reader.u8()?, reader.u8()?);
    let time = Timestamp::from_ms(reader.u64()?);
    let state = match tag {
        0 => State::Closed { since: time, successes: number },
        1 => State::Open { until: time, failed_probes: number },
        2 => State::HalfOpen { lease_until: time, failed_probes: number },
        _ => return None,
    };
    let epoch = reader.u32()?;
    let mut consecutive = [0; MAX_RULES];
    for count in &mut consecutive {
        *count = reader.u32()?;
    }
    let rule = Some(rule).filter(|rule| *rule != NO_RULE);
    let headroom = Headroom { permille: reader.u16()?, at: Timestamp::from_ms(reader.u64()?) };
    let (served, denied) = (OperationSet(reader.u32()?), reader.u32()?);
    let mut time = || reader.u64().map(Timestamp::from_ms);
    let (last_reset, completed_at) = (time()?, time()?);
    let early = Early { from: time()?, due: time()? };
    let gate = Gate { until, tokens: reader.u32()? };
    let breaker = Breaker { state, epoch, consecutive, rule, early };
    Some(BackendRecord { gate, breaker, headroom, served, denied, last_reset, completed_at })
}

#[cfg(test)]
mod tests;
