//! The command line: which of the two stages, and where it is.

use std::path::PathBuf;

use crate::trouble::Trouble;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Shows and measures what Spillway promises, in real Envoy, in about half a minute.

Usage:
  demo --envoy PATH --module PATH
      Starts three mock backends and Envoy, and stops them at the end.
  demo --gateway URL --admin URL --backend NAME=URL --backend NAME=URL --backend NAME=URL
      Plays with what runs already (docker compose). The first backend is the provisioned one,
      the last is the region that fails.

Exit code: 0 all promises kept, 1 one is broken, 2 the demo could not run, 130 interrupted.";

/// How many backends the story has: one provisioned, one that stays well, one that fails.
const BACKENDS: usize = 3;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Args {
    /// Print [`HELP`].
    Help,
    /// Start everything.
    Own {
        /// The Envoy binary.
        envoy: PathBuf,
        /// The filter, compiled for wasm32-wasip1.
        module: PathBuf,
    },
    /// Use what runs.
    Running {
        /// Where clients send requests, `http://host:port`.
        gateway: String,
        /// Envoy's admin interface.
        admin: String,
        /// Name and URL of each mock backend.
        backends: Vec<(String, String)>,
    },
}

/// Reads the arguments after the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Args, Trouble> {
    let mut given = Given::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        if name == "--help" || name == "-h" {
            return Ok(Args::Help);
        }
        given.take(&name, inline.or_else(|| arguments.next()))?;
    }
    given.choose()
}

/// What was found so far.
#[derive(Default)]
struct Given {
    envoy: Option<String>,
    module: Option<String>,
    gateway: Option<String>,
    admin: Option<String>,
    backends: Vec<(String, String)>,
}

impl Given {
    fn take(&mut self, name: &str, value: Option<String>) -> Result<(), Trouble> {
        let place = match name {
            "--envoy" => &mut self.envoy,
            "--module" => &mut self.module,
            "--gateway" => &mut self.gateway,
            "--admin" => &mut self.admin,
            "--backend" => return self.take_backend(&value.unwrap_or_default()),
            _ => return Err(usage(format!("{name} is not an option"))),
        };
        match value {
            Some(value) if !value.is_empty() => *place = Some(value),
            _ => return Err(usage(format!("{name} needs a value"))),
        }
        Ok(())
    }

    fn take_backend(&mut self, value: &str) -> Result<(), Trouble> {
        match value.split_once('=') {
            Some((name, url)) if !name.is_empty() => {
                self.backends.push((name.to_owned(), checked_url("--backend", url)?));
                Ok(())
            }
            _ => Err(usage(format!("--backend needs NAME=URL, not '{value}'"))),
        }
    }

    fn choose(self) -> Result<Args, Trouble> {
        let outside = self.gateway.is_some() || self.admin.is_some() || !self.backends.is_empty();
        let missing = |name: &str| usage(format!("{name} is missing"));
        if !outside {
            let envoy = self.envoy.ok_or_else(|| missing("--envoy (or --gateway)"))?.into();
            let module = self.module.ok_or_else(|| missing("--module"))?.into();
            return Ok(Args::Own { envoy, module });
        }
        if self.envoy.is_some() || self.module.is_some() {
            let message =
                "--envoy and --module start everything: without --gateway, --admin, --backend";
            return Err(usage(message.to_owned()));
        }
        let gateway = self.gateway.ok_or_else(|| missing("--gateway"))?;
        let admin = self.admin.ok_or_else(|| missing("--admin"))?;
        if self.backends.len() != BACKENDS {
            let found = self.backends.len();
            return Err(usage(format!("the story needs {BACKENDS} backends, not {found}")));
        }
        Ok(Args::Running {
            gateway: checked_url("--gateway", &gateway)?,
            admin: checked_url("--admin", &admin)?,
            backends: self.backends,
        })
    }
}

fn checked_url(option: &str, url: &str) -> Result<String, Trouble> {
    let parsed = url.parse::<hyper::Uri>().ok().filter(|url| {
        let plain = url.scheme_str() == Some("http") && url.authority().is_some();
        plain && matches!(url.path(), "" | "/") && url.query().is_none()
    });
    match parsed {
        Some(_) => Ok(url.trim_end_matches('/').to_owned()),
        None => Err(usage(format!("{option} needs http://host:port, not '{url}'"))),
    }
}

fn usage(message: String) -> Trouble {
    Trouble::Usage(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(str::to_owned)).map_err(|trouble| trouble.to_string())
    }

    #[test]
    fn a_stage_of_its_own_needs_envoy_and_the_module() {
        let expected = Args::Own { envoy: "/bin/envoy".into(), module: "a.wasm".into() };
        assert_eq!(read("--envoy /bin/envoy --module=a.wasm"), Ok(expected));
        assert!(read("--envoy /bin/envoy").unwrap_err().contains("--module is missing"));
        assert!(read("").unwrap_err().contains("--envoy (or --gateway) is missing"));
        assert!(read("--envoy").unwrap_err().contains("--envoy needs a value"));
    }

    #[test]
    fn a_running_stage_needs_gateway_admin_and_three_backends() {
        let line = "--gateway=http://127.0.0.1:10000/ --admin http://127.0.0.1:9901 \
            --backend=a=http://h:1 --backend b=http://h:2";
        assert!(read(line).unwrap_err().contains("the story needs 3 backends, not 2"));
        let backends = [("a", "http://h:1"), ("b", "http://h:2"), ("c", "http://h:3")];
        let backends = backends.map(|(name, url)| (name.to_owned(), url.to_owned())).to_vec();
        let gateway = "http://127.0.0.1:10000".to_owned();
        let admin = "http://127.0.0.1:9901".to_owned();
        let expected = Args::Running { gateway, admin, backends };
        assert_eq!(read(&format!("{line} --backend c=http://h:3")), Ok(expected));
    }

    #[test]
    fn the_two_stages_exclude_each_other() {
        let line = "--envoy e --module m --gateway http://h:1";
        assert!(read(line).unwrap_err().contains("without --gateway"));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(read("--fast").unwrap_err().contains("--fast is not an option"));
        assert!(read("--backend x").unwrap_err().contains("NAME=URL, not 'x'"));
        let problem = read("--gateway https://h --admin http://h").unwrap_err();
        assert!(problem.contains("the story needs 3 backends"), "{problem}");
        assert!(read("--backend x=h:1").unwrap_err().contains("http://host:port, not 'h:1'"));
    }

    #[test]
    fn help_wins_over_everything() {
        assert_eq!(read("--gateway http://h --help"), Ok(Args::Help));
    }
}
