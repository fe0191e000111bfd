//! The official OpenAI SDKs, unmodified, in front of the gateway.
//!
//! The scripts in `tests/sdk` are the applications: they only know the gateway's address and a key of
//! their own, and assert on what the SDK gives them. Here is asserted what the backends received.
//! Each scenario runs with all clients of an SDK (for Python OpenAI, AzureOpenAI and their
//! asynchronous forms, for Node OpenAI and AzureOpenAI).

use crate::harness::{Gateway, Setup, deployment_of, host_of, key_of};
use mock_azure::{Fault, Record};
use serde_json::{Value, json};
use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use testbed::programs::{node_binary, node_sdk, python_binary, python_sdk, root};

/// One SDK: how its scripts are run, and with how many clients each runs.
#[derive(Clone, Copy)]
struct Sdk {
    name: &'static str,
    clients: usize,
    command: fn() -> Command,
    suffix: &'static str,
}

const PYTHON: Sdk = Sdk { name: "python", clients: 4, command: python, suffix: "py" };
const NODE: Sdk = Sdk { name: "node", clients: 2, command: node, suffix: "mjs" };

/// A script that hangs must not hang the tests.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_find_every_operation() {
    find_every_operation(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_find_every_operation() {
    find_every_operation(NODE).await;
}

async fn find_every_operation(sdk: Sdk) {
    let gateway = start(json!({})).await;
    sdk.run(&gateway, "operations", None).await;
    let (chat, vectors) = (gateway.records("ptu"), gateway.records("vectors"));
    assert_eq!(vectors.len(), sdk.clients);
    assert!(chat.len() > 15 * sdk.clients, "{}", chat.len());
    assert_eq!(gateway.counts()[1], 0, "the second tier was not needed");
    for (name, records) in [("ptu", &chat), ("vectors", &vectors)] {
        assert_authorised_by_the_gateway(name, records);
        for record in records {
            assert_eq!(record.status, Some(200), "{}", record.path);
            assert!(record.completed, "{}", record.path);
        }
    }
    let chats = chat.iter().filter(|record| record.path.contains("/chat/completions"));
    for record in chats {
        let path = format!("/openai/deployments/{}/chat/completions", deployment_of("ptu"));
        assert!(record.path.starts_with(&path), "{}", record.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_do_not_notice_a_failover() {
    do_not_notice_a_failover(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_do_not_notice_a_failover() {
    do_not_notice_a_failover(NODE).await;
}

async fn do_not_notice_a_failover(sdk: Sdk) {
    // Each request finds the first backend in use again, so that all of them have to fail over.
    let gateway = start(json!({
        "failover": {"retry_budget": {"percent": 100, "min_per_second": 10_000}},
        "circuit_breaker": {"rules": []},
        "throttle": {"default_retry_after": "1ms"}
    }))
    .await;
    sdk.run(&gateway, "failover", None).await;
    let (failed, served) = (gateway.records("ptu"), gateway.records("sweden"));
    assert_eq!(failed.len(), served.len());
    assert!(failed.len() >= 42 * sdk.clients, "{}", failed.len());
    for (failed, served) in failed.iter().zip(&served) {
        assert!(failed.fault.is_some(), "{failed:?}");
        assert!(served.fault.is_none() && served.completed, "{served:?}");
        assert_eq!(failed.header("x-stainless-retry-count"), Some("0"));
        assert_eq!(served.header("x-stainless-retry-count"), Some("0"));
        // The first is in the classic form, the second in v1; except for the model they are the same.
        assert_eq!(as_sent(failed, "ptu"), as_sent(served, "sweden"));
        assert!(text_of(served).contains(&deployment_of("sweden")), "{}", text_of(served));
    }
    assert_authorised_by_the_gateway("ptu", &failed);
    assert_authorised_by_the_gateway("sweden", &served);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_see_a_rate_limit_when_all_are_throttled() {
    see_a_rate_limit_when_all_are_throttled(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_see_a_rate_limit_when_all_are_throttled() {
    see_a_rate_limit_when_all_are_throttled(NODE).await;
}

async fn see_a_rate_limit_when_all_are_throttled(sdk: Sdk) {
    let gateway = start(json!({})).await;
    for name in ["ptu", "sweden"] {
        gateway.mock(name).set_fault(Some(Fault::throttle(30_000)));
    }
    sdk.run(&gateway, "exhausted", Some("throttled")).await;
    assert_eq!(gateway.counts(), [1, 1, 0], "closed gates let nothing through");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_see_a_server_error_when_all_fail() {
    see_a_server_error_when_all_fail(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_see_a_server_error_when_all_fail() {
    see_a_server_error_when_all_fail(NODE).await;
}

async fn see_a_server_error_when_all_fail(sdk: Sdk) {
    let gateway = start(json!({"circuit_breaker": {"rules": []}})).await;
    for name in ["ptu", "sweden"] {
        let fault = Fault::status(503);
        gateway.mock(name).set_fault(Some(fault));
    }
    sdk.run(&gateway, "exhausted", Some("failing")).await;
    assert_eq!(gateway.counts(), [2 * sdk.clients, 2 * sdk.clients, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_see_what_is_wrong_with_a_request() {
    see_what_is_wrong_with_a_request(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_see_what_is_wrong_with_a_request() {
    see_what_is_wrong_with_a_request(NODE).await;
}

async fn see_what_is_wrong_with_a_request(sdk: Sdk) {
    let gateway = start(json!({})).await;
    sdk.run(&gateway, "exhausted", Some("refused")).await;
    // The unknown and the missing model touched no backend, the other two mistakes one.
    assert_eq!(gateway.counts(), [2 * sdk.clients, 0, 0]);
    assert!(gateway.records("ptu").iter().all(|record| record.status == Some(400)));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_wait_as_long_as_the_gates_are_closed() {
    wait_as_long_as_the_gates_are_closed(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_wait_as_long_as_the_gates_are_closed() {
    wait_as_long_as_the_gates_are_closed(NODE).await;
}

async fn wait_as_long_as_the_gates_are_closed(sdk: Sdk) {
    let gateway = start(json!({})).await;
    sdk.run(&gateway, "exhausted", Some("waiting")).await;
    assert_eq!(gateway.counts(), [2 * sdk.clients, sdk.clients, 0]);
    assert_served_by_the_second_try(&gateway.records("ptu"), 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_wait_as_long_as_the_breakers_are_open() {
    wait_as_long_as_the_breakers_are_open(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_wait_as_long_as_the_breakers_are_open() {
    wait_as_long_as_the_breakers_are_open(NODE).await;
}

async fn wait_as_long_as_the_breakers_are_open(sdk: Sdk) {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "1s"});
    let breaker = json!({"rules": [rule], "max_trip_duration": "1s", "ramp_duration": "0s"});
    let gateway = start(json!({"circuit_breaker": breaker})).await;
    sdk.run(&gateway, "exhausted", Some("tripped")).await;
    assert_eq!(gateway.counts()[0], 3 * sdk.clients);
    let records = gateway.records("ptu");
    assert!(records.iter().step_by(3).all(|record| record.status == Some(503)));
    for probed in records.chunks(3) {
        assert_served_by_the_second_try(&probed[1..], 503);
    }
}

/// Each client was refused by the backend once, then by the gateway alone, and then its second try
/// came through.
fn assert_served_by_the_second_try(records: &[Record], refusal: u16) {
    for pair in records.chunks(2) {
        assert_eq!(pair[0].status, Some(refusal));
        assert_eq!(pair[0].header("x-stainless-retry-count"), Some("0"));
        assert_eq!(pair[1].status, Some(200));
        assert_eq!(pair[1].header("x-stainless-retry-count"), Some("1"));
        assert!(pair[1].at - pair[0].at >= Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_see_a_broken_stream_break() {
    see_a_broken_stream_break(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_see_a_broken_stream_break() {
    see_a_broken_stream_break(NODE).await;
}

async fn see_a_broken_stream_break(sdk: Sdk) {
    let gateway = start(json!({"circuit_breaker": {"rules": []}})).await;
    sdk.run(&gateway, "exhausted", Some("broken")).await;
    assert_eq!(gateway.counts(), [2 * sdk.clients, 0, 0], "what has begun is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_see_a_rate_limit_when_their_tokens_per_minute_are_used_up() {
    see_a_rate_limit_when_their_tokens_per_minute_are_used_up(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_see_a_rate_limit_when_their_tokens_per_minute_are_used_up() {
    see_a_rate_limit_when_their_tokens_per_minute_are_used_up(NODE).await;
}

async fn see_a_rate_limit_when_their_tokens_per_minute_are_used_up(sdk: Sdk) {
    let gateway = start_with(json!({}), of_consumers()).await;
    sdk.run(&gateway, "consumers", Some("limited")).await;
    assert_eq!(gateway.counts(), [sdk.clients, 0, 0], "nothing was sent for what was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_are_denied_when_their_quota_is_used_up() {
    are_denied_when_their_quota_is_used_up(PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_clients_are_denied_when_their_quota_is_used_up() {
    are_denied_when_their_quota_is_used_up(NODE).await;
}

async fn are_denied_when_their_quota_is_used_up(sdk: Sdk) {
    let gateway = start_with(json!({}), of_consumers()).await;
    sdk.run(&gateway, "consumers", Some("out_of_quota")).await;
    assert_eq!(gateway.counts(), [2 * sdk.clients, 0, 0]);
}

/// For each kind of client a consumer with tokens for one response in a minute, one with tokens for
/// one response in a month, and one without limits.
fn of_consumers() -> Value {
    let clients = ["OpenAI", "AzureOpenAI", "AsyncOpenAI", "AsyncAzureOpenAI"];
    let by_name: serde_json::Map<String, Value> = clients
        .into_iter()
        .flat_map(|client| {
            [
                (format!("minute-{client}"), json!({"tokens_per_minute": 25})),
                (format!("month-{client}"), json!({"quota": {"tokens": 25, "period": "month"}})),
                (format!("free-{client}"), json!({})),
            ]
        })
        .collect();
    json!({"consumers": {
        "header": "x-consumer",
        "default": {"tokens_per_minute": 1},
        "by_name": by_name,
        "remaining_tokens_header": "on",
        "consumed_tokens_header": "on"
    }})
}

/// A pool for chat with two tiers, one in Azure's classic form and one in v1, and a pool for
/// embeddings; `keys` are added to the first one's configuration.
async fn start(keys: Value) -> Gateway {
    start_with(keys, json!({})).await
}

/// The same, with `whole` beside the pools.
async fn start_with(keys: Value, whole: Value) -> Gateway {
    let backend = |name: &str, keys: Value| {
        let mut backend = json!({
            "name": name, "host": host_of(name), "deployment": deployment_of(name),
        });
        merge(&mut backend, keys);
        backend
    };
    let mut chat = json!({"name": "chat", "models": ["gpt-4o"], "backends": [
        backend("ptu", json!({"priority": 1})),
        backend("sweden", json!({"priority": 2, "api": "azure_v1"})),
    ]});
    merge(&mut chat, keys);
    let vectors = json!({"name": "vectors", "models": ["text-embedding-3-small"], "backends": [
        backend("vectors", json!({})),
    ]});
    let mut setup = Setup::new().whole(json!({"pools": [chat, vectors]})).whole(whole);
    for name in ["ptu", "sweden", "vectors"] {
        let variable = format!("{}_KEY", name.to_uppercase());
        setup = setup
            .backend(name, json!({}))
            .settings(|settings| settings.environment.push((variable, key_of(name))));
    }
    setup.start().await
}

fn merge(into: &mut Value, keys: Value) {
    let (Value::Object(into), Value::Object(keys)) = (into, keys) else { panic!("not objects") };
    into.extend(keys);
}

impl Sdk {
    /// Runs a script against the gateway; it must end well.
    async fn run(self, gateway: &Gateway, script: &str, scenario: Option<&'static str>) {
        let path = format!("tests/sdk/{}/{script}.{}", self.name, self.suffix);
        let address = |port: u16| format!("http://127.0.0.1:{port}");
        let mocks: serde_json::Map<String, Value> = ["ptu", "sweden", "vectors"]
            .map(|name| (name.to_owned(), json!(address(gateway.mock(name).port()))))
            .into_iter()
            .collect();
        let variables =
            [("GATEWAY", address(gateway.envoy.port)), ("MOCKS", Value::from(mocks).to_string())];
        let mut command = (self.command)();
        command.arg(root().join(&path)).args(scenario).envs(variables).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let process = child.id();
        let finished = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let Ok(output) = tokio::time::timeout(SCRIPT_TIME_MAX, finished).await else {
            let _ = Command::new("kill").arg(process.to_string()).status();
            panic!("{path} {scenario:?} hangs");
        };
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{path} {scenario:?} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
}

fn python() -> Command {
    let mut command = alone(python_binary());
    command.env("PYTHONPATH", python_sdk()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn node() -> Command {
    let mut command = alone(node_binary());
    command.env("SDK", node_sdk());
    command
}

/// A program that sees none of the keys, addresses and proxies in this process's environment.
fn alone(program: &Path) -> Command {
    let needed =
        ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"].map(|name| (name, env::var_os(name)));
    let mut command = Command::new(program);
    command.env_clear();
    command.envs(needed.into_iter().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Every request carries the gateway's key for this backend, and nothing of the client's.
fn assert_authorised_by_the_gateway(name: &str, records: &[Record]) {
    let key = key_of(name);
    for record in records {
        assert_eq!(record.header("host"), Some(host_of(name).as_str()));
        let bearer = format!("Bearer {key}");
        let sent = (record.header("api-key"), record.header("authorization"));
        assert!(sent == (Some(&key), None) || sent == (None, Some(&bearer)), "{sent:?}");
        let values = record.headers.iter().map(|(_, value)| String::from_utf8_lossy(value));
        assert!(!values.into_iter().any(|value| value.contains("sk-client")), "{record:?}");
        assert!(!record.path.contains("sk-client"), "{}", record.path);
    }
}

/// The body with the client's model instead of the backend's deployment.
fn as_sent(record: &Record, name: &str) -> String {
    text_of(record).replace(&deployment_of(name), "gpt-4o")
}

fn text_of(record: &Record) -> String {
    String::from_utf8_lossy(&record.body).into_owned()
}
