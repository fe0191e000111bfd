//! Remembers decisions about header names: nearly every message has the same few names, and one decision takes
//! hundreds of instructions.
//!
//! Messages also repeat the order of their headers. So each name remembers the name that followed it last time, and
//! all names lie in one block of bytes. A repeated message is compared with a few cache lines, and nothing is
//! searched.

use super::exclusive::Exclusive;
use super::header_map::HeaderMap;
use crate::openai::bytes::is_same;
use crate::openai::response::headers::Kind;
use std::cell::RefCell;

/// How many names are kept. At one more, all are forgotten: if many names are sent, some are judged again.
const NAMES_MAX: usize = 128;

/// The longest name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The results of a pure function of header names, as far as they are kept.
pub(crate) struct Verdicts {
    judge: fn(&[u8]) -> Kind,
    known: RefCell<Known>,
}

/// The names whose verdicts are kept.
struct Known {
    names: Vec<Name>,
    /// The bytes of all names, one after the other.
    bytes: Vec<u8>,
}

/// A name whose verdict is kept.
#[derive(Clone, Copy)]
struct Name {
    /// Where it begins in the bytes of all names.
    start: u16,
    end: u16,
    kind: Kind,
    /// The number of the name that followed it in the last message.
    next: u8,
}

impl Verdicts {
    pub(crate) const fn new(judge: fn(&[u8]) -> Kind) -> Self {
        let known = Known { names: Vec::new(), bytes: Vec::new() };
        Self { judge, known: RefCell::new(known) }
    }

    /// Passes every header of a message to `visit`: the verdict on its name, the name, and the value.
    pub(crate) fn each(&self, headers: &HeaderMap, mut visit: impl FnMut(Kind, &[u8], &[u8])) {
        let Some(mut known) = self.known.change() else {
            return headers.iter().for_each(|(name, value)| visit((self.judge)(name), name, value));
        };
        let mut at = At { last: u8::MAX, expected: 0 };
        for (name, value) in headers.iter() {
            let kind = match known.name(at.expected, name) {
                Some(found) => {
                    at = At { last: at.expected, expected: found.next };
                    found.kind
                }
                None => known.search(name, &mut at, self.judge),
            };
            visit(kind, name, value);
        }
    }
}

/// The position in a message, as numbers of names: the last name, and the name that followed it in the message
/// before.
struct At {
    last: u8,
    expected: u8,
}

impl Known {
    /// The name with this number, if it equals `name`.
    #[inline]
    fn name(&self, number: u8, name: &[u8]) -> Option<Name> {
        let known = self.names.get(usize::from(number))?;
        let bytes = self.bytes.get(usize::from(known.start)..usize::from(known.end))?;
        is_same(bytes, name).then_some(*known)
    }

    /// The verdict on a name that was not expected here.
    #[cold]
    #[inline(never)]
    fn search(&mut self, name: &[u8], at: &mut At, judge: fn(&[u8]) -> Kind) -> Kind {
        let mut numbers = 0..u8::try_from(self.names.len()).unwrap_or(u8::MAX);
        let found = numbers.find_map(|number| Some((number, self.name(number, name)?)));
        let (number, Name { kind, next, .. }) = match found {
            Some(found) => found,
            None => {
                let kind = judge(name);
                let Some(kept) = self.keep(name, kind) else { return kind };
                kept
            }
        };
        if let Some(last) = self.names.get_mut(usize::from(at.last)) {
            last.next = number;
        }
        *at = At { last: number, expected: next };
        kind
    }

    /// Keeps the verdict on a name, unless the name is too long, and returns it with its number.
    fn keep(&mut self, name: &[u8], kind: Kind) -> Option<(u8, Name)> {
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
            self.bytes.clear();
        }
        let number = u8::try_from(self.names.len()).ok()?;
        let start = u16::try_from(self.bytes.len()).ok()?;
        self.bytes.extend_from_slice(name);
        let end = u16::try_from(self.bytes.len()).ok()?;
        let kept = Name { start, end, kind, next: number.saturating_add(1) };
        self.names.push(kept);
        Some((number, kept))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

    use super::super::header_map::serialize;
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static JUDGED: Cell<u32> = const { Cell::new(0) };
    }

    fn judge(name: &[u8]) -> Kind {
        JUDGED.with(|judged| judged.update(|count: u32| count.saturating_add(1)));
        kind(name)
    }

    fn kind(name: &[u8]) -> Kind {
        let is_even = name.iter().fold(0, |sum: u32, byte| sum + u32::from(*byte)) % 2 == 0;
        if is_even { Kind::Unwanted } else { Kind::Other }
    }

    /// Checks every verdict on a message with these headers, and returns how many names were judged.
    fn judged(verdicts: &Verdicts, names: &[&str]) -> u32 {
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| (*name, "v")).collect();
        let headers = HeaderMap::parse(serialize(&pairs)).unwrap();
        JUDGED.set(0);
        let mut seen = Vec::new();
        verdicts.each(&headers, |verdict, name, value| {
            assert_eq!(verdict, kind(name), "{name:?}");
            assert_eq!(value, b"v");
            seen.push(String::from_utf8(name.to_vec()).unwrap());
        });
        assert_eq!(seen, names);
        JUDGED.get()
    }

    #[test]
    fn a_name_is_judged_once_and_never_confused_with_another() {
        let verdicts = Verdicts::new(judge);
        let names: Vec<String> =
            (0..2_000).map(|i| format!("x-{}-{i}", "n".repeat(i % 70))).collect();
        for some in names.chunks(30).chain(names.chunks(70)) {
            judged(&verdicts, &some.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let usual = ["", "a", "accept", "authorization", "x-stainless-os", "x-stainless-arch"];
        assert!(judged(&verdicts, &usual) <= 6);
        for _ in 0..100 {
            assert_eq!(judged(&verdicts, &usual), 0);
        }
    }

    #[test]
    fn names_are_known_in_whatever_order_they_come() {
        let verdicts = Verdicts::new(judge);
        let mut names = ["accept", "host", "user-agent", "x-stainless-os", "x-stainless-arch"];
        judged(&verdicts, &names);
        for round in 0..50 {
            names.rotate_left(round % 5);
            names.swap(round % 4, 4);
            assert_eq!(judged(&verdicts, &names), 0, "{names:?}");
            assert_eq!(judged(&verdicts, &["accept", "accept", "host"]), 0);
        }
    }

    #[test]
    fn a_long_name_is_judged_each_time_and_keeps_the_others_known() {
        let (verdicts, long) = (Verdicts::new(judge), "n".repeat(NAME_BYTES_MAX + 1));
        let names = ["accept", long.as_str(), "host"];
        assert_eq!(judged(&verdicts, &names), 3);
        assert_eq!(judged(&verdicts, &names), 1);
    }
}
