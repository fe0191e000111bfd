//! What the audience sees: a table that is redrawn in place, or plain lines where that is not wanted.
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
struct View {
    chapter: Chapter,
    elapsed: Duration,
    backends: [BackendRow; 3],
    clients: ClientRow,
}

/// A backend at this moment.
struct BackendRow {
    name: &'static str,
    served: usize,
    throttled: u64,
    faults: u64,
    share_percent: usize,
    /// How long it stays closed.
    gate: Option<Duration>,
    breaker: Breaker,
}

/// A circuit breaker at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaker {
    Closed,
    OpenFor(Duration),
    HalfOpen,
}

/// The clients at this moment.
#[derive(Default)]
struct ClientRow {
    ok: usize,
    errors: usize,
    per_second: usize,
    failovers: usize,
    spills: u64,
    /// Median and slowest hundredth, of whole responses and to the first byte.
    latency: (Duration, Duration),
    first_byte: (Duration, Duration),
}

impl View {
    fn of(seen: &Observations, elapsed: Duration, now: Instant) -> Self {
        Self {
            chapter: seen.chapter,
            elapsed,
            backends: [0, 1, 2].map(|place| BackendRow::of(seen, place, now)),
            clients: ClientRow::of(seen, now),
        }
    }

    fn table(&self, style: Style) -> Vec<String> {
        let chapter = style.paint(BOLD, &title(self.chapter));
        let heads = format!(
            "{:<14}{:>7}{:>7}{:>8}   {:<BAR_WIDTH$}       {:<18}circuit breaker",
            "backend", "served", "429s", "faults", "share", "throttle gate"
        );
        let mut lines = vec![
            format!("{chapter}   {:>4.1} s", self.elapsed.as_secs_f64()),
            style.paint(DIM, self.chapter.expectation()),
            String::new(),
            style.paint(DIM, &heads),
        ];
        lines.extend(self.backends.iter().map(|row| row.line(style)));
        lines.push(String::new());
        lines.extend(self.clients.lines(style));
        lines
    }

    /// The same in one line.
    fn line(&self) -> String {
        let clients = &self.clients;
        let mut line = format!(
            "{:>5.1} s  {:<18} ok {} errors {} p99 {} ms failovers {}",
            self.elapsed.as_secs_f64(),
            self.chapter.name(),
            clients.ok,
            clients.errors,
            clients.latency.1.as_millis(),
            clients.failovers,
        );
        for row in &self.backends {
            line.push_str(&format!(" | {} {} %", row.name, row.share_percent));
            if let Some(left) = row.gate {
                line.push_str(&format!(", gate closed for {} ms", left.as_millis()));
            }
            if row.breaker != Breaker::Closed {
                line.push_str(&format!(", breaker {}", row.breaker.text()));
            }
        }
        line
    }
}

impl BackendRow {
    fn of(seen: &Observations, place: usize, now: Instant) -> Self {
        let recent: Vec<bool> =
            seen.recent(RECENT, now).map(|outcome| outcome.is_served_by(place)).collect();
        let (own, all) = (recent.iter().filter(|is_own| **is_own).count(), recent.len());
        Self {
            name: NAMES[place],
            served: seen.outcomes.iter().filter(|outcome| outcome.is_served_by(place)).count(),
            throttled: seen.counted(|metrics| metrics.throttled(place)),
            faults: seen.counted(|metrics| metrics.faults(place)),
            share_percent: (100 * own + all / 2).checked_div(all).unwrap_or(0),
            gate: left(seen.metrics.gate_closed_until_ms(place)),
            breaker: Breaker::of(seen.metrics.breaker_open_until_ms(place)),
        }
    }

    fn line(&self, style: Style) -> String {
        let filled = (self.share_percent * BAR_WIDTH).div_ceil(100).min(BAR_WIDTH);
        let bar = "█".repeat(filled) + &"·".repeat(BAR_WIDTH - filled);
        let gate = match self.gate {
            Some(left) => {
                style.paint(WARNING, &format!("{:<18}", format!("closed {} ms", left.as_millis())))
            }
            None => format!("{:<18}", "open"),
        };
        let breaker = match self.breaker {
            Breaker::Closed => self.breaker.text(),
            Breaker::OpenFor(_) | Breaker::HalfOpen => style.paint(BAD, &self.breaker.text()),
        };
        format!(
            "{:<14}{:>7}{:>7}{:>8}   {bar} {:>4} %  {gate}{breaker}",
            self.name, self.served, self.throttled, self.faults, self.share_percent,
        )
    }
}

impl Breaker {
    fn of(open_until_ms: u64) -> Self {
        match (open_until_ms, left(open_until_ms)) {
            (0, _) => Self::Closed,
            (_, Some(left)) => Self::OpenFor(left),
            (_, None) => Self::HalfOpen,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Closed => "closed".to_owned(),
            Self::OpenFor(left) => format!("open for {:.1} s", left.as_secs_f64()),
            Self::HalfOpen => "half-open".to_owned(),
        }
    }
}

impl ClientRow {
    fn of(seen: &Observations, now: Instant) -> Self {
        let failed = seen.outcomes.iter().filter(|outcome| outcome.problem.is_some());
        let errors = failed.count();
        let recent: Vec<_> = seen.recent(RECENT, now).collect();
        let both = |time: fn(&Outcome) -> Duration| {
            let times: Vec<Duration> = recent.iter().map(|outcome| time(outcome)).collect();
            let of = |percent| percentile(times.clone(), percent).unwrap_or_default();
            (of(50), of(99))
        };
        Self {
            ok: seen.outcomes.len() - errors,
            errors,
            per_second: recent.len() / 2,
            failovers: failovers(&seen.outcomes),
            spills: seen.counted(Metrics::spills),
            latency: both(|outcome| outcome.latency),
            first_byte: both(|outcome| outcome.first_byte),
        }
    }

    fn lines(&self, style: Style) -> [String; 2] {
        let colour = if self.errors > 0 { BAD } else { GOOD };
        let errors = style.paint(colour, &format!("{} errors", self.errors));
        let times = |(p50, p99): (Duration, Duration)| {
            format!("p50 {} ms, p99 {} ms", p50.as_millis(), p99.as_millis())
        };
        [
            format!(
                "clients       {} ok, {errors}, {} a second, {} failovers, {} spilled",
                self.ok, self.per_second, self.failovers, self.spills
            ),
            format!(
                "              latency {}; first byte {}",
                times(self.latency),
                times(self.first_byte)
            ),
        ]
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
        let view = View::of(seen, elapsed, Instant::now());
        match self.style {
            Style::Plain => self.print(&[view.line()]),
            Style::Colour => {
                let lines = view.table(self.style);
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

/// How long until then; `None` when it is past.
fn left(until_ms: u64) -> Option<Duration> {
    let left_ms = until_ms.saturating_sub(now_ms());
    (left_ms > 0).then(|| Duration::from_millis(left_ms))
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

    fn view() -> View {
        let row = |name, share_percent, gate, breaker| BackendRow {
            name,
            served: 412,
            throttled: 31,
            faults: 5,
            share_percent,
            gate,
            breaker,
        };
        let gate = Some(Duration::from_millis(212));
        let open = Breaker::OpenFor(Duration::from_millis(2_400));
        View {
            chapter: Chapter::Failure,
            elapsed: Duration::from_millis(9_640),
            backends: [
                row("ptu-uksouth", 53, gate, Breaker::Closed),
                row("payg-sweden", 47, None, Breaker::HalfOpen),
                row("payg-france", 0, None, open),
            ],
            clients: ClientRow {
                ok: 612,
                latency: (Duration::from_millis(82), Duration::from_millis(391)),
                ..ClientRow::default()
            },
        }
    }

    #[test]
    fn the_table_shows_chapter_backends_and_clients() {
        let table = view().table(Style::Plain);
        let expected = "\
Chapter 3 of 5: A region fails    9.6 s
503s, then refused connections: its breaker opens, clients notice nothing.

backend        served   429s  faults   share                  throttle gate     circuit breaker
ptu-uksouth       412     31       5   █████████·······   53 %  closed 212 ms     closed
payg-sweden       412     31       5   ████████········   47 %  open              half-open
payg-france       412     31       5   ················    0 %  open              open for 2.4 s

clients       612 ok, 0 errors, 0 a second, 0 failovers, 0 spilled
              latency p50 82 ms, p99 391 ms; first byte p50 0 ms, p99 0 ms";
        assert_eq!(table.join("\n"), expected);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let coloured = view().table(Style::Colour).join("\n");
        let codes = ["1", "2", "31", "32", "33", "0"].map(|code| format!("\x1b[{code}m"));
        let bare = codes.iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(bare, view().table(Style::Plain).join("\n"));
    }

    #[test]
    fn a_plain_line_has_only_what_is_out_of_the_ordinary() {
        let expected = "  9.6 s  A region fails     ok 612 errors 0 p99 391 ms failovers 0 \
            | ptu-uksouth 53 %, gate closed for 212 ms | payg-sweden 47 %, breaker half-open \
            | payg-france 0 %, breaker open for 2.4 s";
        assert_eq!(view().line(), expected);
    }

    #[test]
    fn a_redraw_goes_over_exactly_what_was_drawn() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert!(in_place(&lines, 0).starts_with("\x1b[?7l"));
        assert!(in_place(&lines, 2).starts_with("\x1b[2A"));
        assert_eq!(in_place(&lines, 2).matches('\n').count(), 2);
    }

    #[test]
    fn a_breaker_whose_time_is_over_is_half_open() {
        assert_eq!(Breaker::of(0), Breaker::Closed);
        assert_eq!(Breaker::of(now_ms() - 1), Breaker::HalfOpen);
        assert!(matches!(Breaker::of(now_ms() + 60_000), Breaker::OpenFor(_)));
    }
}
