//! Reads a recorded trace of requests.

use crate::load::Request;
use crate::random::Random;
use std::str::FromStr;

/// The columns of a trace, and the header row that names them.
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
/// The largest count of tokens. No model takes more.
const MAX_TOKENS: u64 = 10_000_000;
/// The longest trace in seconds: a year. A longer one has times of another unit.
const MAX_SECONDS: f64 = 366.0 * 86_400.0;
/// The most bytes of a value that an error repeats.
const MAX_FOUND_CHARS: usize = 80;

/// Reads a trace: a header row, then lines of `TIMESTAMP,ContextTokens,GeneratedTokens`, the format in which Azure
/// publishes its own traffic. A time is a date with a time (`2023-11-16 18:17:03.9799600`), or a number of seconds.
/// Further columns are ignored. Rows are sorted by time.
///
/// # Errors
/// The first unreadable line: its number, what was found and what is expected.
pub fn from_csv(text: &str, seed: u64) -> Result<Vec<Request>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(position, line)| (position + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty());
    let Some((number, header)) = lines.next() else {
        return Err(format!("empty, expected the header row `{HEADER}` and at least one request"));
    };
    let columns = columns(header).ok_or_else(|| {
        format!("line {number}: found `{}`, expected the header row `{HEADER}`", cut(header))
    })?;
    let mut rows = lines
        .map(|(number, line)| Row::read(number, line, columns))
        .collect::<Result<Vec<Row>, String>>()?;
    rows.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Err(format!("only a header row, expected at least one row of `{HEADER}`"));
    };
    if last.seconds - first.seconds > MAX_SECONDS {
        return Err(format!(
            "lines {} and {}: their times are more than a year apart, expected dates or seconds",
            first.number, last.number
        ));
    }
    let (begin, mut random) = (first.seconds, Random::new(seed));
    Ok(rows.iter().map(|row| row.request(begin, &mut random)).collect())
}

/// The number of columns that a header row names, if it is one.
fn columns(header: &str) -> Option<usize> {
    let cells: Vec<&str> = header.split(',').map(str::trim).collect();
    let mut expected = HEADER.split(',').enumerate();
    let is_header = expected
        .all(|(at, name)| cells.get(at).is_some_and(|cell| cell.eq_ignore_ascii_case(name)));
    is_header.then_some(cells.len())
}

/// A row of a trace.
struct Row {
    /// The number of its line.
    number: usize,
    /// Its time; only differences matter.
    seconds: f64,
    prompt_tokens: u64,
    output_tokens: u64,
}

impl Row {
    fn read(number: usize, line: &str, columns: usize) -> Result<Self, String> {
        let wrong = |found: &str, expected: &str| {
            format!("line {number}: found `{}`, expected {expected} in `{HEADER}`", cut(found))
        };
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let [time, prompt, output, ..] = *cells else {
            return Err(wrong(line, &format!("{columns} columns")));
        };
        if cells.len() != columns {
            return Err(wrong(line, &format!("{columns} columns")));
        }
        let tokens = |cell: &str| {
            let tokens = cell.parse().ok().filter(|tokens| *tokens <= MAX_TOKENS);
            tokens.ok_or_else(|| wrong(cell, &format!("a whole number of at most {MAX_TOKENS}")))
        };
        let time_expected = "a time such as `2023-11-16 18:17:03.979`, or seconds,";
        Ok(Self {
            number,
            seconds: seconds(time).ok_or_else(|| wrong(time, time_expected))?,
            prompt_tokens: tokens(prompt)?,
            output_tokens: tokens(output)?,
        })
    }

    fn request(&self, begin: f64, random: &mut Random) -> Request {
        Request {
            at_ms: ((self.seconds - begin) * 1_000.0) as u64,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            max_tokens: None,
            text_bytes: self.prompt_tokens.saturating_mul(4),
            streams: random.chance(50),
            consumer: 0,
            roll: random.number(),
        }
    }
}

/// The beginning of a value, for an error.
fn cut(found: &str) -> String {
    found.chars().take(MAX_FOUND_CHARS).collect()
}

/// The seconds of a time; only differences matter.
fn seconds(time: &str) -> Option<f64> {
    if let Ok(seconds) = time.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let (date, clock) = time.split_once([' ', 'T'])?;
    let (clock, offset_s) = zone(clock)?;
    let [year, month, day] = parts::<i64, 3>(date, '-')?;
    let (hour, rest) = clock.split_once(':')?;
    let (minute, second) = rest.split_once(':')?;
    let (hour, minute) = (hour.parse::<u8>().ok()?, minute.parse::<u8>().ok()?);
    let second = second.parse::<f64>().ok().filter(|second| (0.0..60.0).contains(second))?;
    let is_date = (1..=9_999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day);
    let is_clock = hour < 24 && minute < 60;
    (is_date && is_clock).then(|| {
        let minutes = f64::from(hour) * 60.0 + f64::from(minute);
        days(year, month, day) as f64 * 86_400.0 + minutes * 60.0 + second - offset_s
    })
}

/// A time of day without its zone, and the seconds by which the zone is ahead of UTC: `Z`, `+01:00`, `-05:30`.
fn zone(clock: &str) -> Option<(&str, f64)> {
    if let Some(clock) = clock.strip_suffix('Z') {
        return Some((clock, 0.0));
    }
    let Some(at) = clock.find(['+', '-']) else { return Some((clock, 0.0)) };
    let (clock, offset) = clock.split_at(at);
    let sign = if offset.starts_with('-') { -1.0 } else { 1.0 };
    let [hours, minutes] = parts::<u8, 2>(offset.trim_start_matches(['+', '-']), ':')?;
    let minutes =
        (hours < 24 && minutes < 60).then(|| f64::from(hours) * 60.0 + f64::from(minutes))?;
    Some((clock.trim_end(), sign * minutes * 60.0))
}

/// Exactly `N` numbers with separators between them.
fn parts<T: FromStr, const N: usize>(text: &str, separator: char) -> Option<[T; N]> {
    let parts: Option<Vec<T>> = text.split(separator).map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

/// The length of a month.
fn days_of(year: i64, month: i64) -> i64 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(next_year, next, 1) - days(year, month, 1)
}

/// The days since the epoch of a date of the Gregorian calendar (Howard Hinnant's algorithm).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: &str) -> Result<Vec<Request>, String> {
        from_csv(&format!("{HEADER}\n{rows}"), 1)
    }

    fn times(rows: &str) -> Vec<u64> {
        read(rows).unwrap().iter().map(|request| request.at_ms).collect()
    }

    #[test]
    fn a_trace_is_read_as_azure_publishes_it() {
        let rows = "2023-11-30 23:59:59.5000000,374,44\n2023-12-01 00:00:01.2500000,396,109\n";
        let requests = read(rows).unwrap();
        let read: Vec<_> =
            requests.iter().map(|it| (it.at_ms, it.prompt_tokens, it.output_tokens)).collect();
        assert_eq!(read, [(0, 374, 44), (1_750, 396, 109)]);
        assert_eq!(times("3.5,10,2\n4,20,3\n"), [0, 500]);
    }

    #[test]
    fn time_zones_are_honoured() {
        let rows = "2024-05-10 00:00:00.5+00:00,1,1\n2024-05-10T02:00:01Z,1,1\n\
                    2024-05-10 02:00:02+02:00,1,1\n2024-05-09T18:30:03-05:30,1,1\n";
        assert_eq!(times(rows), [0, 1_500, 2_500, 7_200_500]);
    }

    #[test]
    fn a_byte_order_mark_and_empty_lines_are_skipped() {
        let text = format!("\u{feff}{HEADER}\r\n\r\n1,10,2\r\n");
        assert_eq!(from_csv(&text, 1).unwrap().len(), 1);
    }

    #[test]
    fn rows_are_sorted_by_time() {
        let requests = read("5,1,1\n3,2,2\n4,3,3\n").unwrap();
        let read: Vec<_> = requests.iter().map(|it| (it.at_ms, it.prompt_tokens)).collect();
        assert_eq!(read, [(0, 2), (1_000, 3), (2_000, 1)]);
        assert_eq!(requests, self::read("3,2,2\n4,3,3\n5,1,1\n").unwrap());
    }

    #[test]
    fn a_trace_without_a_header_or_without_rows_is_refused() {
        let header = "expected the header row `TIMESTAMP,ContextTokens,GeneratedTokens`";
        for text in ["", "\n\n", "1,10,2\n", "TIMESTAMP,Tokens\n1,2\n"] {
            let error = from_csv(text, 1).unwrap_err();
            assert!(error.contains(header), "{text}: {error}");
        }
        assert!(from_csv("1,10,2\n", 1).unwrap_err().starts_with("line 1: found `1,10,2`"));
        assert!(read("").unwrap_err().starts_with("only a header row"));
    }

    #[test]
    fn a_wrong_row_is_an_error_with_its_line_what_was_found_and_what_is_expected() {
        let columns = "in `TIMESTAMP,ContextTokens,GeneratedTokens`";
        for (row, found) in [
            ("1,ten,3", "found `ten`, expected a whole number of at most 10000000"),
            ("1,10000001,3", "found `10000001`, expected a whole number"),
            ("1,3,10000001", "found `10000001`, expected a whole number"),
            ("1,-3,1", "found `-3`, expected a whole number"),
            ("1,3", "found `1,3`, expected 3 columns"),
            ("1,1,000,3", "found `1,1,000,3`, expected 3 columns"),
            ("soon,1,3", "found `soon`, expected a time such as `2023-11-16 18:17:03.979`"),
            ("inf,1,3", "found `inf`, expected a time"),
        ] {
            let error = read(&format!("0,10,2\n{row}\n")).unwrap_err();
            let is_complete = error.starts_with("line 3: ") && error.ends_with(columns);
            assert!(is_complete && error.contains(found), "{row}: {error}");
        }
        assert!(read("0,1,1\n1700000000000,1,1\n").unwrap_err().contains("lines 2 and 3"));
    }

    #[test]
    fn impossible_dates_and_times_are_refused() {
        for time in [
            "2023-13-01 00:00:00",
            "2023-00-01 00:00:00",
            "2023-02-30 00:00:00",
            "2023-02-29 00:00:00",
            "2023-04-31 00:00:00",
            "2023-12-00 00:00:00",
            "2023-12-32 00:00:00",
            "2023-12-01 29:00:00",
            "2023-12-01 00:61:00",
            "2023-12-01 29:61:00",
            "2023-12-01 00:00:60",
            "2023-12-01 00:00:NaN",
            "2023-12-01 00:00:00+25:00",
            "2023-12-01 00:00",
            "2023-12-01",
        ] {
            assert!(read(&format!("{time},1,1\n")).is_err(), "{time}");
        }
        assert_eq!(times("2024-02-29 23:59:59,1,1\n2024-12-31 00:00:00,1,1\n").len(), 2);
    }
}
