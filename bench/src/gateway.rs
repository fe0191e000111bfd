//! An Envoy to be measured, made of the shipped configuration: as it is, or without Spillway.
//!
//! The bare one has the same listener, the same connection manager and the same cluster, and its
//! route leads there. Access logs are off in both, since they cost both the same. The bare route has no
//! retries, for which Envoy would keep what the client sent: whatever failover needs is Spillway's cost.

use crate::wire::PATIENCE;
use serde_json::{Map, Value, json};
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// What it is called in the results.
    pub(crate) name: &'static str,
    /// How many backends Spillway has; 0: Envoy without Spillway.
    pub(crate) backends: usize,
    /// Whether backends and consumers have budgets.
    pub(crate) budgets: bool,
    /// Whether the first tier always fails.
    pub(crate) failing: bool,
    pub(crate) workers: u32,
}

/// Where everything is.
pub(crate) struct Place {
    pub(crate) envoy: PathBuf,
    pub(crate) module: PathBuf,
    pub(crate) serving_port: u16,
    pub(crate) failing_port: u16,
}

/// A running Envoy, ended when dropped.
pub(crate) struct Gateway {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    process: Child,
    folder: PathBuf,
}

impl Gateway {
    /// Starts an Envoy and waits until it listens.
    ///
    /// # Errors
    /// When it does not start; then with its log.
    pub(crate) async fn start(kind: Kind, place: &Place) -> io::Result<Self> {
        let (port, admin_port) = (free_port()?, free_port()?);
        let bootstrap = bootstrap(kind, place, port, admin_port)
            .ok_or_else(|| io::Error::other("envoy/envoy.yaml is not as expected"))?;
        let folder =
            std::env::temp_dir().join(format!("spillway-bench-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let path = folder.join("envoy.json");
        fs::write(&path, serde_json::to_vec_pretty(&bootstrap)?)?;
        let process = Command::new(&place.envoy)
            .arg("-c")
            .arg(&path)
            .args(["--concurrency", &kind.workers.to_string()])
            .args(["--log-level", "error", "--disable-hot-restart"])
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("envoy.log"))?)
            .spawn()?;
        let mut gateway = Self { kind, port, process, folder };
        gateway.wait_until_it_listens().await?;
        Ok(gateway)
    }

    async fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if self.process.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("envoy.log"))?;
                return Err(io::Error::other(format!("Envoy does not listen:\n{log}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The time that all threads of the process spent on a CPU, as the kernel accounts it.
    ///
    /// # Errors
    /// When this is not Linux.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let mut total_ns = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let spent = fs::read_to_string(task?.path().join("schedstat"))?;
            let spent = spent.split(' ').next().and_then(|spent| spent.parse::<u64>().ok());
            total_ns += spent.ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(Duration::from_nanos(total_ns))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The shipped configuration, changed for `kind`; `None` when it has not the parts to change.
fn bootstrap(kind: Kind, place: &Place, port: u16, admin_port: u16) -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/envoy.yaml");
    let yaml: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let mut whole = serde_json::to_value(yaml).ok()?;
    whole["admin"]["address"] = address(admin_port);
    let pattern = whole.pointer("/static_resources/clusters/0")?.clone();
    let clusters: Vec<Value> = (0..kind.backends.max(1))
        .map(|index| {
            let fails = kind.failing && index == 0;
            cluster(
                kind,
                place,
                &pattern,
                &name(index),
                if fails { place.failing_port } else { place.serving_port },
            )
        })
        .collect();
    whole["static_resources"]["clusters"] = json!(clusters);
    let listener = whole.pointer_mut("/static_resources/listeners/0")?;
    listener["address"] = address(port);
    if kind.workers > 1 {
        listener["connection_balance_config"] = json!({"exact_balance": {}});
    }
    let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config")?;
    manager.as_object_mut()?.remove("access_log");
    manager["http_filters"].as_array()?;
    if kind.backends == 0 {
        manager["http_filters"].as_array_mut()?.remove(0);
        manager["route_config"]["virtual_hosts"][0]["routes"] =
            json!([{"match": {"prefix": "/"}, "route": {"timeout": "0s", "cluster": name(0)}}]);
    } else {
        let filter = manager.pointer_mut("/http_filters/0/typed_config/config")?;
        filter["configuration"]["value"] = json!(configuration(kind).to_string());
        run_module(filter, place);
        for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut()? {
            let map = "/route/inline_cluster_specifier_plugin/extension/typed_config/cluster_matcher/matcher_tree/exact_match_map/map";
            let map = route.pointer_mut(map)?;
            let to = map.as_object()?.values().next()?.clone();
            *map = (0..kind.backends)
                .map(|index| {
                    let mut to = to.clone();
                    to["action"]["typed_config"]["cluster"] = json!(name(index));
                    (name(index), to)
                })
                .collect::<Map<_, _>>()
                .into();
        }
    }
    Some(whole)
}

fn cluster(kind: Kind, place: &Place, pattern: &Value, name: &str, port: u16) -> Value {
    let mut cluster = pattern.clone();
    cluster["name"] = json!(name);
    cluster["load_assignment"]["cluster_name"] = json!(name);
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
        address(port);
    let options = &mut cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    if kind.backends == 0 {
        options["http_filters"] = Value::Null;
    } else {
        run_module(&mut options["http_filters"][0]["typed_config"]["config"], place);
    }
    cluster
}

fn run_module(filter: &mut Value, place: &Place) {
    filter["vm_config"]["code"] = json!({"local": {"filename": place.module}});
    filter["vm_config"]["environment_variables"] =
        json!({"key_values": {"KEY": "the-key-of-a-backend"}});
}

/// Spillway's own configuration. Nothing may close a backend while it is measured: limits are out of reach,
/// and failures trip nothing.
fn configuration(kind: Kind) -> Value {
    let backends: Vec<Value> = (0..kind.backends)
        .map(|index| {
            let name = name(index);
            let mut backend = json!({
                "name": name,
                "host": format!("{name}.openai.azure.com"),
                "deployment": "gpt-4o",
                "priority": if kind.failing && index > 0 { 2 } else { 1 },
                "credential": {"api_key": {"env": "KEY"}}
            });
            if kind.budgets {
                backend["limits"] =
                    json!({"tokens_per_minute": 1_000_000_000, "requests_per_minute": 10_000_000});
            }
            backend
        })
        .collect();
    let mut pool = json!({"name": "gpt-4o", "models": ["gpt-4o"], "backends": backends});
    if kind.failing {
        pool["circuit_breaker"] = json!({"rules": []});
        pool["failover"] = json!({"retry_budget": {"percent": 100, "min_per_second": 10_000}});
    }
    let mut whole = json!({"pools": [pool]});
    if kind.budgets {
        whole["consumers"] =
            json!({"header": "x-consumer", "default": {"tokens_per_minute": 1_000_000_000}});
    }
    whole
}

fn name(index: usize) -> String {
    format!("backend-{index}")
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}
