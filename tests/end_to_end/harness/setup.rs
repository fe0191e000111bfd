//! Describes a gateway with its backends, and starts it.
//!
//! Each backend has a host, a deployment and a key of its own, and the mock behind it refuses any
//! other: a request that was rewritten for the wrong backend cannot succeed.

use super::{Client, Response, Settings, watched};
use mock_azure::{Mock, MockConfig, Record};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testbed::bootstrap::{Bootstrap, configure};
use testbed::{Envoy, Folder};
use tokio::task::JoinHandle;

/// The file with the listener, of a gateway whose configuration is replaced.
const LISTENER: (&str, &str) = ("listener", "listener.v3.Listener");

/// A gateway that is yet to be started.
pub(crate) struct Setup {
    backends: Vec<(MockConfig, Value)>,
    elsewhere: Vec<(u16, Value)>,
    pool: Value,
    others: Vec<Value>,
    whole: Value,
    settings: Settings,
}

/// A running gateway in front of mock backends.
pub(crate) struct Gateway {
    pub(crate) client: Client,
    pub(crate) envoy: Envoy,
    /// Spillway's.
    pub(crate) configuration: Value,
    mocks: Vec<(String, Mock)>,
    /// The ports of the further listeners.
    pub(crate) more_ports: Vec<u16>,
    settings: Settings,
    /// Envoy's.
    listener: Value,
}

impl Setup {
    /// One pool, `gpt`, for the model `gpt-4o`.
    pub(crate) fn new() -> Self {
        Self {
            backends: Vec::new(),
            elsewhere: Vec::new(),
            pool: json!({}),
            others: Vec::new(),
            whole: json!({}),
            settings: Settings::default(),
        }
    }

    /// Backends of these names, each in a tier of its own: the first is asked first.
    pub(crate) fn tiers<const N: usize>(names: [&str; N]) -> Self {
        let tiers = names.into_iter().zip(1..);
        tiers
            .fold(Self::new(), |setup, (name, tier)| setup.backend(name, json!({"priority": tier})))
    }

    /// With a backend of this name; `keys` are added to its configuration, instead of the
    /// defaults.
    pub(crate) fn backend(self, name: &str, keys: Value) -> Self {
        self.backend_with(name, keys, |mock| mock)
    }

    /// The same, with a mock that `change` made different.
    pub(crate) fn backend_with(
        mut self,
        name: &str,
        keys: Value,
        change: impl FnOnce(MockConfig) -> MockConfig,
    ) -> Self {
        let mock = MockConfig::new(name)
            .with_api_key(key_of(name))
            .with_deployments([deployment_of(name)]);
        self.backends.push((change(mock), backend_configuration(name, keys)));
        self
    }

    /// With a backend that is no mock but whatever listens on `port`; it comes after the mocks.
    pub(crate) fn backend_elsewhere(mut self, name: &str, keys: Value, port: u16) -> Self {
        self.elsewhere.push((port, backend_configuration(name, keys)));
        self
    }

    /// With these keys in the pool's configuration.
    pub(crate) fn pool(mut self, keys: Value) -> Self {
        merge(&mut self.pool, keys);
        self
    }

    /// With a further pool, for the model of its name, which takes the backends added last.
    pub(crate) fn another_pool(mut self, name: &str, backends: usize) -> Self {
        self.others.push(json!({"name": name, "backends": backends}));
        self
    }

    /// With these keys beside the pools.
    pub(crate) fn whole(mut self, keys: Value) -> Self {
        merge(&mut self.whole, keys);
        self
    }

    /// With Envoy set up differently.
    pub(crate) fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// With a change of Envoy's whole configuration.
    pub(crate) fn adjust(
        mut self,
        change: impl Fn(&mut Bootstrap) + Send + Sync + 'static,
    ) -> Self {
        self.settings.adjust = Some(Arc::new(change));
        self
    }

    pub(crate) async fn start(self) -> Gateway {
        self.try_start().await.unwrap_or_else(|log| panic!("{log}"))
    }

    /// Starts Envoy; when it ends because of its configuration, the error is its log.
    pub(crate) async fn try_start(mut self) -> Result<Gateway, String> {
        let mut mocks = Vec::new();
        let mut configured = Vec::new();
        for (mock, configuration) in self.backends {
            let name = configuration["name"].as_str().unwrap().to_owned();
            mocks.push((name, Mock::start(mock).await.unwrap()));
            configured.push(configuration);
        }
        for pool in &mut self.others {
            let count = usize::try_from(pool["backends"].as_u64().unwrap()).unwrap();
            pool["backends"] = configured.split_off(configured.len() - count).into();
        }
        let mut elsewhere = Vec::new();
        for (port, configuration) in self.elsewhere {
            elsewhere.push((configuration["name"].as_str().unwrap().to_owned(), port));
            configured.push(configuration);
        }
        let mut pool = json!({"name": "gpt", "models": ["gpt-4o"], "backends": configured});
        merge(&mut pool, self.pool);
        let mut pools = vec![pool];
        pools.append(&mut self.others);
        let mut configuration = json!({"pools": pools, "response": {"trail_header": "on"}});
        merge(&mut configuration, self.whole);
        let clusters: Vec<(String, u16)> =
            mocks.iter().map(|(name, mock)| (name.clone(), mock.port())).chain(elsewhere).collect();
        for (name, _) in &clusters {
            self.settings.environment.push((variable_of(name), key_of(name)));
        }
        Gateway::run(configuration, &clusters, mocks, self.settings).await
    }
}

impl Gateway {
    async fn run(
        configuration: Value,
        clusters: &[(String, u16)],
        mocks: Vec<(String, Mock)>,
        settings: Settings,
    ) -> Result<Self, String> {
        let folder = Folder::create().unwrap();
        let mut whole = settings.bootstrap(&configuration, clusters, folder.path());
        let (port, admin_port) = (whole.port(), whole.admin_port());
        let listener = whole.listener().clone();
        let more_ports = settings.add_listeners(&mut whole);
        if settings.reloadable {
            watched::write(folder.path(), LISTENER.0, LISTENER.1, &listener);
            let source = watched::source(folder.path(), LISTENER.0);
            whole.json["dynamic_resources"] = json!({"lds_config": source});
            whole.json["static_resources"]["listeners"].as_array_mut().unwrap().remove(0);
        }
        if let Some(adjust) = &settings.adjust {
            adjust(&mut whole);
        }
        let command = settings.options().command(&whole, folder.path()).unwrap();
        let envoy = Envoy::run(command, folder, port, admin_port).await?;
        let client = Client::new(port);
        Ok(Self { client, envoy, configuration, mocks, more_ports, settings, listener })
    }

    /// A gateway of another configuration of Envoy's.
    pub(super) fn of(envoy: Envoy, mocks: Vec<(String, Mock)>) -> Self {
        Self {
            client: Client::new(envoy.port),
            envoy,
            configuration: Value::Null,
            mocks,
            more_ports: Vec::new(),
            settings: Settings::default(),
            listener: Value::Null,
        }
    }

    /// Gives a `reloadable` gateway another configuration; it takes effect soon after.
    pub(crate) fn replace(&self, configuration: &Value) {
        assert!(self.settings.reloadable);
        let mut listener = self.listener.clone();
        configure(&mut listener, configuration);
        watched::write(self.envoy.folder(), LISTENER.0, LISTENER.1, &listener);
    }

    /// Gives a backend whose hosts are in a file ([`super::Hosts::File`]) a host on this port, or
    /// takes it away; it takes effect soon after.
    pub(crate) fn set_hosts(&self, backend: &str, port: Option<u16>) {
        self.settings.cluster_of(backend).write_hosts(self.envoy.folder(), backend, port);
    }

    /// The mock behind a backend.
    pub(crate) fn mock(&self, name: &str) -> &Mock {
        let found = self.mocks.iter().find(|(found, _)| found == name);
        &found.unwrap_or_else(|| panic!("no backend {name}")).1
    }

    /// What a backend received.
    pub(crate) fn records(&self, name: &str) -> Vec<Record> {
        self.mock(name).records()
    }

    /// How many requests each backend received, in the order of the configuration.
    pub(crate) fn counts(&self) -> Vec<usize> {
        self.mocks.iter().map(|(_, mock)| mock.records().len()).collect()
    }

    /// Asserts that the module never failed, and that it still serves.
    pub(crate) async fn assert_alive(&self, after: &str) {
        let stats = self.envoy.admin("/stats?filter=vm_reload").await;
        assert!(stats.contains("vm_reload_success: "), "no such counters: {stats}");
        for line in stats.lines().filter(|line| !line.trim().is_empty()) {
            assert!(line.ends_with(": 0"), "after {after}: {line}");
        }
        let log = self.envoy.log();
        assert!(!log.contains("panicked"), "after {after}: {log}");
        let response = self.chat().await;
        assert_eq!(response.status, 200, "after {after}: {}", response.text());
    }

    /// Sends a small chat request.
    pub(crate) async fn chat(&self) -> Response {
        self.client.post(CHAT, &chat_body()).await
    }

    /// Sends a small chat request, and asserts that this backend served it.
    pub(crate) async fn chat_served_by(&self, name: &str) -> Response {
        let response = self.chat().await;
        assert_eq!((response.status, response.served_by()), (200, name), "{}", response.text());
        response
    }

    /// Sends a small chat request, and asserts that the response has this status.
    pub(crate) async fn chat_with_status(&self, status: u16) -> Response {
        let response = self.chat().await;
        assert_eq!(response.status, status, "{}", response.text());
        response
    }

    /// Sends a small chat request on a connection of its own, which ends with the task.
    pub(crate) fn spawn_chat(&self) -> JoinHandle<Response> {
        let client = self.another_client();
        tokio::spawn(async move { client.post(CHAT, &chat_body()).await })
    }

    /// How many attempts at a backend had this outcome, by the gateway's metrics.
    pub(crate) async fn attempts(&self, backend: &str, outcome: &str) -> u64 {
        let name = "wasmcustom.spillway_attempts_total.pool.gpt.backend";
        self.envoy.stat(&format!("{name}.{backend}.outcome.{outcome}")).await
    }

    /// Until when the circuit breaker of a backend is open, by the gateway's metrics; 0: it is closed.
    pub(crate) async fn breaker_open_until_ms(&self, backend: &str) -> u64 {
        let name = "wasmcustom.spillway_breaker_open_until_ms.pool.gpt.backend";
        self.envoy.stat(&format!("{name}.{backend}")).await
    }

    /// A client with connections of its own.
    pub(crate) fn another_client(&self) -> Client {
        Client::new(self.envoy.port)
    }

    /// A client of another port of this Envoy.
    pub(crate) fn client_of(&self, port: u16) -> Client {
        Client::new(port)
    }

    /// Sends a small chat request that asks for a stream.
    pub(crate) async fn chat_stream(&self) -> Response {
        let mut body = chat_body();
        body["stream"] = json!(true);
        self.client.post(CHAT, &body).await
    }
}

/// The path of a chat request in the OpenAI shape.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// A small chat request.
pub(crate) fn chat_body() -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello."}]})
}

/// Waits until `condition` holds, for ten seconds at most.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not so after ten seconds: {what}");
}

pub(crate) fn host_of(name: &str) -> String {
    format!("{name}.openai.azure.com")
}

pub(crate) fn deployment_of(name: &str) -> String {
    format!("gpt-4o-{name}")
}

pub(crate) fn key_of(name: &str) -> String {
    format!("key-of-{name}")
}

fn variable_of(name: &str) -> String {
    format!("KEY_{}", name.to_uppercase().replace('-', "_"))
}

fn backend_configuration(name: &str, keys: Value) -> Value {
    let mut configuration = json!({
        "name": name,
        "host": host_of(name),
        "deployment": deployment_of(name),
        "credential": {"api_key": {"env": variable_of(name)}}
    });
    merge(&mut configuration, keys);
    configuration
}

fn merge(into: &mut Value, keys: Value) {
    let (Value::Object(into), Value::Object(keys)) = (into, keys) else { panic!("not objects") };
    into.extend(keys);
}
