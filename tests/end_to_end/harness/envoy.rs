//! One Envoy process with a configuration made for one test.

use super::bootstrap::{bootstrap, listener};
use super::clusters::{self, Cluster};
use super::listeners;
use crate::support::envoy_binary;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How Envoy is set up, besides Spillway's own configuration.
#[derive(Clone)]
pub(crate) struct Settings {
    /// How many workers there are; with more than one, new connections go to them in turn.
    pub(crate) workers: u32,
    /// Whether the listener is read from a file that is watched.
    pub(crate) reloadable: bool,
    /// How long connections live on after their listener was replaced.
    pub(crate) drain_time: Duration,
    /// Whether Spillway's configuration is given as a `Struct` in place of a `StringValue`.
    pub(crate) as_struct: bool,
    pub(crate) per_try_timeout: Duration,
    pub(crate) per_try_idle_timeout: Duration,
    pub(crate) body_limit_bytes: u32,
    /// The fields of an access log, by name: each a format string of Envoy's. Empty: no log.
    pub(crate) access_log: Vec<(&'static str, &'static str)>,
    /// The environment that the filter sees; Envoy's own configuration only names the variables.
    pub(crate) environment: Vec<(String, String)>,
    /// The filters before Spillway.
    pub(crate) filters_before: Vec<Value>,
    /// How long Envoy waits after a fault of the filter until it loads it anew.
    pub(crate) reload_interval: Duration,
    /// The clusters that differ from the usual, by their backends' names.
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// Whether there is a cluster for requests that the route's matcher sends nowhere.
    pub(crate) has_catch_all: bool,
    /// The port of the only name server that Envoy asks.
    pub(crate) name_server: Option<u16>,
    /// Spillway's configurations of further listeners, all in front of the same clusters.
    pub(crate) more_listeners: Vec<Value>,
    /// What else is changed of Envoy's configuration before it starts.
    pub(crate) adjust: Option<Adjust>,
}

/// Changes Envoy's configuration.
pub(crate) type Adjust = Arc<dyn Fn(&mut Value) + Send + Sync>;

impl Settings {
    /// Changes the cluster of a backend.
    pub(crate) fn cluster(&mut self, backend: &str, change: impl FnOnce(&mut Cluster)) {
        change(self.clusters.entry(backend.to_owned()).or_default());
    }

    /// The settings of the cluster of a backend.
    pub(super) fn cluster_of(&self, backend: &str) -> Cluster {
        self.clusters.get(backend).cloned().unwrap_or_default()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            reloadable: false,
            drain_time: Duration::from_secs(600),
            as_struct: false,
            per_try_timeout: Duration::from_secs(20),
            per_try_idle_timeout: Duration::from_secs(20),
            body_limit_bytes: 32 * 1024 * 1024,
            access_log: Vec::new(),
            environment: Vec::new(),
            filters_before: Vec::new(),
            reload_interval: Duration::from_millis(30),
            clusters: BTreeMap::new(),
            has_catch_all: true,
            name_server: None,
            more_listeners: Vec::new(),
            adjust: None,
        }
    }
}

/// A running Envoy, ended and cleaned up after when dropped.
pub(crate) struct Envoy {
    process: Child,
    folder: PathBuf,
    pub(crate) port: u16,
    /// The ports of the further listeners.
    pub(crate) more_ports: Vec<u16>,
    admin_port: u16,
    backends: Vec<(String, u16)>,
    settings: Settings,
}

impl Envoy {
    /// Starts Envoy with `configuration` for Spillway and a cluster for each of `backends`: its
    /// name and port. When Envoy ends before it is ready, the error is its log.
    pub(crate) async fn start(
        configuration: &Value,
        backends: &[(String, u16)],
        settings: &Settings,
    ) -> Result<Self, String> {
        let folder = temporary_folder();
        let (port, admin_port) = (free_port(), free_port());
        let gateway = listener("gateway", port, configuration, backends, settings);
        let mut whole = bootstrap(admin_port, backends, settings, &folder);
        let (mut listeners, mut more_ports) = (Vec::new(), Vec::new());
        for (at, configuration) in settings.more_listeners.iter().enumerate() {
            let (name, port) = (format!("gateway-{}", at + 2), free_port());
            listeners.push(listener(&name, port, configuration, backends, settings));
            more_ports.push(port);
        }
        if settings.reloadable {
            listeners::write(&folder, &gateway);
            whole["dynamic_resources"] = listeners::source(&folder);
        } else {
            listeners.insert(0, gateway);
        }
        whole["static_resources"]["listeners"] = listeners.into();
        if let Some(adjust) = &settings.adjust {
            adjust(&mut whole);
        }
        let process = spawn(&folder, &serde_json::to_string_pretty(&whole).unwrap(), settings);
        let (backends, settings) = (backends.to_vec(), settings.clone());
        let mut envoy = Self { process, folder, port, more_ports, admin_port, backends, settings };
        envoy.wait_until_ready().await?;
        Ok(envoy)
    }

    /// Starts Envoy with this configuration, which says on which ports it listens.
    pub(crate) async fn start_with(
        whole: &Value,
        port: u16,
        admin_port: u16,
        settings: &Settings,
    ) -> Result<Self, String> {
        let folder = temporary_folder();
        let process = spawn(&folder, &whole.to_string(), settings);
        let (more_ports, backends, settings) = (Vec::new(), Vec::new(), settings.clone());
        let mut envoy = Self { process, folder, port, more_ports, admin_port, backends, settings };
        envoy.wait_until_ready().await?;
        Ok(envoy)
    }

    /// Gives a `reloadable` Envoy another configuration for Spillway; it takes effect soon after.
    pub(crate) fn replace(&self, configuration: &Value) {
        assert!(self.settings.reloadable);
        let listener =
            listener("gateway", self.port, configuration, &self.backends, &self.settings);
        listeners::write(&self.folder, &listener);
    }

    /// Gives a backend whose hosts are in a file ([`clusters::Hosts::File`]) a host on this port, or
    /// takes it away; it takes effect soon after.
    pub(crate) fn set_hosts(&self, backend: &str, port: Option<u16>) {
        clusters::write_hosts(&self.folder, backend, port, &self.settings.cluster_of(backend));
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// What Envoy logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("envoy.log")).unwrap_or_default()
    }

    /// What the access log has of the requests that are over, oldest first.
    pub(crate) fn access_log(&self) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The counter or gauge of this name; zero when it does not exist.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let text = self.admin(&format!("/stats?filter={name}")).await;
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| *found == name)
            .map_or(0, |(_, value)| value.trim().parse().unwrap())
    }

    /// What the administration interface answers.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let client = super::Client::new(self.admin_port);
        client.get(path, &[]).await.text()
    }

    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let client = super::Client::new(self.admin_port);
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return Err(format!("Envoy ended with {status}:\n{}", self.log()));
            }
            if let Ok(answer) = client.try_get("/ready").await
                && answer.text().contains("LIVE")
            {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "Envoy is not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- Envoy's log ---\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &Path, configuration: &str, settings: &Settings) -> Child {
    let path = folder.join("envoy.json");
    fs::write(&path, configuration).unwrap();
    let log = fs::File::create(folder.join("envoy.log")).unwrap();
    Command::new(envoy_binary())
        .arg("-c")
        .arg(&path)
        .args(["--concurrency", &settings.workers.to_string()])
        .args(["--log-level", "warning", "--disable-hot-restart"])
        .args(["--file-flush-interval-msec", "10"])
        .args(["--drain-time-s", &settings.drain_time.as_secs().to_string()])
        .envs(settings.environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A port that nobody listens on, and no two tests get. It is below those that systems give to
/// connections, of which one could take it before Envoy listens.
pub(super) fn free_port() -> u16 {
    const PORTS: Range<u32> = 10_000..30_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = (std::process::id() % 1_000) * 101 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn temporary_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("spillway-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}
