//! What workers share of a pool and its backends, as bytes.
//!
//! A selection looks at every backend of a pool, so one record holds them all and one read serves
//! it. Every entry carries the key of its backend: a record written under another configuration is
//! read member by member, in whatever order it has them. The counts of the breaker's rules change
//! far more often and are needed only when a result is recorded; they are a record per backend.
//!
//! Records begin with a version byte, are little endian, and have a fixed width. What cannot be
//! read (an unknown version, a wrong length, an impossible state) is fresh: better to try a backend
//! once more than to refuse it because of a damaged record.
//!
//! Configuring calls [`PoolRecord::reseat`]. What stays of a backend whose name stays are gate,
//! breaker and headroom; faults in a row start afresh, because the rules may be others. The counts
//! start afresh when the rules differ, by their fingerprint.

use super::breaker::{Breaker, RuleWindows, State};
use super::codec::Reader;
use super::gate::Gate;
use super::headroom::Headroom;
use super::pool::{BackendIndex, BreakerSettings, Member, OperationSet, PoolPolicy};
use super::time::{Millis, Timestamp};
use super::window::Window;
use std::hash::{Hash, Hasher};

const POOL_VERSION: u8 = 2;
const WINDOWS_VERSION: u8 = 1;
const POOL_HEAD_BYTES: usize = 2;
const KEY_BYTES: usize = 8;
const BACKEND_BYTES: usize = 65;
const ENTRY_BYTES: usize = KEY_BYTES + BACKEND_BYTES;
const NO_RULE: u8 = u8::MAX;

/// The key of a backend, and what is kept of it.
type Entry = [u8; ENTRY_BYTES];

/// What workers share of one backend. The default is a backend that nothing is known of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendRecord {
    /// Its throttle gate.
    pub gate: Gate,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// What it said is left.
    pub headroom: Headroom,
    /// The operations that it was seen to serve.
    pub served: OperationSet,
    /// How often in a row it refused the gateway's credential.
    pub denied: u32,
    /// When a connection to it was last reset; zero: never.
    pub last_reset: Timestamp,
}

/// The records of a pool's members, wherever they are.
pub trait Records {
    /// That of `member`, which is the pool's `backend`; fresh where there is none.
    fn of(&self, backend: BackendIndex, member: &Member) -> BackendRecord;
}

impl<T: AsRef<[BackendRecord]> + ?Sized> Records for T {
    fn of(&self, backend: BackendIndex, _: &Member) -> BackendRecord {
        self.as_ref().get(backend.position()).copied().unwrap_or_default()
    }
}

/// A pool's record as it was read. A member's part is decoded when it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(Vec<u8>);

impl Snapshot {
    /// The snapshot of the record `bytes`; of one that cannot be read all members are fresh.
    pub fn new(bytes: Vec<u8>) -> Self {
        if entries(&bytes).is_some() { Self(bytes) } else { Self::default() }
    }
}

impl Records for Snapshot {
    #[inline]
    fn of(&self, backend: BackendIndex, member: &Member) -> BackendRecord {
        let (_, body) = self.0.split_at_checked(POOL_HEAD_BYTES).unwrap_or_default();
        find(body.as_chunks().0, member.key, backend.position()).unwrap_or_default()
    }
}

/// Why an update of a pool's record was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotUpdated {
    /// The record has no such backend: it belongs to a newer configuration than the caller's.
    UnknownBackend,
    /// There is no record that can be read. [`PoolRecord::reseat`] makes one.
    Unreadable,
}

/// The record of a pool: a [`BackendRecord`] for each member.
#[derive(Clone, Copy, Debug)]
pub struct PoolRecord;

impl PoolRecord {
    /// The backends' records in the order of the policy's members; fresh where there is none.
    pub fn decode(bytes: &[u8], policy: &PoolPolicy) -> Vec<BackendRecord> {
        let entries = entries(bytes).unwrap_or_default();
        let members = policy.members.iter().enumerate();
        members
            .map(|(position, member)| find(entries, member.key, position).unwrap_or_default())
            .collect()
    }

    /// Changes the record of the backend with this key, and leaves all others as they are.
    ///
    /// # Errors
    /// [`NotUpdated`] says why the update is dropped; `change` was not called then.
    pub fn update<R>(
        bytes: Option<&[u8]>,
        key: u64,
        change: impl FnOnce(&mut BackendRecord) -> R,
    ) -> Result<(Vec<u8>, R), NotUpdated> {
        let mut change = Some(change);
        let mut result = None;
        let bytes = Self::update_each(bytes, |entry, record| {
            if entry == key
                && let Some(change) = change.take()
            {
                result = Some(change(record));
            }
        })?;
        result.map(|result| (bytes, result)).ok_or(NotUpdated::UnknownBackend)
    }

    /// Closes the gate of `backend`, and with it of all members of its quota group.
    ///
    /// # Errors
    /// [`NotUpdated::Unreadable`] when there is no record that can be read.
    pub fn close_gate(
        bytes: Option<&[u8]>,
        policy: &PoolPolicy,
        backend: BackendIndex,
        delay: Option<Millis>,
        now: Timestamp,
    ) -> Result<Vec<u8>, NotUpdated> {
        let throttled = policy.member(backend).ok_or(NotUpdated::UnknownBackend)?;
        Self::update_each(bytes, |key, record| {
            let shares_quota = throttled.quota_group.is_some()
                && policy
                    .members
                    .iter()
                    .any(|member| member.key == key && member.quota_group == throttled.quota_group);
            if key == throttled.key || shares_quota {
                record.gate.close(now, delay, &policy.throttle);
            }
        })
    }

    /// Closes the gates of the members of a quota group, when the 429 came in another pool.
    ///
    /// # Errors
    /// [`NotUpdated`] says why the update is dropped.
    pub fn close_group(
        bytes: Option<&[u8]>,
        policy: &PoolPolicy,
        quota_group: u16,
        delay: Option<Millis>,
        now: Timestamp,
    ) -> Result<Vec<u8>, NotUpdated> {
        let mut members = policy.members.iter().enumerate();
        let (position, _) = members
            .find(|(_, member)| member.quota_group == Some(quota_group))
            .ok_or(NotUpdated::UnknownBackend)?;
        let backend = BackendIndex::new(position).ok_or(NotUpdated::UnknownBackend)?;
        Self::close_gate(bytes, policy, backend, delay, now)
    }

    /// The record of a new configuration: members that `old` knows keep their state.
    pub fn reseat(old: Option<&[u8]>, policy: &PoolPolicy) -> Vec<u8> {
        let records = Self::decode(old.unwrap_or_default(), policy);
        let count = u8::try_from(policy.members.len()).unwrap_or(u8::MAX);
        let mut bytes = vec![POOL_VERSION, count];
        for (member, mut record) in policy.members.iter().zip(records).take(usize::from(count)) {
            record.breaker.consecutive = Default::default();
            bytes.extend(member.key.to_le_bytes());
            encode_backend(&record, &mut bytes);
        }
        bytes
    }

    fn update_each(
        bytes: Option<&[u8]>,
        mut change: impl FnMut(u64, &mut BackendRecord),
    ) -> Result<Vec<u8>, NotUpdated> {
        let mut updated = bytes.unwrap_or_default().to_vec();
        if entries(&updated).is_none() {
            return Err(NotUpdated::Unreadable);
        }
        let (_, body) = updated.split_at_mut_checked(POOL_HEAD_BYTES).unwrap_or_default();
        for entry in body.as_chunks_mut::<ENTRY_BYTES>().0 {
            let Some((key, state)) = entry.split_first_chunk_mut::<KEY_BYTES>() else { continue };
            let before = state.first_chunk().and_then(decode_backend);
            let mut record = before.unwrap_or_default();
            change(u64::from_le_bytes(*key), &mut record);
            if before != Some(record) {
                let mut encoded = Vec::with_capacity(BACKEND_BYTES);
                encode_backend(&record, &mut encoded);
                state.iter_mut().zip(encoded).for_each(|(old, new)| *old = new);
            }
        }
        Ok(updated)
    }
}

/// The record of one backend's rule windows.
#[derive(Clone, Copy, Debug)]
pub struct WindowsRecord;

impl WindowsRecord {
    /// The counts; fresh when the record is of other rules, or cannot be read.
    pub fn decode(bytes: Option<&[u8]>, settings: &BreakerSettings) -> RuleWindows {
        decode_windows(bytes.unwrap_or_default(), settings).unwrap_or_default()
    }

    /// The bytes that [`Self::decode`] reads.
    pub fn encode(windows: &RuleWindows, settings: &BreakerSettings) -> Vec<u8> {
        let mut bytes = vec![WINDOWS_VERSION];
        bytes.extend(fingerprint(settings).to_le_bytes());
        bytes.extend(windows.epoch.to_le_bytes());
        windows.windows.iter().for_each(|window| window.encode(&mut bytes));
        bytes
    }

    /// Changes the counts.
    pub fn update<R>(
        bytes: Option<&[u8]>,
        settings: &BreakerSettings,
        change: impl FnOnce(&mut RuleWindows) -> R,
    ) -> (Vec<u8>, R) {
        let mut windows = Self::decode(bytes, settings);
        let result = change(&mut windows);
        (Self::encode(&windows, settings), result)
    }
}

/// The key of a backend in shared records: FNV-1a (64 bit) of its name, so it is the same in all
/// workers and under every configuration that has the name.
pub fn key_of(name: &str) -> u64 {
    let mut hash = Fnv::default();
    hash.write(name.as_bytes());
    hash.finish()
}

/// The name of a pool's record in shared data.
pub fn pool_key(pool: &str) -> String {
    format!("spillway/pool/{pool}")
}

/// The name of the record of a backend's rule windows in shared data.
pub fn windows_key(backend: &str) -> String {
    format!("spillway/windows/{backend}")
}

/// The name of a pool's retry budget in shared data.
pub fn retry_budget_key(pool: &str) -> String {
    format!("spillway/retries/{pool}")
}

/// The name of a backend's budget in shared data.
pub fn budget_key(backend: &str) -> String {
    format!("spillway/budget/{backend}")
}

/// The name of the budget of a listed consumer in shared data.
pub fn consumer_key(consumer: &str) -> String {
    format!("spillway/consumer/{consumer}")
}

/// The name of the budget that the unlisted consumers of a slot share in shared data.
pub fn consumer_slot_key(slot: u64) -> String {
    format!("spillway/consumers/{slot}")
}

/// The entries of a record, `None` when it cannot be read.
fn entries(bytes: &[u8]) -> Option<&[Entry]> {
    let (&[version, count], body) = bytes.split_first_chunk::<POOL_HEAD_BYTES>()?;
    let (entries, rest) = body.as_chunks();
    let is_whole = entries.len() == usize::from(count) && rest.is_empty();
    (version == POOL_VERSION && is_whole).then_some(entries)
}

/// Usually the entry is at the member's position; after a change of configuration anywhere.
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
    let (tag, failed_probes, time) = match breaker.state {
        State::Closed { since } => (0, 0, since),
        State::Open { until, failed_probes } => (1, failed_probes, until),
        State::HalfOpen { lease_until, failed_probes } => (2, failed_probes, lease_until),
    };
    bytes.extend(record.gate.until.as_ms().to_le_bytes());
    bytes.extend([tag, failed_probes, breaker.rule.unwrap_or(NO_RULE)]);
    bytes.extend(time.as_ms().to_le_bytes());
    bytes.extend(breaker.epoch.to_le_bytes());
    breaker.consecutive.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
    bytes.extend(record.headroom.permille.to_le_bytes());
    bytes.extend(record.headroom.at.as_ms().to_le_bytes());
    bytes.extend(record.served.0.to_le_bytes());
    bytes.extend(record.denied.to_le_bytes());
    bytes.extend(record.last_reset.as_ms().to_le_bytes());
}

#[inline]
fn decode_backend(bytes: &[u8; BACKEND_BYTES]) -> Option<BackendRecord> {
    let mut reader = Reader::new(bytes);
    let gate = Gate { until: Timestamp::from_ms(reader.u64()?) };
    let (tag, failed_probes, rule) = (reader.u8()?, reader.u8()?, reader.u8()?);
    let time = Timestamp::from_ms(reader.u64()?);
    let state = match tag {
        0 => State::Closed { since: time },
        1 => State::Open { until: time, failed_probes },
        2 => State::HalfOpen { lease_until: time, failed_probes },
        _ => return None,
    };
    let epoch = reader.u32()?;
    let mut consecutive = [0; super::pool::MAX_RULES];
    for count in &mut consecutive {
        *count = reader.u32()?;
    }
    let rule = Some(rule).filter(|rule| *rule != NO_RULE);
    let breaker = Breaker { state, epoch, consecutive, rule };
    let headroom = Headroom { permille: reader.u16()?, at: Timestamp::from_ms(reader.u64()?) };
    let served = OperationSet(reader.u32()?);
    let (denied, last_reset) = (reader.u32()?, Timestamp::from_ms(reader.u64()?));
    Some(BackendRecord { gate, breaker, headroom, served, denied, last_reset })
}

fn decode_windows(bytes: &[u8], settings: &BreakerSettings) -> Option<RuleWindows> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != WINDOWS_VERSION || reader.u64()? != fingerprint(settings) {
        return None;
    }
    let mut windows = RuleWindows { epoch: reader.u32()?, ..RuleWindows::default() };
    for window in &mut windows.windows {
        *window = Window::decode(&mut reader)?;
    }
    Some(windows)
}

/// Counts of one set of rules mean nothing to another.
fn fingerprint(settings: &BreakerSettings) -> u64 {
    let mut hash = Fnv::default();
    for rule in &settings.rules {
        (rule.threshold, rule.interval, &rule.statuses, rule.reasons).hash(&mut hash);
    }
    hash.finish()
}

struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests;
