//! When everything fails, the gateway does not add to the load.

use crate::harness::{CHAT, Gateway, Setup, chat_body};
use mock_azure::Fault;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMITED: &str = "wasmcustom.spillway_failovers_limited_total.pool.gpt";

#[tokio::test]
async fn a_storm_stays_within_the_budget() {
    let gateway = failing(json!({"retry_budget": {"percent": 20, "min_per_second": 2}})).await;
    let started = Instant::now();
    let mut limited_requests = 0;
    for _ in 0..200 {
        let response = gateway.chat().await;
        limited_requests += u64::from(response.header("x-spillway-attempts") == Some("2"));
        assert!(response.status >= 500, "{}", response.text());
    }
    assert!(started.elapsed() < Duration::from_secs(9), "this machine is too slow for the test");
    let attempts: usize = gateway.counts().iter().sum();
    // The first failover of a request is free.
    let failovers = attempts - 2 * 200;
    // A fifth of 200 requests, and 2 per second over ten seconds; all of it is used.
    assert!((55..=60).contains(&failovers), "{failovers} failovers");
    assert!(limited_requests >= 130, "{limited_requests}");
    assert_eq!(gateway.envoy.stat(LIMITED).await, limited_requests);
}

#[tokio::test]
async fn beyond_the_budget_the_client_gets_the_backends_own_error_with_the_pools_delay() {
    let gateway = failing(json!({"retry_budget": {"percent": 0, "min_per_second": 0}})).await;
    let response = gateway.chat_with_status(502).await;
    assert_eq!(response.text(), r#"{"error":"mine"}"#);
    assert_eq!(response.served_by(), "b");
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    let delay_ms: u64 = response.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((1_000..=1_100).contains(&delay_ms), "{delay_ms}, and not the backend's");
    let seconds = delay_ms.div_ceil(1_000).to_string();
    assert_eq!(response.header("retry-after"), Some(seconds.as_str()));
    assert!(response.header("x-spillway-retry").is_none());
    assert_eq!(gateway.counts(), [1, 1, 0]);
    assert_eq!(gateway.envoy.stat(LIMITED).await, 1);
}

#[tokio::test]
async fn a_request_makes_as_many_attempts_as_it_may() {
    let gateway = failing(json!({"max_attempts": 2})).await;
    let response = gateway.chat_with_status(502).await;
    assert_eq!(response.served_by(), "b");
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    assert_eq!(gateway.counts(), [1, 1, 0]);
    assert_eq!(gateway.envoy.stat(LIMITED).await, 1);
}

#[tokio::test]
async fn without_faults_the_budget_is_not_touched() {
    let gateway = failing(json!({"retry_budget": {"percent": 1, "min_per_second": 0}})).await;
    for name in ["a", "b", "c"] {
        gateway.mock(name).clear_faults();
    }
    for _ in 0..100 {
        assert_eq!(gateway.chat().await.status, 200);
    }
    assert_eq!(gateway.envoy.stat(LIMITED).await, 0);
    // A hundredth of a hundred requests.
    for name in ["a", "b"] {
        gateway.mock(name).set_fault(Some(broken()));
    }
    assert_eq!(gateway.chat().await.status, 200);
    assert_eq!(gateway.chat().await.status, 502);
}

#[tokio::test]
async fn a_tier_that_fails_with_hundreds_of_requests_in_flight_costs_no_client_an_error() {
    let gateway = Setup::tiers(["a", "b"]).start().await;
    for shape in [broken(), Fault::throttle(1), Fault::ResetBeforeHeaders] {
        gateway.mock("a").set_fault(Some(shape.clone()));
        let asked = (0..400).map(|_| {
            let client = gateway.client.clone();
            tokio::spawn(async move { client.post(CHAT, &chat_body()).await.status })
        });
        for response in asked.collect::<Vec<_>>() {
            assert_eq!(response.await.unwrap(), 200, "{shape:?}");
        }
    }
    assert_eq!(gateway.envoy.stat(LIMITED).await, 0);
}

/// Three backends that fail, and no breaker that would take them out.
async fn failing(failover: Value) -> Gateway {
    let gateway = Setup::tiers(["a", "b", "c"])
        .pool(json!({"failover": failover, "circuit_breaker": {"rules": []}}))
        .start()
        .await;
    for name in ["a", "b", "c"] {
        gateway.mock(name).set_fault(Some(broken()));
    }
    gateway
}

fn broken() -> Fault {
    Fault::status_with(502, &[("retry-after", "7777")], Some(r#"{"error":"mine"}"#))
}
