//! The gateways that hostile clients meet: default settings, several pools, backends that differ in what they can.

use super::request::Hostile;
use super::watch::{FAMILIES, Findings};
use crate::harness::{CHAT, Client, Gateway, Response, Setup};
use bytes::Bytes;
use hyper::Method;
use mock_azure::MockConfig;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than any response takes, a hanging backend's included.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest request of a backend, as at Azure's smallest deployments.
const REQUEST_TOKENS_MAX: u64 = 30_000;

/// One gateway, and what a test must know about it.
pub(super) struct Gateways {
    pub(super) name: &'static str,
    pub(super) gateway: Gateway,
    pub(super) backends: Vec<String>,
    /// Model and backends of the first tier, for each pool.
    pools: [(&'static str, Vec<&'static str>); 3],
    /// Whether files, batches and the like are allowed.
    pub(super) allows_more: bool,
}

impl Gateways {
    /// Provisioned capacity that only chats, with pay as you go below it; a pool of one backend; limits and
    /// consumers.
    pub(super) async fn azure() -> Self {
        let limits = json!({"tokens_per_minute": 1_000_000_000, "requests_per_minute": 10_000_000});
        let ptus = json!({"ptus": 100_000, "input_tokens_per_minute_per_ptu": 2_500, "output_token_weight": 4});
        let setup = Setup::new()
            .backend_with("ptu", json!({"priority": 1, "provisioned": ptus}), only(&["chat"]))
            .backend_with("standard", json!({"priority": 2, "limits": limits}), only(&[]))
            .backend_with("mini-one", v1(1), only(&["chat", "responses"]))
            .backend_with("mini-two", v1(2), only(&[]))
            .backend_with("lonely-one", json!({"limits": limits}), only(&["chat", "responses"]))
            .whole(json!({"consumers": {
                "header": "x-consumer",
                "default": {"tokens_per_minute": 50_000_000},
                "by_name": {"innocent": {"tokens_per_minute": 1_000_000_000}}
            }}));
        Self::start("azure", setup, vec!["ptu"], vec!["mini-one"]).await
    }

    /// OpenAI and Azure mixed, two backends in the first tier; files and the like are allowed.
    pub(super) async fn mixed() -> Self {
        let setup = Setup::new()
            .backend_with("open-one", openai(1), only(&["chat", "completions"]))
            .backend_with("open-two", json!({"priority": 1}), only(&["chat", "embeddings"]))
            .backend_with("open-three", v1(2), only(&[]))
            .backend_with("mini-one", v1(1), only(&["chat"]))
            .backend_with("mini-two", openai(2), only(&[]))
            .backend_with("lonely-one", openai(1), only(&["chat"]))
            .whole(json!({"allow_operations": FAMILIES}));
        let mixed = Self::start("mixed", setup, vec!["open-one", "open-two"], vec!["mini-one"]);
        Self { allows_more: true, ..mixed.await }
    }

    async fn start(
        name: &'static str,
        setup: Setup,
        first: Vec<&'static str>,
        mini: Vec<&'static str>,
    ) -> Self {
        let setup = setup.another_pool("lonely", 1).another_pool("mini", 2).settings(|settings| {
            settings.workers = 2;
            // Only responses that never come reach this limit.
            settings.per_try_timeout = Duration::from_secs(5);
            // Envoy forgets this limit when the other one passes while a response is on its way.
            settings.per_try_idle_timeout = Duration::from_secs(3);
        });
        let gateway = setup.start().await;
        let backends = backend_names(&gateway.configuration);
        let pools = [("gpt-4o", first), ("mini", mini), ("lonely", vec!["lonely-one"])];
        Self { name, gateway, backends, pools, allows_more: false }
    }

    /// Sends it, and says what is wrong with the response.
    pub(super) async fn suffer(&self, hostile: &Hostile) -> Option<String> {
        let port = self.gateway.envoy.port;
        let mut wrong = None;
        for _ in 0..hostile.times {
            wrong = wrong.or(send(port, hostile).await);
        }
        wrong
    }

    /// Asks each pool for an innocent answer.
    pub(super) async fn serve_the_innocent(&self, cause: &Hostile, findings: &mut Findings) {
        let streams = cause.seed.is_multiple_of(5);
        let [one, two, three] = &self.pools;
        let client = &self.gateway.client;
        let wrongs = tokio::join!(
            not_served_by_first(client, one, streams),
            not_served_by_first(client, two, streams),
            not_served_by_first(client, three, streams),
        );
        for (wrong, (model, _)) in [wrongs.0, wrongs.1, wrongs.2].into_iter().zip(&self.pools) {
            if let Some(wrong) = wrong {
                let kind = format!(
                    "the next innocent request of pool {model} was not served by the first tier"
                );
                findings
                    .add(&kind, || format!("gateway {}: {wrong}\n{}", self.name, cause.shown()));
            }
        }
    }

    /// Asks each pool in turn for as long as `goes_on`; returns how many it asked.
    pub(super) async fn serve_while(
        &self,
        goes_on: impl Fn() -> bool,
        findings: &mut Findings,
    ) -> usize {
        let client = self.gateway.another_client();
        let mut asked = 0;
        while goes_on() {
            let (model, _) = self.pools[asked % self.pools.len()];
            let response = innocent(&client, model, asked.is_multiple_of(4)).await;
            if let Some(wrong) = response.map_or_else(Some, |response| not_served(&response)) {
                findings.add("an innocent request failed", || {
                    format!("{}, {model}: {wrong}", self.name)
                });
            }
            asked += 1;
        }
        asked
    }
}

fn backend_names(configuration: &Value) -> Vec<String> {
    let pools = configuration["pools"].as_array().unwrap().iter();
    let backends = pools.flat_map(|pool| pool["backends"].as_array().unwrap());
    backends.map(|backend| backend["name"].as_str().unwrap().to_owned()).collect()
}

/// A mock with these operations only; none means all.
fn only(operations: &'static [&'static str]) -> impl FnOnce(MockConfig) -> MockConfig {
    move |mock| mock.with_refusals(operations.iter().copied(), REQUEST_TOKENS_MAX)
}

fn v1(priority: u32) -> Value {
    json!({"priority": priority, "api": "azure_v1"})
}

fn openai(priority: u32) -> Value {
    json!({"priority": priority, "api": "openai"})
}

async fn innocent(client: &Client, model: &str, streams: bool) -> Result<Response, String> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "stream": streams
    });
    let headers = [("content-type", "application/json"), ("x-consumer", "innocent")];
    let response = client.send(Method::POST, CHAT, &headers, Bytes::from(body.to_string()));
    timeout(PATIENCE, response).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Asks a pool, and says what is wrong with the response.
async fn not_served_by_first(
    client: &Client,
    (model, first): &(&str, Vec<&str>),
    streams: bool,
) -> Option<String> {
    match innocent(client, model, streams).await {
        Err(error) => Some(error),
        Ok(response) => not_served(&response).or_else(|| not_first(&response, first)),
    }
}

fn not_served(response: &Response) -> Option<String> {
    let text = response.text();
    let fine = response.status == 200 && response.complete && !text.contains("\"error\"");
    (!fine).then(|| format!("{} {:?}\n{text}", response.status, response.headers))
}

fn not_first(response: &Response, first: &[&str]) -> Option<String> {
    let is_first = first.contains(&response.served_by());
    let fine = is_first && response.header("x-spillway-attempts") == Some("1");
    (!fine).then(|| format!("{:?}", response.headers))
}

/// Sends it on a connection of its own; says what is wrong with the response.
async fn send(port: u16, hostile: &Hostile) -> Option<String> {
    /// More than any socket buffer holds: the response may come before such a request is sent.
    const LARGE_BYTES: usize = 60_000;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let mut received = Vec::new();
    let talk = async {
        let (mut reads, mut writes) = stream.split();
        // A gateway that has responded already need not read the rest.
        let sent = async {
            let _ = writes.write_all(&hostile.bytes).await;
        };
        let _ = tokio::join!(sent, reads.read_to_end(&mut received));
    };
    let in_time = timeout(hostile.leaves_after.unwrap_or(PATIENCE), talk).await.is_ok();
    let text = String::from_utf8_lossy(&received);
    if text.contains("key-of-") {
        return Some(format!("a client received a key: {text}"));
    }
    if hostile.leaves_after.is_some() || (received.is_empty() && hostile.bytes.len() > LARGE_BYTES)
    {
        return None;
    }
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next());
    let valid = status.is_some_and(|status| status.len() == 3);
    (!valid || !in_time).then(|| format!("a client was left without an answer: {text}"))
}
