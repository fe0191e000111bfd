//! The Envoys that are measured, made of the shipped configuration: as it is, with a module that does
//! nothing, or without filters.
//!
//! The bare ones have the same listener, the same connection manager and the same cluster, and their
//! route leads there: in one without retries, in the other with the shipped retry policy, for which Envoy keeps what
//! the client sent. Access logs are off in all, because they would cost the same in each.

use crate::gateway::{Kind, Place, Program};
use serde_json::{Value, json};
use testbed::bootstrap::{Bootstrap, protocol_options};
use testbed::{Options, free_port};

/// The highest limit that there can be.
const TOKENS_PER_MINUTE: u32 = 1_000_000_000;

/// How the process of `kind` is started.
pub(crate) fn options(kind: Kind, place: &Place) -> Options {
    Options { workers: kind.workers, ..Options::of(&place.envoy) }
}

/// The shipped configuration, changed for `kind`.
pub(crate) fn bootstrap(kind: Kind, place: &Place, port: u16) -> Bootstrap {
    let mut whole = Bootstrap::local();
    whole.listen(port, free_port());
    let names: Vec<String> = (0..kind.backends).map(name).collect();
    whole.set_backends(names.iter().enumerate().map(|(index, name)| {
        let fails = kind.failing && index == 0;
        (name.as_str(), if fails { place.failing_port } else { place.serving_port })
    }));
    if kind.workers > 1 {
        whole.listener()["connection_balance_config"] = json!({"exact_balance": {}});
    }
    whole.manager()["access_log"] = json!([]);
    if kind.program.is_bare() {
        lay_bare(&mut whole, kind.program == Program::BareWithRetries);
        return whole;
    }
    whole.configure(&configuration(kind));
    whole.run_module(if kind.program == Program::Spillway { &place.module } else { &place.floor });
    whole.each_plugin(|plugin| {
        plugin["vm_config"]["environment_variables"] =
            json!({"key_values": {"KEY": "the-key-of-a-backend"}});
    });
    whole
}

/// Takes the filters out, and routes straight to the first backend.
fn lay_bare(whole: &mut Bootstrap, retries: bool) {
    let filters = whole.manager()["http_filters"].as_array_mut();
    filters.expect("a list").retain(|filter| filter["name"] != "spillway.gateway");
    for cluster in whole.clusters() {
        protocol_options(cluster)["http_filters"] = Value::Null;
    }
    whole.routes().drain(..1); // that of WebSockets
    let route = &mut whole.routes()[0];
    let action = route["route"].as_object_mut().expect("an object");
    action.remove("inline_cluster_specifier_plugin");
    action.insert("cluster".to_owned(), json!(name(0)));
    if !retries {
        action.remove("retry_policy");
        route["request_body_buffer_limit"] = Value::Null;
    }
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
                backend["limits"] = json!({"tokens_per_minute": TOKENS_PER_MINUTE, "requests_per_minute": 10_000_000});
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
            json!({"header": "x-consumer", "default": {"tokens_per_minute": TOKENS_PER_MINUTE}});
    }
    whole
}

fn name(index: usize) -> String {
    format!("backend-{index}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::BUDGETS;

    fn place() -> Place {
        Place {
            envoy: "envoy".into(),
            module: "spillway.wasm".into(),
            floor: "floor.wasm".into(),
            serving_port: 7001,
            failing_port: 7002,
            peers: None,
        }
    }

    #[test]
    fn a_bare_envoy_has_nothing_of_spillway_and_retries_only_when_they_are_asked_for() {
        for (program, retries) in [(Program::BareEnvoy, 0), (Program::BareWithRetries, 1)] {
            let whole = bootstrap(Kind { program, ..BUDGETS }, &place(), 7000).json.to_string();
            assert!(!whole.contains("vm_config") && !whole.contains("wasm.spillway"), "{whole}");
            assert_eq!(whole.matches(r#""retry_policy":{"#).count(), retries);
            assert_eq!(whole.matches(r#""request_body_buffer_limit":67108864"#).count(), retries);
        }
    }

    #[test]
    fn spillway_has_the_shipped_routes_and_its_own_configuration_for_the_benchmark() {
        let mut whole = bootstrap(Kind { failing: true, ..BUDGETS }, &place(), 7000);
        assert_eq!(whole.routes().len(), 2);
        assert_eq!(whole.backend_port("backend-0"), 7002);
        assert_eq!(whole.backend_port("backend-1"), 7001);
        let text = whole.json.to_string();
        assert_eq!(text.matches(r#""filename":"spillway.wasm""#).count(), 5);
        assert!(text.contains("tokens_per_minute") && !text.contains("uksouth"), "{text}");
    }
}
