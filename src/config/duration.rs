//! Durations as people write them: `"1m30s"`, and `"PT1M30S"` as in API Management.
//!
//! A bare number is refused, because `30` may mean seconds or milliseconds. A duration is a whole
//! number of milliseconds; a finer one is refused and not rounded.

use super::json::Json;
use super::reader::Node;
use crate::policy::time::Millis;
use std::ops::RangeInclusive;

/// One hour; the longest time of most settings.
pub(super) const HOUR: Millis = Millis::from_secs(3_600);

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;

/// Units by descending size; each may appear once, in this order.
const PLAIN_UNITS: [(&str, u64); 4] =
    [("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS), ("ms", 1)];
const ISO_DATE_UNITS: [(&str, u64); 1] = [("D", DAY_MS)];
const ISO_TIME_UNITS: [(&str, u64); 3] = [("H", HOUR_MS), ("M", MINUTE_MS), ("S", SECOND_MS)];

/// A duration within `range`.
pub(super) fn duration(node: &Node<'_>, range: RangeInclusive<Millis>) -> Option<Millis> {
    let found = match node.json() {
        Json::Text(text) => parse(text).filter(|length| range.contains(length)),
        _ => None,
    };
    if found.is_none() {
        let (low, high) = (shown(*range.start()), shown(*range.end()));
        let hint = match node.json() {
            Json::Number(_) => "; write the unit, such as \"30s\" or \"250ms\"",
            Json::Text(text) if parse(text).is_some() => "",
            _ => "; write them as \"30s\", \"250ms\", \"1m30s\" or \"PT30S\"",
        };
        node.expected(format_args!("durations from {low} to {high}{hint}"));
    }
    found
}

/// `length` in its largest whole unit.
pub(super) fn shown(length: Millis) -> String {
    let ms = length.as_ms();
    let units = PLAIN_UNITS.iter();
    let mut whole = units.filter_map(|(unit, size)| match (ms.checked_rem(*size), ms) {
        (Some(0), 1..) => ms.checked_div(*size).map(|count| format!("{count}{unit}")),
        _ => None,
    });
    whole.next().unwrap_or_else(|| "0s".to_owned())
}

fn parse(text: &str) -> Option<Millis> {
    let Some(iso) = text.strip_prefix('P') else {
        return sum(text, &PLAIN_UNITS).map(Millis::new);
    };
    match iso.split_once('T') {
        Some(("", time)) => sum(time, &ISO_TIME_UNITS),
        Some((date, time)) => sum(date, &ISO_DATE_UNITS)?.checked_add(sum(time, &ISO_TIME_UNITS)?),
        None => sum(iso, &ISO_DATE_UNITS),
    }
    .map(Millis::new)
}

/// The milliseconds of at least one `<number><unit>`.
fn sum(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text;
    let mut units = units.iter();
    loop {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(number_end)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end)?;
        // Only smaller units remain, so this also checks order and repetition.
        let (_, size_ms) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(decimal(number, *size_ms)?)?;
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
}

/// `number` units of `size_ms`, when that is a whole number of milliseconds.
fn decimal(number: &str, size_ms: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let divisor = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let parts = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let parts_ms = parts.checked_mul(size_ms)?;
    if parts_ms.checked_rem(divisor)? != 0 {
        return None;
    }
    let whole_ms = whole.parse::<u64>().ok()?.checked_mul(size_ms)?;
    whole_ms.checked_add(parts_ms.checked_div(divisor)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn both_notations_give_milliseconds() {
        let cases = [
            ("30s", 30_000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1h1m1s1ms", 3_661_001),
            ("0.25s", 250),
            ("0s", 0),
            ("PT1M30S", 90_000),
            ("PT0.5S", 500),
            ("PT1H", 3_600_000),
            ("P1D", 86_400_000),
            ("P1DT1S", 86_401_000),
        ];
        for (text, ms) in cases {
            assert_eq!(parse(text), Some(Millis::new(ms)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_duration() {
        let cases = [
            "",
            "30",
            "s",
            "30 s",
            "-1s",
            "1s1m",
            "1s1s",
            "1ms1s",
            "30S",
            "1.s",
            ".5s",
            "1..5s",
            "1.5.5s",
            "0.0001s",
            "0.5ms",
            "P",
            "PT",
            "P1H",
            "PT1D",
            "P1DT",
            "PT1S1M",
            "1d",
            "1s ",
            "99999999999999999999s",
            "18446744073709551615h",
            "1µs",
            "１s",
        ];
        for text in cases {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_length_is_shown_in_its_largest_whole_unit() {
        let cases = [(0, "0s"), (1, "1ms"), (1_500, "1500ms"), (60_000, "1m"), (86_400_000, "24h")];
        for (ms, text) in cases {
            assert_eq!(shown(Millis::new(ms)), text);
        }
    }
}
