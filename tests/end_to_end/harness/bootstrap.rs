//! The configuration of a test's Envoy: one gateway, as the shipped files have it, and what a test changes of it.

use super::clusters::{self, CATCH_ALL};
use super::envoy::Settings;
use crate::support::module_path;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// The whole configuration, with these listeners; `folder` is for the files that Envoy watches.
pub(super) fn bootstrap(
    admin_port: u16,
    backends: &[(String, u16)],
    settings: &Settings,
    folder: &Path,
) -> Value {
    let mut bootstrap = json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": address(admin_port)},
        "static_resources": {"clusters": clusters::all(backends, settings, folder)}
    });
    if let Some(port) = settings.name_server {
        bootstrap["typed_dns_resolver_config"] = name_server(port);
    }
    bootstrap
}

/// Makes Envoy ask the name server on this port, and no other.
pub(crate) fn name_server(port: u16) -> Value {
    json!({
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [address(port)]
        }
    })
}

/// The listener `name`, with `configuration` for Spillway.
pub(super) fn listener(
    name: &str,
    port: u16,
    configuration: &Value,
    backends: &[(String, u16)],
    settings: &Settings,
) -> Value {
    let mut listener = json!({
        "name": name,
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
    let known = backends.iter().filter(|(name, _)| settings.cluster_of(name).is_in_matcher);
    let map: serde_json::Map<String, Value> =
        known.map(|(name, _)| (name.clone(), to(name))).collect();
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
                    "on_no_match": to(CATCH_ALL)
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

/// The filter with `configuration`, in either role.
pub(super) fn filter(configuration: &Value, settings: &Settings) -> Value {
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
            "reload_config": {"backoff": {"base_interval": seconds(settings.reload_interval)}},
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

pub(super) fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
