//! HTTP dates (RFC 9110, section 5.6.7): the preferred form and the two obsolete ones.
//!
//! The usual packages return `SystemTime`, which is not used here ([`Timestamp`] is). Parsing takes a dozen lines, so
//! it needs no dependency.

use crate::policy::calendar::days_since_epoch;
use crate::policy::time::{Millis, Timestamp};

const MONTHS: [&[u8]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` or
/// `Sun Nov  6 08:49:37 1994`. A date before the epoch is the epoch.
/// `now` decides the century of a two-digit year: a year that seems more than 50 years ahead is past.
pub(super) fn parse(value: &[u8], now: Timestamp) -> Option<Timestamp> {
    let mut fields = value
        .split(|byte| matches!(byte, b' ' | b',' | b'-' | b'\t'))
        .filter(|field| !field.is_empty());
    let weekday = fields.next()?;
    if !weekday.iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    let second = fields.next()?;
    let (day, month, year, clock) = match month_of(second) {
        Some(month) => {
            let (day, clock) = (fields.next()?, fields.next()?);
            (day, month, fields.next()?, clock)
        }
        None => {
            let (month, year) = (month_of(fields.next()?)?, fields.next()?);
            (second, month, year, fields.next()?)
        }
    };
    let zone_is_utc = fields.next().is_none_or(|zone| zone.eq_ignore_ascii_case(b"GMT"));
    if !zone_is_utc || fields.next().is_some() {
        return None;
    }
    let year = if year.len() == 2 { full_year(number(year)?, now) } else { number(year)? };
    let days = days_since_epoch(year, month, number(day)?)?;
    let seconds = days.saturating_mul(86_400).saturating_add(second_of_day(clock)?);
    Some(Timestamp::ZERO.plus(Millis::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

fn number(digits: &[u8]) -> Option<i64> {
    if digits.len() > 4 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn month_of(name: &[u8]) -> Option<i64> {
    let position = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month))?;
    i64::try_from(position).ok()?.checked_add(1)
}

fn second_of_day(clock: &[u8]) -> Option<i64> {
    let mut parts = clock.split(|byte| *byte == b':').map(number);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // 60 is a leap second.
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    hour.checked_mul(3_600)?.checked_add(minute.checked_mul(60)?)?.checked_add(second)
}

/// The year that ends in `two_digits` and is at most 50 years ahead of `now`.
fn full_year(two_digits: i64, now: Timestamp) -> i64 {
    const MS_PER_YEAR: u64 = 31_556_952_000;
    let years = now.as_ms().checked_div(MS_PER_YEAR).unwrap_or(0);
    let this_year = i64::try_from(years).unwrap_or(0).saturating_add(1970);
    let century = this_year.saturating_sub(this_year.rem_euclid(100));
    let year = century.saturating_add(two_digits);
    if year > this_year.saturating_add(50) { year.saturating_sub(100) } else { year }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

    fn seconds(value: &str) -> Option<u64> {
        parse(value.as_bytes(), NOW).map(|at| at.as_ms() / 1_000)
    }

    #[test]
    fn the_three_forms_of_the_rfc_name_the_same_second() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Sun Nov  6 08:49:37 1994"), Some(784_111_777));
    }

    #[test]
    fn leap_days_exist_only_in_leap_years() {
        assert_eq!(seconds("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(seconds("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        assert_eq!(seconds("Wed, 29 Feb 2023 00:00:00 GMT"), None);
        assert_eq!(seconds("Mon, 29 Feb 2100 00:00:00 GMT"), None);
    }

    #[test]
    fn a_two_digit_year_is_never_far_ahead() {
        assert_eq!(seconds("Sunday, 01-Jan-30 00:00:00 GMT"), Some(1_893_456_000));
        assert_eq!(seconds("Sunday, 01-Jan-99 00:00:00 GMT"), Some(915_148_800));
    }

    #[test]
    fn a_date_before_the_epoch_is_the_epoch() {
        assert_eq!(seconds("Sun, 06 Nov 1904 08:49:37 GMT"), Some(0));
    }

    #[test]
    fn what_is_not_a_date_is_refused() {
        for value in [
            "",
            "soon",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
            "Sun, 06 Nov 199411111111 08:49:37 GMT",
            "10, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
        ] {
            assert_eq!(seconds(value), None, "{value}");
        }
    }
}
