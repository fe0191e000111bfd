//! The Envoy configurations that are shipped: Envoy accepts them with the real module, and they have every
//! setting without which the product breaks silently.
//!
//! Silent means that Envoy starts, answers, and loses failovers under load, so only a look at the settings
//! themselves finds it. That look is tested too: each setting is taken out once and must be missed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use testbed::programs::{envoy_binary, module_path, root, text_of};

const LOCAL: &str = "envoy/envoy.yaml";
const AZURE: &str = "envoy/azure.yaml";
const CONSUMERS: &str = "envoy/consumers.yaml";
const MODULE: &str = "target/wasm32-wasip1/release/spillway.wasm";
/// The cluster for requests that the matcher sends nowhere else.
const CATCH_ALL: &str = "spillway_exhausted";
/// Where nobody listens.
const DEAD_PORT: u16 = 1;
/// How long OpenAI's SDKs wait for an answer, in seconds.
const PATIENCE_OF_SDKS: f64 = 600.0;
/// The largest `max_attempts`.
const ATTEMPTS_MAX: u64 = 16;
const KEYS: [&str; 3] = ["UKSOUTH_KEY", "SWEDEN_KEY", "FRANCE_KEY"];

#[test]
fn envoy_accepts_the_local_configuration_with_the_real_module() {
    assert_eq!(refusal(LOCAL), None);
}

#[test]
fn envoy_accepts_the_azure_configuration_with_the_real_module() {
    assert_eq!(refusal(AZURE), None);
}

#[test]
fn envoy_accepts_the_configuration_for_consumers_with_the_real_module() {
    assert_eq!(refusal(CONSUMERS), None);
}

#[test]
fn the_local_configuration_has_every_setting_that_it_needs() {
    assert_eq!(missing(&text_of(LOCAL)), [""; 0]);
}

#[test]
fn the_azure_configuration_has_every_setting_that_it_needs() {
    assert_eq!(missing(&text_of(AZURE)), [""; 0]);
}

#[test]
fn the_configuration_for_consumers_has_every_setting_that_it_needs() {
    assert_eq!(missing(&text_of(CONSUMERS)), [""; 0]);
    assert_eq!(spoofable(&text_of(CONSUMERS)), [""; 0]);
}

#[test]
fn the_configuration_for_consumers_only_adds_to_the_one_for_azure() {
    let (azure, consumers) = (text_of(AZURE), text_of(CONSUMERS));
    let mut rest = settings(&consumers);
    for line in settings(&azure) {
        assert!(rest.any(|found| found == line), "{CONSUMERS} lacks, or has elsewhere: {line:?}");
    }
}

/// The lines below the introduction, without the commas that JSON has between members.
fn settings(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().skip_while(|line| !line.starts_with("admin:"));
    lines.map(|line| line.trim_end_matches(','))
}

#[test]
fn a_consumer_that_can_be_spoofed_is_found() {
    let whole = text_of(CONSUMERS);
    for (setting, instead, complaint) in [
        ("forwarding: {header: x-consumer,", "forwarding: {header: x-other,", "forwarding"),
        ("hide_credentials: true", "hide_credentials: false", "hide_credentials"),
        ("- remove: x-consumer", "- remove: x-other", "early_header_mutation"),
        ("- {client: trial,", "- {client: stranger,", "by_name"),
        (
            "- name: envoy.filters.http.api_key_auth",
            "- name: envoy.filters.http.other",
            "before Spillway",
        ),
    ] {
        assert!(whole.contains(setting), "{CONSUMERS} no longer says {setting:?}");
        let found = spoofable(&whole.replace(setting, instead));
        assert!(found.iter().any(|one| one.contains(complaint)), "{setting:?}: {found:?}");
    }
}

#[test]
fn a_setting_that_is_taken_out_is_missed() {
    let without: [(&str, &str, &str); 34] = [
        ("max_retries: 10000", "max_requests: 10000", "circuit_breakers.max_retries"),
        ("&body_limit 67108864", "&body_limit 1048576", "request_body_buffer_limit"),
        ("timeout: 0s  ", "timeout: 15s  ", "timeout"),
        ("per_try_timeout: 60s  ", "num_retries: 16  ", "per_try_timeout at the WebSocket"),
        ("per_try_timeout: 620s  ", "num_retries: 16  ", "per_try_timeout above ten minutes"),
        ("per_try_timeout: 620s  ", "per_try_timeout: 60s  ", "per_try_timeout above ten minutes"),
        ("per_try_idle_timeout: 620s", "num_retries: 16", "per_try_idle_timeout"),
        ("stream_idle_timeout: 1300s", "stream_idle_timeout: 1200s", "stream_idle_timeout"),
        ("idle_timeout: 3600s", "idle_timeout: 600s", "idle_timeout of an hour"),
        ("max_interval: 0.001s", "max_interval: 0.250s", "retry_back_off"),
        ("num_retries: 16  ", "num_retries: 3  ", "num_retries"),
        (
            "refresh_cluster_on_retry: true  ",
            "refresh_cluster_on_retry: false  ",
            "refresh_cluster_on_retry",
        ),
        ("&retry_on retriable-headers,", "&retry_on 5xx,", "retry_on"),
        ("name: x-spillway-retry", "name: x-retry", "retriable_headers"),
        ("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_OPEN", "failure_policy"),
        (
            "allow_on_headers_stop_iteration: true",
            "allow_on_headers_stop_iteration: false",
            "allow_on_headers",
        ),
        ("vm_config: *vm", "vm_config: {vm_id: other}", "vm_config"),
        ("- name: envoy.filters.http.upstream_codec", "- name: another", "upstream_codec"),
        ("prefix: x-spillway-", "prefix: x-other-", "x-spillway-"),
        ("key: wasm.spillway.target", "key: spillway.target", "wasm.spillway.target"),
        ("sni: contoso-sweden.openai.azure.com", "sni: contoso-france.openai.azure.com", "sni"),
        (
            "auto_sni_san_validation: true",
            "auto_sni_san_validation: false",
            "auto_sni_san_validation",
        ),
        ("trusted_ca", "watched_directory", "trusted_ca"),
        ("host_env_keys: [UKSOUTH_KEY, ", "host_env_keys: [", "UKSOUTH_KEY"),
        ("- {priority: 1, lb_endpoints: *nobody}", "", "a dead endpoint"),
        (
            "address: 127.0.0.1, port_value: 1}",
            "address: 127.0.0.1, port_value: 2}",
            "a dead endpoint",
        ),
        ("- name: spillway_exhausted", "- name: another", "on_no_match"),
        ("cluster: spillway_exhausted}", "cluster: another}", "on_no_match"),
        ("tls_maximum_protocol_version: TLSv1_3", "ecdh_curves: [X25519]", "tls_params"),
        ("wait_for_warm_on_init: false", "wait_for_warm_on_init: true", "wait_for_warm_on_init"),
        ("dns_lookup_family: V4_PREFERRED", "dns_lookup_family: AUTO", "dns_lookup_family"),
        ("dns_failure_refresh_rate: {", "dns_refresh_rate: {", "dns_failure_refresh_rate"),
        ("max_headers_count: 1000", "max_headers_count: 100", "max_headers_count"),
        ("max_response_headers_kb: 256", "max_response_headers_kb: 60", "max_response_headers_kb"),
    ];
    let whole = text_of(AZURE);
    for (setting, instead, complaint) in without {
        assert!(whole.contains(setting), "{AZURE} no longer says {setting:?}");
        let found = missing(&whole.replace(setting, instead));
        assert!(
            found.iter().any(|one| one.contains(complaint)),
            "without {setting:?} only this is missed: {found:?}"
        );
    }
}

/// What Envoy says against the configuration.
fn refusal(path: &str) -> Option<String> {
    let shipped = text_of(path);
    assert!(shipped.contains(MODULE), "{path} does not load {MODULE}");
    // Only the place of the module differs between machines.
    let module = module_path().to_str().unwrap();
    let name = path.replace('/', "-");
    let copy = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&copy, shipped.replace(MODULE, module)).unwrap();

    let answer = Command::new(envoy_binary())
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(&copy)
        .envs(KEYS.map(|key| (key, "not-a-key")))
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    (!answer.status.success()).then_some(said)
}

/// The settings that the configuration lacks, each in a sentence.
fn missing(yaml: &str) -> Vec<String> {
    let config: Value = serde_yaml_ng::from_str(yaml).unwrap();
    let gateway = Gateway::of(&config);
    let mut found = Vec::new();
    check_plugins(&config, &gateway, &mut found);
    check_manager(&gateway, &mut found);
    for route in items(gateway.manager, "/route_config/virtual_hosts/0/routes") {
        check_route(route, &config, &gateway, &mut found);
    }
    for cluster in items(&config, "/static_resources/clusters") {
        check_cluster(cluster, &gateway, &mut found);
    }
    found
}

/// The ways in which a client could call itself another consumer, or be known under a name that has
/// no limits, each in a sentence.
fn spoofable(text: &str) -> Vec<String> {
    let config: Value = serde_yaml_ng::from_str(text).unwrap();
    let gateway = Gateway::of(&config);
    let mut found = Vec::new();
    let header = &gateway.own["consumers"]["header"];
    let first = &gateway.manager["http_filters"][0];
    let is_authentication = first["name"] == "envoy.filters.http.api_key_auth";
    require(is_authentication, "authentication before Spillway", "http_filters", &mut found);
    let forwarding = &first["typed_config"]["forwarding"];
    require(forwarding["header"] == *header, "forwarding", "authentication", &mut found);
    let hides = forwarding["hide_credentials"] == true;
    require(hides, "hide_credentials: true", "authentication", &mut found);
    let mutations = "/early_header_mutation_extensions/0/typed_config/mutations";
    let removed = items(gateway.manager, mutations).any(|mutation| mutation["remove"] == *header);
    require(removed, "removal of the consumer's header", "early_header_mutation", &mut found);
    for credential in items(&first["typed_config"], "/credentials") {
        let name = credential["client"].as_str().unwrap();
        let is_known = gateway.own["consumers"]["by_name"].get(name).is_some();
        require(is_known, &format!("{name} in by_name"), "consumers", &mut found);
    }
    found
}

/// What the checks compare with.
struct Gateway<'a> {
    manager: &'a Value,
    vm: &'a Value,
    /// The filter's own configuration.
    own: Value,
    /// Each backend of the filter's own configuration.
    backends: Vec<Value>,
}

impl<'a> Gateway<'a> {
    fn of(config: &'a Value) -> Self {
        let manager = &config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
            ["typed_config"];
        let is_spillway = |filter: &&Value| filter["name"] == "spillway.gateway";
        let plugin = items(manager, "/http_filters").find(is_spillway).unwrap();
        let plugin = &plugin["typed_config"]["config"];
        let own: Value =
            serde_json::from_str(plugin["configuration"]["value"].as_str().unwrap()).unwrap();
        Self {
            manager,
            vm: &plugin["vm_config"],
            backends: items(&own, "/pools")
                .flat_map(|pool| items(pool, "/backends").cloned())
                .collect(),
            own,
        }
    }

    fn backend(&self, cluster: &str) -> Option<&Value> {
        self.backends.iter().find(|backend| cluster_of(backend) == cluster)
    }

    fn passes(&self, key: &str) -> bool {
        let environment = &self.vm["environment_variables"];
        items(environment, "/host_env_keys").any(|name| name == key)
            || environment["key_values"].get(key).is_some()
    }
}

/// The cluster that a backend is reached through: its own name when it names none.
fn cluster_of(backend: &Value) -> &Value {
    backend.get("cluster").unwrap_or_else(|| &backend["name"])
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn require(holds: bool, setting: &str, at: &str, found: &mut Vec<String>) {
    if !holds {
        found.push(format!("{setting} at {at}"));
    }
}

/// Seconds of a duration such as `0.001s`.
fn seconds(duration: &Value) -> Option<f64> {
    duration.as_str()?.strip_suffix('s')?.parse().ok()
}

fn check_plugins(config: &Value, gateway: &Gateway<'_>, found: &mut Vec<String>) {
    let mut plugins = Vec::new();
    collect(config, "vm_config", &mut plugins);
    let places = items(config, "/static_resources/clusters").count().saturating_add(1);
    require(
        plugins.len() == places,
        "the filter in the listener and in every cluster",
        "static_resources",
        found,
    );
    for plugin in plugins {
        let at = "a plugin";
        require(
            plugin["failure_policy"] == "FAIL_RELOAD",
            "failure_policy: FAIL_RELOAD",
            at,
            found,
        );
        require(
            plugin["allow_on_headers_stop_iteration"] == true,
            "allow_on_headers_stop_iteration: true",
            at,
            found,
        );
        require(plugin["vm_config"] == *gateway.vm, "the same vm_config in every place", at, found);
    }
    for backend in &gateway.backends {
        let key = backend["credential"]["api_key"]["env"].as_str().unwrap();
        require(gateway.passes(key), key, "environment_variables", found);
    }
}

/// Every mapping that has `key`.
fn collect<'a>(value: &'a Value, key: &str, into: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            if map.contains_key(key) {
                into.push(value);
            }
            map.values().for_each(|inner| collect(inner, key, into));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect(inner, key, into)),
        _ => {}
    }
}

fn check_manager(gateway: &Gateway<'_>, found: &mut Vec<String>) {
    let mutations = "/early_header_mutation_extensions/0/typed_config/mutations";
    for prefix in ["x-spillway-", "x-envoy-"] {
        let removed = items(gateway.manager, mutations)
            .any(|mutation| mutation["remove_on_match"]["key_matcher"]["prefix"] == prefix);
        require(
            removed,
            &format!("removal of {prefix} headers from clients"),
            "early_header_mutation",
            found,
        );
    }
    let upgrades = items(gateway.manager, "/upgrade_configs")
        .any(|upgrade| upgrade["upgrade_type"] == "websocket");
    require(upgrades, "upgrade_configs: websocket", "the connection manager", found);
}

fn check_route(route: &Value, config: &Value, gateway: &Gateway<'_>, found: &mut Vec<String>) {
    let websocket = route["match"].get("headers").is_some();
    let at = if websocket { "the WebSocket route" } else { "the route" };
    let action = &route["route"];
    let retry = &action["retry_policy"];
    let limit = route["request_body_buffer_limit"].as_u64();
    require(limit >= Some(16 << 20), "request_body_buffer_limit of 16 MiB or more", at, found);
    require(seconds(&action["timeout"]) == Some(0.0), "timeout: 0s", at, found);
    check_patience(action, gateway, websocket, at, found);
    let back_off = seconds(&retry["retry_back_off"]["max_interval"]);
    require(back_off.is_some_and(|it| it <= 0.002), "retry_back_off of 2 ms or less", at, found);
    let retries = retry["num_retries"].as_u64().unwrap_or(1);
    require(retries >= ATTEMPTS_MAX, "num_retries for every attempt", at, found);
    require(retry["refresh_cluster_on_retry"] == true, "refresh_cluster_on_retry: true", at, found);
    let retry_on = "retriable-headers,connect-failure,reset,refused-stream";
    require(retry["retry_on"] == retry_on, &format!("retry_on: {retry_on}"), at, found);
    let header = &retry["retriable_headers"][0];
    require(
        header["name"] == "x-spillway-retry" && header["present_match"] == true,
        "retriable_headers: x-spillway-retry",
        at,
        found,
    );
    check_matcher(action, config, gateway, at, found);
}

/// A backend's limit acts before the client's, and neither before the SDKs lose patience.
fn check_patience(
    action: &Value,
    gateway: &Gateway<'_>,
    websocket: bool,
    at: &str,
    found: &mut Vec<String>,
) {
    let retry = &action["retry_policy"];
    let first_byte = seconds(&retry["per_try_timeout"]);
    let idle = seconds(&retry["per_try_idle_timeout"]);
    let stream = seconds(&gateway.manager["stream_idle_timeout"]);
    if websocket {
        require(first_byte.is_some(), "per_try_timeout", at, found);
        require(idle.is_none(), "no per_try_idle_timeout", at, found);
        let session = seconds(&action["idle_timeout"]);
        require(session >= Some(3600.0), "idle_timeout of an hour or more", at, found);
        return;
    }
    let long = |limit: Option<f64>| limit.is_some_and(|limit| limit > PATIENCE_OF_SDKS);
    require(long(first_byte), "per_try_timeout above ten minutes", at, found);
    require(long(idle), "per_try_idle_timeout above ten minutes", at, found);
    require(
        stream > idle && stream > first_byte.map(|limit| 2.0 * limit),
        "stream_idle_timeout above idle limit and two attempts",
        at,
        found,
    );
}

fn check_matcher(
    action: &Value,
    config: &Value,
    gateway: &Gateway<'_>,
    at: &str,
    found: &mut Vec<String>,
) {
    let matcher =
        &action["inline_cluster_specifier_plugin"]["extension"]["typed_config"]["cluster_matcher"];
    let tree = &matcher["matcher_tree"];
    let key = "wasm.spillway.target";
    require(tree["input"]["typed_config"]["key"] == key, &format!("filter state {key}"), at, found);
    let cluster = |action: &Value| action["action"]["typed_config"]["cluster"].clone();
    for backend in &gateway.backends {
        let entry = &tree["exact_match_map"]["map"][backend["name"].as_str().unwrap()];
        let expected = cluster_of(backend);
        require(
            cluster(entry) == *expected,
            &format!("the cluster of {}", backend["name"]),
            at,
            found,
        );
    }
    let exists = items(config, "/static_resources/clusters").any(|one| one["name"] == CATCH_ALL);
    require(
        exists && cluster(&matcher["on_no_match"]) == CATCH_ALL,
        &format!("on_no_match with the cluster {CATCH_ALL}, which exists"),
        at,
        found,
    );
}

fn check_cluster(cluster: &Value, gateway: &Gateway<'_>, found: &mut Vec<String>) {
    let name = cluster["name"].as_str().unwrap();
    let limit = cluster["circuit_breakers"]["thresholds"][0]["max_retries"].as_u64();
    require(limit >= Some(1000), "circuit_breakers.max_retries of 1000 or more", name, found);

    let options = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    let common = &options["common_http_protocol_options"];
    let count = common["max_headers_count"].as_u64();
    require(count >= Some(1000), "max_headers_count of 1000 or more", name, found);
    let kib = common["max_response_headers_kb"].as_u64();
    require(kib >= Some(256), "max_response_headers_kb of 256 or more", name, found);
    let last = items(options, "/http_filters").last().map(|filter| &filter["name"]);
    require(
        last.is_some_and(|filter| filter == "envoy.filters.http.upstream_codec"),
        "upstream_codec as the last filter",
        name,
        found,
    );
    let role = &options["http_filters"][0]["typed_config"]["config"]["configuration"]["value"];
    require(role == r#"{"role": "attempt"}"#, "the attempt role", name, found);
    if name == CATCH_ALL {
        require(is_dead(cluster, 0), "an endpoint where nobody listens", name, found);
    } else {
        check_hosts(cluster, gateway, name, found);
    }
}

/// The hosts of a backend's cluster, and what is there when it has none.
fn check_hosts(cluster: &Value, gateway: &Gateway<'_>, name: &str, found: &mut Vec<String>) {
    let backend = gateway.backend(name);
    require(backend.is_some(), "a backend for this cluster", name, found);
    let is_spare = cluster["load_assignment"]["endpoints"][1]["priority"] == 1;
    require(is_spare && is_dead(cluster, 1), "a dead endpoint of lower priority", name, found);
    let address = address(cluster, 0)["address"].as_str().unwrap();
    if address == "127.0.0.1" {
        return;
    }
    require(
        backend.is_some_and(|it| it["host"] == address),
        "the host of the backend",
        name,
        found,
    );
    check_tls(&cluster["transport_socket"]["typed_config"], address, name, found);
    check_names(cluster, name, found);
}

fn address(cluster: &Value, endpoints: usize) -> &Value {
    let endpoints = &cluster["load_assignment"]["endpoints"][endpoints];
    &endpoints["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
}

fn is_dead(cluster: &Value, endpoints: usize) -> bool {
    let address = address(cluster, endpoints);
    address["address"] == "127.0.0.1" && address["port_value"] == DEAD_PORT
}

/// How a host's name is resolved.
fn check_names(cluster: &Value, name: &str, found: &mut Vec<String>) {
    let waits = cluster.get("wait_for_warm_on_init").is_none_or(|waits| waits != false);
    require(!waits, "wait_for_warm_on_init: false", name, found);
    let names = &cluster["cluster_type"]["typed_config"];
    let family = names["dns_lookup_family"] == "V4_PREFERRED";
    require(family, "dns_lookup_family: V4_PREFERRED", name, found);
    let again = seconds(&names["dns_failure_refresh_rate"]["max_interval"]);
    require(again.is_some_and(|it| it <= 10.0), "dns_failure_refresh_rate", name, found);
}

fn check_tls(tls: &Value, address: &str, name: &str, found: &mut Vec<String>) {
    require(tls["sni"] == address, "sni equal to the address", name, found);
    require(tls["auto_sni_san_validation"] == true, "auto_sni_san_validation: true", name, found);
    let authority = tls.pointer("/common_tls_context/validation_context/trusted_ca");
    require(authority.is_some(), "trusted_ca", name, found);
    let versions = &tls["common_tls_context"]["tls_params"];
    require(
        versions["tls_minimum_protocol_version"] == "TLSv1_2"
            && versions["tls_maximum_protocol_version"] == "TLSv1_3",
        "tls_params from TLS 1.2 to TLS 1.3",
        name,
        found,
    );
}
