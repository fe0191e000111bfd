//! When all backends are out for a moment, a request waits in the gateway, if it may.

use crate::harness::{CHAT, Gateway, Response, Setup, chat_body, eventually};
use bytes::Bytes;
use hyper::Method;
use mock_azure::Fault;
use serde_json::{Value, json};
use std::time::Duration;

/// What reading two clocks in whole milliseconds may cost.
const ROUNDING: Duration = Duration::from_millis(2);

/// How late a gateway on a busy machine may be.
const LATE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_request_that_finds_all_closed_waits_for_the_soonest() {
    let gateway = pair("1s").await;
    let (early, late) = close_both(&gateway, 1_400, 60_000).await;
    // Too far away at first, and answered at once.
    assert_eq!(early.status, 429, "{}", early.text());
    assert!(early.took < Duration::from_millis(900), "{:?}", early.took);

    tokio::time::sleep_until((late + Duration::from_millis(600)).into()).await;
    let response = gateway.chat_served_by("a").await;
    assert_eq!(response.header("x-spillway-attempts"), Some("1"), "no backend was asked in vain");
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.contains("a;skip=gate") && trail.ends_with("a;200"), "{trail}");
    let records = gateway.records("a");
    let gap = records[1].at - records[0].at;
    assert!(gap >= Duration::from_millis(1_400) - ROUNDING, "{gap:?}");
    assert!(gap <= Duration::from_millis(1_400) + LATE, "{gap:?}");
    assert_eq!(gateway.counts(), [2, 1]);
}

#[tokio::test]
async fn a_request_whose_own_attempts_closed_the_last_gates_waits_too() {
    let gateway = pair("2s").await;
    gateway.mock("a").push_fault(Fault::throttle(60_000));
    gateway.mock("b").push_fault(Fault::throttle(500));
    let response = gateway.chat_served_by("b").await;
    assert_eq!(response.header("x-spillway-attempts"), Some("3"));
    assert!(response.took >= Duration::from_millis(500) - ROUNDING, "{:?}", response.took);
    assert!(response.took <= Duration::from_millis(500) + LATE, "{:?}", response.took);
    assert_eq!(gateway.counts(), [1, 2]);
    let bodies = gateway.records("b");
    assert_eq!(bodies[0].body, bodies[1].body);
}

#[tokio::test]
async fn a_pool_with_one_backend_waits_for_it() {
    let gateway = Setup::new().backend("only", json!({})).pool(may_wait("1s")).start().await;
    gateway.mock("only").push_fault(Fault::throttle(400));
    let response = gateway.chat_with_status(200).await;
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    assert!(response.took >= Duration::from_millis(400) - ROUNDING, "{:?}", response.took);

    // Longer than a refusal in an event stream is waited for.
    gateway.mock("only").push_fault(Fault::throttle(900));
    let response = gateway.chat_with_status(200).await;
    assert!(response.took >= Duration::from_millis(900) - ROUNDING, "{:?}", response.took);

    // What takes longer is the client's affair, in the backend's own words.
    gateway.mock("only").push_fault(Fault::throttle(1_500));
    let response = gateway.chat_with_status(429).await;
    assert_eq!(response.header("retry-after-ms"), Some("1500"));
    assert!(response.took < Duration::from_secs(1), "{:?}", response.took);
}

#[tokio::test]
async fn a_backend_that_failed_this_request_does_not_keep_it_from_waiting_for_another() {
    let gateway = pair("1s").await;
    let throttled = gateway.mock("a");
    throttled.push_fault(Fault::throttle(500));
    assert_eq!(gateway.chat().await.served_by(), "b");
    gateway.mock("b").push_fault(Fault::status(500));
    gateway.chat_served_by("a").await;
    assert_eq!(gateway.counts(), [2, 2]);
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_backend_that_it_may_not_try_again() {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "1s"});
    let gateway = Setup::tiers(["a", "b"])
        .pool(json!({"failover": {"max_wait": "3s"}, "circuit_breaker": {"rules": [rule]}}))
        .start()
        .await;
    for name in ["a", "b"] {
        gateway.mock(name).push_fault(Fault::status(500));
    }
    let response = gateway.chat_with_status(503).await;
    assert!(
        response.took < Duration::from_millis(900),
        "it waited {:?} for nothing",
        response.took
    );
    // The next one was nowhere yet: it waits for the first probe.
    let response = gateway.chat_served_by("a").await;
    assert_eq!(response.header("x-spillway-attempts"), Some("1"));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_leaves_nothing_behind() {
    let gateway = pair("5s").await;
    let waiting = close_both_and_wait(&gateway, 1_500).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    let active = "http.gateway.downstream_rq_active";
    eventually("the request is gone", async || gateway.envoy.stat(active).await == 0).await;
    // Also in the attempt that waited, nothing is sent when the time has come.
    gateway.chat_served_by("a").await;
    let answers = gateway.counts();
    assert_eq!(answers, [2, 1], "the request that was left was not sent again");
    for name in ["a", "b"] {
        let open = format!("wasmcustom.spillway_breaker_open_until_ms.pool.gpt.backend.{name}");
        assert_eq!(gateway.envoy.stat(&open).await, 0);
    }
}

#[tokio::test]
async fn many_requests_that_wait_at_once_all_succeed() {
    let gateway = pair("3s").await;
    let first = close_both_and_wait(&gateway, 800).await;
    let waiting: Vec<_> = (0..50).map(|_| gateway.spawn_chat()).collect();
    let active = "http.gateway.downstream_rq_active";
    eventually("all wait", async || gateway.envoy.stat(active).await == 51).await;
    assert_eq!(gateway.counts(), [1, 1], "they wait in the gateway");
    assert_eq!(first.await.unwrap().status, 200);
    for request in waiting {
        let response = request.await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("x-spillway-attempts"), Some("1"));
    }
    assert_eq!(gateway.counts().iter().sum::<usize>(), 2 + 51);
}

#[tokio::test]
async fn a_request_without_a_body_waits_as_well() {
    let gateway = pair("3s").await;
    let first = close_both_and_wait(&gateway, 800).await;
    let client = gateway.another_client();
    let response = client.send(Method::GET, "/v1/files", &[], Bytes::new()).await.unwrap();
    assert!(["a", "b"].contains(&response.served_by()), "{} {}", response.status, response.text());
    assert_eq!(response.header("x-spillway-attempts"), Some("1"));
    assert!(response.took > Duration::from_millis(200), "{:?}", response.took);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_large_body_that_waited_arrives_whole() {
    let gateway = pair("3s").await;
    let first = close_both_and_wait(&gateway, 800).await;
    let mut body = chat_body();
    body["messages"][0]["content"] = json!("word ".repeat(400_000));
    let sent = body.to_string();
    let response = gateway.another_client().post(CHAT, &body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(first.await.unwrap().status, 200);
    let mut records = gateway.records("a");
    records.extend(gateway.records("b"));
    let large = records.iter().find(|record| record.body_length > 1_000_000).unwrap();
    let model = format!("\"model\":\"gpt-4o-{}\"", response.served_by());
    let received = String::from_utf8(large.body.to_vec()).unwrap();
    assert!(received == sent || received == sent.replace("\"model\":\"gpt-4o\"", &model));
}

/// `a` first, then `b`.
async fn pair(max_wait: &str) -> Gateway {
    Setup::tiers(["a", "b"])
        .pool(may_wait(max_wait))
        .whole(json!({"allow_operations": ["files"]}))
        .start()
        .await
}

fn may_wait(max_wait: &str) -> Value {
    json!({"failover": {"max_wait": max_wait}})
}

/// Closes both gates by one request; returns its response and when the gates closed.
async fn close_both(gateway: &Gateway, a_ms: u64, b_ms: u64) -> (Response, std::time::Instant) {
    gateway.mock("a").push_fault(Fault::throttle(a_ms));
    gateway.mock("b").push_fault(Fault::throttle(b_ms));
    let response = gateway.chat().await;
    (response, std::time::Instant::now())
}

/// Closes both gates by one request, which then waits for `a`.
async fn close_both_and_wait(gateway: &Gateway, a_ms: u64) -> tokio::task::JoinHandle<Response> {
    gateway.mock("a").push_fault(Fault::throttle(a_ms));
    gateway.mock("b").push_fault(Fault::throttle(60_000));
    let request = gateway.spawn_chat();
    let throttled = "wasmcustom.spillway_attempts_total.pool.gpt.backend.b.outcome.throttled";
    eventually("both are closed", async || gateway.envoy.stat(throttled).await == 1).await;
    request
}
