//! The mistakes of a configuration, in words that help to repair it.
//!
//! A configuration is refused as a whole, so its author should see all mistakes at once. Each error
//! has the path of the value, what was found there and what is allowed. No message contains a secret:
//! values from the environment and values under `credential` are never quoted.

use std::error::Error;
use std::fmt;

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, such as `pools[0].backends[2].priority`; empty for the configuration as a whole.
    pub path: String,
    /// What was found and what is allowed.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.path.is_empty() { "configuration" } else { &self.path };
        write!(f, "{place}: {}", self.problem)
    }
}

/// Every mistake of a refused configuration; at least one.
///
/// Shown as one line per mistake, after a line with their number when there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `None` when there is no mistake.
    pub(super) fn new(errors: Vec<ConfigError>) -> Option<Self> {
        if errors.is_empty() { None } else { Some(Self(errors)) }
    }

    /// The mistakes, in the order of reading.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > 1 {
            writeln!(f, "the configuration has {} errors", self.0.len())?;
        }
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}
