//! A cluster whose own limits in Envoy are reached: Envoy makes no retry then, so one request is told to come
//! back at once, and the next ones go to another backend.

use crate::harness::{Gateway, Setup, eventually};
use serde_json::{Value, json};

async fn start(limits: Value) -> Gateway {
    Setup::new()
        .backend("first", json!({"priority": 1, "quota_group": "all"}))
        .backend("second", json!({"priority": 2, "quota_group": "all"}))
        .adjust(move |bootstrap| {
            bootstrap.cluster("first")["circuit_breakers"]["thresholds"][0] = limits.clone();
        })
        .start()
        .await
}

#[tokio::test]
async fn what_envoy_does_not_send_for_limits_of_its_own_is_sent_elsewhere_soon() {
    for limits in [
        json!({"max_pending_requests": 0}),
        json!({"max_connections": 0, "max_pending_requests": 0}),
        json!({"max_requests": 0}),
    ] {
        let gateway = start(limits.clone()).await;
        let mut refused = 0;
        eventually("the second backend serves", async || {
            let response = gateway.chat().await;
            if response.status == 200 {
                assert_eq!(response.served_by(), "second");
                assert_eq!(response.header("x-spillway-attempts"), Some("1"));
                return true;
            }
            refused += 1;
            assert_eq!(response.status, 503, "{limits}: {}", response.text());
            assert!(response.header("retry-after").is_some());
            false
        })
        .await;
        assert!(refused <= 2, "{limits}: {refused} requests were refused");
        let stat = "wasmcustom.spillway_breaker_open_until_ms.pool.gpt.backend.first";
        assert_eq!(gateway.envoy.stat(stat).await, 0, "{limits}");
        assert!(gateway.envoy.log().contains("circuit_breakers of the cluster"), "{limits}");
    }
}

#[tokio::test]
async fn a_client_whose_request_envoy_did_not_send_may_retry_at_once() {
    let gateway = start(json!({"max_pending_requests": 0})).await;
    let response = gateway.chat_with_status(503).await;
    assert_eq!(response.header("x-spillway-trail"), Some("first;overflow;gate=1000ms"));
    assert_eq!(response.header("x-should-retry"), Some("true"));
    assert_eq!(response.header("retry-after-ms"), Some("100"));
    assert_eq!(gateway.chat().await.served_by(), "second");
    assert_eq!(gateway.counts(), [0, 1]);
}
