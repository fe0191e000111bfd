//! Bytes of JSON and of lines: spaces, delimiters, counts, and searches for the next byte that matters.
//!
//! The searches compare eight bytes at a time. The module is compiled for 32 bits without vector
//! instructions, where a general search compares four. WebAssembly still has native 64-bit arithmetic.

const WORD_BYTES: usize = 8;

/// The lowest bit of each byte of a word.
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

/// The highest bit of each byte of a word.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The largest count that is accepted. It is far above what any model takes, and leaves room for sums and
/// products.
pub const COUNT_MAX: u64 = 0xffff_ffff;

/// Whether both are the same, for texts as short as names: in WebAssembly a general comparison reads one byte
/// after the other.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (Some(last), Some(other_last)) = (one.last_chunk(), other.last_chunk()) else {
        return is_same_word(one, other);
    };
    // The last word overlaps those before it.
    let words = one.as_chunks::<WORD_BYTES>().0.iter().zip(other.as_chunks::<WORD_BYTES>().0);
    let mut difference = u64::from_le_bytes(*last) ^ u64::from_le_bytes(*other_last);
    for (word, other) in words {
        difference |= u64::from_le_bytes(*word) ^ u64::from_le_bytes(*other);
    }
    difference == 0
}

/// Whether both are the same; they have the same length and are shorter than a word.
fn is_same_word(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(byte, other)| byte == other)
}

/// The position of the first quote or backslash; the length of `bytes` when there is none.
pub(super) fn quote_or_backslash(bytes: &[u8]) -> usize {
    first(bytes, |word| equal(word, b'"') | equal(word, b'\\'), |byte| matches!(byte, b'"' | b'\\'))
}

/// The position of the first underscore or backslash; the length of `bytes` when there is none.
pub(super) fn underscore_or_backslash(bytes: &[u8]) -> usize {
    first(bytes, |word| equal(word, b'_') | equal(word, b'\\'), |byte| matches!(byte, b'_' | b'\\'))
}

/// The position of the first quote or square bracket; the length of `bytes` when there is none.
pub(super) fn quote_or_bracket(bytes: &[u8]) -> usize {
    first(
        bytes,
        |word| equal(word, b'"') | equal(word, b'[') | equal(word, b']'),
        |byte| matches!(byte, b'"' | b'[' | b']'),
    )
}

/// The position of the first dot or slash; the length of `bytes` when there is none.
pub(super) fn dot_or_slash(bytes: &[u8]) -> usize {
    first(bytes, |word| equal(word, b'.') | equal(word, b'/'), |byte| matches!(byte, b'.' | b'/'))
}

/// The position of the first line feed or carriage return; the length of `bytes` when there is none.
pub(super) fn line_end(bytes: &[u8]) -> usize {
    let mut at: usize = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        // One comparison is cheaper than two, and few other bytes of a stream are as small.
        at = at.wrapping_add(first(rest, |word| less(word, b'\r' + 1), |byte| byte <= b'\r'));
        if !bytes.get(at).is_some_and(|byte| !matches!(byte, b'\n' | b'\r')) {
            return at;
        }
        at = at.wrapping_add(1);
    }
}

/// Whether `byte` is white space in JSON.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether `byte` ends a number or a literal.
pub(super) fn is_delimiter(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b',' | b':' | b'"' | b'{' | b'}' | b'[' | b']')
}

/// The count that `text` states: a JSON number, or one as text; `None` when it is negative or none.
pub(super) fn count(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if let Ok(whole) = text.parse::<u64>() {
        return Some(whole.min(COUNT_MAX));
    }
    let number = text.parse::<f64>().ok()?;
    if number.is_nan() || number < 0.0 {
        return None;
    }
    // The cast saturates, and infinity is as good as the maximum.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let whole = number as u64;
    Some(whole.min(COUNT_MAX))
}

/// The first byte that `is_sought`. `marks` marks bytes of a word, and only its first mark is reliable.
#[inline(always)]
fn first(bytes: &[u8], marks: impl Fn(u64) -> u64, is_sought: impl Fn(u8) -> bool) -> usize {
    let (words, tail) = bytes.as_chunks::<WORD_BYTES>();
    let mut at: usize = 0;
    for word in words {
        let marked = marks(u64::from_le_bytes(*word));
        if marked != 0 {
            // The number of bits is less than 64.
            return at.wrapping_add((marked.trailing_zeros() >> 3) as usize);
        }
        at = at.wrapping_add(WORD_BYTES);
    }
    tail.iter()
        .position(|&byte| is_sought(byte))
        .map_or(bytes.len(), |place| at.wrapping_add(place))
}

/// Marks the bytes of `word` that equal `byte` with their highest bits. Bytes behind the first match may be
/// marked by mistake, because the subtraction borrows from them.
#[inline(always)]
fn equal(word: u64, byte: u8) -> u64 {
    let differences = word ^ LOW_BITS.wrapping_mul(u64::from(byte));
    differences.wrapping_sub(LOW_BITS) & !differences & HIGH_BITS
}

/// Marks the bytes of `word` that are less than `bound`, which is at most 128, as [`equal`] does.
#[inline(always)]
fn less(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(LOW_BITS.wrapping_mul(u64::from(bound))) & !word & HIGH_BITS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

    use super::super::random::Random;
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_count_is_bounded_and_never_negative() {
        assert_eq!(count(b"100"), Some(100));
        assert_eq!(count(b" 12.9 "), Some(12));
        assert_eq!(count(b"1e3"), Some(1_000));
        for huge in ["1e99", "99999999999999999999999", "18446744073709551615", "inf"] {
            assert_eq!(count(huge.as_bytes()), Some(COUNT_MAX), "{huge}");
        }
        for none in ["-1", "-1e99", "NaN", "", "null", "true", "1x", "\u{fffd}"] {
            assert_eq!(count(none.as_bytes()), None, "{none}");
        }
        assert_eq!(count(b"\xff"), None);
    }

    #[test]
    fn texts_are_the_same_when_every_byte_is() {
        for length in 0..40 {
            let text: Vec<u8> = (0..length).collect();
            assert!(is_same(&text, &text.clone()));
            assert!(!is_same(&text, &text.repeat(2)) || length == 0);
            for place in 0..text.len() {
                let mut other = text.clone();
                other[place] ^= 0x80;
                assert!(!is_same(&text, &other), "{length} {place}");
                assert!(!is_same(&text[..place], &text));
            }
        }
    }

    #[test]
    fn every_search_finds_what_comes_first_wherever_it_stands() {
        let searches = [
            (quote_or_backslash as fn(&[u8]) -> usize, &b"\"\\"[..]),
            (quote_or_bracket, b"\"[]"),
            (underscore_or_backslash, b"_\\"),
            (dot_or_slash, b"./"),
            (line_end, b"\n\r"),
        ];
        let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
        let pieces: Vec<&[u8]> = bytes.iter().map(|byte| &byte[..]).collect();
        let mut random = Random::new(11);
        for (search, sought) in searches {
            for _ in 0..5_000 {
                let text = random.join(&pieces, 200);
                let expected = text.iter().position(|byte| sought.contains(byte));
                assert_eq!(search(&text), expected.unwrap_or(text.len()), "{text:?}");
            }
            for place in 0..40 {
                for byte in sought {
                    let mut text = vec![b'a'; 40];
                    text[place] = *byte;
                    assert_eq!(search(&text), place);
                    assert_eq!(search(&text[..place]), place);
                }
            }
        }
    }
}
