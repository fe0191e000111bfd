//! What the client gets when no backend can serve, or when no backend is asked.

use crate::harness::{CHAT, Client, Gateway, Response, Setup, chat_body};
use bytes::Bytes;
use hyper::Method;
use mock_azure::Fault;
use serde_json::{Value, json};

const TRIPS_AT_ONCE: &str =
    r#"{"rules": [{"failure_condition": {"count": 1}, "trip_duration": "20s"}]}"#;

#[tokio::test]
async fn all_throttled_is_a_429_with_the_soonest_recovery() {
    let gateway = pair(json!({})).await;
    gateway.mock("a").push_fault(Fault::throttle(5_000));
    gateway.mock("b").push_fault(Fault::throttle(30_000));
    let response = gateway.chat().await;
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    assert_exhausted(&response, 429, 4_500..=5_500);
    assert_eq!(response.json()["error"]["type"], "rate_limit_exceeded");
    assert_eq!(gateway.counts(), [1, 1]);

    // From now on no backend is asked, and each client gets the remaining time.
    let response = gateway.chat().await;
    assert_exhausted(&response, 429, 3_500..=5_500);
    assert_eq!(response.header("x-spillway-attempts"), Some("0"));
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.contains("a;skip=gate;gate=") && trail.contains("b;skip=gate;gate="), "{trail}");
    assert!(response.header("x-served-by").is_none());
    assert_eq!(gateway.counts(), [1, 1]);
    let exhausted = "wasmcustom.spillway_exhausted_total.pool.gpt";
    assert_eq!(gateway.envoy.stat(exhausted).await, 2);
}

#[tokio::test]
async fn one_backend_out_for_faults_makes_it_a_503() {
    let breaker: Value = serde_json::from_str(TRIPS_AT_ONCE).unwrap();
    let gateway = pair(json!({"circuit_breaker": breaker})).await;
    gateway.mock("a").set_fault(Some(Fault::status(500)));
    gateway.mock("b").push_fault(Fault::throttle(30_000));
    let first = gateway.chat().await;
    assert_exhausted(&first, 503, 18_000..=33_000);
    assert_eq!(first.json()["error"]["type"], "service_unavailable");
    // It would fail anyway, so it probes early; the next one does not, for a second.
    let second = gateway.chat().await;
    assert_exhausted(&second, 503, 15_000..=33_000);
    assert_eq!(second.header("x-spillway-attempts"), Some("1"));
    let third = gateway.chat().await;
    assert_exhausted(&third, 503, 15_000..=33_000);
    assert_eq!(third.header("x-spillway-attempts"), Some("0"));
    assert_eq!(gateway.counts(), [2, 1]);
}

#[tokio::test]
async fn when_no_other_backend_can_serve_a_recovered_backend_is_back_within_a_second() {
    let breaker: Value = serde_json::from_str(TRIPS_AT_ONCE).unwrap();
    let gateway = pair(json!({"circuit_breaker": breaker})).await;
    gateway.mock("a").push_fault(Fault::status(500));
    gateway.mock("b").push_fault(Fault::throttle(30_000));
    assert_exhausted(&gateway.chat().await, 503, 18_000..=33_000);
    for _ in 0..5 {
        gateway.chat_served_by("a").await;
    }
    let trail = gateway.chat().await.header("x-spillway-trail").unwrap_or_default().to_owned();
    assert!(!trail.contains("breaker"), "it is closed again: {trail}");
}

#[tokio::test]
async fn backends_that_cannot_be_reached_make_it_a_503() {
    let breaker: Value = serde_json::from_str(TRIPS_AT_ONCE).unwrap();
    let gateway = pair(json!({"circuit_breaker": breaker})).await;
    gateway.mock("a").stop().await.unwrap();
    gateway.mock("b").stop().await.unwrap();
    let response = gateway.chat().await;
    assert_exhausted(&response, 503, 18_000..=22_000);
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.contains("a;connect") && trail.contains("b;connect"), "{trail}");
}

#[tokio::test]
async fn the_stated_delay_is_at_least_a_second_and_at_most_a_minute() {
    let throttle_settings = json!({"max_retry_after": "1h"});
    let gateway = pair(json!({"throttle": throttle_settings})).await;
    gateway.mock("a").push_fault(Fault::throttle(200));
    gateway.mock("b").push_fault(Fault::throttle(1_000_000));
    assert_exhausted(&gateway.chat().await, 429, 1_000..=1_100);

    let gateway = pair(json!({"throttle": throttle_settings})).await;
    gateway.mock("a").push_fault(Fault::throttle(500_000));
    gateway.mock("b").push_fault(Fault::throttle(1_000_000));
    assert_exhausted(&gateway.chat().await, 429, 60_000..=60_000);
}

#[tokio::test]
async fn the_stated_delays_differ() {
    let gateway = pair(json!({})).await;
    gateway.mock("a").push_fault(Fault::throttle(50_000));
    gateway.mock("b").push_fault(Fault::throttle(50_000));
    let mut delays = Vec::new();
    for _ in 0..10 {
        delays.push(delay_ms(&gateway.chat().await));
    }
    let (first, last) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    assert!(last - first > 500, "{delays:?}");
}

#[tokio::test]
async fn a_pool_with_one_backend_passes_its_429_on_and_keeps_asking() {
    let gateway = Setup::new().backend("only", json!({})).start().await;
    let body = r#"{"error":{"code":"429","message":"in the backend's own words"}}"#;
    let headers = [("retry-after", "7"), ("retry-after-ms", "6543"), ("x-own", "yes")];
    gateway.mock("only").set_fault(Some(Fault::Status {
        status: 429,
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        body: Some(body.to_owned()),
    }));
    for _ in 0..3 {
        let response = gateway.chat().await;
        assert_eq!((response.status, response.text().as_str()), (429, body));
        for (name, value) in headers {
            assert_eq!(response.header(name), Some(value));
        }
        assert_eq!(response.served_by(), "only");
        assert_eq!(response.header("x-spillway-attempts"), Some("1"));
    }
    gateway.mock("only").clear_faults();
    assert_eq!(gateway.chat().await.status, 200);
    assert_eq!(gateway.counts(), [4]);
}

#[tokio::test]
async fn an_unknown_model_is_a_404_and_touches_no_backend() {
    let gateway = pair(json!({})).await;
    let mut body = chat_body();
    body["model"] = json!("gpt-99");
    let by_body = gateway.client.post(CHAT, &body).await;
    let path = "/openai/deployments/gpt-99/chat/completions?api-version=2024-10-21";
    let by_path = gateway.client.post(path, &chat_body()).await;
    for response in [by_body, by_path] {
        assert_error(&response, 404, "invalid_request_error", "model_not_found");
        assert!(response.header("retry-after").is_none());
    }
    assert_eq!(gateway.counts(), [0, 0]);
}

#[tokio::test]
async fn a_body_that_is_not_json_is_a_400_and_touches_no_backend() {
    let gateway = pair(json!({})).await;
    for body in ["{\"model\": \"gpt-4o\", ", "", "nothing", "[]", "{\"messages\": []}"] {
        let response = post_text(&gateway.client, body).await;
        assert_eq!(response.status, 400, "{body}: {}", response.text());
        assert_eq!(response.json()["error"]["type"], "invalid_request_error");
        assert_eq!(response.json()["error"].as_object().unwrap().len(), 4);
    }
    assert_eq!(gateway.counts(), [0, 0]);
}

async fn post_text(client: &Client, body: &str) -> Response {
    let headers = [("content-type", "application/json")];
    client.send(Method::POST, CHAT, &headers, Bytes::from(body.to_owned())).await.unwrap()
}

async fn pair(pool: Value) -> Gateway {
    Setup::new().backend("a", json!({})).backend("b", json!({})).pool(pool).start().await
}

fn delay_ms(response: &Response) -> u64 {
    response.header("retry-after-ms").unwrap().parse().unwrap()
}

fn assert_exhausted(response: &Response, status: u16, delay: std::ops::RangeInclusive<u64>) {
    assert_error(
        response,
        status,
        response.json()["error"]["type"].as_str().unwrap(),
        &status.to_string(),
    );
    let told = delay_ms(response);
    assert!(delay.contains(&told), "{told} ms is not within {delay:?}");
    let seconds = told.div_ceil(1_000).to_string();
    assert_eq!(response.header("retry-after"), Some(seconds.as_str()));
}

fn assert_error(response: &Response, status: u16, kind: &str, code: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    let error = response.json()["error"].clone();
    assert_eq!(error.as_object().unwrap().len(), 4, "{error}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert!(error.get("param").is_some());
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some(kind), Some(code)));
}
