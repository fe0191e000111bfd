//! Records that all workers share, changed by pure closures under compare-and-set.
//!
//! A lost race re-runs the closure on the record as it is now. After [`TRIES`] lost races the change
//! is given up and counted: a gate or a breaker then learns of the fault from the next attempt.
//!
//! A record of a newer version of this module is never written: the newer module may run beside this
//! one, in listeners that Envoy is still draining, or may come back. The change counts as given up.

use super as host;
use crate::policy::backend::records::is_newer;

/// Lost races in a row before a change is given up. A worker holds a record for about a
/// microsecond, so losing eight times means that something is wrong.
const TRIES: u32 = 8;

/// The same for counts of tokens, which must not only be right in the end: a reservation that is not
/// settled is missing for a minute, and to lose eight races happens once in some 100 000 requests
/// when eight busy workers share two cores.
const TRIES_OF_COUNTS: u32 = 64;

/// The version to insert a record with. The host inserts a missing key whatever the version, and
/// compares the version once another worker was first; zero would overwrite what that one wrote.
const MISSING: u32 = u32::MAX;

/// A change could not be written: too many races were lost, the host refused, or the record is of a
/// newer version.
#[derive(Debug)]
pub(crate) struct GaveUp;

/// The record of `key`; `None` when it is missing or cannot be read, which reads as fresh.
pub(crate) fn read(key: &str) -> Option<Vec<u8>> {
    host::shared_data(key).ok().flatten().map(|(record, _)| record)
}

/// The key under which this module keeps what belongs under `key` in a record of at most `version`.
/// It is another one when a newer module was there, as after a downgrade: this one could neither read
/// nor write what that one left, and would go without gates, breakers and budgets.
pub(crate) fn own_key(key: String, version: u8) -> String {
    match read(&key) {
        Some(record) if is_newer(&record, version) => format!("v{version}/{key}"),
        _ => key,
    }
}

/// Makes sure that there is a record of `key`. An empty one reads as fresh; one that is there stays.
pub(crate) fn seed(key: &str) {
    if let Ok(None) = host::shared_data(key) {
        // Another worker that was first did the same.
        let _ = host::set_shared_data(key, &[], MISSING);
    }
}

/// Replaces the record of `key`, of at most `version`, by what `change` makes of it, and returns what
/// `change` found. `change` may run several times; without a new record nothing is written.
pub(crate) fn update<R>(
    key: &str,
    version: u8,
    mut change: impl FnMut(Option<&[u8]>) -> (Option<Vec<u8>>, R),
) -> Result<R, GaveUp> {
    change_within(TRIES, key, version, |record| change(record.as_deref()))
}

/// As [`update`], for a record that counts tokens. `change` changes it in place, one that is missing
/// from nothing, and says whether it is to be written.
pub(crate) fn count<R>(
    key: &str,
    version: u8,
    mut change: impl FnMut(&mut Vec<u8>) -> (bool, R),
) -> Result<R, GaveUp> {
    change_within(TRIES_OF_COUNTS, key, version, |record| {
        let mut record = record.unwrap_or_default();
        let (is_changed, found) = change(&mut record);
        (is_changed.then_some(record), found)
    })
}

fn change_within<R>(
    tries: u32,
    key: &str,
    newest: u8,
    mut change: impl FnMut(Option<Vec<u8>>) -> (Option<Vec<u8>>, R),
) -> Result<R, GaveUp> {
    for _ in 0..tries {
        let (record, version) = match host::shared_data(key).map_err(|_| GaveUp)? {
            Some((record, version)) => (Some(record), version),
            None => (None, MISSING),
        };
        if record.as_ref().is_some_and(|record| is_newer(record, newest)) {
            return Err(GaveUp);
        }
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
