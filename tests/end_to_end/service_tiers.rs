//! A refusal because a service tier has no capacity affects only requests for that tier, wherever the
//! request names it and however little of the request the gateway reads.

use crate::harness::{CHAT, Gateway, Response, Setup};
use bytes::Bytes;
use hyper::Method;
use serde_json::json;

/// The path names the deployment, so nothing in the body chooses the pool.
const BELOW: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";

/// Two tiers of backends that refuse requests for flex or priority, as Azure does.
async fn refusing_tiers(pool: serde_json::Value, keys: serde_json::Value) -> Gateway {
    let refuses = |mock: mock_azure::MockConfig| mock.with_refusals([] as [&str; 0], 1_000_000);
    let with = |priority: u32| {
        let mut with = keys.clone();
        with["priority"] = json!(priority);
        with
    };
    Setup::new()
        .backend_with("a", with(1), refuses)
        .backend_with("b", with(2), refuses)
        .pool(pool)
        .start()
        .await
}

async fn ask(gateway: &Gateway, path: &str, body: &str) -> Response {
    let headers = [("content-type", "application/json")];
    let body = Bytes::copy_from_slice(body.as_bytes());
    gateway.client.send(Method::POST, path, &headers, body).await.unwrap()
}

async fn assert_unharmed(gateway: &Gateway, after: &str) {
    let response = gateway.chat().await;
    assert_eq!(response.header("x-spillway-trail"), Some("a;200"), "{after}: {}", response.text());
    for name in ["a", "b"] {
        for gauge in ["breaker_open_until_ms", "gate_closed_until_ms"] {
            let stat = format!("wasmcustom.spillway_{gauge}.pool.gpt.backend.{name}");
            assert_eq!(gateway.envoy.stat(&stat).await, 0, "{after}: {stat}");
        }
    }
}

/// Requests for `member`, the model in the path and in the body, small and large.
fn requests(member: &str) -> Vec<(&'static str, String)> {
    let prompt =
        |bytes: usize| "The overflow goes \\\"safely\\\" downstream.\\n".repeat(bytes / 40);
    let before = |bytes| {
        let prompt = prompt(bytes);
        format!(
            r#"{{{member},"messages":[{{"role":"user","content":"{prompt}"}}],"model":"gpt-4o"}}"#
        )
    };
    let behind = |bytes| {
        let prompt = prompt(bytes);
        format!(
            r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{prompt}"}}],{member}}}"#
        )
    };
    let bodies = [40, 400_000].into_iter().flat_map(|bytes| [before(bytes), behind(bytes)]);
    bodies.flat_map(|body| [(BELOW, body.clone()), (CHAT, body)]).collect()
}

#[tokio::test]
async fn who_asks_for_a_tier_without_capacity_closes_no_gate_for_others() {
    let gateway = refusing_tiers(json!({}), json!({})).await;
    for (member, tier) in [
        (r#""service_tier":"flex""#, "flex"),
        (r#""service_tier" : "priority""#, "priority"),
        (r#""service\u005ftier":"fl\u0065x""#, "flex"),
    ] {
        for (path, body) in requests(member) {
            let what = format!("{path}, {} bytes, {member}", body.len());
            let response = ask(&gateway, path, &body).await;
            assert_eq!(response.status, 429, "{what}: {}", response.text());
            let trail = format!("a;429;tier={tier}, b;429;tier={tier}");
            assert_eq!(response.header("x-spillway-trail"), Some(&*trail), "{what}");
            assert_unharmed(&gateway, &what).await;
        }
    }
    gateway.assert_alive("all of them").await;
}

#[tokio::test]
async fn who_asks_for_no_tier_closes_the_gate() {
    let gateway = refusing_tiers(json!({}), json!({})).await;
    for (path, body) in requests(r#""service_tier":"default""#) {
        gateway.mock("a").push_fault(mock_azure::Fault::throttle(50));
        let response = ask(&gateway, path, &body).await;
        assert_eq!((response.status, response.served_by()), (200, "b"), "{}", response.text());
        let trail = response.header("x-spillway-trail").unwrap();
        let is_closed = trail.starts_with("a;429;gate=") || trail.starts_with("a;skip=gate");
        assert!(is_closed, "{path}, {} bytes: {trail}", body.len());
        gateway.mock("a").clear_faults();
    }
}

#[tokio::test]
async fn a_flex_request_falls_back_to_the_default_tier_where_the_pool_allows_it() {
    // Tokens are counted, so the tier is the one that the response states.
    let gateway = refusing_tiers(
        json!({"flex_fallback": true}),
        json!({"limits": {"tokens_per_minute": 100_000_000}}),
    )
    .await;
    let requests = requests(r#""service_tier":"flex""#);
    let count = requests.len();
    for (path, body) in requests {
        gateway.mock("a").clear_records();
        let response = ask(&gateway, path, &body).await;
        let what = format!("{path}, {} bytes", body.len());
        assert_eq!(
            (response.status, response.served_by()),
            (200, "a"),
            "{what}: {}",
            response.text()
        );
        let trail = response.header("x-spillway-trail").unwrap();
        assert_eq!(trail, "a;429;tier=flex, a;200;tier=default", "{what}");
        let sent: Vec<String> = gateway
            .records("a")
            .iter()
            .map(|record| String::from_utf8_lossy(&record.body).into_owned())
            .collect();
        let fallen = body.replace(r#""flex""#, r#""default""#);
        assert!(sent[0].ends_with(&body[body.len() - 30..]), "{what}");
        assert!(sent[1].contains(r#""service_tier":"default""#), "{what}");
        let change = fallen.len() - body.len();
        assert_eq!(sent[1].len() - sent[0].len(), change, "{what}: only the tier is another");
        assert_unharmed(&gateway, &what).await;
    }
    let served = "wasmcustom.spillway_served_default_tier_total.pool.gpt";
    assert_eq!(gateway.envoy.stat(served).await, count as u64);
    assert_eq!(gateway.envoy.stat(&served.replace("default", "flex")).await, 0);
}
