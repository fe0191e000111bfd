//! Requests and answers that end with trailers, over HTTP/2 on both sides and as chunks of HTTP/1.1.

use crate::harness::raw::Connection;
use crate::harness::{CHAT, Gateway, Setup, chat_body};
use bytes::Bytes;
use hyper::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use testbed::bootstrap::protocol_options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
const JSON: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}"#;

/// What a backend received: headers, body, trailers.
type Received = Arc<Mutex<Vec<(HeaderMap, Vec<u8>, Option<HeaderMap>)>>>;

/// A backend that speaks HTTP/2 and ends every answer with trailers. The request's `x-answer` chooses
/// the response.
async fn backend() -> (u16, Received) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = Received::default();
    let all = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&all)));
        }
    });
    (port, received)
}

async fn serve(stream: TcpStream, received: Received) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                let _ = body.flow_control().release_capacity(part.len());
                bytes.extend_from_slice(&part);
            }
            let trailers = body.trailers().await.unwrap();
            let kind = head.headers.get("x-answer").map(|kind| kind.to_str().unwrap().to_owned());
            received.lock().unwrap().push((head.headers, bytes, trailers));
            let (status, content_type, body) = match kind.as_deref() {
                Some("stream") => (200, "text/event-stream", EVENT),
                Some("refusal") => (400, "application/json", r#"{"error":{"code":"mine"}}"#),
                _ => (200, "application/json", JSON),
            };
            let response =
                Response::builder().status(status).header("content-type", content_type).body(());
            let mut stream = respond.send_response(response.unwrap(), false).unwrap();
            stream.send_data(Bytes::from_static(body.as_bytes()), false).unwrap();
            let mut trailers = HeaderMap::new();
            for name in ["x-checksum", "x-envoy-ratelimited", "grpc-status"] {
                trailers.insert(name, "0".parse().unwrap());
            }
            let _ = stream.send_trailers(trailers);
        });
    }
}

/// Sends a request over HTTP/2 that ends with trailers.
async fn send(port: u16, body: &Value, kind: &str) -> (Response<()>, String, Option<HeaderMap>) {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::post(format!("http://gateway{CHAT}"))
        .header("content-type", "application/json")
        .header("te", "trailers")
        .header("x-answer", kind)
        .body(())
        .unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(Bytes::from(body.to_string()), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("api-key", "key-of-the-client".parse().unwrap());
    trailers.insert("x-checksum", "1".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        let _ = body.flow_control().release_capacity(part.len());
        bytes.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.unwrap();
    connection.abort();
    (Response::from_parts(head, ()), String::from_utf8(bytes).unwrap(), trailers)
}

async fn gateway(port: u16) -> Gateway {
    Setup::new()
        .backend("second", json!({"priority": 2}))
        .backend_elsewhere(
            "first",
            json!({"priority": 1, "provisioned": {"ptus": 50, "input_tokens_per_minute_per_ptu": 2500}}),
            port,
        )
        .pool(json!({"circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"}}]}}))
        .settings(|settings| settings.cluster("first", |cluster| cluster.http2 = true))
        .start()
        .await
}

#[tokio::test]
async fn trailers_over_http2_end_requests_and_responses_like_any_other_end() {
    let (port, received) = backend().await;
    let gateway = gateway(port).await;
    let kinds = [
        ("json", 200, JSON),
        ("stream", 200, EVENT),
        ("refusal", 400, r#"{"error":{"code":"mine"}}"#),
    ];
    for (kind, status, expected) in kinds.into_iter().cycle().take(6) {
        let mut body = chat_body();
        body["stream"] = json!(kind == "stream");
        let (head, text, trailers) = send(gateway.envoy.port, &body, kind).await;
        assert_eq!((head.status().as_u16(), &*text), (status, expected), "{kind}");
        assert_eq!(head.headers()["x-served-by"], "first", "{kind}");
        let trailers = trailers.unwrap();
        assert_eq!(trailers["x-checksum"], "0", "{kind}");
        assert!(!trailers.contains_key("x-envoy-ratelimited"), "{kind}: {trailers:?}");
    }
    let outcome = |name: &str| {
        format!("wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome.{name}")
    };
    assert_eq!(gateway.envoy.stat(&outcome("success")).await, 4);
    assert_eq!(gateway.envoy.stat(&outcome("fault")).await, 0);
    for (headers, body, trailers) in received.lock().unwrap().iter() {
        assert!(trailers.as_ref().is_none_or(HeaderMap::is_empty), "{trailers:?}");
        assert!(headers.contains_key("x-answer") && body.starts_with(b"{"));
    }
    // A malformed one is refused at its trailers.
    let (head, text, _) = send(gateway.envoy.port, &json!("no object"), "json").await;
    assert_eq!(head.status(), 400, "{text}");
}

/// Answers one request after the other with chunks and a trailer, each on a connection of its own.
async fn chunked_backend() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !is_complete(&request) {
                    match stream.read_buf(&mut request).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                }
                all.lock().unwrap().push(String::from_utf8(request).unwrap());
                let response = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     transfer-encoding: chunked\r\n\r\n{:x}\r\n{JSON}\r\n0\r\nx-checksum: 7\r\n\r\n",
                    JSON.len()
                );
                let _ = stream.write_all(response.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, received)
}

/// Whether a request with a chunked body is there.
fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    text.split_once("\r\n\r\n")
        .is_some_and(|(_, body)| body.contains("0\r\n") && body.ends_with("\r\n\r\n"))
}

#[tokio::test]
async fn trailers_of_chunks_end_requests_and_responses_like_any_other_end() {
    let (port, received) = chunked_backend().await;
    let gateway = Setup::new()
        .backend_elsewhere("first", json!({}), port)
        .adjust(|bootstrap| {
            let trailers = json!({"enable_trailers": true});
            bootstrap.manager()["http_protocol_options"] = trailers.clone();
            let options = protocol_options(&mut bootstrap.clusters()[0]);
            options["explicit_http_config"]["http_protocol_options"] = trailers;
        })
        .start()
        .await;
    for _ in 0..6 {
        let body = chat_body().to_string();
        let mut client = Connection::open(gateway.envoy.port).await;
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n\
             te: trailers\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
             {:x}\r\n{body}\r\n0\r\napi-key: key-of-the-client\r\n\r\n",
            body.len()
        );
        client.send(request.as_bytes()).await;
        let response = client.read_to_end().await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(response.contains(JSON) && response.contains("x-checksum: 7"), "{response}");
    }
    let received = received.lock().unwrap();
    assert_eq!(received.len(), 6);
    assert!(received.iter().all(|request| !request.contains("key-of-the-client")), "{received:?}");
}
