//! The output: a table that is redrawn in place, or plain lines where that is not wanted.
//!
//! The table moves the cursor up over what it drew before. A line that the terminal would wrap spoils
//! that count, so wrapping is off while it draws and a narrow window shows less.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use crate::call::Outcome;
use crate::figures::{failovers, percentile};
use crate::observe::{Metrics, Observations, now_ms};
use crate::stage::NAMES;
use crate::story::Chapter;

/// The recent past, for shares, rates and percentiles.
const RECENT: Duration = Duration::from_secs(2);
const BAR_WIDTH: usize = 16;

const BOLD: &str = "1";
pub(crate) const DIM: &str = "2";
pub(crate) const GOOD: &str = "32";
const WARNING: &str = "33";
pub(crate) const BAD: &str = "31";

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Colour,
}

/// One moment of the story.
struct Moment<'a> {
    seen: &'a Observations,
    elapsed: Duration,
    now: Instant,
    now_ms: u64,
}

/// A backend at this moment.
struct Row {
    name: &'static str,
    served: usize,
    throttled: u64,
    faults: u64,
    share_percent: usize,
    /// How many milliseconds it stays closed, unless it is open.
    gate_ms: Option<u64>,
    /// Its state, unless it is closed.
    breaker: Option<String>,
}

impl Moment<'_> {
    fn row(&self, place: usize) -> Row {
        let Self { seen, now_ms, .. } = self;
        let recent = || seen.recent(RECENT, self.now);
        let own = recent().filter(|outcome| outcome.is_served_by(place)).count();
        let all = recent().count();
        let left_ms = |until_ms: u64| Some(until_ms.saturating_sub(*now_ms)).filter(|ms| *ms > 0);
        let open_until_ms = seen.metrics.breaker_open_until_ms(place);
        Row {
            name: NAMES[place],
            served: seen.outcomes.iter().filter(|outcome| outcome.is_served_by(place)).count(),
            throttled: seen.counted(|metrics| metrics.throttled(place)),
            faults: seen.counted(|metrics| metrics.faults(place)),
            share_percent: (100 * own + all / 2).checked_div(all).unwrap_or(0),
            gate_ms: left_ms(seen.metrics.gate_closed_until_ms(place)),
            breaker: (open_until_ms > 0).then(|| match left_ms(open_until_ms) {
                Some(ms) => format!("open for {:.1} s", ms as f64 / 1000.0),
                None => "half-open".to_owned(),
            }),
        }
    }

    fn rows(&self) -> [Row; 3] {
        [0, 1, 2].map(|place| self.row(place))
    }

    fn errors(&self) -> usize {
        self.seen.outcomes.iter().filter(|outcome| outcome.problem.is_some()).count()
    }

    /// Median and slowest hundredth of the recent past, in milliseconds.
    fn times_ms(&self, time: fn(&Outcome) -> Duration) -> [u128; 2] {
        let times: Vec<Duration> = self.seen.recent(RECENT, self.now).map(time).collect();
        [50, 99].map(|percent| percentile(times.clone(), percent).unwrap_or_default().as_millis())
    }

    /// All of it as a table.
    fn table(&self, style: Style) -> Vec<String> {
        let (seen, chapter) = (self.seen, self.seen.chapter);
        let heads = format!(
            "{:<14}{:>7}{:>7}{:>8}   {:<BAR_WIDTH$}       {:<18}circuit breaker",
            "backend", "served", "429s", "faults", "share", "throttle gate"
        );
        let errors = self.errors();
        let colour = if errors > 0 { BAD } else { GOOD };
        let [p50, p99] = self.times_ms(|outcome| outcome.latency);
        let [first_p50, first_p99] = self.times_ms(|outcome| outcome.first_byte);
        let title = style.paint(BOLD, &title(chapter));
        let mut lines = vec![
            format!("{title}   {:>4.1} s", self.elapsed.as_secs_f64()),
            style.paint(DIM, chapter.expectation()),
            String::new(),
            style.paint(DIM, &heads),
        ];
        lines.extend(self.rows().iter().map(|row| row.line(style)));
        lines.push(String::new());
        lines.push(format!(
            "clients       {} ok, {}, {} a second, {} failovers, {} spilled",
            seen.outcomes.len() - errors,
            style.paint(colour, &format!("{errors} errors")),
            seen.recent(RECENT, self.now).count() / 2,
            failovers(&seen.outcomes),
            seen.counted(Metrics::spills),
        ));
        lines.push(format!(
            "              latency p50 {p50} ms, p99 {p99} ms; \
             first byte p50 {first_p50} ms, p99 {first_p99} ms"
        ));
        lines
    }

    /// The same in one line, with only the unusual states of backends.
    fn line(&self) -> String {
        let errors = self.errors();
        let [_, p99] = self.times_ms(|outcome| outcome.latency);
        let mut line = format!(
            "{:>5.1} s  {:<18} ok {} errors {errors} p99 {p99} ms failovers {}",
            self.elapsed.as_secs_f64(),
            self.seen.chapter.name(),
            self.seen.outcomes.len() - errors,
            failovers(&self.seen.outcomes),
        );
        for row in self.rows() {
            line.push_str(&format!(" | {} {} %", row.name, row.share_percent));
            if let Some(ms) = row.gate_ms {
                line.push_str(&format!(", gate closed for {ms} ms"));
            }
            if let Some(breaker) = row.breaker {
                line.push_str(&format!(", breaker {breaker}"));
            }
        }
        line
    }
}

impl Row {
    fn line(&self, style: Style) -> String {
        let filled = (self.share_percent * BAR_WIDTH).div_ceil(100).min(BAR_WIDTH);
        let bar = "█".repeat(filled) + &"·".repeat(BAR_WIDTH - filled);
        let gate = match self.gate_ms {
            Some(ms) => style.paint(WARNING, &format!("{:<18}", format!("closed {ms} ms"))),
            None => format!("{:<18}", "open"),
        };
        let breaker = self.breaker.as_ref();
        let breaker = breaker.map_or_else(|| "closed".to_owned(), |text| style.paint(BAD, text));
        format!(
            "{:<14}{:>7}{:>7}{:>8}   {bar} {:>4} %  {gate}{breaker}",
            self.name, self.served, self.throttled, self.faults, self.share_percent,
        )
    }
}

impl Style {
    /// The text in one of the colours above.
    pub(crate) fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{colour}m{text}\x1b[0m"),
        }
    }
}

/// Where it is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    pub(crate) style: Style,
    /// Lines of the table that is on the screen.
    drawn: usize,
}

impl Screen {
    /// A table in a terminal, plain lines elsewhere and for those who want no colour.
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
        let table = wanted && able && std::io::stdout().is_terminal();
        Self { style: if table { Style::Colour } else { Style::Plain }, drawn: 0 }
    }

    /// How often it is drawn.
    pub(crate) fn period(&self) -> Duration {
        match self.style {
            // Not a multiple of the load's own rhythm: the gates would always be seen in the same phase.
            Style::Colour => Duration::from_millis(460),
            Style::Plain => Duration::from_secs(2),
        }
    }

    /// Begins a chapter. The table has it in its first lines.
    pub(crate) fn announce(&self, chapter: Chapter) {
        if self.style == Style::Plain {
            self.print(&[format!("{}: {}", title(chapter), chapter.expectation())]);
        }
    }

    /// Shows this moment.
    pub(crate) fn draw(&mut self, seen: &Observations, elapsed: Duration) {
        let moment = Moment { seen, elapsed, now: Instant::now(), now_ms: now_ms() };
        match self.style {
            Style::Plain => self.print(&[moment.line()]),
            Style::Colour => {
                let lines = moment.table(self.style);
                write(&in_place(&lines, self.drawn));
                self.drawn = lines.len();
            }
        }
    }

    /// Prints lines that stay.
    pub(crate) fn print(&self, lines: &[String]) {
        write(&(lines.join("\n") + "\n"));
    }
}

fn title(chapter: Chapter) -> String {
    format!("Chapter {} of {}: {}", chapter.number(), Chapter::ALL.len(), chapter.name())
}

/// Lines that take the place of as many lines above the cursor.
fn in_place(lines: &[String], drawn: usize) -> String {
    let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
    let lines: String = lines.iter().map(|line| format!("\r{line}\x1b[K\n")).collect();
    format!("{up}\x1b[?7l{lines}\x1b[?7h\x1b[J")
}

/// Output that nobody reads any more must not end the demo before it has cleaned up.
fn write(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes());
    let _ = output.flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Kind;
    use crate::observe::Event;
    use crate::stage::{PROVISIONED, REGION};

    const NOW_MS: u64 = 1_700_000_000_000;

    /// Of eight requests the provisioned backend served five; its gate is closed, a breaker open, another half-open.
    fn seen() -> Observations {
        let mut seen = Observations::default();
        seen.chapter = Chapter::Failure;
        for (number, place) in [0, 0, 0, 0, 0, 1, 1, REGION].into_iter().enumerate() {
            seen.take(Event::Outcome(Outcome {
                kind: Kind::Chat,
                chapter: Chapter::Failure,
                ended_at: Instant::now(),
                problem: (place == REGION).then(|| "status 503".to_owned()),
                served_by: Some(NAMES[place].to_owned()),
                attempts: Some(if place == PROVISIONED { 1 } else { 2 }),
                first_byte: Duration::from_millis(9),
                latency: Duration::from_millis(if number == 0 { 391 } else { 82 }),
            }));
        }
        let metrics = |throttled: u64| {
            Metrics::read(&format!(
                "wasmcustom.spillway_spills_total.pool.gpt-4o: {throttled}\n\
                 wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.ptu-uksouth.outcome.throttled: {throttled}\n\
                 wasmcustom.spillway_gate_closed_until_ms.pool.gpt-4o.backend.ptu-uksouth: {}\n\
                 wasmcustom.spillway_breaker_open_until_ms.pool.gpt-4o.backend.payg-sweden: {}\n\
                 wasmcustom.spillway_breaker_open_until_ms.pool.gpt-4o.backend.payg-france: {}",
                NOW_MS + 212,
                NOW_MS - 1,
                NOW_MS + 2_400
            ))
        };
        for throttled in [4, 35] {
            seen.take(Event::Filter { at_ms: NOW_MS, metrics: metrics(throttled) });
        }
        seen
    }

    fn at(seen: &Observations) -> Moment<'_> {
        let elapsed = Duration::from_millis(9_640);
        Moment { seen, elapsed, now: Instant::now(), now_ms: NOW_MS }
    }

    #[test]
    fn the_table_shows_chapter_backends_and_clients() {
        let expected = "\
Chapter 3 of 5: A region fails    9.6 s
503s, then refused connections: its breaker opens, clients notice nothing.

backend        served   429s  faults   share                  throttle gate     circuit breaker
ptu-uksouth         5     31       0   ███████████·····   63 %  closed 212 ms     closed
payg-sweden         2      0       0   ████············   25 %  open              half-open
payg-france         1      0       0   ███·············   13 %  open              open for 2.4 s

clients       7 ok, 1 errors, 4 a second, 3 failovers, 31 spilled
              latency p50 82 ms, p99 391 ms; first byte p50 9 ms, p99 9 ms";
        assert_eq!(at(&seen()).table(Style::Plain).join("\n"), expected);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let seen = seen();
        let coloured = at(&seen).table(Style::Colour).join("\n");
        let codes = ["1", "2", "31", "32", "33", "0"].map(|code| format!("\x1b[{code}m"));
        let bare = codes.iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(bare, at(&seen).table(Style::Plain).join("\n"));
    }

    #[test]
    fn a_plain_line_has_only_what_is_out_of_the_ordinary() {
        let expected = "  9.6 s  A region fails     ok 7 errors 1 p99 391 ms failovers 3 \
            | ptu-uksouth 63 %, gate closed for 212 ms | payg-sweden 25 %, breaker half-open \
            | payg-france 13 %, breaker open for 2.4 s";
        assert_eq!(at(&seen()).line(), expected);
    }

    #[test]
    fn a_redraw_goes_over_exactly_what_was_drawn() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert!(in_place(&lines, 0).starts_with("\x1b[?7l"));
        assert!(in_place(&lines, 2).starts_with("\x1b[2A"));
        assert_eq!(in_place(&lines, 2).matches('\n').count(), 2);
    }
}
