//! A gateway that runs, to be measured.

use crate::cpu;
use crate::envoy;
use crate::peers::{self, Peers};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testbed::{Folder, Process, free_port};
use tokio::net::TcpStream;

/// How long a gateway may take to start: LiteLLM takes ten seconds on a good day.
const STARTS_WITHIN: Duration = Duration::from_secs(90);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// What it is called in the results.
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) backends: usize,
    /// Whether backends and consumers have budgets.
    pub(crate) budgets: bool,
    /// Whether the first tier always fails.
    pub(crate) failing: bool,
    pub(crate) workers: usize,
}

/// What a gateway is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Envoy without filters of ours, and without retries.
    BareEnvoy,
    /// The same with the shipped retry policy.
    BareWithRetries,
    /// Envoy with the shipped configuration and filters that do nothing.
    Floor,
    /// The same with the host calls that Spillway makes.
    HostCalls,
    /// Envoy with the shipped configuration.
    Spillway,
    LiteLlm,
    Portkey,
}

impl Program {
    /// Whether it is an Envoy without filters of ours.
    pub(crate) fn is_bare(self) -> bool {
        matches!(self, Self::BareEnvoy | Self::BareWithRetries)
    }

    /// Whether it is another gateway, not an Envoy.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::LiteLlm | Self::Portkey)
    }
}

/// Where everything is.
pub(crate) struct Place {
    pub(crate) envoy: PathBuf,
    pub(crate) module: PathBuf,
    pub(crate) floor: PathBuf,
    pub(crate) serving_port: u16,
    pub(crate) failing_port: u16,
    /// Only when they are to be measured.
    pub(crate) peers: Option<Peers>,
}

/// A running gateway, ended when dropped.
pub(crate) struct Gateway {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    /// What its clients send in addition to the usual headers.
    pub(crate) headers: String,
    process: Process,
}

impl Gateway {
    /// Starts a gateway and waits until it listens.
    ///
    /// # Errors
    /// When it does not start; then with its log.
    pub(crate) async fn start(kind: Kind, place: &Place) -> io::Result<Self> {
        let (port, folder) = (free_port(), Folder::create()?);
        let command = command(kind, place, port, folder.path())?;
        let mut process = Process::start(command, folder)?;
        let listens = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        let started = process.until(STARTS_WITHIN, listens).await;
        started.map_err(|end| io::Error::other(format!("{}: {end}", kind.name)))?;
        Ok(Self { kind, port, headers: peers::headers(kind.program, place.serving_port), process })
    }

    /// The process's number.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The time that the process and those that it started spent on CPUs.
    ///
    /// # Errors
    /// When this is not Linux.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        cpu::family(self.process.id())?.into_iter().map(cpu::of_process).sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let family = cpu::family(self.process.id()).unwrap_or_default();
        self.process.kill();
        for member in family.iter().filter(|member| **member != self.process.id()) {
            let _ = Command::new("kill").args(["-KILL", &member.to_string()]).status();
        }
    }
}

fn command(kind: Kind, place: &Place, port: u16, folder: &Path) -> io::Result<Command> {
    let peers = || place.peers.as_ref().ok_or_else(|| io::Error::other("no peers are installed"));
    match kind.program {
        Program::LiteLlm => peers()?.litellm(port, place.serving_port, folder),
        Program::Portkey => Ok(peers()?.portkey(port)),
        Program::BareEnvoy
        | Program::BareWithRetries
        | Program::Floor
        | Program::HostCalls
        | Program::Spillway => {
            envoy::options(kind, place).command(&envoy::bootstrap(kind, place, port), folder)
        }
    }
}
