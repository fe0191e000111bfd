//! A running Envoy, and what its administration interface shows.

use crate::{Bootstrap, Client, Folder, Process, programs};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Compiling the module takes Envoy seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How Envoy is started, beside its configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program.
    pub envoy: PathBuf,
    /// How many workers there are.
    pub workers: usize,
    /// How long connections live on after their listener was replaced.
    pub drain_time: Duration,
    /// Environment variables, in addition to the caller's own.
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    /// One worker of [`programs::envoy_binary`].
    fn default() -> Self {
        Self::of(programs::envoy_binary())
    }
}

impl Options {
    /// One worker of this Envoy.
    pub fn of(envoy: &Path) -> Self {
        Self {
            envoy: envoy.to_owned(),
            workers: 1,
            drain_time: Duration::from_secs(600),
            environment: Vec::new(),
        }
    }

    /// The command that runs Envoy with its configuration in `folder`.
    pub fn command(&self, bootstrap: &Bootstrap, folder: &Path) -> io::Result<Command> {
        let path = folder.join("envoy.json");
        fs::write(&path, serde_json::to_vec_pretty(&bootstrap.json)?)?;
        let mut command = Command::new(&self.envoy);
        command
            .arg("-c")
            .arg(path)
            .args(["--concurrency", &self.workers.to_string()])
            .args(["--drain-time-s", &self.drain_time.as_secs().to_string()])
            .args(["--log-level", "warning", "--disable-hot-restart"])
            .args(["--file-flush-interval-msec", "10"])
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

/// A running Envoy, ended when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: Client,
    /// The port of its first listener.
    pub port: u16,
}

impl Envoy {
    /// Starts Envoy and waits until it serves.
    pub async fn start(bootstrap: &Bootstrap, options: &Options) -> Result<Self, String> {
        let folder = Folder::create().map_err(|error| error.to_string())?;
        let command = options.command(bootstrap, folder.path()).map_err(|e| e.to_string())?;
        Self::run(command, folder, bootstrap.port(), bootstrap.admin_port()).await
    }

    /// Runs a command of [`Options::command`] that the caller may have changed.
    pub async fn run(
        command: Command,
        folder: Folder,
        port: u16,
        admin_port: u16,
    ) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let process = Process::start(command, folder);
        let process = process.map_err(|error| format!("{program} does not start: {error}"))?;
        let mut envoy = Self { process, admin: Client::new(admin_port), port };
        let admin = envoy.admin.clone();
        let is_ready = async || match admin.try_get("/ready").await {
            Ok(response) => response.text().contains("LIVE"),
            Err(_) => false,
        };
        envoy.process.until(PATIENCE, is_ready).await.map_err(|end| format!("Envoy {end}"))?;
        Ok(envoy)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The process's number.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.process.folder()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The access log's lines, when they are JSON, of the requests that are over, oldest first.
    pub fn access_log(&self) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The counter or gauge of this name; zero when it does not exist.
    pub async fn stat(&self, name: &str) -> u64 {
        let text = self.admin(&format!("/stats?filter={name}")).await;
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let value = lines.into_iter().find(|(found, _)| *found == name);
        value.map_or(0, |(_, value)| value.trim().parse().expect("a number"))
    }

    /// What the administration interface responds.
    pub async fn admin(&self, path: &str) -> String {
        self.admin.get(path, &[]).await.text()
    }
}
