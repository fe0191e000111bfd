//! Shared data with the host's rules: one counter for all keys, a missing key is always inserted,
//! version 0 writes in any case.

use std::collections::BTreeMap;

/// Sees every write: the key, the record before it and after it.
pub(crate) type Watch = Box<dyn FnMut(&str, Option<&[u8]>, &[u8]) + Send>;

/// What all workers of a process share.
#[derive(Default)]
pub(crate) struct SharedData {
    records: BTreeMap<String, (Vec<u8>, u32)>,
    version: u32,
    /// How many of the next writes meet a record that another worker has changed since.
    pub(crate) conflicts: u32,
    /// Writes that were refused because of another worker's.
    pub(crate) lost_races: u64,
    pub(crate) writes: u64,
    pub(crate) watch: Option<Watch>,
    /// This many reads pass before one lets another worker run; on a busy machine that takes long.
    pub(crate) reads_between_yields: u32,
    reads: u32,
}

impl SharedData {
    pub(crate) fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.records.get(key).cloned()
    }

    /// Whether it was written.
    pub(crate) fn write(&mut self, key: &str, value: &[u8], version: u32) -> bool {
        if self.conflicts > 0 {
            self.conflicts -= 1;
            self.lost_races += 1;
            return false;
        }
        if let Some((_, current)) = self.records.get(key)
            && version != 0
            && version != *current
        {
            self.lost_races += 1;
            return false;
        }
        self.version += 1;
        self.writes += 1;
        if let Some(watch) = &mut self.watch {
            watch(key, self.records.get(key).map(|(record, _)| record.as_slice()), value);
        }
        self.records.insert(key.to_owned(), (value.to_vec(), self.version));
        true
    }

    /// Whether another worker is to run now.
    pub(crate) fn is_time_to_yield(&mut self) -> bool {
        self.reads += 1;
        let yields = self.reads > self.reads_between_yields;
        if yields {
            self.reads = 0;
        }
        yields
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.records.keys().cloned().collect()
    }
}
