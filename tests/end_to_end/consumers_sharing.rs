//! Consumers that want more than there is: each gets its share, and batch gets the rest.

use crate::harness::{CHAT, Client, Gateway, Response, Setup};
use mock_azure::{Kind, MockConfig};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const WHO: &str = "x-consumer";

/// The limit of the limited backend.
const TOKENS_PER_MINUTE: u64 = 60_000;
const BURST_TOKENS: u64 = 4_000;

/// A request that takes a little more than `tokens`.
fn chat(tokens: u64) -> Value {
    json!({
        "model": "gpt-4o", "max_tokens": tokens,
        "messages": [{"role": "user", "content": "Say hello."}]
    })
}

async fn ask(client: &Client, who: &str, tokens: u64) -> Response {
    client.post_with(CHAT, &[(WHO, who)], &chat(tokens)).await
}

/// Sends requests for `time`, `lanes` at a time, each as soon as the response before it is there.
async fn flood(
    gateway: &Gateway,
    who: &'static str,
    lanes: usize,
    time: Duration,
) -> Vec<Response> {
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for _ in 0..lanes {
        let client = gateway.another_client();
        tasks.spawn(async move {
            let mut answers = Vec::new();
            while Instant::now() < end {
                answers.push(ask(&client, who, 100).await);
            }
            answers
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Asks every 100 ms for `time`.
async fn stroll(gateway: &Gateway, who: &str, tokens: u64, time: Duration) -> Vec<Response> {
    let (end, mut clock) =
        (Instant::now() + time, tokio::time::interval(Duration::from_millis(100)));
    let mut answers = Vec::new();
    while Instant::now() < end {
        clock.tick().await;
        answers.push(ask(&gateway.client, who, tokens).await);
    }
    answers
}

fn provisioned(mock: MockConfig) -> MockConfig {
    let kind =
        Kind::Provisioned { tokens_per_minute: TOKENS_PER_MINUTE, burst_tokens: BURST_TOKENS };
    MockConfig { completion_tokens: 1_000, ..mock.with_kind(kind) }
}

/// A provisioned backend, and Spillway's configuration of it.
fn with_provisioned(setup: Setup) -> Setup {
    let keys = json!({"priority": 1, "provisioned": {
        "ptus": 20,
        "input_tokens_per_minute_per_ptu": TOKENS_PER_MINUTE / 20,
        "burst_tokens": BURST_TOKENS
    }});
    setup.backend_with("ptu", keys, provisioned)
}

fn with_status(answers: &[Response], status: u16) -> usize {
    answers.iter().filter(|response| response.status == status).count()
}

fn served_by(answers: &[Response], name: &str) -> usize {
    answers.iter().filter(|response| response.served_by() == name).count()
}

fn tokens_of(answers: &[Response]) -> u64 {
    let served = answers.iter().filter(|response| response.status == 200);
    served.map(|response| response.json()["usage"]["total_tokens"].as_u64().unwrap()).sum()
}

fn batch_and_interactive() -> Value {
    json!({"consumers": {
        "header": WHO,
        "by_name": {"nightly": {"class": "batch"}},
        "batch_max_utilization_percent": 50
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_floods_leaves_another_its_half() {
    let half = TOKENS_PER_MINUTE / 2;
    let limits = json!({"tokens_per_minute": half});
    let gateway = Setup::new()
        .backend_with("only", json!({"limits": {"tokens_per_minute": TOKENS_PER_MINUTE}}), |mock| {
            let kind = Kind::Standard {
                tokens_per_minute: TOKENS_PER_MINUTE,
                requests_per_minute: 1_000_000,
            };
            MockConfig { completion_tokens: 1_000, ..mock.with_kind(kind) }
        })
        .whole(json!({"consumers": {"header": WHO, "by_name": {"loud": limits, "quiet": limits}}}))
        .settings(|settings| settings.workers = 2)
        .start()
        .await;
    let time = Duration::from_secs(4);
    // The quiet consumer uses nearly all of its half, each time after the loud one used up its own.
    let (loud, quiet) =
        tokio::join!(flood(&gateway, "loud", 8, time), stroll(&gateway, "quiet", 600, time));
    let served = with_status(&loud, 200);
    println!(
        "loud: {served} of {} served with {} tokens; quiet: {} of {} with {}; each may have {half}",
        loud.len(),
        tokens_of(&loud),
        with_status(&quiet, 200),
        quiet.len(),
        tokens_of(&quiet)
    );
    assert_eq!(with_status(&quiet, 200), quiet.len(), "the quiet one was always served");
    assert!(tokens_of(&quiet) > half * 6 / 10, "{}", tokens_of(&quiet));
    assert_eq!(served + with_status(&loud, 429), loud.len());
    assert!(loud.len() > 2 * served, "it was a flood: {served} of {}", loud.len());
    assert!(tokens_of(&loud) <= half, "{} tokens", tokens_of(&loud));
    assert!(tokens_of(&loud) > half * 95 / 100, "{} tokens", tokens_of(&loud));
    let refused = gateway.records("only").iter().filter(|it| it.status != Some(200)).count();
    assert_eq!(refused, 0, "the backend saw no more than it takes");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_spills_before_interactive_requests_find_provisioned_capacity_full() {
    let gateway = with_provisioned(Setup::new())
        .backend_with("spill", json!({"priority": 2}), |mock| MockConfig {
            completion_tokens: 1_000,
            ..mock
        })
        .whole(batch_and_interactive())
        .settings(|settings| settings.workers = 2)
        .start()
        .await;
    let time = Duration::from_secs(4);
    let (batch, interactive) =
        tokio::join!(flood(&gateway, "nightly", 8, time), stroll(&gateway, "web", 60, time));
    println!(
        "batch: {} by provisioned capacity, {} spilled; interactive: {} of {}",
        served_by(&batch, "ptu"),
        served_by(&batch, "spill"),
        served_by(&interactive, "ptu"),
        interactive.len()
    );
    assert_eq!(served_by(&interactive, "ptu"), interactive.len(), "none was displaced");
    assert_eq!(with_status(&batch, 200), batch.len(), "batch is served, too");
    assert!(served_by(&batch, "spill") > 50, "{}", served_by(&batch, "spill"));
    assert!(served_by(&batch, "ptu") >= 10, "it uses what is left");
    let refused = gateway.records("ptu").iter().filter(|it| it.status != Some(200)).count();
    assert_eq!(refused, 0, "provisioned capacity was never full");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_is_refused_before_interactive_requests_find_the_only_backend_full() {
    let gateway = with_provisioned(Setup::new()).whole(batch_and_interactive()).start().await;
    let time = Duration::from_secs(3);
    let (batch, interactive) =
        tokio::join!(flood(&gateway, "nightly", 4, time), stroll(&gateway, "web", 60, time));
    assert_eq!(with_status(&interactive, 200), interactive.len(), "none was displaced");
    let served = with_status(&batch, 200);
    assert!(served >= 10, "{served}");
    assert_eq!(served + with_status(&batch, 429), batch.len());
    assert!(with_status(&batch, 429) > 10, "it was a flood");
    let refusal = batch.iter().find(|response| response.status == 429).unwrap();
    assert!(refusal.header("retry-after-ms").is_some(), "{:?}", refusal.headers);
    let refused = gateway.records("ptu").iter().filter(|it| it.status != Some(200)).count();
    assert_eq!(refused, 0, "provisioned capacity was never full");
}
