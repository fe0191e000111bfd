//! Responses that are held because headers state their cost. If one breaks off meanwhile, another backend
//! serves and it costs nothing. If its client leaves, it is charged.

use crate::harness::raw::RawBackend;
use crate::harness::{CHAT, Gateway, Response, chat_body, eventually, first_elsewhere, forgetful};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const LIMIT: u64 = 100_000;

/// A gateway whose consumers have a limit, before a backend of raw bytes and one that serves.
async fn start(headers: &[&str], port: u16) -> Gateway {
    let mut consumers = json!({"header": "x-consumer", "default": {"tokens_per_minute": LIMIT}});
    for header in headers {
        consumers[header] = json!("on");
    }
    first_elsewhere(port).pool(forgetful()).whole(json!({"consumers": consumers})).start().await
}

const HEADERS: [&str; 2] = ["remaining_tokens_header", "consumed_tokens_header"];

fn number(response: &Response, header: &str) -> u64 {
    response.header(header).unwrap_or_else(|| panic!("{:?}", response.headers)).parse().unwrap()
}

/// Answers every request with these bytes and keeps the connection open.
async fn stalling(response: String) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut received = [0; 4096];
            let _ = stream.read(&mut received).await;
            let _ = stream.write_all(response.as_bytes()).await;
            open.push(stream);
        }
    });
    (port, task)
}

/// A request whose tokens are nearly all its maximum.
fn limited_chat() -> Value {
    let mut body = chat_body();
    body["max_tokens"] = json!(500);
    body
}

/// The charge of a client that leaves while the response stalls after `body`.
async fn charged_when_left(headers: &[&str], body: &str) -> u64 {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000";
    let (port, backend) = stalling(format!("{head}\r\n\r\n{body}")).await;
    let headers: Vec<&str> = headers.iter().chain(&HEADERS[..1]).copied().collect();
    let gateway = start(&headers, port).await;
    let json = [("content-type", "application/json")];
    let request = Bytes::from(limited_chat().to_string());
    let client = gateway.another_client();
    let received = "cluster.first.upstream_cx_rx_bytes_total";
    tokio::select! {
        response = client.send(Method::POST, CHAT, &json, request) => panic!("{response:?}"),
        () = eventually(received, async || gateway.envoy.stat(received).await > 0) => {}
    }
    drop(client);
    let cancelled = "wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome.cancelled";
    eventually(cancelled, async || gateway.envoy.stat(cancelled).await == 1).await;
    backend.abort();
    // Now nobody listens there, so the other one serves.
    let response = gateway.client.post(CHAT, &limited_chat()).await;
    assert_eq!((response.status, response.served_by()), (200, "second"), "{}", response.text());
    let used = response.json()["usage"]["total_tokens"].as_u64().unwrap();
    LIMIT - number(&response, "remaining-tokens") - used
}

#[tokio::test]
async fn a_client_that_leaves_while_its_response_is_held_is_charged() {
    let stated = r#"{"usage":{"prompt_tokens":321,"completion_tokens":45},"choices":["#;
    assert_eq!(charged_when_left(&HEADERS[1..], stated).await, 366);
    let estimated = charged_when_left(&HEADERS[1..], r#"{"choices":["#).await;
    assert!((501..=530).contains(&estimated), "{estimated}");
}

/// The cost of one response of the first backend with this head and body.
async fn charged(head: &str, body: &str) -> u64 {
    let length = body.len();
    let backend = RawBackend::start(format!(
        "HTTP/1.1 200 OK\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))
    .await;
    let gateway = start(&HEADERS, backend.port()).await;
    let response = gateway.client.post(CHAT, &limited_chat()).await;
    assert_eq!((response.status, response.served_by()), (200, "first"), "{}", response.text());
    drop(backend);
    let response = gateway.client.post(CHAT, &limited_chat()).await;
    assert_eq!(response.served_by(), "second", "{}", response.text());
    LIMIT - number(&response, "remaining-tokens") - number(&response, "consumed-tokens")
}

#[tokio::test]
async fn what_a_response_states_is_believed_without_a_content_type_but_not_when_it_is_absurd() {
    let body = |prompt: &str| {
        format!(r#"{{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":45}}}}"#)
    };
    assert_eq!(charged("", &body("321")).await, 366);
    let json = "content-type: application/json\r\n";
    assert_eq!(charged(json, &body("321")).await, 366);
    for absurd in ["1e30", "16777217"] {
        let estimated = charged(json, &body(absurd)).await;
        assert!((501..=530).contains(&estimated), "{absurd}: {estimated}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_while_it_is_held_fails_over_and_costs_nothing() {
    let broken = RawBackend::start(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{\"choices\":",
    )
    .await;
    let gateway = start(&HEADERS, broken.port()).await;
    let mut left = LIMIT;
    for asked in 1..=3 {
        let response = gateway.client.post(CHAT, &chat_body()).await;
        assert_eq!((response.status, response.served_by()), (200, "second"), "{}", response.text());
        assert!(response.complete);
        assert_eq!(response.header("x-spillway-trail"), Some("first;reset, second;200"));
        let used = response.json()["usage"]["total_tokens"].as_u64().unwrap();
        left -= used;
        assert_eq!(response.header("consumed-tokens"), Some(&*used.to_string()));
        assert_eq!(response.header("remaining-tokens"), Some(&*left.to_string()));
        assert_eq!(broken.requests(), asked);
    }
}
