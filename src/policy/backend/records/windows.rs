//! What the rules of a circuit breaker counted for one backend, as bytes.
//!
//! The counts of one set of rules mean nothing to another set. Two listeners may have one pool with different rules,
//! and a new configuration may change them while requests of the old one still run. So the record has a section for
//! each set of rules, found by its fingerprint. The section that was written last comes first. There are at most
//! [`SECTIONS_MAX`]; the one that was written longest ago is dropped.

use super::super::breaker::RuleWindows;
use crate::policy::codec::Reader;
use crate::policy::keys::Fnv;
use crate::policy::pool::{BreakerSettings, MAX_RULES};
use crate::policy::window::{WINDOW_BYTES, Window};
use std::hash::{Hash, Hasher};

const VERSION: u8 = 2;
const HEAD_BYTES: usize = 1;
/// The fingerprint, the epoch, and a window for each rule.
const SECTION_BYTES: usize = 12 + MAX_RULES * WINDOW_BYTES;
/// More sets of rules for one pool at the same time are a mistake. The record must not grow with them.
const SECTIONS_MAX: usize = 4;

/// The record of the rule windows of one backend.
#[derive(Clone, Copy, Debug)]
pub struct WindowsRecord;

impl WindowsRecord {
    /// The newest version that can be read.
    pub const VERSION: u8 = VERSION;

    /// The counts of these rules; fresh when they are missing or unreadable.
    pub fn decode(bytes: Option<&[u8]>, settings: &BreakerSettings) -> RuleWindows {
        let fingerprint = fingerprint(settings).to_le_bytes();
        let own = sections(bytes.unwrap_or_default())
            .iter()
            .find(|section| section.starts_with(&fingerprint));
        own.and_then(|section| decode_section(section)).unwrap_or_default()
    }

    /// Changes the counts of these rules, and leaves those of other sets unchanged.
    pub fn update<R>(
        bytes: Option<&[u8]>,
        settings: &BreakerSettings,
        change: impl FnOnce(&mut RuleWindows) -> R,
    ) -> (Vec<u8>, R) {
        let mut windows = Self::decode(bytes, settings);
        let result = change(&mut windows);
        let fingerprint = fingerprint(settings).to_le_bytes();
        let sections = sections(bytes.unwrap_or_default());
        let mut updated = Vec::with_capacity(
            sections
                .len()
                .saturating_add(1)
                .saturating_mul(SECTION_BYTES)
                .saturating_add(HEAD_BYTES),
        );
        updated.push(VERSION);
        updated.extend(fingerprint);
        updated.extend(windows.epoch.to_le_bytes());
        windows.windows.iter().for_each(|window| window.encode(&mut updated));
        let others = sections.iter().filter(|section| !section.starts_with(&fingerprint));
        others.take(SECTIONS_MAX.saturating_sub(1)).for_each(|other| updated.extend(other));
        (updated, result)
    }
}

/// The sections of a record; none when it is unreadable.
fn sections(bytes: &[u8]) -> &[[u8; SECTION_BYTES]] {
    let Some((&[VERSION], body)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return &[] };
    let (sections, rest) = body.as_chunks();
    if rest.is_empty() && sections.len() <= SECTIONS_MAX { sections } else { &[] }
}

fn decode_section(section: &[u8]) -> Option<RuleWindows> {
    let mut reader = Reader::new(section);
    reader.u64()?;
    let mut windows = RuleWindows { epoch: reader.u32()?, ..RuleWindows::default() };
    for window in &mut windows.windows {
        *window = Window::decode(&mut reader)?;
    }
    Some(windows)
}

fn fingerprint(settings: &BreakerSettings) -> u64 {
    let mut hash = Fnv::default();
    for rule in &settings.rules {
        (rule.threshold, rule.interval, &rule.statuses, rule.reasons).hash(&mut hash);
    }
    hash.finish()
}
