//! The command line.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How the command is used.
const USAGE: &str = "usage: simulator [--seed N] [--only TEXT | --write]
       simulator --random COUNT [--seed N]
       simulator --config FILE [--trace CSV | --seconds N --per-second N] [--replicas N] [--seed N]
       simulator --help";

/// What the options mean.
const OPTIONS: &str = "
  --seed N        the seed of all random numbers, 1 by default
  --only TEXT     runs only the scenarios whose names contain TEXT
  --write         writes the figures into docs/routing.md
  --random COUNT  runs random scenarios and counts broken promises, 1 to 1000000
  --config FILE   simulates the default pool of your configuration
  --trace CSV     replays TIMESTAMP,ContextTokens,GeneratedTokens
  --seconds N     the length of a synthetic load, 1 to 1000000, 600 by default
  --per-second N  its requests per second, above 0 and at most 10000, 5 by default
  --replicas N    the number of gateway instances, 1 to 100, 1 by default";

const RANDOM: RangeInclusive<u64> = 1..=1_000_000;
const SECONDS: RangeInclusive<u64> = 1..=1_000_000;
const REPLICAS: RangeInclusive<usize> = 1..=100;
const MAX_PER_SECOND: f64 = 10_000.0;
/// The most requests of a synthetic load, on average: they are all in memory.
const MAX_REQUESTS: f64 = 5_000_000.0;

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// How the command is used.
    Help,
    /// The scenarios whose names contain `only`.
    Scenarios { seed: u64, only: String },
    /// All scenarios, written into the documents.
    Write { seed: u64 },
    /// Random scenarios.
    Random { seed: u64, count: u64 },
    /// The user's own configuration.
    Own { seed: u64, own: Own },
}

/// The user's own configuration and traffic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Own {
    /// The file of the configuration.
    pub(crate) document: String,
    pub(crate) traffic: Traffic,
    pub(crate) replicas: usize,
}

/// What clients send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Traffic {
    /// A recorded trace: its file.
    Trace(String),
    /// A synthetic load.
    Synthetic { seconds: u64, per_second: f64 },
}

/// The options as they were given.
#[derive(Debug, Default)]
struct Options {
    seed: Option<u64>,
    only: Option<String>,
    writes: bool,
    random: Option<u64>,
    document: Option<String>,
    trace: Option<String>,
    seconds: Option<u64>,
    per_second: Option<f64>,
    replicas: Option<usize>,
}

impl Command {
    /// Reads a command line.
    ///
    /// # Errors
    /// The first mistake, with the usage.
    pub(crate) fn read(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let words: Vec<String> = words.collect();
        if words.iter().any(|word| word == "--help" || word == "-h") {
            return Ok(Self::Help);
        }
        Options::read(words.into_iter())
            .and_then(Options::command)
            .map_err(|problem| format!("{problem}\n{USAGE}"))
    }

    /// The text of `--help`.
    pub(crate) fn help() -> String {
        format!("{USAGE}\n{OPTIONS}")
    }
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(option) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{option}: needs a value"));
            match &*option {
                "--write" => options.writes = true,
                "--only" => options.only = Some(value()?),
                "--seed" => options.seed = Some(within(&option, &value()?, 0..=u64::MAX)?),
                "--random" => options.random = Some(within(&option, &value()?, RANDOM)?),
                "--config" => options.document = Some(value()?),
                "--trace" => options.trace = Some(value()?),
                "--seconds" => options.seconds = Some(within(&option, &value()?, SECONDS)?),
                "--per-second" => options.per_second = Some(rate(&option, &value()?)?),
                "--replicas" => options.replicas = Some(within(&option, &value()?, REPLICAS)?),
                _ => return Err(format!("{option}: unknown option")),
            }
        }
        Ok(options)
    }

    fn command(self) -> Result<Command, String> {
        self.check()?;
        let seed = self.seed.unwrap_or(1);
        if let Some(count) = self.random {
            return Ok(Command::Random { seed, count });
        }
        if self.writes {
            return Ok(Command::Write { seed });
        }
        let Some(document) = self.document else {
            return Ok(Command::Scenarios { seed, only: self.only.unwrap_or_default() });
        };
        let traffic = match self.trace {
            Some(trace) => Traffic::Trace(trace),
            None => synthetic(self.seconds.unwrap_or(600), self.per_second.unwrap_or(5.0))?,
        };
        let own = Own { document, traffic, replicas: self.replicas.unwrap_or(1) };
        Ok(Command::Own { seed, own })
    }

    /// Refuses options that would be ignored.
    fn check(&self) -> Result<(), String> {
        let modes = [
            ("--write", self.writes),
            ("--only", self.only.is_some()),
            ("--random", self.random.is_some()),
            ("--config", self.document.is_some()),
        ];
        let of_config = [
            ("--trace", self.trace.is_some()),
            ("--seconds", self.seconds.is_some()),
            ("--per-second", self.per_second.is_some()),
            ("--replicas", self.replicas.is_some()),
        ];
        let mut modes = modes.into_iter().filter(|(_, is_given)| *is_given);
        if let (Some((first, _)), Some((second, _))) = (modes.next(), modes.next()) {
            return Err(format!("{first} and {second}: cannot be combined"));
        }
        let mut given = of_config.into_iter().filter(|(_, is_given)| *is_given);
        if let Some((option, _)) = given.next() {
            if self.document.is_none() {
                return Err(format!("{option}: needs --config"));
            }
            if let (true, Some((load, _))) =
                (self.trace.is_some(), given.find(|(option, _)| *option != "--replicas"))
            {
                return Err(format!(
                    "--trace and {load}: cannot be combined, because a trace has its own times"
                ));
            }
        }
        Ok(())
    }
}

/// A whole number in a range.
fn within<T>(option: &str, word: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = word.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = range.into_inner();
        format!("{option}: found `{word}`, expected a whole number from {least} to {most}")
    })
}

/// Requests per second.
fn rate(option: &str, word: &str) -> Result<f64, String> {
    let is_allowed = |rate: &f64| *rate > 0.0 && *rate <= MAX_PER_SECOND;
    word.parse().ok().filter(is_allowed).ok_or_else(|| {
        format!("{option}: found `{word}`, expected a number above 0 and at most {MAX_PER_SECOND}")
    })
}

fn synthetic(seconds: u64, per_second: f64) -> Result<Traffic, String> {
    let requests = seconds as f64 * per_second;
    if requests > MAX_REQUESTS {
        return Err(format!(
            "--seconds and --per-second: found {requests} requests, expected at most {MAX_REQUESTS}"
        ));
    }
    Ok(Traffic::Synthetic { seconds, per_second })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        Command::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_command_line_is_read_with_its_defaults() {
        let own = |traffic, replicas| Own { document: "a.json".to_owned(), traffic, replicas };
        let trace = own(Traffic::Trace("t.csv".to_owned()), 3);
        let line = "--config a.json --trace t.csv --seed 7 --replicas 3";
        assert_eq!(read(line), Ok(Command::Own { seed: 7, own: trace }));
        let load = own(Traffic::Synthetic { seconds: 600, per_second: 5.0 }, 1);
        assert_eq!(read("--config a.json"), Ok(Command::Own { seed: 1, own: load }));
        assert_eq!(read(""), Ok(Command::Scenarios { seed: 1, only: String::new() }));
        assert_eq!(read("--write --seed 2"), Ok(Command::Write { seed: 2 }));
        assert_eq!(read("--random 9"), Ok(Command::Random { seed: 1, count: 9 }));
    }

    #[test]
    fn help_is_given_wherever_it_is_asked_for() {
        for line in ["--help", "-h", "--per-second inf -h"] {
            assert_eq!(read(line), Ok(Command::Help), "{line}");
        }
    }

    #[test]
    fn a_wrong_value_is_an_error_that_names_the_option_the_value_and_the_range() {
        for (line, message) in [
            ("--seed one", "--seed: found `one`, expected a whole number from 0 to 184467"),
            ("--config a --per-second inf", "--per-second: found `inf`, expected a number above 0"),
            ("--config a --per-second NaN", "--per-second: found `NaN`, "),
            ("--config a --per-second 0", "--per-second: found `0`, "),
            ("--config a --per-second -1", "--per-second: found `-1`, "),
            (
                "--config a --per-second 10001",
                "`10001`, expected a number above 0 and at most 10000",
            ),
            (
                "--config a --seconds 0",
                "--seconds: found `0`, expected a whole number from 1 to 1000000",
            ),
            ("--config a --seconds 1000001", "--seconds: found `1000001`, "),
            (
                "--config a --replicas 0",
                "--replicas: found `0`, expected a whole number from 1 to 100",
            ),
            ("--config a --replicas 101", "--replicas: found `101`, "),
            ("--random 0", "--random: found `0`, "),
            ("--config a --seconds 1000000 --per-second 10", "expected at most 5000000"),
            ("--sed 1", "--sed: unknown option"),
            ("--seed", "--seed: needs a value"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(message) && error.contains("usage"), "{line}: {error}");
        }
    }

    #[test]
    fn options_that_would_be_ignored_are_refused() {
        for (line, message) in [
            ("--config a --trace t --seconds 5", "--trace and --seconds: cannot be combined"),
            ("--config a --per-second 5 --trace t", "--trace and --per-second: cannot be combined"),
            ("--trace t", "--trace: needs --config"),
            ("--seconds 5", "--seconds: needs --config"),
            ("--per-second 5", "--per-second: needs --config"),
            ("--replicas 2", "--replicas: needs --config"),
            ("--write --only outage", "--write and --only: cannot be combined"),
            ("--config a --write", "--write and --config: cannot be combined"),
            ("--random 5 --write", "--write and --random: cannot be combined"),
            ("--random 5 --config a", "--random and --config: cannot be combined"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.starts_with(message), "{line}: {error}");
        }
    }
}
