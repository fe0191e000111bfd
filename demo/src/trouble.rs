//! What keeps the demo from running, in words that say what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the demo ended without a verdict.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The command line is wrong.
    Usage(String),
    /// There is no Envoy at this path.
    EnvoyMissing(PathBuf),
    /// There is no module at this path.
    ModuleMissing(PathBuf),
    /// The shipped Envoy configuration does not have what the demo must replace.
    ConfigChanged {
        /// The text that was looked for.
        expected: String,
        /// How often it was there.
        found: usize,
    },
    /// The system refused.
    System {
        /// What was tried.
        doing: String,
        /// The refusal.
        error: io::Error,
    },
    /// Envoy ended although nobody asked it to.
    EnvoyEnded {
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not answer in time.
    Silent {
        /// What was waited for.
        what: String,
        /// The last failure.
        because: String,
    },
}

impl Trouble {
    /// A refusal of the system while `doing` something.
    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |error| Self::System { doing, error }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => write!(to, "{message}; see --help"),
            Self::EnvoyMissing(path) => {
                let path = path.display();
                write!(
                    to,
                    "there is no Envoy at {path}; `make demo` gets one, ENVOY=PATH names one"
                )
            }
            Self::ModuleMissing(path) => {
                write!(to, "there is no module at {}; `make wasm` builds it", path.display())
            }
            Self::ConfigChanged { expected, found } => write!(
                to,
                "envoy/envoy.yaml has '{expected}' {found} times instead of once; the demo and the \
                 file have drifted apart"
            ),
            Self::System { doing, error } if error.kind() == io::ErrorKind::AddrInUse => {
                write!(to, "{doing}: the port is taken by another program")
            }
            Self::System { doing, error } => write!(to, "{doing}: {error}"),
            Self::EnvoyEnded { status, log } => {
                write!(to, "Envoy ended by itself ({status}); the end of its log:\n{log}")
            }
            Self::Silent { what, because } => {
                write!(to, "{what} did not answer in time: {because}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_called_that() {
        let error = io::Error::from(io::ErrorKind::AddrInUse);
        let trouble = Trouble::system("starting ptu-uksouth")(error);
        let expected = "starting ptu-uksouth: the port is taken by another program";
        assert_eq!(trouble.to_string(), expected);
    }

    #[test]
    fn a_missing_file_comes_with_what_to_do() {
        let trouble = Trouble::ModuleMissing("x.wasm".into()).to_string();
        assert!(trouble.contains("x.wasm") && trouble.contains("make wasm"), "{trouble}");
    }
}
