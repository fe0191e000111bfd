//! Records that all workers share. Pure closures change them under compare-and-set.
//!
//! After a lost race the closure runs again on the present record. After [`TRIES`] lost races the change is given up
//! and counted. A gate or a breaker then learns of the fault from the next attempt.
//!
//! A record of a newer version of this module is never written: the newer module may run beside this one, in
//! listeners that Envoy still drains, or may come back. The change counts as given up.

use super as host;
use crate::policy::backend::records::is_newer;

/// Lost races in a row before a change is given up. A worker holds a record for about a microsecond, so eight losses
/// mean that something is wrong.
const TRIES: u32 = 8;

/// The same for counts of tokens, which must not only be right in the end: a reservation that is not settled blocks
/// its tokens for a minute. Eight busy workers that share two cores lose eight races in a row about once in
/// 100 000 requests.
const TRIES_OF_COUNTS: u32 = 64;

/// The version to insert a record with. The host inserts a missing key with any version. It compares the version if
/// another worker was first; zero would overwrite that worker's record.
const MISSING: u32 = u32::MAX;

/// A change could not be written: too many races were lost, the host refused, or the record has a newer version.
#[derive(Debug)]
pub(crate) struct GaveUp;

/// The record of `key`; `None` when it is missing or unreadable, so that it reads as fresh.
pub(crate) fn read(key: &str) -> Option<Vec<u8>> {
    host::shared_data(key).ok().flatten().map(|(record, _)| record)
}

/// The key under which this module keeps the record of `key`, whose version is at most `version`. It is another key
/// after a downgrade: this module can neither read nor write a newer module's record, and would have no gates,
/// breakers and budgets.
pub(crate) fn own_key(key: String, version: u8) -> String {
    match read(&key) {
        Some(record) if is_newer(&record, version) => format!("v{version}/{key}"),
        _ => key,
    }
}

/// Makes sure that a record of `key` exists. An empty one reads as fresh; an existing one stays.
pub(crate) fn seed(key: &str) {
    if let Ok(None) = host::shared_data(key) {
        // The host refuses if another worker did the same before.
        let _ = host::set_shared_data(key, &[], MISSING);
    }
}

/// Replaces the record of `key`, whose version is at most `version`, by the result of `change`, and returns the
/// second result of `change`. `change` may run several times. Without a new record nothing is written.
pub(crate) fn update<R>(
    key: &str,
    version: u8,
    mut change: impl FnMut(Option<&[u8]>) -> (Option<Vec<u8>>, R),
) -> Result<R, GaveUp> {
    change_within(TRIES, key, version, |record| change(record.as_deref()))
}

/// Like [`update`], for a record that counts tokens. `change` edits the record in place, or an empty one if it is
/// missing, and returns whether it must be written.
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
