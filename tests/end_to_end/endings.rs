//! Responses that no attempt released: a retry that Envoy did not make, and what its own filters
//! refuse behind the gateway.

use crate::harness::raw::RawBackend;
use crate::harness::{Gateway, Response, first_and_second, first_elsewhere};
use mock_azure::{ErrorShape, Fault};
use serde_json::{Value, json};

/// Puts a filter between Spillway and the router.
async fn behind(filter: Value) -> Gateway {
    first_and_second()
        .adjust(move |bootstrap| {
            let filters = &mut bootstrap.manager()["http_filters"];
            let filters = filters.as_array_mut().unwrap();
            let router = filters.len() - 1;
            filters.insert(router, filter.clone());
        })
        .start()
        .await
}

fn assert_error(response: &Response, status: u16, r#type: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    let error = &response.json()["error"];
    assert_eq!(error["type"], r#type, "{}", response.text());
    assert!(error["message"].is_string() && error["code"].is_string(), "{}", response.text());
    assert_eq!(response.header("x-spillway-retry"), None);
}

fn assert_says_when(response: &Response) {
    let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_retry_that_envoy_does_not_make_ends_with_the_last_attempts_error() {
    let gateway = first_and_second()
        .adjust(|bootstrap| {
            bootstrap.routes()[0]["route"]["retry_policy"]["num_retries"] = json!(0);
        })
        .start()
        .await;
    let own = r#"{"error":{"code":"500","message":"in the backend's own words"}}"#;
    let error = Fault::Status { status: 500, headers: vec![], body: Some(own.to_owned()) };
    gateway.mock("first").push_fault(error);
    let response = gateway.chat().await;
    assert_eq!((response.status, response.text()), (500, own.to_owned()));
    assert_says_when(&response);
    assert_eq!(response.header("x-spillway-retry"), None);

    // A refusal within a 200 must not look like a success.
    let shape = ErrorShape::Chat;
    gateway.mock("first").push_fault(Fault::ErrorFirstEvent { shape, code: "x".to_owned() });
    let response = gateway.chat_stream().await;
    assert_error(&response, 503, "service_unavailable");
    assert_says_when(&response);

    gateway.mock("first").push_fault(Fault::ResetBeforeHeaders);
    let response = gateway.chat().await;
    assert_error(&response, 503, "service_unavailable");
    assert_says_when(&response);
    assert_eq!(response.header("x-spillway-attempts"), Some("1"));
    assert_eq!(gateway.counts(), [3, 0]);
}

#[tokio::test]
async fn an_interim_response_ends_retries_and_the_error_after_it_is_passed_on() {
    // Envoy's router makes no retry once it saw an interim response, and no setting changes that.
    for interim in ["100 Continue", "102 Processing", "103 Early Hints"] {
        let backend = RawBackend::start(format!(
            "HTTP/1.1 {interim}\r\n\r\nHTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\n\
             content-length: 2\r\nconnection: close\r\n\r\n{{}}",
        ))
        .await;
        let gateway = first_elsewhere(backend.port()).start().await;
        let response = gateway.chat().await;
        assert_eq!((response.status, response.text()), (429, "{}".to_owned()), "{interim}");
        assert_eq!(response.header("x-spillway-retry"), None);
        assert_says_when(&response);
        assert_eq!(gateway.chat().await.served_by(), "second", "{interim} lost the gate");
    }
}

/// Envoy's rate limit filter for one request in 50 s, with its own headers of this version.
fn rate_limit(headers: &str) -> Value {
    let all = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    json!({
        "name": "rate-limit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "rate_limit",
            "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "50s"},
            "filter_enabled": all,
            "filter_enforced": all,
            "enable_x_ratelimit_headers": headers
        }
    })
}

#[tokio::test]
async fn a_rate_limit_of_envoys_own_keeps_its_status_and_its_time() {
    let gateway = behind(rate_limit("DRAFT_VERSION_03")).await;
    assert_eq!(gateway.chat().await.status, 200);
    let response = gateway.chat().await;
    assert_error(&response, 429, "rate_limit_exceeded");
    let reset = response.header("x-ratelimit-reset").unwrap();
    assert_eq!(response.header("retry-after"), Some(reset));
    assert_eq!(response.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!(response.header("x-spillway-attempts"), Some("0"));
    assert_eq!(gateway.counts(), [1, 0]);
}

#[tokio::test]
async fn a_rate_limit_that_names_no_time_gets_one_and_no_trail_that_is_empty() {
    let gateway = behind(rate_limit("OFF")).await;
    assert_eq!(gateway.chat().await.status, 200);
    let response = gateway.chat().await;
    assert_error(&response, 429, "rate_limit_exceeded");
    assert_says_when(&response);
    assert!(response.header("retry-after-ms").is_some());
    assert_eq!(response.header("x-spillway-attempts"), Some("0"));
    assert_eq!(response.header("x-spillway-trail"), None);
}

#[tokio::test]
async fn a_refusal_of_envoy_itself_has_the_format_that_sdks_read() {
    let gateway = behind(json!({
        "name": "rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {}}
        }
    }))
    .await;
    assert_error(&gateway.chat().await, 403, "permission_error");
    assert_eq!(gateway.counts(), [0, 0]);
}

#[tokio::test]
async fn a_backend_behind_an_envoy_of_its_own_cannot_forbid_the_failover() {
    let backend = RawBackend::start(
        "HTTP/1.1 429 Too Many Requests\r\nx-envoy-ratelimited: true\r\nretry-after: 1\r\n\
         content-length: 2\r\nconnection: close\r\n\r\n{}",
    )
    .await;
    let gateway = first_elsewhere(backend.port()).start().await;
    gateway.chat_served_by("second").await;
    assert_eq!(backend.requests(), 1);
}
