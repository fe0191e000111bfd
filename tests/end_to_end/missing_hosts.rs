//! A backend that Envoy cannot reach: it is reported at once, and then left alone.

use crate::harness::{Gateway, Hosts, Setup, first_and_second, host_of};
use serde_json::json;
use testbed::bootstrap::matcher;

const MISROUTED: &str =
    "wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome.misrouted";

async fn assert_second_serves_alone(gateway: &Gateway) {
    for _ in 0..5 {
        let response = gateway.chat_served_by("second").await;
        assert_eq!(response.header("x-spillway-attempts"), Some("1"));
        let trail = response.header("x-spillway-trail").unwrap();
        assert!(trail.starts_with("first;skip=breaker;breaker="), "{trail}");
    }
    assert_eq!(gateway.envoy.stat(MISROUTED).await, 1);
    let log = gateway.envoy.log();
    assert_eq!(log.matches("backend first cannot be reached").count(), 1, "{log}");
}

#[tokio::test]
async fn a_backend_that_the_matcher_lacks_fails_over_and_its_key_goes_nowhere() {
    let gateway = first_and_second()
        .settings(|settings| settings.cluster("first", |cluster| cluster.is_in_matcher = false))
        .start()
        .await;
    let response = gateway.chat_served_by("second").await;
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    assert_eq!(response.header("x-spillway-trail"), Some("first;no-route, second;200"));
    assert_second_serves_alone(&gateway).await;
    assert_eq!(gateway.counts(), [0, 6]);
}

/// Envoy itself replies, so one client is told to retry at once, which SDKs do by themselves.
async fn costs_one_request(setup: Setup, word: &str) {
    let gateway = setup.start().await;
    let response = gateway.chat_with_status(503).await;
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("retry-after-ms"), Some("100"));
    assert_eq!(response.header("x-should-retry"), Some("true"));
    let message = response.json()["error"]["message"].to_string();
    assert!(message.contains("could not reach the backend that it chose"), "{message}");
    assert_eq!(response.header("x-spillway-attempts"), Some("1"));
    assert_eq!(response.header("x-spillway-trail"), Some(&*format!("first;{word}")));
    assert_second_serves_alone(&gateway).await;
    assert_eq!(gateway.counts(), [0, 5]);
}

#[tokio::test]
async fn a_cluster_that_does_not_exist_costs_one_request() {
    let setup = first_and_second()
        .settings(|settings| settings.cluster("first", |cluster| cluster.exists = false));
    costs_one_request(setup, "no-cluster").await;
}

#[tokio::test]
async fn a_cluster_without_any_endpoint_costs_one_request() {
    let setup = first_and_second().settings(|settings| {
        settings.cluster("first", |cluster| {
            cluster.hosts = Hosts::None;
            cluster.has_dead_endpoint = false;
        });
    });
    costs_one_request(setup, "no-host").await;
}

#[tokio::test]
async fn a_route_that_confuses_two_backends_costs_one_request_and_shows_no_key() {
    let setup = first_and_second().adjust(|bootstrap| {
        let matcher = matcher(&mut bootstrap.routes()[0]);
        matcher["first"] = matcher["second"].clone();
    });
    costs_one_request(setup, "wrong-cluster").await;
}

#[tokio::test]
async fn an_unknown_target_gets_a_response_with_and_without_the_catch_all_cluster() {
    for has_catch_all in [true, false] {
        let gateway = Setup::new()
            .backend("first", json!({"host": host_of("first")}))
            .settings(|settings| settings.has_catch_all = has_catch_all)
            .start()
            .await;
        gateway.mock("first").stop().await.unwrap();
        let response = gateway.chat_with_status(503).await;
        assert_eq!(response.header("x-spillway-attempts"), Some("1"));
        assert!(response.header("retry-after-ms").is_some());
        assert!(response.json()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn a_cluster_without_the_attempt_filter_is_asked_once() {
    let gateway = Setup::tiers(["first", "second"])
        .adjust(|whole| {
            let first = whole.cluster("first");
            first.as_object_mut().unwrap().remove("typed_extension_protocol_options");
        })
        .start()
        .await;
    let response = gateway.chat_with_status(503).await;
    assert_eq!(response.header("x-spillway-trail"), Some("first;no-filter"));
    for _ in 0..3 {
        assert_eq!(gateway.chat().await.served_by(), "second");
    }
    assert_eq!(gateway.records("first").len(), 1);
    assert!(gateway.envoy.log().contains("lacks the attempt filter"), "nobody was told");
}
