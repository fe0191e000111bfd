//! A gateway that runs, to be measured.

use crate::cpu;
use crate::envoy;
use crate::peers::{self, Peers};
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

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
    /// Envoy without filters of ours.
    BareEnvoy,
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
    /// What its clients send beside everybody's headers.
    pub(crate) headers: String,
    process: Child,
    folder: PathBuf,
}

impl Gateway {
    /// Starts a gateway and waits until it listens.
    ///
    /// # Errors
    /// When it does not start; then with its log.
    pub(crate) async fn start(kind: Kind, place: &Place) -> io::Result<Self> {
        let port = free_port()?;
        let folder =
            std::env::temp_dir().join(format!("spillway-bench-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let process = command(kind, place, port, &folder)?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?;
        let headers = peers::headers(kind.program, place.serving_port);
        let mut gateway = Self { kind, port, headers, process, folder };
        gateway.wait_until_it_listens().await?;
        Ok(gateway)
    }

    async fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + STARTS_WITHIN;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if self.process.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("log"))?;
                return Err(io::Error::other(format!(
                    "{} does not listen:\n{log}",
                    self.kind.name
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
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
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for member in family.iter().filter(|member| **member != self.process.id()) {
            let _ = Command::new("kill").args(["-KILL", &member.to_string()]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn command(kind: Kind, place: &Place, port: u16, folder: &Path) -> io::Result<Command> {
    let peers = || place.peers.as_ref().ok_or_else(|| io::Error::other("no peers are installed"));
    match kind.program {
        Program::LiteLlm => peers()?.litellm(port, place.serving_port, folder),
        Program::Portkey => Ok(peers()?.portkey(port)),
        Program::BareEnvoy | Program::Floor | Program::HostCalls | Program::Spillway => {
            envoy::command(kind, place, port, free_port()?, folder)
        }
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
