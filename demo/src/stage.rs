//! Where the story plays: a gateway, its admin interface and three mock backends.
//!
//! Either the demo builds all of it (mocks in this process, Envoy beside it, everything on free ports so
//! that several demos can run at a time) and takes it down again, or it is given the addresses of what
//! runs. The story cannot tell the two apart: it speaks HTTP to both.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hyper::Method;
use mock_azure::{Kind, Mock, MockConfig};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::http::Http;
use crate::trouble::Trouble;

/// The shipped configuration, which the demo runs with other ports.
const ENVOY_YAML: &str = include_str!("../../envoy/envoy.yaml");
/// The backends of [`ENVOY_YAML`] with their ports: provisioned, healthy, failing.
const SHIPPED: [(&str, u16); 3] =
    [("ptu-uksouth", 8081), ("payg-sweden", 8082), ("payg-france", 8083)];
/// Compiling the module takes Envoy seconds on a busy machine; containers take longer to appear.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of Envoy's log is shown when it fails.
const LOG_LINES: usize = 20;

/// What the provisioned backend drains.
pub(crate) const PROVISIONED_TOKENS_PER_MINUTE: u64 = 360_000;
/// Its tokens at 100 % utilisation: a second's drain, so that an overload shows soon.
const PROVISIONED_BURST_TOKENS: u64 = 6_000;
/// From a request to the first byte of any backend's answer.
pub(crate) const FIRST_BYTE: Duration = Duration::from_millis(10);
/// Between the events of a stream.
const PER_CHUNK: Duration = Duration::from_millis(5);
/// Tokens of a generated text.
const COMPLETION_TOKENS: u64 = 64;

/// Addresses.
#[derive(Debug, Clone)]
pub(crate) struct Scenery {
    /// The gateway's URL.
    pub(crate) gateway: String,
    /// Envoy's admin interface.
    pub(crate) admin: String,
    /// Provisioned, healthy, failing.
    pub(crate) backends: Vec<Backend>,
}

/// A mock backend.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) url: String,
}

/// The scenery, and what the demo has to take down.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) scenery: Scenery,
    own: Option<Own>,
}

/// What the demo started. Dropped in this order.
#[derive(Debug)]
struct Own {
    envoy: Child,
    _mocks: Vec<Mock>,
    directory: Directory,
}

impl Backend {
    /// The key that the gateway is configured to send.
    pub(crate) fn key(&self) -> String {
        format!("mock-key-of-{}", self.name)
    }

    /// The URL of a control endpoint.
    pub(crate) fn control(&self, what: &str) -> String {
        format!("{}/_mock/{what}", self.url)
    }

    fn settings(&self, kind: Kind) -> MockConfig {
        let config = MockConfig::new(&self.name).with_kind(kind).with_api_key(self.key());
        let config = config.with_latency(FIRST_BYTE, PER_CHUNK);
        MockConfig { completion_tokens: COMPLETION_TOKENS, ..config }
    }
}

impl Scenery {
    /// Gives the backends their limits and their speed, and takes away what an earlier story left.
    async fn set(&self, http: &Http) -> Result<(), Trouble> {
        let kinds = [
            Kind::Provisioned {
                tokens_per_minute: PROVISIONED_TOKENS_PER_MINUTE,
                burst_tokens: PROVISIONED_BURST_TOKENS,
            },
            Kind::Standard { tokens_per_minute: 2_000_000, requests_per_minute: 20_000 },
            Kind::Standard { tokens_per_minute: 2_000_000, requests_per_minute: 20_000 },
        ];
        for (backend, kind) in self.backends.iter().zip(kinds) {
            let url = backend.control("stats");
            until_done(&backend.name, || http.get(&url)).await?;
            let settings = serde_json::to_value(backend.settings(kind)).unwrap_or_default();
            let url = backend.control("config");
            until_done(&url, || http.ask(Method::PUT, &url, Some(&settings))).await?;
            let url = backend.control("fault");
            until_done(&url, || http.ask(Method::DELETE, &url, None)).await?;
        }
        Ok(())
    }
}

impl Stage {
    /// Starts mocks and Envoy.
    pub(crate) async fn build(http: &Http, envoy: &Path, module: &Path) -> Result<Self, Trouble> {
        if !envoy.is_file() {
            return Err(Trouble::EnvoyMissing(envoy.to_owned()));
        }
        let absolute = module.canonicalize().ok().filter(|path| path.is_file());
        let module = absolute.ok_or_else(|| Trouble::ModuleMissing(module.to_owned()))?;
        let (mut mocks, mut backends, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for (name, shipped_port) in SHIPPED {
            let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mock = Mock::start_on(anywhere, MockConfig::new(name)).await;
            let mock = mock.map_err(Trouble::system(format!("starting {name}")))?;
            let url = format!("http://{}", mock.address());
            backends.push(Backend { name: name.to_owned(), url });
            ports.push((shipped_port, mock.port()));
            mocks.push(mock);
        }
        let directory = Directory::create()?;
        let config = configuration(ENVOY_YAML, &ports, &module)?;
        let envoy = start_envoy(envoy, &directory, &config)?;
        let mut own = Own { envoy, _mocks: mocks, directory };
        let (gateway, admin) = own.ready(http).await?;
        let scenery = Scenery { gateway, admin, backends };
        scenery.set(http).await?;
        Ok(Self { scenery, own: Some(own) })
    }

    /// Uses what runs.
    pub(crate) async fn visit(http: &Http, scenery: Scenery) -> Result<Self, Trouble> {
        let ready = format!("{}/ready", scenery.admin);
        until_done("Envoy", || http.get(&ready)).await?;
        scenery.set(http).await?;
        Ok(Self { scenery, own: None })
    }

    /// Returns when Envoy has ended although it should not; never for an Envoy of others.
    pub(crate) async fn envoy_ended(&mut self) -> Trouble {
        match &mut self.own {
            Some(own) => own.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Takes down what was started.
    pub(crate) async fn strike(self) {
        if let Some(mut own) = self.own {
            let _ = own.envoy.kill().await;
        }
    }
}

impl Own {
    /// The URLs of gateway and admin interface, once Envoy is ready.
    async fn ready(&mut self, http: &Http) -> Result<(String, String), Trouble> {
        let address = self.directory.path.join("admin-address");
        let search = async {
            let read = || async {
                let text = std::fs::read_to_string(&address);
                text.ok().filter(|text| !text.is_empty()).ok_or_else(|| "no address".to_owned())
            };
            let admin = format!("http://{}", until_done("Envoy", read).await?.trim());
            let ready = format!("{admin}/ready");
            until_done("Envoy", || http.get(&ready)).await?;
            let listeners = format!("{admin}/listeners?format=json");
            let gateway = until_done("Envoy's listener", || async {
                let listeners = http.get(&listeners).await?;
                gateway_url(&listeners).ok_or_else(|| "it is not there yet".to_owned())
            });
            Ok((gateway.await?, admin))
        };
        tokio::select! {
            found = search => return found,
            _ = self.envoy.wait() => {}
        }
        Err(self.ended().await)
    }

    async fn ended(&mut self) -> Trouble {
        let status = match self.envoy.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = std::fs::read_to_string(self.directory.log()).unwrap_or_default();
        let skipped = log.lines().count().saturating_sub(LOG_LINES);
        let log = log.lines().skip(skipped).collect::<Vec<_>>().join("\n");
        Trouble::EnvoyEnded { status, log }
    }
}

/// Repeats an action until it succeeds.
async fn until_done<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    action: impl Fn() -> F,
) -> Result<T, Trouble> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match action().await {
            Ok(done) => return Ok(done),
            Err(because) if Instant::now() > deadline => {
                return Err(Trouble::Silent { what: what.to_owned(), because });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn start_envoy(envoy: &Path, directory: &Directory, config: &str) -> Result<Child, Trouble> {
    let file = directory.path.join("envoy.yaml");
    std::fs::write(&file, config).map_err(Trouble::system("writing Envoy's configuration"))?;
    let log = std::fs::File::create(directory.log());
    let log = log.map_err(Trouble::system("creating Envoy's log"))?;
    let mut command = Command::new(envoy);
    command.arg("--config-path").arg(file);
    command.arg("--admin-address-path").arg(directory.path.join("admin-address"));
    command.args(["--concurrency", "2", "--log-level", "warning", "--disable-hot-restart"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    // Ctrl-C goes to the terminal's whole process group; Envoy is ours to end.
    command.process_group(0);
    command.spawn().map_err(Trouble::system(format!("starting {}", envoy.display())))
}

/// The shipped configuration with the mocks' ports, free ports of Envoy's own and this module.
fn configuration(template: &str, ports: &[(u16, u16)], module: &Path) -> Result<String, Trouble> {
    let port = |port: u16| format!("port_value: {port}}}");
    let path = Value::from(module.to_string_lossy());
    let mut config = replace_once(
        template,
        "filename: target/wasm32-wasip1/release/spillway.wasm",
        &format!("filename: {path}"),
    )?;
    for own in [9901, 10000] {
        config = replace_once(&config, &port(own), &port(0))?;
    }
    for (shipped, actual) in ports {
        config = replace_once(&config, &port(*shipped), &port(*actual))?;
    }
    Ok(config)
}

fn replace_once(text: &str, from: &str, to: &str) -> Result<String, Trouble> {
    match text.matches(from).count() {
        1 => Ok(text.replacen(from, to, 1)),
        found => Err(Trouble::ConfigChanged { expected: from.to_owned(), found }),
    }
}

/// Where Envoy's answer to `/listeners?format=json` says that it listens.
fn gateway_url(listeners: &[u8]) -> Option<String> {
    let listeners: Value = serde_json::from_slice(listeners).ok()?;
    let all = listeners["listener_statuses"].as_array()?;
    let gateway = all.iter().find(|listener| listener["name"] == json!("gateway"))?;
    let port = gateway["local_address"]["socket_address"]["port_value"].as_u64()?;
    (port > 0).then(|| format!("http://127.0.0.1:{port}"))
}

/// A temporary directory that goes with its value.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create() -> Result<Self, Trouble> {
        let path = std::env::temp_dir().join(format!("spillway-demo-{}", std::process::id()));
        // Left by a killed demo whose process id has come round again.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).map_err(Trouble::system("creating a temporary directory"))?;
        Ok(Self { path })
    }

    fn log(&self) -> PathBuf {
        self.path.join("envoy.log")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_has_all_that_is_replaced() {
        let ports = [(8081, 1), (8082, 2), (8083, 3)];
        let config = configuration(ENVOY_YAML, &ports, Path::new("/a b/c.wasm")).unwrap();
        assert!(config.contains("filename: \"/a b/c.wasm\""));
        for port in ["9901", "10000", "8081", "8082", "8083"] {
            assert!(!config.contains(&format!("port_value: {port}}}")), "{port} is still there");
        }
        for (name, _) in SHIPPED {
            assert!(config.contains(&format!("mock-key-of-{name}")), "{name} has another key");
        }
    }

    #[test]
    fn a_configuration_that_has_drifted_is_refused() {
        let problem = configuration("port_value: 9901}", &[], Path::new("m")).unwrap_err();
        assert!(problem.to_string().contains("0 times instead of once"), "{problem}");
    }

    #[test]
    fn the_listener_is_found_by_its_name() {
        let socket = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 4711 } });
        let statuses = json!([{ "name": "gateway", "local_address": socket }]);
        let listeners = json!({ "listener_statuses": statuses }).to_string();
        assert_eq!(gateway_url(listeners.as_bytes()), Some("http://127.0.0.1:4711".to_owned()));
        assert_eq!(gateway_url(b"{}"), None);
    }
}
