//! The parts of the demo: a gateway, its administration interface and three mock backends.
//!
//! Either the demo starts all of them (mocks in this process, Envoy as another one, on free ports so that
//! several demos can run at a time) and stops them at the end, or all of them run already. The story is the
//! same in both cases: it only uses HTTP.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use mock_azure::{Kind, Mock, MockConfig};
use serde_json::{Value, json};
use testbed::bootstrap::{Bootstrap, address, first_endpoint};
use testbed::programs::module_path;
use testbed::{Client, Envoy, Folder, Options, free_port};
use tokio::time::{Instant, sleep, timeout};

/// The backends of `envoy/envoy.yaml`.
pub(crate) const NAMES: [&str; 3] = ["ptu-uksouth", "payg-sweden", "payg-france"];
/// The place of the provisioned one in [`NAMES`].
pub(crate) const PROVISIONED: usize = 0;
/// The place of the one whose region fails.
pub(crate) const REGION: usize = 2;

/// What the provisioned backend drains.
pub(crate) const PROVISIONED_TOKENS_PER_MINUTE: u64 = 360_000;
/// Its tokens at 100 % utilisation: what drains in a second, so that an overload shows soon.
const PROVISIONED_BURST_TOKENS: u64 = 6_000;
/// From a request to the first byte of any backend's response.
pub(crate) const FIRST_BYTE: Duration = Duration::from_millis(10);
/// Between the events of a stream.
const PER_CHUNK: Duration = Duration::from_millis(5);
/// Tokens of a generated text.
const COMPLETION_TOKENS: u64 = 64;

/// Containers take a while to appear.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long anything that is not measured may take.
const CONTROL_PATIENCE: Duration = Duration::from_secs(5);

/// Whom the story speaks to.
#[derive(Debug, Clone)]
pub(crate) struct Scenery {
    pub(crate) gateway: Client,
    pub(crate) admin: Client,
    pub(crate) backends: [Backend; 3],
}

/// A mock backend.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
}

/// The scenery, and what goes with it: Envoy and the mocks, when the demo started them.
pub(crate) struct Stage {
    pub(crate) scenery: Scenery,
    own: Option<(Envoy, Vec<Mock>)>,
}

impl Backend {
    /// The key that the gateway is configured to send.
    pub(crate) fn key(&self) -> String {
        format!("mock-key-of-{}", self.name)
    }

    /// Sends a request to the mock's control interface.
    pub(crate) async fn control(
        &self,
        method: Method,
        what: &str,
        json: Option<Value>,
    ) -> Result<Bytes, String> {
        let body = json.map(|json| json.to_string()).unwrap_or_default();
        ask(&self.client, method, &format!("/_mock/{what}"), body)
            .await
            .map_err(|because| format!("{}: {because}", self.name))
    }

    /// Sets its limits and its speed, and removes what an earlier story left.
    async fn prepare(&self, kind: Kind) -> Result<(), String> {
        let config = MockConfig::new(self.name).with_kind(kind).with_api_key(self.key());
        let config = config.with_latency(FIRST_BYTE, PER_CHUNK);
        let config = MockConfig { completion_tokens: COMPLETION_TOKENS, ..config };
        until_done(|| self.control(Method::GET, "stats", None)).await?;
        self.control(Method::PUT, "config", Some(json!(config))).await?;
        self.control(Method::DELETE, "fault", None).await?;
        Ok(())
    }
}

impl Scenery {
    /// At the ports that the configuration has.
    fn of(whole: &Bootstrap) -> Self {
        Self {
            gateway: Client::new(whole.port()),
            admin: Client::new(whole.admin_port()),
            backends: NAMES
                .map(|name| Backend { name, client: Client::new(whole.backend_port(name)) }),
        }
    }

    async fn prepare(&self) -> Result<(), String> {
        let provisioned = Kind::Provisioned {
            tokens_per_minute: PROVISIONED_TOKENS_PER_MINUTE,
            burst_tokens: PROVISIONED_BURST_TOKENS,
        };
        let standard = Kind::Standard { tokens_per_minute: 2_000_000, requests_per_minute: 20_000 };
        let [ptu, sweden, france] = &self.backends;
        ptu.prepare(provisioned).await?;
        sweden.prepare(standard).await?;
        france.prepare(standard).await
    }
}

impl Stage {
    /// Makes everything ready, and starts it unless it is running.
    pub(crate) async fn set(is_running: bool) -> Result<Self, String> {
        let mut whole = Bootstrap::local();
        let own = if is_running { None } else { Some(start(&mut whole).await?) };
        let scenery = Scenery::of(&whole);
        until_done(|| ask(&scenery.admin, Method::GET, "/ready", String::new())).await?;
        scenery.prepare().await?;
        Ok(Self { scenery, own })
    }

    /// Returns when Envoy ended by itself; never for an Envoy that the demo did not start.
    pub(crate) async fn envoy_ended(&mut self) -> String {
        match &mut self.own {
            Some((envoy, _)) => format!("Envoy {}", envoy.process().ended().await),
            None => std::future::pending().await,
        }
    }
}

/// Starts mocks and Envoy on free ports.
async fn start(whole: &mut Bootstrap) -> Result<(Envoy, Vec<Mock>), String> {
    let mut mocks = Vec::new();
    for name in NAMES {
        let mock = Mock::start(MockConfig::new(name)).await;
        let mock = mock.map_err(|error| format!("{name} does not start: {error}"))?;
        first_endpoint(whole.cluster(name))["address"] = address(mock.port());
        mocks.push(mock);
    }
    whole.listen(free_port(), free_port());
    whole.run_module(module_path());
    let system = |error: std::io::Error| format!("Envoy's files: {error}");
    let folder = Folder::create().map_err(system)?;
    let options = Options { workers: 2, ..Options::default() };
    let mut command = options.command(whole, folder.path()).map_err(system)?;
    // Ctrl-C goes to the terminal's whole process group; Envoy is ours to end.
    command.process_group(0);
    let envoy = Envoy::run(command, folder, whole.port(), whole.admin_port()).await?;
    Ok((envoy, mocks))
}

/// The body of a 2xx response.
pub(crate) async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    body: String,
) -> Result<Bytes, String> {
    let headers = [("content-type", "application/json")];
    let response = timeout(CONTROL_PATIENCE, client.send(method, path, &headers, body.into()));
    match response.await.map_err(|_| format!("no response within {CONTROL_PATIENCE:?}"))?? {
        response if response.complete && response.status / 100 == 2 => Ok(response.body),
        response => Err(format!("{path} responded {}: {}", response.status, response.text())),
    }
}

/// Repeats an action until it succeeds.
async fn until_done<T, F: Future<Output = Result<T, String>>>(
    action: impl Fn() -> F,
) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match action().await {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testbed::bootstrap::LOCAL;

    #[test]
    fn the_shipped_configuration_has_the_backends_with_the_mocks_keys() {
        let whole = Bootstrap::local();
        for backend in Scenery::of(&whole).backends {
            assert!(LOCAL.contains(&backend.key()), "{} has another key", backend.name);
        }
    }
}
