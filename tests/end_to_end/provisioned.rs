//! Provisioned throughput is paid for by the hour: it must be full whenever there is enough load,
//! and requests beyond it must go to other backends without being refused first.
//!
//! The load is open loop: requests come on time, whatever happened to earlier ones.

use crate::harness::{CHAT, Client, Gateway, Response, Setup};
use mock_azure::Kind;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What drains from the bucket.
const TOKENS_PER_SECOND: u64 = 4_000;
const TOKENS_PER_MINUTE: u64 = 60 * TOKENS_PER_SECOND;
/// Small enough to be full after eight seconds under this load.
const BURST_TOKENS: u64 = 4 * TOKENS_PER_SECOND;
/// The offered load, in percent of what drains.
const LOAD_PERCENT: u64 = 150;
/// The tokens of a response that no maximum limits.
const COMPLETION_TOKENS: u64 = 24;
/// How long it is offered.
const LENGTH: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 8;

/// One kind of request: the size of its prompt, and its maximum, if it names one.
const KINDS: [(usize, Option<u64>); 5] =
    [(40, None), (200, Some(100)), (90, None), (60, Some(10)), (120, None)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Streamed,
}

/// What came of a run.
#[derive(Debug)]
struct Run {
    requests: usize,
    client_errors: usize,
    attempts: u64,
    throttled: u64,
    tokens: u64,
    allowed: u64,
}

impl Run {
    fn used_permille(&self) -> u64 {
        self.tokens * 1_000 / self.allowed
    }

    fn throttled_permille(&self) -> u64 {
        self.throttled * 1_000 / self.attempts
    }
}

fn body(kind: usize, form: Form) -> Value {
    let (prompt_tokens, max_tokens) = KINDS[kind % KINDS.len()];
    // Four characters are a token for the mock, and at first eight bytes are two for the filter.
    let mut body = json!({
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "слов".repeat(prompt_tokens)}],
        "stream": form == Form::Streamed
    });
    if let Some(max_tokens) = max_tokens {
        body["max_tokens"] = json!(max_tokens);
    }
    body
}

/// The tokens of one request of each kind.
fn tokens_of_all_kinds() -> u64 {
    let completion =
        |max: Option<u64>| max.map_or(COMPLETION_TOKENS, |max| max.min(COMPLETION_TOKENS));
    KINDS.iter().map(|(prompt, max)| *prompt as u64 + completion(*max)).sum()
}

async fn gateway(knows_its_bucket: bool) -> Gateway {
    let mut keys = json!({"priority": 1});
    if knows_its_bucket {
        keys["provisioned"] = json!({
            "ptus": 100,
            "input_tokens_per_minute_per_ptu": TOKENS_PER_MINUTE / 100,
            "burst_tokens": BURST_TOKENS
        });
    }
    let provisioned =
        Kind::Provisioned { tokens_per_minute: TOKENS_PER_MINUTE, burst_tokens: BURST_TOKENS };
    Setup::new()
        .backend_with("ptu", keys, |mut mock| {
            mock.completion_tokens = COMPLETION_TOKENS;
            mock.with_kind(provisioned)
                .with_latency(Duration::from_millis(80), Duration::from_millis(8))
        })
        .backend_with("sweden", json!({"priority": 2}), |mut mock| {
            mock.completion_tokens = COMPLETION_TOKENS;
            mock.with_latency(Duration::from_millis(80), Duration::from_millis(8))
        })
        .settings(|settings| settings.workers = 4)
        .start()
        .await
}

/// Offers the load for so long, and waits for all responses.
async fn offer(gateway: &Gateway, form: Form, length: Duration) -> Run {
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| gateway.another_client()).collect();
    let kinds = KINDS.len() as u64;
    let pause = Duration::from_micros(
        1_000_000 * tokens_of_all_kinds() * 100 / (kinds * TOKENS_PER_SECOND * LOAD_PERCENT),
    );
    let mut running = JoinSet::new();
    let started = Instant::now();
    let mut requests = 0;
    while started.elapsed() < length {
        let client = clients[requests % clients.len()].clone();
        let body = body(requests, form);
        running.spawn(async move { client.post(CHAT, &body).await });
        requests += 1;
        let due = started + pause * u32::try_from(requests).unwrap();
        tokio::time::sleep_until(due.into()).await;
    }
    let offered_for = started.elapsed();
    let client_errors =
        running.join_all().await.iter().filter(|response| !is_whole(response, form)).count();
    let stats = gateway.mock("ptu").stats();
    let count = |name: &str| stats[name].as_u64().unwrap();
    let drained = u64::try_from(offered_for.as_millis()).unwrap() * TOKENS_PER_SECOND / 1_000;
    Run {
        requests,
        client_errors,
        attempts: count("requests"),
        throttled: count("throttled"),
        tokens: count("tokens_used"),
        allowed: drained + BURST_TOKENS,
    }
}

fn is_whole(response: &Response, form: Form) -> bool {
    let ends_well = match form {
        Form::Whole => response.complete,
        Form::Streamed => response.text().ends_with("data: [DONE]\n\n"),
    };
    response.status == 200 && ends_well
}

/// Both settings side by side. Only with `provisioned` are there promises to keep; nobody sees a
/// refusal either way.
async fn stays_full_and_is_not_run_into(form: Form) {
    let (with, without) = (gateway(true).await, gateway(false).await);
    let (with, without) =
        tokio::join!(offer(&with, form, LENGTH), offer(&without, form, LENGTH / 2));
    for (setting, run) in [("with", &with), ("without", &without)] {
        println!(
            "{form:?}, {setting} `provisioned`: {} requests, {} errors at clients; the PTU used {} \
             of {} tokens ({} permille) and refused {} of {} attempts ({} permille)",
            run.requests,
            run.client_errors,
            run.tokens,
            run.allowed,
            run.used_permille(),
            run.throttled,
            run.attempts,
            run.throttled_permille()
        );
        assert_eq!(run.client_errors, 0, "{setting}: {run:?}");
    }
    assert!(with.used_permille() >= 980, "{with:?}");
    assert!(with.throttled_permille() <= 2, "{with:?}");
    // Else the load was too small to show anything.
    assert!(without.throttled > 0, "{without:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisioned_throughput_stays_full_without_being_run_into() {
    stays_full_and_is_not_run_into(Form::Whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisioned_throughput_stays_full_with_streams_too() {
    stays_full_and_is_not_run_into(Form::Streamed).await;
}
