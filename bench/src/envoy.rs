//! The Envoys that are measured, made of the shipped configuration: as it is, with a module that does
//! nothing, or without filters.
//!
//! The bare one has the same listener, the same connection manager and the same cluster, and its
//! route leads there. Access logs are off in all, since they cost all the same. The bare route has no
//! retries, for which Envoy would keep what the client sent: whatever failover needs is Spillway's cost.

use crate::gateway::{Kind, Place, Program};
use serde_json::{Map, Value, json};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// The command that runs the Envoy of `kind`, with its configuration in `folder`.
///
/// # Errors
/// When the shipped configuration is not as expected, or nothing can be written.
pub(crate) fn command(
    kind: Kind,
    place: &Place,
    port: u16,
    admin_port: u16,
    folder: &Path,
) -> io::Result<Command> {
    let bootstrap = bootstrap(kind, place, port, admin_port)
        .ok_or_else(|| io::Error::other("envoy/envoy.yaml is not as expected"))?;
    let path = folder.join("envoy.json");
    fs::write(&path, serde_json::to_vec_pretty(&bootstrap)?)?;
    let mut command = Command::new(&place.envoy);
    command.arg("-c").arg(&path).args(["--concurrency", &kind.workers.to_string()]).args([
        "--log-level",
        "error",
        "--disable-hot-restart",
    ]);
    Ok(command)
}

/// The shipped configuration, changed for `kind`; `None` when it has not the parts to change.
fn bootstrap(kind: Kind, place: &Place, port: u16, admin_port: u16) -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/envoy.yaml");
    let yaml: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let mut whole = serde_json::to_value(yaml).ok()?;
    whole["admin"]["address"] = address(admin_port);
    let pattern = whole.pointer("/static_resources/clusters/0")?.clone();
    // Where the requests go for which no backend is left.
    let mut catch_all = whole
        .pointer("/static_resources/clusters")?
        .as_array()?
        .iter()
        .find(|cluster| cluster["name"] == "spillway_exhausted")?
        .clone();
    set_filters(kind, place, &mut catch_all);
    let backends = (0..kind.backends).map(|index| {
        let fails = kind.failing && index == 0;
        cluster(
            kind,
            place,
            &pattern,
            &name(index),
            if fails { place.failing_port } else { place.serving_port },
        )
    });
    let clusters: Vec<Value> = backends.chain([catch_all]).collect();
    whole["static_resources"]["clusters"] = json!(clusters);
    let listener = whole.pointer_mut("/static_resources/listeners/0")?;
    listener["address"] = address(port);
    if kind.workers > 1 {
        listener["connection_balance_config"] = json!({"exact_balance": {}});
    }
    let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config")?;
    manager.as_object_mut()?.remove("access_log");
    manager["http_filters"].as_array()?;
    if kind.program == Program::BareEnvoy {
        manager["http_filters"].as_array_mut()?.remove(0);
        manager["route_config"]["virtual_hosts"][0]["routes"] =
            json!([{"match": {"prefix": "/"}, "route": {"timeout": "0s", "cluster": name(0)}}]);
    } else {
        let filter = manager.pointer_mut("/http_filters/0/typed_config/config")?;
        filter["configuration"]["value"] = json!(configuration(kind).to_string());
        run_module(filter, kind, place);
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
    set_filters(kind, place, &mut cluster);
    cluster
}

fn set_filters(kind: Kind, place: &Place, cluster: &mut Value) {
    let options = &mut cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    if kind.program == Program::BareEnvoy {
        options["http_filters"] = Value::Null;
    } else {
        run_module(&mut options["http_filters"][0]["typed_config"]["config"], kind, place);
    }
}

fn run_module(filter: &mut Value, kind: Kind, place: &Place) {
    let module = if kind.program == Program::Spillway { &place.module } else { &place.floor };
    filter["vm_config"]["code"] = json!({"local": {"filename": module}});
    filter["vm_config"]["environment_variables"] =
        json!({"key_values": {"KEY": "the-key-of-a-backend"}});
}

/// Spillway's own configuration. Nothing may close a backend while it is measured: limits are out of reach,
/// and failures trip nothing.
fn configuration(kind: Kind) -> Value {
    if kind.program == Program::HostCalls {
        return json!({"host_calls": true});
    }
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
