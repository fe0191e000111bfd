//! One Envoy process with a configuration made for one test.

use super::listeners;
use crate::support::{envoy_binary, module_path};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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
        }
    }
}

/// A running Envoy, ended and cleaned up after when dropped.
pub(crate) struct Envoy {
    process: Child,
    folder: PathBuf,
    pub(crate) port: u16,
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
        let gateway = listener(port, configuration, backends, settings);
        let mut bootstrap = bootstrap(admin_port, backends, settings);
        if settings.reloadable {
            listeners::write(&folder, &gateway);
            bootstrap["dynamic_resources"] = listeners::source(&folder);
        } else {
            bootstrap["static_resources"]["listeners"] = json!([gateway]);
        }
        let path = folder.join("envoy.json");
        fs::write(&path, serde_json::to_vec_pretty(&bootstrap).unwrap()).unwrap();
        let log = fs::File::create(folder.join("envoy.log")).unwrap();
        let process = Command::new(envoy_binary())
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
            .unwrap();
        let (backends, settings) = (backends.to_vec(), settings.clone());
        let mut envoy = Self { process, folder, port, admin_port, backends, settings };
        envoy.wait_until_ready().await?;
        Ok(envoy)
    }

    /// Gives a `reloadable` Envoy another configuration for Spillway; it takes effect soon after.
    pub(crate) fn replace(&self, configuration: &Value) {
        assert!(self.settings.reloadable);
        let listener = listener(self.port, configuration, &self.backends, &self.settings);
        listeners::write(&self.folder, &listener);
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

/// A port that nobody listens on, and no two tests get. It is below those that systems give to
/// connections, of which one could take it before Envoy listens.
fn free_port() -> u16 {
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

fn bootstrap(admin_port: u16, backends: &[(String, u16)], settings: &Settings) -> Value {
    let clusters: Vec<Value> =
        backends.iter().map(|(name, port)| cluster(name, *port, settings)).collect();
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": address(admin_port)},
        "static_resources": {"clusters": clusters}
    })
}

fn listener(
    port: u16,
    configuration: &Value,
    backends: &[(String, u16)],
    settings: &Settings,
) -> Value {
    let mut listener = json!({
        "name": "gateway",
        "address": address(port),
        "filter_chains": [{"filters": [{
            "name": "hcm",
            "typed_config": connection_manager(configuration, backends, settings)
        }]}]
    });
    if settings.workers > 1 {
        listener["connection_balance_config"] = json!({"exact_balance": {}});
    }
    listener
}

fn connection_manager(
    configuration: &Value,
    backends: &[(String, u16)],
    settings: &Settings,
) -> Value {
    let mut filters = settings.filters_before.clone();
    filters.extend([
        json!({"name": "spillway", "typed_config": filter(configuration, settings)}),
        json!({"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true
        }}),
    ]);
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "delayed_close_timeout": "0.1s",
        "access_log": access_log(settings),
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        // Envoy leaves its own headers to a client from such an address: the filter must not.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{
            "name": "gateway",
            "domains": ["*"],
            "routes": [{
                "match": {"prefix": "/"},
                "request_body_buffer_limit": settings.body_limit_bytes,
                "route": route(backends, settings)
            }]
        }]}
    })
}

/// Beside Envoy's own log, a line of JSON for each request.
fn access_log(settings: &Settings) -> Value {
    if settings.access_log.is_empty() {
        return json!([]);
    }
    let fields: serde_json::Map<String, Value> = settings
        .access_log
        .iter()
        .map(|(name, format)| ((*name).to_owned(), json!(format)))
        .collect();
    json!([{"name": "stderr", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
        "log_format": {"json_format": fields}
    }}])
}

fn route(backends: &[(String, u16)], settings: &Settings) -> Value {
    let to = |cluster: &str| {
        json!({"action": {"name": "cluster", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction",
            "cluster": cluster
        }}})
    };
    let map: serde_json::Map<String, Value> =
        backends.iter().map(|(name, _)| (name.clone(), to(name))).collect();
    json!({
        "timeout": "0s",
        "inline_cluster_specifier_plugin": {"extension": {
            "name": "matcher",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier",
                "cluster_matcher": {
                    "matcher_tree": {
                        "input": {"name": "filter_state", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
                            "key": "wasm.spillway.target"
                        }},
                        "exact_match_map": {"map": map}
                    },
                    "on_no_match": to("spillway_exhausted")
                }
            }
        }},
        "retry_policy": {
            "retry_on": "retriable-headers,connect-failure,reset,refused-stream",
            "retriable_headers": [{"name": "x-spillway-retry", "present_match": true}],
            "num_retries": 16,
            "refresh_cluster_on_retry": true,
            "per_try_timeout": seconds(settings.per_try_timeout),
            "per_try_idle_timeout": seconds(settings.per_try_idle_timeout),
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"}
        }
    })
}

fn cluster(name: &str, port: u16, settings: &Settings) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": 10000,
            "max_pending_requests": 10000,
            "max_requests": 10000,
            "max_retries": 10000
        }]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [
                    {"name": "spillway", "typed_config": filter(&json!({"role": "attempt"}), settings)},
                    {"name": "codec", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
                    }}
                ]
            }
        }
    })
}

fn filter(configuration: &Value, settings: &Settings) -> Value {
    let variables: Vec<&String> = settings.environment.iter().map(|(name, _)| name).collect();
    let (kind, value) = if settings.as_struct {
        ("Struct", configuration.clone())
    } else {
        ("StringValue", json!(configuration.to_string()))
    };
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "spillway",
            "failure_policy": "FAIL_RELOAD",
            "reload_config": {"backoff": {"base_interval": "1s"}},
            "allow_on_headers_stop_iteration": true,
            "vm_config": {
                "vm_id": "spillway",
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": module_path()}},
                "environment_variables": {"host_env_keys": variables}
            },
            "configuration": {
                "@type": format!("type.googleapis.com/google.protobuf.{kind}"),
                "value": value
            }
        }
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
