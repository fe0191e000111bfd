//! Blame decides what goes to another backend, what trips a breaker, and what is the client's own
//! problem. And what a failover costs.

use crate::harness::{CHAT, Client, Gateway, Response, Setup, chat_body, first_and_second, key_of};
use mock_azure::{Fault, MockConfig};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

/// A pool with a circuit breaker that opens at the first fault.
fn touchy(first: Value) -> Setup {
    let mut first = first;
    first["priority"] = json!(1);
    Setup::new().backend("first", first).backend("second", json!({"priority": 2})).pool(json!({
        "circuit_breaker": {"rules": [
            {"failure_condition": {"count": 1, "interval": "60s"}, "trip_duration": "60s"}
        ]}
    }))
}

fn provisioned() -> Value {
    json!({"provisioned": {"ptus": 100, "input_tokens_per_minute_per_ptu": 2500}})
}

async fn outcomes(gateway: &Gateway, outcome: &str) -> u64 {
    let name = "wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome";
    gateway.envoy.stat(&format!("{name}.{outcome}")).await
}

async fn assert_first_serves(gateway: &Gateway) {
    let response = gateway.chat().await;
    assert_eq!(response.header("x-spillway-trail"), Some("first;200"));
    assert_eq!(outcomes(gateway, "fault").await, 0);
    assert_eq!(outcomes(gateway, "misconfigured").await, 0);
}

#[tokio::test]
async fn a_refusal_of_the_content_filter_is_the_clients_affair() {
    for first in [json!({}), provisioned()] {
        let gateway = touchy(first).start().await;
        for response in both_ways(&gateway, Fault::ContentFilter400).await {
            assert_eq!((response.status, response.served_by()), (400, "first"));
            assert_eq!(response.json()["error"]["code"], "content_filter");
            assert_eq!(response.header("x-spillway-trail"), Some("first;400"));
        }
        assert_eq!(gateway.counts(), [2, 0]);
        assert_eq!(outcomes(&gateway, "client_error").await, 2);
        assert_first_serves(&gateway).await;
    }
}

#[tokio::test]
async fn a_prompt_too_long_for_provisioned_capacity_goes_elsewhere_and_trips_nothing() {
    let gateway = touchy(provisioned()).start().await;
    for response in both_ways(&gateway, Fault::ContextLength400).await {
        assert_eq!((response.status, response.served_by()), (200, "second"), "{}", response.text());
        assert_eq!(response.header("x-spillway-trail"), Some("first;400, second;200"));
    }
    assert_eq!(outcomes(&gateway, "elsewhere").await, 2);
    assert_first_serves(&gateway).await;
}

#[tokio::test]
async fn a_prompt_too_long_for_the_model_is_the_clients_affair() {
    let gateway = touchy(json!({})).start().await;
    for response in both_ways(&gateway, Fault::ContextLength400).await {
        assert_eq!((response.status, response.served_by()), (400, "first"));
        assert_eq!(response.json()["error"]["code"], "context_length_exceeded");
    }
    assert_eq!(gateway.counts(), [2, 0]);
    assert_first_serves(&gateway).await;
}

/// The answers to a whole request and to one for a stream that `first` answers with `fault`.
async fn both_ways(gateway: &Gateway, fault: Fault) -> [Response; 2] {
    gateway.mock("first").push_fault(fault.clone());
    let whole = gateway.chat().await;
    gateway.mock("first").push_fault(fault);
    [whole, gateway.chat_stream().await]
}

/// Asserts that a backend that refuses what the gateway chose is left alone after this many requests that
/// another backend served, and that this is said in the log.
async fn is_shouted(gateway: &Gateway, status: u16, requests: usize, outcome: &str, what: &str) {
    for _ in 0..requests {
        let response = gateway.chat_served_by("second").await;
        let trail = format!("first;{status}, second;200");
        assert_eq!(response.header("x-spillway-trail"), Some(&*trail));
    }
    let response = gateway.chat().await;
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.starts_with("first;skip=breaker;breaker="), "{trail}");
    assert_eq!(gateway.counts(), [requests, requests + 1]);
    assert_eq!(outcomes(gateway, outcome).await, u64::try_from(requests).unwrap());
    assert_eq!(outcomes(gateway, "fault").await, 0);
    let log = gateway.envoy.log();
    let said = format!(
        "spillway: backend first answered {status} to a request that another backend served: check \
         its {what}"
    );
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&said)).collect();
    assert_eq!(lines.len(), requests, "{log}");
    assert!(lines[0].contains("[error]"), "{}", lines[0]);
    for name in ["first", "second"] {
        assert!(!log.contains(&key_of(name)), "a key is in the log: {log}");
    }
}

/// A gateway in front of a first backend that `change` made different.
async fn with_first(change: impl FnOnce(MockConfig) -> MockConfig) -> Gateway {
    Setup::new()
        .backend_with("first", json!({"priority": 1}), change)
        .backend("second", json!({"priority": 2}))
        .start()
        .await
}

#[tokio::test]
async fn a_key_that_is_refused_is_a_fault_of_the_backend() {
    is_shouted(
        &with_first(|mock| mock.with_api_key("another-key")).await,
        401,
        3,
        "denied",
        "credential",
    )
    .await;
}

#[tokio::test]
async fn a_deployment_that_is_not_there_is_a_fault_of_the_backend() {
    is_shouted(
        &with_first(|mock| mock.with_deployments(["another"])).await,
        404,
        1,
        "misconfigured",
        "deployment",
    )
    .await;
}

#[tokio::test]
async fn a_network_rule_of_the_resource_is_a_fault_of_the_backend() {
    let gateway = with_first(|mock| mock).await;
    gateway.mock("first").set_fault(Some(Fault::status(403)));
    is_shouted(&gateway, 403, 3, "denied", "credential").await;
}

/// Sends `count` requests at once, all of which must be answered by the second backend although
/// the first one got every one of them.
async fn all_fail_over_at_once(fault: Fault, count: usize, workers: usize) {
    // The first backend answers only when all have arrived; the pool has the defaults.
    let gateway = Setup::new()
        .backend_with("first", json!({"priority": 1}), |mock| {
            mock.with_latency(Duration::from_secs(2), Duration::ZERO)
        })
        .backend("second", json!({"priority": 2}))
        .settings(|settings| settings.workers = workers)
        .start()
        .await;
    gateway.mock("first").set_fault(Some(fault));
    let mut requests = JoinSet::new();
    for _ in 0..count {
        let client = gateway.client.clone();
        requests.spawn(async move { client.post(CHAT, &chat_body()).await });
    }
    for response in requests.join_all().await {
        assert_eq!((response.status, response.served_by()), (200, "second"), "{}", response.text());
    }
    assert_eq!(gateway.counts(), [count, count]);
    let mut retries = 0;
    for cluster in ["first", "second"] {
        let stat =
            async |name: &str| gateway.envoy.stat(&format!("cluster.{cluster}.{name}")).await;
        assert_eq!(stat("upstream_rq_retry_overflow").await, 0);
        retries += stat("upstream_rq_retry").await;
    }
    assert_eq!(retries, count as u64);
    assert_eq!(gateway.envoy.stat("wasmcustom.spillway_failovers_limited_total.pool.gpt").await, 0);
}

#[tokio::test]
async fn fifty_parallel_requests_that_all_fail_over_all_succeed() {
    all_fail_over_at_once(Fault::status(503), 50, 1).await;
    all_fail_over_at_once(Fault::throttle(30_000), 50, 2).await;
    all_fail_over_at_once(Fault::ResetBeforeHeaders, 50, 1).await;
}

#[tokio::test]
async fn a_failover_adds_less_than_three_milliseconds_at_the_median() {
    const ROUNDS: usize = 100;
    const LIMIT: f64 = 3.0;
    let failing_over = first_and_second().start().await;
    failing_over.mock("first").set_fault(Some(Fault::status(503)));
    let alone = Setup::new().backend("second", json!({})).start().await;
    let direct = Client::new(failing_over.mock("first").port());
    // Other work on the machine makes a median worse, never better: the best of three counts.
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let mut added: Vec<f64> = Vec::new();
        for _ in 0..ROUNDS {
            let failed = direct.post(CHAT, &chat_body()).await;
            let served = alone.chat().await;
            let both = failing_over.chat().await;
            assert_eq!([failed.status, served.status, both.status], [503, 200, 200]);
            assert_eq!(both.header("x-spillway-attempts"), Some("2"));
            let ms = |response: &Response| response.took.as_secs_f64() * 1_000.0;
            added.push(ms(&both) - ms(&served) - ms(&failed));
        }
        added.sort_by(f64::total_cmp);
        let median = added[ROUNDS / 2];
        println!(
            "a failover adds {median:.2} ms at the median of {ROUNDS} (90 %: {:.2} ms)",
            added[ROUNDS * 9 / 10]
        );
        best = best.min(median);
        if best < LIMIT {
            break;
        }
    }
    assert!(best < LIMIT, "{best} ms");
}
