//! The reference: what every request used of every record, and when.

use super::scripts::Behaviour;
use spillway::policy::tokens::estimate::UsedTokens;
use std::collections::{BTreeMap, HashMap};

/// The seconds of a record, as they count for it.
#[derive(Clone, Copy, Default)]
pub(super) struct Seconds {
    pub(super) second: u64,
    /// Of the current one.
    pub(super) number: u64,
}

impl Seconds {
    /// Ahead is time that passed; back is none at all; a second back is nothing.
    pub(super) fn at(mut self, now_ms: u64) -> Self {
        let second = now_ms / 1_000;
        self.number += second.saturating_sub(self.second);
        if second > self.second || self.second - second > 1 {
            self.second = second;
        }
        self
    }
}

/// An attempt that a backend received.
pub(super) struct Made {
    pub(super) cluster: String,
    pub(super) does: Behaviour,
    /// The second in which it was reserved.
    pub(super) number: u64,
}

/// What one request used of one record.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) usage: UsedTokens,
    /// What it holds of a minute that gives nothing back.
    pub(super) kept: Kept,
}

/// Tokens of a minute. Of an attempt whose client left, nobody here knows whether it had ended before.
#[derive(Clone, Copy, Default)]
pub(super) struct Kept {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl Kept {
    pub(super) fn exactly(tokens: u64) -> Self {
        Self { least: tokens, most: tokens }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { least: self.least + other.least, most: self.most + other.most }
    }
}

/// The reference.
#[derive(Default)]
pub(super) struct Books {
    pub(super) seconds: HashMap<String, Seconds>,
    pub(super) entries: BTreeMap<String, Vec<Entry>>,
    pub(super) made: HashMap<u64, Vec<Made>>,
    pub(super) failures: Vec<String>,
}

impl Books {
    pub(super) fn number(&self, key: &str) -> u64 {
        self.seconds.get(key).map_or(0, |seconds| seconds.number)
    }

    pub(super) fn enter(&mut self, key: String, number: u64, usage: UsedTokens, kept: Kept) {
        self.entries.entry(key).or_default().push(Entry { number, usage, kept });
    }

    /// The entries of the last minute of a record.
    pub(super) fn minute(&self, key: &str, now_ms: u64) -> impl Iterator<Item = Entry> {
        let number = self.seconds.get(key).copied().unwrap_or_default().at(now_ms).number;
        let entries = self.entries.get(key).into_iter().flatten();
        entries.filter(move |entry| number - entry.number < 61).copied()
    }

    pub(super) fn forget(&mut self) {
        self.entries.clear();
    }
}
