//! Input that no correct client or backend sends: it gets a defined response, nothing else fails,
//! and the next request is served as usual.

use crate::harness::raw::{RawBackend, exchange};
use crate::harness::{CHAT, Gateway, Response, Setup};
use hyper::Method;
use mock_azure::{Ending, Fault};
use serde_json::json;
use std::time::Duration;

const CLASSIC: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";

async fn gateway() -> Gateway {
    Setup::new().backend("north", json!({"api": "azure_v1"})).start().await
}

async fn post(gateway: &Gateway, path: &str, body: impl Into<Vec<u8>>) -> Response {
    let headers = [("content-type", "application/json")];
    gateway.client.send(Method::POST, path, &headers, body.into().into()).await.unwrap()
}

/// A raw request after which the connection is closed.
fn request(line: &str, headers: &[u8], body: &[u8]) -> Vec<u8> {
    let start = format!("{line} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n");
    [start.as_bytes(), headers, b"\r\n", body].concat()
}

fn post_request(path: &str, headers: &[u8], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", body.len());
    request(&format!("POST {path}"), &[length.as_bytes(), headers].concat(), body)
}

const GOOD_BODY: &[u8] = br#"{"model":"gpt-4o","messages":[]}"#;

fn assert_error(response: &Response, status: u16, code: &str, case: &str) {
    assert_eq!(response.status, status, "{case}: {}", response.text());
    let error = &response.json()["error"];
    assert_eq!(error["code"], code, "{case}");
    assert_eq!(error.as_object().unwrap().len(), 4, "{case}: {error}");
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused_where_the_model_is_needed() {
    let gateway = gateway().await;
    let deep = [b"{\"a\":".repeat(1_000_000), b"[".repeat(1_000_000)].concat();
    let bodies: [(&str, Vec<u8>); 9] = [
        ("an open object", b"{".to_vec()),
        ("half a key", b"{\"mod".to_vec()),
        ("half a value", b"{\"model\":\"gpt-4o".to_vec()),
        ("a list", b"[{\"model\":\"gpt-4o\"}]".to_vec()),
        ("a text", b"\"gpt-4o\"".to_vec()),
        ("only spaces", b" \r\n\t ".to_vec()),
        ("bytes", (0..=255).collect()),
        ("half a byte order mark", b"\xef\xbb{}".to_vec()),
        ("a million open objects and lists", deep),
    ];
    for (case, body) in bodies {
        let response = post(&gateway, CHAT, body).await;
        assert_error(&response, 400, "malformed_body", case);
        gateway.assert_alive(case).await;
    }
    assert_eq!(gateway.counts(), [9], "only the requests that follow reached the backend");
}

#[tokio::test]
async fn a_body_that_names_no_usable_model_is_refused() {
    let gateway = gateway().await;
    for body in [
        "{}",
        r#"{"messages":[]}"#,
        r#"{"model":null}"#,
        r#"{"model":4}"#,
        r#"{"model":true}"#,
        r#"{"model":["gpt-4o"]}"#,
        r#"{"model":{"model":"gpt-4o"}}"#,
        r#"{"a":{"model":"gpt-4o"}}"#,
    ] {
        assert_error(&post(&gateway, CHAT, body).await, 400, "missing_required_parameter", body);
        gateway.assert_alive(body).await;
    }
}

#[tokio::test]
async fn an_empty_body_is_answered() {
    let gateway = gateway().await;
    let empty = post(&gateway, CHAT, "").await;
    assert_eq!(empty.status, 400, "{}", empty.text());
    assert!(empty.json()["error"]["message"].is_string());
    let response = exchange(gateway.envoy.port, &request(&format!("POST {CHAT}"), b"", b"")).await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    let chunked = request(&format!("POST {CHAT}"), b"transfer-encoding: chunked\r\n", b"0\r\n\r\n");
    let response = exchange(gateway.envoy.port, &chunked).await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    assert_eq!(gateway.counts(), [0]);
    gateway.assert_alive("empty bodies").await;
}

#[tokio::test]
async fn odd_json_that_names_a_model_is_passed_on_with_only_the_model_changed() {
    let gateway = gateway().await;
    let deep = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let bodies = [
        ("a byte order mark", "\u{feff}{\"model\":\"MODEL\"}".to_owned()),
        ("an escaped model", r#"{"model":"gpt-4o"}"#.replace("gpt-4o", "MODEL")),
        ("an escaped key", r#"{"mo\u0064el":"MODEL"}"#.to_owned()),
        ("numbers as texts", r#"{"max_tokens":"-12","n":"1e999","model":"MODEL"}"#.to_owned()),
        (
            "huge numbers",
            r#"{"max_tokens":1e999999,"n":-99999999999999999999,"model":"MODEL"}"#.to_owned(),
        ),
        (
            "wrong types",
            r#"{"stream":"yes","stream_options":7,"messages":{},"model":"MODEL"}"#.to_owned(),
        ),
        ("a lone surrogate", r#"{"messages":"\ud800","model":"MODEL"}"#.to_owned()),
        ("a million nested lists", format!("{{\"x\":{deep},\"model\":\"MODEL\"}}")),
    ];
    for (case, body) in bodies {
        gateway.mock("north").clear_records();
        let sent = body.replace("MODEL", "gpt-4o");
        let response = post(&gateway, CHAT, sent).await;
        assert_eq!(response.served_by(), "north", "{case}: {}", response.text());
        let record = gateway.records("north").remove(0);
        let expected = body.replace("MODEL", "gpt-4o-north");
        assert!(record.body == expected, "{case}: {}", String::from_utf8_lossy(&record.body));
        gateway.assert_alive(case).await;
    }
}

#[tokio::test]
async fn a_malformed_body_is_the_backends_to_judge_when_the_path_names_the_deployment() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    for body in ["{", "", "[]", "\u{0}"] {
        gateway.mock("north").clear_records();
        let response = post(&gateway, CLASSIC, body).await;
        assert_eq!(response.status, 400, "{body:?}: {}", response.text());
        assert_eq!(response.served_by(), "north", "{body:?}");
        assert_eq!(gateway.records("north")[0].body, body);
        gateway.assert_alive(body).await;
    }
}

#[tokio::test]
async fn header_bytes_that_are_not_utf_8_go_both_ways() {
    let response = b"HTTP/1.1 200 OK\r\nx-odd: \xff\xfe\x80\r\nretry-after: \xff\r\n\
        x-ratelimit-remaining-tokens: \xff\r\ncontent-type: text/plain; \xc3\r\n\
        content-length: 2\r\nconnection: close\r\n\r\nok";
    let backend = RawBackend::start(response.as_slice()).await;
    let gateway = Setup::new()
        .backend("north", json!({}))
        .backend_elsewhere("odd", json!({}), backend.port())
        .start()
        .await;
    let headers = b"x-odd: \xff\xfe\x80\r\nauthorization: \xff\r\napi-key: \xfe\r\n\
        content-type: application/json\xff\r\nx-envoy-odd: \xff\r\n";
    for _ in 0..2 {
        let post = post_request(CHAT, headers, GOOD_BODY);
        let response = exchange(gateway.envoy.port, &post).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    }
    assert_eq!((backend.requests(), gateway.counts()), (1, vec![1]));
    let record = gateway.records("north").remove(0);
    let odd = record.headers.iter().find(|(name, _)| name == "x-odd").unwrap();
    assert_eq!(odd.1, b"\xff\xfe\x80");
    assert_eq!(record.header("authorization"), None);
    assert!(!record.headers.iter().any(|(name, _)| name.starts_with("x-envoy-odd")));
    gateway.assert_alive("odd header bytes").await;

    // A refusal whose time cannot be read closes the gate for the default time.
    let refusal = b"HTTP/1.1 429 \xff\r\nretry-after: \xff\xfe\r\nretry-after-ms: -\xff\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    let backend = RawBackend::start(refusal.as_slice()).await;
    let gateway = Setup::new()
        .backend("north", json!({"priority": 2}))
        .backend_elsewhere("odd", json!({"priority": 1}), backend.port())
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(gateway.chat().await.served_by(), "north");
    }
    assert_eq!(backend.requests(), 1);
    gateway.assert_alive("an odd refusal").await;
}

#[tokio::test]
async fn path_bytes_that_are_not_utf_8_are_escaped_or_refused() {
    let gateway = gateway().await;
    for path in [&b"/v1/files/\xff\xfe?x=\xff"[..], b"/\xff", b"/v1/\x80"] {
        let line = [b"GET ", path, b" HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n"].concat();
        let response = exchange(gateway.envoy.port, &line).await;
        assert!(response.starts_with("HTTP/1.1 4"), "{response}");
        gateway.assert_alive("an odd path").await;
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_in_the_shape_of_the_api() {
    let gateway = Setup::new()
        .backend("north", json!({}))
        .settings(|settings| settings.body_limit_bytes = 512 * 1024)
        .start()
        .await;
    let large = json!({"model": "gpt-4o", "messages": [
        {"role": "user", "content": "x".repeat(2 * 1024 * 1024)}
    ]});
    for path in [CHAT, CLASSIC] {
        let response = gateway.client.post(path, &large).await;
        assert_eq!(response.status, 413, "{}", response.text());
        assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(response.json()["error"]["type"], "invalid_request_error", "{path}");
        gateway.assert_alive("a large body").await;
    }
    assert_eq!(gateway.counts(), [2]);
}

#[tokio::test]
async fn a_chunked_body_without_a_length_is_rewritten() {
    let gateway = gateway().await;
    let (first, second) = GOOD_BODY.split_at(12);
    let mut body = format!("{:x}\r\n", first.len()).into_bytes();
    body.extend_from_slice(first);
    body.extend_from_slice(format!("\r\n{:x};extension=1\r\n", second.len()).as_bytes());
    body.extend_from_slice(second);
    body.extend_from_slice(b"\r\n0\r\nx-trailer: 1\r\n\r\n");
    let chunked = request(&format!("POST {CHAT}"), b"transfer-encoding: chunked\r\n", &body);
    let response = exchange(gateway.envoy.port, &chunked).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let record = gateway.records("north").remove(0);
    assert_eq!(record.body, r#"{"model":"gpt-4o-north","messages":[]}"#);
    gateway.assert_alive("a chunked body").await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_served() {
    let gateway = gateway().await;
    let mut connection = crate::harness::raw::Connection::open(gateway.envoy.port).await;
    let head = format!("expect: 100-continue\r\ncontent-length: {}\r\n", GOOD_BODY.len());
    connection.send(&request(&format!("POST {CHAT}"), head.as_bytes(), b"")).await;
    assert!(connection.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    connection.send(GOOD_BODY).await;
    let response = connection.read_to_end().await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    gateway.assert_alive("100-continue").await;
}

#[tokio::test]
async fn paths_that_are_not_of_the_api_are_not_found_and_reach_no_backend() {
    let gateway = gateway().await;
    let long = format!("/{}", "x".repeat(5_000));
    for path in [
        "/",
        "//",
        "/health",
        "/openai",
        "/v1",
        "/v1/",
        "/openai/v1/../../admin",
        "/openai/v1/%2e%2e/%2E./admin",
        "/v1/./files",
        "/?api-version=2024-10-21",
        &long,
    ] {
        for (method, body) in [(Method::GET, ""), (Method::POST, "{\"model\":\"gpt-4o\"}")] {
            let headers = [("content-type", "application/json")];
            let response = gateway.client.send(method, path, &headers, body.into()).await.unwrap();
            assert_error(&response, 404, "404", path);
        }
    }
    assert_eq!(gateway.counts(), [0]);
    gateway.assert_alive("unknown paths").await;
}

#[tokio::test]
async fn doubled_and_trailing_slashes_and_escapes_are_the_same_path() {
    let gateway = gateway().await;
    for path in [
        "//openai/v1/chat/completions",
        "/openai//v1///chat/completions/",
        "/v1/chat/completions/",
        "/openai/deployments/gpt%2D4o/chat/completions?api-version=2024-10-21",
        "/openai/deployments/%67pt-4o/chat/completions/?api-version=2024-10-21",
    ] {
        gateway.mock("north").clear_records();
        let response = post(&gateway, path, GOOD_BODY).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert_eq!(gateway.records("north")[0].path, "/openai/v1/chat/completions", "{path}");
    }
    let long = format!("/v1/responses/{}?{}", "y".repeat(5_000), "z".repeat(5_000));
    gateway.mock("north").clear_records();
    assert_eq!(gateway.client.get(&long, &[]).await.status, 404);
    assert_eq!(gateway.records("north")[0].path, format!("/openai{long}"));
    gateway.assert_alive("a long path").await;
}

#[tokio::test]
async fn other_methods_on_an_operation_are_not_found() {
    let gateway = gateway().await;
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let response = gateway.client.send(method.parse().unwrap(), CHAT, &[], "".into()).await;
        let response = response.unwrap();
        assert_eq!((response.status, response.served_by()), (404, ""), "{method}");
        gateway.assert_alive(method).await;
    }
}

#[tokio::test]
async fn a_client_cannot_take_a_backend_away_with_what_does_not_exist() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    let deployment = "/openai/deployments/gpt-4o";
    for (method, path) in [
        ("POST", format!("{deployment}/chat/completions?api-version=2")),
        ("POST", format!("{deployment}/images/variations?api-version=2024-10-21")),
        ("GET", "/v1/responses/nothing".to_owned()),
    ] {
        let headers = [("content-type", "application/json")];
        let response =
            gateway.client.send(method.parse().unwrap(), &path, &headers, GOOD_BODY.into()).await;
        let response = response.unwrap();
        assert_eq!(response.status, 404, "{method} {path}: {}", response.text());
        assert_eq!(response.served_by(), "north", "{method} {path}");
        gateway.assert_alive(&path).await;
    }
}

#[tokio::test]
async fn a_missing_deployment_is_known_whichever_api_version_the_client_chose() {
    let gateway = Setup::new()
        .backend("north", json!({"priority": 1, "deployment": "gone"}))
        .backend("south", json!({"priority": 2}))
        .start()
        .await;
    for _ in 0..2 {
        let response = post(&gateway, CLASSIC, GOOD_BODY).await;
        assert_eq!((response.status, response.served_by()), (200, "south"), "{}", response.text());
    }
    assert_eq!(gateway.counts(), [1, 2]);
}

#[tokio::test]
async fn whatever_a_backend_answers_instead_of_json_is_judged_by_its_status() {
    let gateway = Setup::tiers(["north", "south"])
        .pool(json!({"circuit_breaker": {"rules": [
            {"failure_condition": {"count": 100, "interval": "30s"}, "trip_duration": "1s"}
        ]}}))
        .start()
        .await;
    let html = "<html><body>\u{0}{\"error\":</body>".to_owned();
    let status = |status: u16| Fault::Status {
        status,
        headers: vec![("content-type".to_owned(), "text/html".to_owned())],
        body: Some(html.clone()),
    };
    // (the fault, who serves, with which status)
    for (fault, served_by, expected) in [
        (Fault::GarbageHtml, "north", 200),
        (status(502), "south", 200),
        (status(400), "north", 400),
        (Fault::GarbageBytes, "south", 200),
        (Fault::CloseBeforeHeaders, "south", 200),
        (Fault::EmptyStream, "south", 200),
    ] {
        for stream in [false, true] {
            if !stream && fault == Fault::EmptyStream {
                continue; // it waits for a stream
            }
            gateway.mock("north").push_fault(fault.clone());
            let response = if stream { gateway.chat_stream().await } else { gateway.chat().await };
            let case = format!("{fault:?}, stream: {stream}: {}", response.text());
            assert_eq!((response.served_by(), response.status), (served_by, expected), "{case}");
            gateway.assert_alive(&case).await;
        }
    }
}

#[tokio::test]
async fn half_an_event_ends_the_clients_stream_as_it_ended_at_the_backend() {
    for (ending, complete) in [(Ending::End, true), (Ending::Close, false), (Ending::Reset, false)]
    {
        let gateway = gateway().await;
        gateway.mock("north").push_fault(Fault::HalfEvent { after_events: 3, ending });
        let response = gateway.chat_stream().await;
        assert_eq!((response.status, response.complete), (200, complete), "{ending:?}");
        assert_eq!(gateway.counts(), [1], "after the first byte nothing is retried");
        assert!(!response.text().contains("[DONE]"));
        gateway.assert_alive("half an event").await;
    }
}

#[tokio::test]
async fn streams_of_nonsense_pass_and_do_no_harm() {
    let junk: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let bodies: [(&str, Vec<u8>); 5] = [
        ("bytes", junk.clone()),
        ("a line without an end", [b"data: ".as_slice(), &b"x".repeat(300_000)].concat()),
        ("a deep error", [b"data: ".as_slice(), &b"{\"error\":".repeat(100_000), b"\n\n"].concat()),
        ("line ends", b"\n\r\n\r".repeat(50_000)),
        ("an odd error", b"event: error\ndata: \xff\xfe{\n\n".to_vec()),
    ];
    for (case, body) in bodies {
        let head =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let backend = RawBackend::start([head.as_slice(), &body].concat()).await;
        let gateway = Setup::new()
            .backend("north", json!({"priority": 2}))
            .backend_elsewhere("odd", json!({"priority": 1}), backend.port())
            .start()
            .await;
        let response = gateway.chat_stream().await;
        assert_eq!(response.status, 200, "{case}");
        let expected = if case.contains("error") { "north" } else { "odd" };
        assert_eq!(response.served_by(), expected, "{case}");
        assert!(expected == "north" || response.body == body, "{case}");
        gateway.assert_alive(case).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_costs_nothing() {
    let gateway = gateway().await;
    for body in ["", "{\"model\":\"gpt-4o\",", "garb"] {
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-length: 1000\r\n\r\n{body}");
        let mut connection = crate::harness::raw::Connection::open(gateway.envoy.port).await;
        connection.send(head.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(10)).await; // so that some go away in mid-read
        drop(connection);
        gateway.assert_alive("half a body").await;
    }
}
