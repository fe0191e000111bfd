//! When everything fails, the gateway does not make it worse.

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
        let answer = gateway.chat().await;
        limited_requests += u64::from(answer.header("x-spillway-attempts") == Some("2"));
        assert!(answer.status >= 500, "{}", answer.text());
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
    let answer = gateway.chat().await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.text(), r#"{"error":"mine"}"#);
    assert_eq!(answer.served_by(), "b");
    assert_eq!(answer.header("x-spillway-attempts"), Some("2"));
    let delay_ms: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((1_000..=1_100).contains(&delay_ms), "{delay_ms}, and not the backend's");
    let seconds = delay_ms.div_ceil(1_000).to_string();
    assert_eq!(answer.header("retry-after"), Some(seconds.as_str()));
    assert!(answer.header("x-spillway-retry").is_none());
    assert_eq!(gateway.counts(), [1, 1, 0]);
    assert_eq!(gateway.envoy.stat(LIMITED).await, 1);
}

#[tokio::test]
async fn a_request_makes_as_many_attempts_as_it_may() {
    let gateway = failing(json!({"max_attempts": 2})).await;
    let answer = gateway.chat().await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.served_by(), "b");
    assert_eq!(answer.header("x-spillway-attempts"), Some("2"));
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
    let gateway = Setup::new()
        .backend("a", json!({"priority": 1}))
        .backend("b", json!({"priority": 2}))
        .start()
        .await;
    for shape in [broken(), Fault::Throttle { retry_after_ms: Some(1) }, Fault::ResetBeforeHeaders]
    {
        gateway.mock("a").set_fault(Some(shape.clone()));
        let asked = (0..400).map(|_| {
            let client = gateway.client.clone();
            tokio::spawn(async move { client.post(CHAT, &chat_body()).await.status })
        });
        for answer in asked.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap(), 200, "{shape:?}");
        }
    }
    assert_eq!(gateway.envoy.stat(LIMITED).await, 0);
}

/// Three backends that fail, and no breaker that would take them out.
async fn failing(failover: Value) -> Gateway {
    let gateway = Setup::new()
        .backend("a", json!({"priority": 1}))
        .backend("b", json!({"priority": 2}))
        .backend("c", json!({"priority": 3}))
        .pool(json!({"failover": failover, "circuit_breaker": {"rules": []}}))
        .start()
        .await;
    for name in ["a", "b", "c"] {
        gateway.mock(name).set_fault(Some(broken()));
    }
    gateway
}

fn broken() -> Fault {
    Fault::Status {
        status: 502,
        headers: vec![("retry-after".to_owned(), "7777".to_owned())],
        body: Some(r#"{"error":"mine"}"#.to_owned()),
    }
}
