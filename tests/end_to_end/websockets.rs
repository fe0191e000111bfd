//! Upgrades: realtime sessions are allowed, responses over a WebSocket only where the pool allows them, and
//! no other request changes the protocol.

use crate::harness::raw::{Connection, exchange};
use crate::harness::{Setup, key_of};
use serde_json::json;

fn upgrade(method: &str, path: &str, protocol: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         api-key: the-clients-own\r\n\r\n"
    )
}

async fn head_of(port: u16, request: &str) -> String {
    let mut connection = Connection::open(port).await;
    connection.send(request.as_bytes()).await;
    connection.read_until("\r\n\r\n").await.to_lowercase()
}

#[tokio::test]
async fn responses_over_a_websocket_are_answered_426_at_once() {
    let gateway = Setup::new().backend("north", json!({"api": "azure_v1"})).start().await;
    for path in [
        "/v1/responses",
        "/openai/v1/responses",
        "/v1/responses?model=gpt-4o",
        "/v1/responses?model=unknown",
        "/openai/responses?api-version=2025-04-01-preview",
    ] {
        let head = head_of(gateway.envoy.port, &upgrade("GET", path, "websocket")).await;
        assert!(head.starts_with("http/1.1 426 "), "{path}: {head}");
        assert!(head.contains("content-type: application/json"), "{path}: {head}");
        assert!(head.contains("upgrade: http/1.1"), "{path}: {head}");
    }
    assert_eq!(gateway.counts(), [0]);
    gateway.assert_alive("upgrades that were refused").await;
}

#[tokio::test]
async fn no_other_operation_is_upgraded_and_to_no_other_protocol() {
    let gateway = Setup::new()
        .backend("north", json!({"api": "azure_v1"}))
        .whole(json!({"allow_operations": ["files"]}))
        .start()
        .await;
    for (method, path, protocol) in [
        ("GET", "/v1/files", "websocket"),
        ("GET", "/v1/responses/resp_1", "websocket"),
        ("GET", "/v1/realtime?model=gpt-4o", "other"),
        ("GET", "/v1/responses?model=gpt-4o", "other"),
    ] {
        let head = head_of(gateway.envoy.port, &upgrade(method, path, protocol)).await;
        assert!(head.starts_with("http/1.1 4"), "{method} {path} {protocol}: {head}");
    }
    let body = r#"{"model":"gpt-4o","messages":[]}"#;
    let post = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let head = head_of(gateway.envoy.port, &post).await;
    assert!(head.starts_with("http/1.1 4"), "{head}");
    assert_eq!(gateway.counts(), [0]);
    // Without an upgrade there is nothing at this path.
    let plain = b"GET /v1/responses HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
    let response = exchange(gateway.envoy.port, plain).await;
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
}

#[tokio::test]
async fn a_pool_that_allows_it_has_the_session_at_one_backend() {
    for api in ["azure", "azure_v1", "openai"] {
        let gateway = Setup::new()
            .backend("north", json!({"api": api}))
            .pool(json!({"responses_websocket": true}))
            .start()
            .await;
        let request = upgrade("GET", "/v1/responses?model=gpt-4o&x=1", "websocket");
        let _ = head_of(gateway.envoy.port, &request).await;
        let record = gateway.records("north").remove(0);
        let base = if api == "openai" { "/v1" } else { "/openai/v1" };
        assert_eq!(record.path, format!("{base}/responses?x=1"), "{api}");
        let key = key_of("north");
        let sent = record.header("api-key").or_else(|| record.header("authorization")).unwrap();
        assert_eq!(sent.trim_start_matches("Bearer "), key, "{api}");
    }
}
