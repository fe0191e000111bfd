//! The command line.

/// How the command is used.
const USAGE: &str = "usage: simulator [--seed N] [--only TEXT] [--write]
       simulator --random COUNT [--seed N]
       simulator --config FILE [--trace CSV | --seconds N --per-second N] [--replicas N] [--seed N]";

/// The arguments of the command line.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    /// The seed of all random numbers.
    pub(crate) seed: u64,
    /// A part of the name of a scenario.
    pub(crate) only: String,
    /// Whether the figures are written into the documents.
    pub(crate) writes: bool,
    /// How many random scenarios to run.
    pub(crate) random: Option<u64>,
    /// The user's own configuration.
    pub(crate) own: Option<Own>,
}

/// The user's own configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Own {
    pub(crate) document: String,
    pub(crate) trace: Option<String>,
    pub(crate) seconds: u64,
    pub(crate) per_second: f64,
    pub(crate) replicas: usize,
}

impl Arguments {
    /// Reads the arguments of a command line.
    pub(crate) fn read(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments =
            Self { seed: 1, only: String::new(), writes: false, random: None, own: None };
        let mut own = Own {
            document: String::new(),
            trace: None,
            seconds: 600,
            per_second: 5.0,
            replicas: 1,
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| format!("{word}: needs a value\n{USAGE}"));
            match word.as_str() {
                "--write" => arguments.writes = true,
                "--only" => arguments.only = value()?,
                "--seed" => arguments.seed = number(&value()?)?,
                "--random" => arguments.random = Some(number(&value()?)?),
                "--config" => own.document = value()?,
                "--trace" => own.trace = Some(value()?),
                "--seconds" => own.seconds = number(&value()?)?,
                "--per-second" => own.per_second = number(&value()?)?,
                "--replicas" => own.replicas = number(&value()?)?,
                _ => return Err(format!("{word}: unknown\n{USAGE}")),
            }
        }
        if !own.document.is_empty() {
            arguments.own = Some(own);
        }
        Ok(arguments)
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word}: is not a number\n{USAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments, String> {
        Arguments::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_command_line_is_read_or_refused_with_its_usage() {
        let own = read("--config a.json --trace t.csv --seed 7").unwrap();
        assert_eq!(own.seed, 7);
        assert_eq!(own.own.unwrap().trace.as_deref(), Some("t.csv"));
        for wrong in ["--sed 1", "--seed", "--seed one"] {
            assert!(read(wrong).unwrap_err().contains("usage"), "{wrong}");
        }
    }
}
