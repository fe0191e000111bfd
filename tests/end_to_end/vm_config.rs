//! Settings of Envoy without which the two roles do not work together: the response and the log say which.

use crate::harness::first_and_second;
use serde_json::json;
use testbed::bootstrap::protocol_options;

#[tokio::test]
async fn roles_in_different_vms_are_reported_in_response_and_log() {
    let gateway = first_and_second()
        .adjust(|bootstrap| {
            for cluster in bootstrap.clusters() {
                let filters = &mut protocol_options(cluster)["http_filters"];
                filters[0]["typed_config"]["config"]["vm_config"]["configuration"] = json!({
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": "another"
                });
            }
        })
        .start()
        .await;
    for _ in 0..3 {
        let response = gateway.chat_with_status(503).await;
        let message = response.json()["error"]["message"].to_string();
        assert!(message.contains("vm_config"), "{message}");
        assert!(response.header("retry-after").is_some());
    }
    let log = gateway.envoy.log();
    assert_eq!(log.matches("give them the same vm_config").count(), 1, "{log}");
    assert_eq!(gateway.counts(), [0, 0]);
}

#[tokio::test]
async fn bodies_that_envoy_does_not_show_are_reported_in_response_and_log() {
    let gateway = first_and_second()
        .adjust(|bootstrap| {
            let filter = &mut bootstrap.manager()["http_filters"][0]["typed_config"]["config"];
            filter.as_object_mut().unwrap().remove("allow_on_headers_stop_iteration").unwrap();
        })
        .start()
        .await;
    for _ in 0..2 {
        let response = gateway.chat_with_status(503).await;
        let message = response.json()["error"]["message"].to_string();
        assert!(message.contains("allow_on_headers_stop_iteration"), "{message}");
    }
    let log = gateway.envoy.log();
    assert_eq!(log.matches("spillway: Envoy does not show request bodies").count(), 1, "{log}");
    assert_eq!(gateway.counts(), [0, 0]);
}

#[tokio::test]
async fn responses_that_envoy_hides_from_the_attempt_are_reported_and_reach_the_client() {
    let consumers = json!({"header": "x-consumer", "consumed_tokens_header": "on",
        "default": {"tokens_per_minute": 100_000}});
    let gateway = first_and_second()
        .whole(json!({"consumers": consumers}))
        .adjust(|bootstrap| {
            for cluster in bootstrap.clusters() {
                let filters = &mut protocol_options(cluster)["http_filters"];
                let Some(filter) = filters.get_mut(0) else { continue };
                let filter = filter["typed_config"]["config"].as_object_mut().unwrap();
                filter.remove("allow_on_headers_stop_iteration").unwrap();
            }
        })
        .start()
        .await;
    for _ in 0..2 {
        let response = gateway.chat().await;
        assert_eq!((response.status, response.complete), (200, true), "{}", response.text());
    }
    let log = gateway.envoy.log();
    assert_eq!(log.matches("responses are hidden from the attempt's filter").count(), 1, "{log}");
}
