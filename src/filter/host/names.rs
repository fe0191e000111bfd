//! What was decided of names of headers: the same few come with nearly every message, and judging one takes
//! hundreds of instructions.

use super::exclusive::Exclusive;
use crate::openai::response::headers::Kind;
use std::cell::RefCell;

/// In how many places verdicts are kept, two in each. Who sends many names has some judged anew.
const PLACES: usize = 256;

/// The longest name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The verdict on a name.
type Verdict = Option<(Box<[u8]>, Kind)>;

/// What a pure function makes of names, as far as it is kept.
pub(crate) struct Verdicts {
    judge: fn(&[u8]) -> Kind,
    known: RefCell<Vec<[Verdict; 2]>>,
}

impl Verdicts {
    pub(crate) const fn new(judge: fn(&[u8]) -> Kind) -> Self {
        Self { judge, known: RefCell::new(Vec::new()) }
    }

    /// The verdict on a name.
    pub(crate) fn of(&self, name: &[u8]) -> Kind {
        let Some(mut known) = self.known.change() else { return (self.judge)(name) };
        if known.is_empty() {
            known.resize_with(PLACES, Default::default);
        }
        let Some(place) = known.get_mut(place_of(name)) else { return (self.judge)(name) };
        for (known, kind) in place.iter().flatten() {
            if **known == *name {
                return *kind;
            }
        }
        let kind = (self.judge)(name);
        if name.len() <= NAME_BYTES_MAX {
            place.reverse();
            let [newest, _] = place;
            *newest = Some((name.into(), kind));
        }
        kind
    }
}

/// Where the verdict on a name is kept. Both ends and the length tell the usual names apart.
fn place_of(name: &[u8]) -> usize {
    let start = name.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let end = name.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let length = u64::try_from(name.len()).unwrap_or_default();
    let ends = u64::from(start) << 32 | u64::from(end);
    let mixed =
        (ends ^ length.wrapping_mul(0x2545_f491_4f6c_dd1d)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 56).unwrap_or_default() // less than 256
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
