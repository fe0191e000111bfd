//! Responses that stop in the middle: who is to blame, and how long a head is held.

use crate::harness::{CHAT, Gateway, Setup, chat_body, eventually, first_elsewhere};
use bytes::Bytes;
use hyper::Method;
use mock_azure::Fault;
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use testbed::Bootstrap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";

/// What a backend does after the head of its response.
#[derive(Clone)]
enum Then {
    /// Sends more than all buffers on the way can hold, and continues when they have room.
    Pours,
    /// Waits for this before the body.
    WaitsFor(Arc<Notify>),
}

async fn backend(then: Then) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let then = then.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if !matches!(stream.read(&mut request).await, Ok(1..)) {
                    return;
                }
                let _ = stream.write_all(HEAD.as_bytes()).await;
                match then {
                    Then::Pours => {
                        let events = EVENT.repeat(1_000);
                        for _ in 0..1_000 {
                            if stream.write_all(events.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                    Then::WaitsFor(sign) => {
                        sign.notified().await;
                        let _ = stream.write_all(EVENT.as_bytes()).await;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

fn setup(port: u16) -> Setup {
    first_elsewhere(port).pool(json!({
        "circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "60s"}}]},
        "failover": {"hold": {"time": "200ms"}}
    }))
}

/// Asks for a stream and returns when its head is there.
async fn open(gateway: &Gateway) -> hyper::Response<hyper::body::Incoming> {
    let mut body = chat_body();
    body["stream"] = json!(true);
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(body.to_string());
    gateway.another_client().open(Method::POST, CHAT, &headers, body).await.unwrap()
}

#[tokio::test]
async fn a_client_that_does_not_read_harms_no_backend() {
    let gateway = setup(backend(Then::Pours).await)
        .settings(|settings| {
            settings.per_try_idle_timeout = Duration::from_secs(4);
            settings.per_try_timeout = Duration::from_secs(20);
            settings.workers = 2
        })
        .start()
        .await;
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(open(&gateway).await);
    }
    eventually("Envoy's idle timer fires for all of them", async || {
        gateway.envoy.stat("cluster.first.upstream_rq_per_try_idle_timeout").await >= 3
    })
    .await;
    let response = open(&gateway).await;
    assert_eq!(response.headers()["x-served-by"], "first");
    let fault = "wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome.fault";
    assert_eq!(gateway.envoy.stat(fault).await, 0);
    drop(unread);
}

#[tokio::test]
async fn a_head_that_nothing_follows_is_let_go_after_the_hold_time() {
    let sign = Arc::new(Notify::new());
    let gateway = setup(backend(Then::WaitsFor(Arc::clone(&sign))).await).start().await;
    // The backend waits for the client to have the head.
    let response = open(&gateway).await;
    assert_eq!(response.headers()["x-served-by"], "first");
    sign.notify_one();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    assert_eq!(body.to_bytes(), EVENT);
}

#[tokio::test]
async fn a_stream_that_stalls_ends_after_the_idle_time() {
    let gateway = Setup::new()
        .backend("a", json!({}))
        .settings(|settings| settings.per_try_idle_timeout = Duration::from_secs(1))
        .start()
        .await;
    gateway.mock("a").push_fault(Fault::StallMidStream { after_events: 1 });
    let body = http_body_util::BodyExt::collect(open(&gateway).await.into_body());
    let ended = tokio::time::timeout(Duration::from_secs(20), body).await;
    assert!(ended.is_ok_and(|body| body.is_err()), "the client was left waiting");
}

#[tokio::test]
async fn a_limit_of_the_whole_request_is_not_held_against_the_backend_that_was_asked_last() {
    let gateway = Setup::tiers(["first", "second"])
        .settings(|settings| {
            settings.per_try_timeout = Duration::from_secs(2);
            settings.adjust = Some(Arc::new(|bootstrap: &mut Bootstrap| {
                bootstrap.manager()["stream_idle_timeout"] = json!("3s");
            }));
        })
        .start()
        .await;
    gateway.mock("first").push_fault(Fault::DelayFirstByte { delay: Duration::from_secs(30) });
    gateway
        .mock("second")
        .push_fault(Fault::DelayFirstByte { delay: Duration::from_millis(1_800) });
    let response = gateway.chat().await;
    assert!(response.status >= 500, "{}", response.text());
    let outcome = |outcome: &str| {
        format!("wasmcustom.spillway_attempts_total.pool.gpt.backend.second.outcome.{outcome}")
    };
    assert_eq!(gateway.envoy.stat(&outcome("fault")).await, 0);
    assert_eq!(gateway.envoy.stat(&outcome("cancelled")).await, 1);
}
