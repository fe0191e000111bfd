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
use testbed::bootstrap::{CATCH_ALL, DEAD_PORT};
use testbed::programs::{envoy_binary, module_path, root, text_of};

const LOCAL: &str = "envoy/envoy.yaml";
const AZURE: &str = "envoy/azure.yaml";
const CONSUMERS: &str = "envoy/consumers.yaml";
const MODULE: &str = "target/wasm32-wasip1/release/spillway.wasm";
/// How long OpenAI's SDKs wait for a response, in seconds.
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

    let response = Command::new(envoy_binary())
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(&copy)
        .envs(KEYS.map(|key| (key, "not-a-key")))
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&response.stderr).into_owned();
    (!response.status.success()).then_some(said)
}

/// The settings that the configuration lacks, each in a sentence.
fn missing(yaml: &str) -> Vec<String> {
    let config: Value = serde_yaml_ng::from_str(yaml).unwrap();
    let mut check = Check::of(&config);
    check.plugins();
    check.manager();
    for route in items(check.manager, "/route_config/virtual_hosts/0/routes") {
        check.route(route);
    }
    for cluster in items(&config, "/static_resources/clusters") {
        check.cluster(cluster);
    }
    check.found
}

/// The ways in which a client could call itself another consumer, or be known under a name that has
/// no limits, each in a sentence.
fn spoofable(text: &str) -> Vec<String> {
    let config: Value = serde_yaml_ng::from_str(text).unwrap();
    let mut check = Check::of(&config);
    let header = check.own["consumers"]["header"].clone();
    let first = &check.manager["http_filters"][0];
    let is_authentication = first["name"] == "envoy.filters.http.api_key_auth";
    let forwarding = &first["typed_config"]["forwarding"];
    let removed = check.mutations().any(|mutation| mutation["remove"] == header);
    check.at = "authentication".to_owned();
    check.require(is_authentication, "authentication before Spillway");
    check.require(forwarding["header"] == header, "forwarding");
    check.require(forwarding["hide_credentials"] == true, "hide_credentials: true");
    check.require(removed, "early_header_mutation: removal of the consumer's header");
    for credential in items(&first["typed_config"], "/credentials") {
        let name = credential["client"].as_str().unwrap();
        let is_known = check.own["consumers"]["by_name"].get(name).is_some();
        check.require(is_known, &format!("{name} in by_name"));
    }
    check.found
}

/// A configuration that is checked, and what was found to be missing.
struct Check<'a> {
    config: &'a Value,
    manager: &'a Value,
    vm: &'a Value,
    /// The filter's own configuration.
    own: Value,
    /// Each backend of the filter's own configuration.
    backends: Vec<Value>,
    /// What is looked at.
    at: String,
    found: Vec<String>,
}

impl<'a> Check<'a> {
    fn of(config: &'a Value) -> Self {
        let manager = &config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
            ["typed_config"];
        let is_spillway = |filter: &&Value| filter["name"] == "spillway.gateway";
        let plugin = items(manager, "/http_filters").find(is_spillway).unwrap();
        let plugin = &plugin["typed_config"]["config"];
        let own = plugin["configuration"]["value"].as_str().unwrap();
        let own: Value = serde_json::from_str(own).unwrap();
        let backends = items(&own, "/pools").flat_map(|pool| items(pool, "/backends").cloned());
        Self {
            config,
            manager,
            vm: &plugin["vm_config"],
            backends: backends.collect(),
            own,
            at: String::new(),
            found: Vec::new(),
        }
    }

    fn require(&mut self, holds: bool, setting: &str) {
        if !holds {
            self.found.push(format!("{setting} at {}", self.at));
        }
    }

    fn passes(&self, key: &str) -> bool {
        let environment = &self.vm["environment_variables"];
        items(environment, "/host_env_keys").any(|name| name == key)
            || environment["key_values"].get(key).is_some()
    }

    fn plugins(&mut self) {
        let mut plugins = Vec::new();
        collect(self.config, "vm_config", &mut plugins);
        let clusters = items(self.config, "/static_resources/clusters").count();
        self.at = "a plugin".to_owned();
        let is_everywhere = plugins.len().checked_sub(1) == Some(clusters);
        self.require(is_everywhere, "the filter in the listener and in every cluster");
        for plugin in plugins {
            let reloads = plugin["failure_policy"] == "FAIL_RELOAD";
            self.require(reloads, "failure_policy: FAIL_RELOAD");
            let waits = plugin["allow_on_headers_stop_iteration"] == true;
            self.require(waits, "allow_on_headers_stop_iteration: true");
            self.require(plugin["vm_config"] == *self.vm, "the same vm_config in every place");
        }
        for backend in self.backends.clone() {
            let key = backend["credential"]["api_key"]["env"].as_str().unwrap();
            self.require(self.passes(key), key);
        }
    }

    fn mutations(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        items(self.manager, "/early_header_mutation_extensions/0/typed_config/mutations")
    }

    fn manager(&mut self) {
        self.at = "the connection manager".to_owned();
        for prefix in ["x-spillway-", "x-envoy-"] {
            let removed = self
                .mutations()
                .any(|mutation| mutation["remove_on_match"]["key_matcher"]["prefix"] == prefix);
            self.require(removed, &format!("removal of {prefix} headers from clients"));
        }
        let upgrades = items(self.manager, "/upgrade_configs")
            .any(|upgrade| upgrade["upgrade_type"] == "websocket");
        self.require(upgrades, "upgrade_configs: websocket");
    }

    fn route(&mut self, route: &Value) {
        let websocket = route["match"].get("headers").is_some();
        self.at = if websocket { "the WebSocket route" } else { "the route" }.to_owned();
        let action = &route["route"];
        let retry = &action["retry_policy"];
        let limit = route["request_body_buffer_limit"].as_u64();
        self.require(limit >= Some(16 << 20), "request_body_buffer_limit of 16 MiB or more");
        self.require(seconds(&action["timeout"]) == Some(0.0), "timeout: 0s");
        self.patience(action, websocket);
        let back_off = seconds(&retry["retry_back_off"]["max_interval"]);
        self.require(back_off.is_some_and(|it| it <= 0.002), "retry_back_off of 2 ms or less");
        let retries = retry["num_retries"].as_u64().unwrap_or(1);
        self.require(retries >= ATTEMPTS_MAX, "num_retries for every attempt");
        let refreshes = retry["refresh_cluster_on_retry"] == true;
        self.require(refreshes, "refresh_cluster_on_retry: true");
        let retry_on = "retriable-headers,connect-failure,reset,refused-stream";
        self.require(retry["retry_on"] == retry_on, &format!("retry_on: {retry_on}"));
        let header = &retry["retriable_headers"][0];
        let is_own = header["name"] == "x-spillway-retry" && header["present_match"] == true;
        self.require(is_own, "retriable_headers: x-spillway-retry");
        self.matcher(action);
    }

    /// A backend's limit acts before the client's, and neither before the SDKs lose patience.
    fn patience(&mut self, action: &Value, websocket: bool) {
        let retry = &action["retry_policy"];
        let first_byte = seconds(&retry["per_try_timeout"]);
        let idle = seconds(&retry["per_try_idle_timeout"]);
        let stream = seconds(&self.manager["stream_idle_timeout"]);
        if websocket {
            self.require(first_byte.is_some(), "per_try_timeout");
            self.require(idle.is_none(), "no per_try_idle_timeout");
            let session = seconds(&action["idle_timeout"]);
            self.require(session >= Some(3600.0), "idle_timeout of an hour or more");
            return;
        }
        let long = |limit: Option<f64>| limit.is_some_and(|limit| limit > PATIENCE_OF_SDKS);
        self.require(long(first_byte), "per_try_timeout above ten minutes");
        self.require(long(idle), "per_try_idle_timeout above ten minutes");
        let outlasts = stream > idle && stream > first_byte.map(|limit| 2.0 * limit);
        self.require(outlasts, "stream_idle_timeout above idle limit and two attempts");
    }

    fn matcher(&mut self, action: &Value) {
        let specifier = &action["inline_cluster_specifier_plugin"]["extension"]["typed_config"];
        let matcher = &specifier["cluster_matcher"];
        let tree = &matcher["matcher_tree"];
        let key = "wasm.spillway.target";
        let has_key = tree["input"]["typed_config"]["key"] == key;
        self.require(has_key, &format!("filter state {key}"));
        let cluster = |action: &Value| action["action"]["typed_config"]["cluster"].clone();
        for backend in self.backends.clone() {
            let entry = &tree["exact_match_map"]["map"][backend["name"].as_str().unwrap()];
            let is_its = cluster(entry) == *cluster_of(&backend);
            self.require(is_its, &format!("the cluster of {}", backend["name"]));
        }
        let mut clusters = items(self.config, "/static_resources/clusters");
        let exists = clusters.any(|one| one["name"] == CATCH_ALL);
        let catches = exists && cluster(&matcher["on_no_match"]) == CATCH_ALL;
        self.require(catches, &format!("on_no_match with the cluster {CATCH_ALL}, which exists"));
    }

    fn cluster(&mut self, cluster: &Value) {
        let name = cluster["name"].as_str().unwrap();
        self.at = name.to_owned();
        let limit = cluster["circuit_breakers"]["thresholds"][0]["max_retries"].as_u64();
        self.require(limit >= Some(1000), "circuit_breakers.max_retries of 1000 or more");

        let options = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
        let common = &options["common_http_protocol_options"];
        let count = common["max_headers_count"].as_u64();
        self.require(count >= Some(1000), "max_headers_count of 1000 or more");
        let kib = common["max_response_headers_kb"].as_u64();
        self.require(kib >= Some(256), "max_response_headers_kb of 256 or more");
        let last = items(options, "/http_filters").last().map(|filter| &filter["name"]);
        let is_codec = last.is_some_and(|filter| filter == "envoy.filters.http.upstream_codec");
        self.require(is_codec, "upstream_codec as the last filter");
        let role = &options["http_filters"][0]["typed_config"]["config"]["configuration"]["value"];
        self.require(role == r#"{"role": "attempt"}"#, "the attempt role");
        if name == CATCH_ALL {
            self.require(is_dead(cluster, 0), "an endpoint where nobody listens");
        } else {
            self.hosts(cluster, name);
        }
    }

    /// The hosts of a backend's cluster, and what is there when it has none.
    fn hosts(&mut self, cluster: &Value, name: &str) {
        let backend = self.backends.iter().find(|backend| cluster_of(backend) == name).cloned();
        self.require(backend.is_some(), "a backend for this cluster");
        let is_spare = cluster["load_assignment"]["endpoints"][1]["priority"] == 1;
        self.require(is_spare && is_dead(cluster, 1), "a dead endpoint of lower priority");
        let address = address(cluster, 0)["address"].as_str().unwrap();
        if address == "127.0.0.1" {
            return;
        }
        let is_its = backend.is_some_and(|it| it["host"] == address);
        self.require(is_its, "the host of the backend");
        self.tls(&cluster["transport_socket"]["typed_config"], address);
        self.names(cluster);
    }

    /// How a host's name is resolved.
    fn names(&mut self, cluster: &Value) {
        let starts = cluster.get("wait_for_warm_on_init").is_some_and(|waits| waits == false);
        self.require(starts, "wait_for_warm_on_init: false");
        let names = &cluster["cluster_type"]["typed_config"];
        let family = names["dns_lookup_family"] == "V4_PREFERRED";
        self.require(family, "dns_lookup_family: V4_PREFERRED");
        let again = seconds(&names["dns_failure_refresh_rate"]["max_interval"]);
        self.require(again.is_some_and(|it| it <= 10.0), "dns_failure_refresh_rate");
    }

    fn tls(&mut self, tls: &Value, address: &str) {
        self.require(tls["sni"] == address, "sni equal to the address");
        self.require(tls["auto_sni_san_validation"] == true, "auto_sni_san_validation: true");
        let authority = tls.pointer("/common_tls_context/validation_context/trusted_ca");
        self.require(authority.is_some(), "trusted_ca");
        let versions = &tls["common_tls_context"]["tls_params"];
        let [least, most] = ["tls_minimum_protocol_version", "tls_maximum_protocol_version"];
        let is_new = versions[least] == "TLSv1_2" && versions[most] == "TLSv1_3";
        self.require(is_new, "tls_params from TLS 1.2 to TLS 1.3");
    }
}

/// The cluster that a backend is reached through: its own name when it names none.
fn cluster_of(backend: &Value) -> &Value {
    backend.get("cluster").unwrap_or_else(|| &backend["name"])
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
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

/// Seconds of a duration such as `0.001s`.
fn seconds(duration: &Value) -> Option<f64> {
    duration.as_str()?.strip_suffix('s')?.parse().ok()
}

fn address(cluster: &Value, endpoints: usize) -> &Value {
    let endpoints = &cluster["load_assignment"]["endpoints"][endpoints];
    &endpoints["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
}

fn is_dead(cluster: &Value, endpoints: usize) -> bool {
    let address = address(cluster, endpoints);
    address["address"] == "127.0.0.1" && address["port_value"] == DEAD_PORT
}
