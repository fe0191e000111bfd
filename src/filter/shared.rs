//! Records that all workers share, changed by pure closures under compare-and-set.
//!
//! A lost race re-runs the closure on the record as it is now. After [`TRIES`] lost races the change
//! is given up and counted: a gate or a breaker then learns of the fault from the next attempt.
//! Records are seeded at configure, because the host inserts a missing key unconditionally.

use super::host;

/// Lost races in a row before a change is given up. A worker holds a record for about a
/// microsecond, so losing eight times means that something is wrong.
const TRIES: u32 = 8;

/// The same for counts of tokens, which must not only be right in the end: a reservation that is not
/// settled is missing for a minute, and to lose eight races happens once in some 100 000 requests
/// when eight busy workers share two cores.
const TRIES_OF_COUNTS: u32 = 64;

/// A change could not be written.
#[derive(Debug)]
pub(crate) struct GaveUp;

/// The record of `key`; `None` when it is missing or cannot be read, which reads as fresh.
pub(crate) fn read(key: &str) -> Option<Vec<u8>> {
    host::shared_data(key).ok().flatten().map(|(record, _)| record)
}

/// Replaces the record of `key` by what `change` makes of it, and returns what `change` found.
/// `change` may run several times; without a new record nothing is written.
pub(crate) fn update<R>(
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> (Option<Vec<u8>>, R),
) -> Result<R, GaveUp> {
    change_within(TRIES, key, |record| change(record.as_deref()))
}

/// As [`update`], for a record that counts tokens. `change` changes it in place, one that is missing
/// from nothing, and says whether it is to be written.
pub(crate) fn count<R>(
    key: &str,
    mut change: impl FnMut(&mut Vec<u8>) -> (bool, R),
) -> Result<R, GaveUp> {
    change_within(TRIES_OF_COUNTS, key, |record| {
        let mut record = record.unwrap_or_default();
        let (is_changed, found) = change(&mut record);
        (is_changed.then_some(record), found)
    })
}

fn change_within<R>(
    tries: u32,
    key: &str,
    mut change: impl FnMut(Option<Vec<u8>>) -> (Option<Vec<u8>>, R),
) -> Result<R, GaveUp> {
    for _ in 0..tries {
        let (record, version) = match host::shared_data(key).map_err(|_| GaveUp)? {
            Some((record, version)) => (Some(record), version),
            None => (None, 0),
        };
        let (changed, found) = change(record);
        let Some(changed) = changed else { return Ok(found) };
        match host::set_shared_data(key, &changed, version) {
            Ok(()) => return Ok(found),
            Err(refused) if refused.is_lost_race() => {}
            Err(_) => return Err(GaveUp),
        }
    }
    Err(GaveUp)
}
