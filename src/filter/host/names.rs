//! What was decided of names of headers: the same few come with nearly every message, and judging one takes
//! hundreds of instructions.

use crate::openai::response::headers::Kind;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// How many verdicts are kept. Who sends more names than these has all judged anew.
const NAMES_MAX: usize = 256;

/// The longest name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What a pure function makes of names, as far as it is kept.
pub(crate) struct Verdicts {
    judge: fn(&[u8]) -> Kind,
    known: RefCell<HashMap<Box<[u8]>, Kind, BuildHasherDefault<EndsHasher>>>,
}

impl Verdicts {
    pub(crate) const fn new(judge: fn(&[u8]) -> Kind) -> Self {
        Self { judge, known: RefCell::new(HashMap::with_hasher(BuildHasherDefault::new())) }
    }

    /// The verdict on a name.
    pub(crate) fn of(&self, name: &[u8]) -> Kind {
        let Ok(mut known) = self.known.try_borrow_mut() else { return (self.judge)(name) };
        if let Some(verdict) = known.get(name) {
            return *verdict;
        }
        let verdict = (self.judge)(name);
        if name.len() <= NAME_BYTES_MAX {
            if known.len() >= NAMES_MAX {
                known.clear();
            }
            known.insert(name.into(), verdict);
        }
        verdict
    }
}

/// Hashes both ends of a name and its length, which tell the usual names apart.
#[derive(Default)]
struct EndsHasher(u64);

impl Hasher for EndsHasher {
    fn write(&mut self, bytes: &[u8]) {
        let start = bytes.first_chunk().map_or(0, |start| u32::from_le_bytes(*start));
        let end = bytes.last_chunk().map_or(0, |end| u32::from_le_bytes(*end));
        let mixed = self.0 ^ (u64::from(start) << 32 | u64::from(end));
        self.0 = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn write_usize(&mut self, length: usize) {
        self.0 = u64::try_from(length).unwrap_or_default();
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static JUDGED: Cell<u32> = const { Cell::new(0) };
    }

    fn judge(name: &[u8]) -> Kind {
        JUDGED.with(|judged| judged.update(|count: u32| count.saturating_add(1)));
        kind(name.len())
    }

    fn kind(length: usize) -> Kind {
        if length % 2 == 1 { Kind::Other } else { Kind::Unwanted }
    }

    #[test]
    fn a_name_is_judged_once_and_never_taken_for_another() {
        let verdicts = Verdicts::new(judge);
        let names: Vec<String> =
            (0..2_000).map(|i| format!("x-{}-{i}", "n".repeat(i % 70))).collect();
        for name in names.iter().chain(&names) {
            assert_eq!(verdicts.of(name.as_bytes()), kind(name.len()), "{name}");
        }
        JUDGED.set(0);
        for _ in 0..100 {
            for name in ["", "a", "accept", "authorization", "x-stainless-os", "x-stainless-arch"] {
                assert_eq!(verdicts.of(name.as_bytes()), kind(name.len()), "{name}");
            }
        }
        assert!(JUDGED.get() <= 6, "{}", JUDGED.get());
    }
}
