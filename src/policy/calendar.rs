//! The Gregorian calendar in UTC, as far as dates in headers and monthly quotas need it.

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None` for a day that does not exist.
///
/// The calculation lets the year begin in March, so that the leap day comes last.
pub(super) fn days_since_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let month_from_march = month.checked_add(9)?.rem_euclid(12);
    let day_of_year = month_from_march.checked_mul(153)?.checked_add(2)?.div_euclid(5);
    let leap_days = year.div_euclid(4).checked_sub(year.div_euclid(100))?;
    year.checked_mul(365)?
        .checked_add(leap_days)?
        .checked_add(year.div_euclid(400))?
        .checked_add(day_of_year)?
        .checked_add(day)?
        // The days from 1 March of the year 0 to the epoch, plus one, because days count from one.
        .checked_sub(719_469)
}

/// The year and the month (1 to 12) of the day that is `days` after 1970-01-01.
///
/// The inverse of [`days_since_epoch`]. It also counts from March of the year 0, in cycles of 400 years, which all
/// have the same number of days.
pub(super) fn month_of_day(days: u64) -> (i64, i64) {
    const DAYS_PER_CYCLE: i64 = 146_097;
    let days = i64::try_from(days).unwrap_or(i64::MAX).saturating_add(719_468);
    let (cycle, day) = (days.div_euclid(DAYS_PER_CYCLE), days.rem_euclid(DAYS_PER_CYCLE));
    // Without the earlier leap days, the year is a simple quotient.
    let leap_days = day
        .div_euclid(1_460)
        .saturating_sub(day.div_euclid(36_524))
        .saturating_add(day.div_euclid(146_096));
    let year = day.saturating_sub(leap_days).div_euclid(365);
    let days_before_year = year
        .saturating_mul(365)
        .saturating_add(year.div_euclid(4))
        .saturating_sub(year.div_euclid(100));
    let day_of_year = day.saturating_sub(days_before_year);
    let month_from_march = day_of_year.saturating_mul(5).saturating_add(2).div_euclid(153);
    let month = month_from_march.saturating_add(2).rem_euclid(12).saturating_add(1);
    let year = year.saturating_add(cycle.saturating_mul(400));
    (if month <= 2 { year.saturating_add(1) } else { year }, month)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = 0;
        for year in 1970..2110 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(days) = days_since_epoch(year, month, day) {
                        assert_eq!(days, expected, "{year}-{month}-{day}");
                        assert_eq!(month_of_day(days as u64), (year, month), "{days}");
                        expected += 1;
                    }
                }
            }
        }
        assert_eq!(expected, 51_134);
    }

    #[test]
    fn the_end_of_time_has_a_month() {
        assert_eq!(month_of_day(u64::MAX).1.clamp(1, 12), month_of_day(u64::MAX).1);
    }
}
