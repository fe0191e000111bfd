//! What the gateway asks a stream for on its own behalf is taken out again, to the byte, and what it
//! learned is told to Envoy.

use crate::harness::raw::RawBackend;
use crate::harness::{
    CHAT, Client, Gateway, Response, Setup, chat_body, deployment_of, eventually,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use mock_azure::Fault;
use serde_json::{Value, json};
use std::time::Duration;

const STREAMING: &str = r#""stream":true"#;
const ASKED: &str = r#""stream_options":{"include_usage":true}"#;
const ENDLESS: u64 = 1_000_000_000;

/// One backend whose tokens are counted.
fn metered() -> Setup {
    Setup::new().backend("first", json!({"limits": {"tokens_per_minute": ENDLESS}}))
}

/// The body of a chat with these members at its end.
fn body(members: &str) -> String {
    let messages = r#""messages":[{"role":"user","content":"Say hello."}]"#;
    format!(r#"{{"model":"gpt-4o",{messages},{members}}}"#)
}

async fn send(gateway: &Gateway, path: &str, body: &str) -> Response {
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(body.to_owned());
    let response = gateway.client.send(Method::POST, path, &headers, body).await.unwrap();
    assert_eq!((response.status, response.complete), (200, true), "{}", response.text());
    response
}

/// What the backend itself answers when it is asked for the usage, its usage chunk apart.
async fn direct(gateway: &Gateway, members: &str) -> (Vec<String>, String) {
    let client = Client::new(gateway.mock("first").port());
    let deployment = deployment_of("first");
    let path = format!("/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21");
    let key = crate::harness::key_of("first");
    let headers = [("content-type", "application/json"), ("api-key", &key)];
    let body = Bytes::from(body(members));
    let response = client.send(Method::POST, &path, &headers, body).await.unwrap();
    let mut events = events(&response);
    let usage = events.iter().position(|event| is_usage_chunk(event)).unwrap();
    let usage = events.remove(usage);
    (events, usage)
}

/// The events with what differs each time made equal.
fn events(response: &Response) -> Vec<String> {
    let text = response.text();
    assert!(text.ends_with("\n\n"), "{text}");
    text.split_inclusive("\n\n").map(without_ids).collect()
}

fn without_ids(event: &str) -> String {
    let event = cut_after(event, r#""id":"chatcmpl-"#, '"');
    cut_after(&cut_after(&event, r#""id":"cmpl-"#, '"'), r#""created":"#, ',')
}

/// Leaves out what is between `start` and `end`.
fn cut_after(text: &str, start: &str, end: char) -> String {
    let Some((before, after)) = text.split_once(start) else { return text.to_owned() };
    let rest = &after[after.find(end).unwrap()..];
    format!("{before}{start}{rest}")
}

fn is_usage_chunk(event: &str) -> bool {
    event.contains(r#""choices":[]"#) && event.contains(r#""usage":{"#)
}

fn received(gateway: &Gateway) -> Value {
    serde_json::from_slice(&gateway.records("first").last().unwrap().body).unwrap()
}

#[tokio::test]
async fn the_usage_is_asked_for_and_the_client_does_not_see_it() {
    let gateway = metered().start().await;
    let members = format!("{STREAMING},{ASKED}");
    let (expected, _) = direct(&gateway, &members).await;
    assert!(expected.len() > 16, "{expected:?}");
    for options in [
        None,
        Some("null"),
        Some("{}"),
        Some("{ }"),
        Some(r#"{"include_usage":false}"#),
        Some(r#"{"include_usage": null}"#),
        Some(r#"{"include_obfuscation":false}"#),
    ] {
        let members = options.map_or_else(
            || STREAMING.to_owned(),
            |options| format!(r#"{STREAMING},"stream_options": {options}"#),
        );
        let response = send(&gateway, CHAT, &body(&members)).await;
        assert_eq!(events(&response), expected, "{members}");
        let received = received(&gateway);
        let mut asked: Value = serde_json::from_str(&body(&members)).unwrap();
        if !asked["stream_options"].is_object() {
            asked["stream_options"] = json!({});
        }
        asked["stream_options"]["include_usage"] = json!(true);
        assert_eq!(received, asked, "{members}");
    }
}

#[tokio::test]
async fn legacy_completions_are_asked_for_their_usage_too() {
    let gateway = metered().start().await;
    let body = r#"{"model":"gpt-4o","prompt":"Say hello.","stream":true}"#;
    let response = send(&gateway, "/v1/completions", body).await;
    assert_eq!(received(&gateway)["stream_options"], json!({"include_usage": true}));
    assert!(!response.text().contains(r#""usage":{"#), "{}", response.text());
    assert!(response.text().ends_with("data: [DONE]\n\n"), "{}", response.text());
}

#[tokio::test]
async fn a_client_that_asked_sees_the_usage_once() {
    let gateway = metered().start().await;
    let members = format!("{STREAMING},{ASKED}");
    let (mut expected, usage) = direct(&gateway, &members).await;
    expected.insert(expected.len() - 1, usage);
    let response = send(&gateway, CHAT, &body(&members)).await;
    assert_eq!(events(&response), expected);
    assert_eq!(gateway.records("first").last().unwrap().body, body(&members));
}

#[tokio::test]
async fn who_must_not_be_asked_is_not() {
    let gateway = metered().start().await;
    let old = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01";
    let responses = r#"{"model":"gpt-4o","input":"Say hello.","stream":true}"#;
    for (path, body) in [
        (old, body(STREAMING)),
        (CHAT, body(r#""stream":false"#)),
        ("/v1/responses", responses.to_owned()),
    ] {
        let response = send(&gateway, path, &body).await;
        let expected = body.replace(r#""gpt-4o","input"#, r#""gpt-4o-first","input"#);
        assert_eq!(gateway.records("first").last().unwrap().body, expected, "{path}");
        assert!(!response.text().is_empty());
    }
    let recent = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-09-01-preview";
    send(&gateway, recent, &body(STREAMING)).await;
    assert_eq!(received(&gateway)["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn where_nothing_is_counted_nothing_is_asked() {
    let gateway = Setup::new().backend("first", json!({})).start().await;
    let response = send(&gateway, CHAT, &body(STREAMING)).await;
    assert_eq!(gateway.records("first")[0].body, body(STREAMING));
    assert!(!response.text().contains("usage"), "{}", response.text());
}

/// A stream as Azure sends it, with a comment and other line ends in between.
const STREAM: &str = concat!(
    "data: {\"id\":\"\",\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n",
    ": a comment\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{}\"}}],\"usage\":null}\r\n\r\n",
    "data: {\"choices\":[{\"delta\":{}}],\"usage\":null}\n\n",
    "|data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9,\"total_tokens\":12}}\n\n|",
    "data: [DONE]\n\n",
);

#[tokio::test]
async fn however_a_stream_is_cut_only_the_usage_chunk_goes() {
    for piece in [1, 7, 61, STREAM.len()] {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let stream = STREAM.replace('|', "");
        let raw = RawBackend::start_in_pieces(format!("{head}{stream}"), piece).await;
        let gateway = Setup::new()
            .backend_elsewhere("raw", json!({"limits": {"tokens_per_minute": ENDLESS}}), raw.port())
            .settings(|settings| settings.access_log = LOG.to_vec())
            .start()
            .await;
        let response = send(&gateway, CHAT, &body(STREAMING)).await;
        let parts: Vec<&str> = STREAM.split('|').collect();
        assert_eq!(response.text(), [parts[0], parts[2]].concat(), "pieces of {piece}");
        let response = send(&gateway, CHAT, &body(&format!("{STREAMING},{ASKED}"))).await;
        assert_eq!(response.text(), stream, "pieces of {piece}");
        for line in logged(&gateway, 2).await {
            assert_eq!(line["total"], "12", "pieces of {piece}: {line}");
        }
    }
}

#[tokio::test]
async fn json_is_read_under_whatever_name_it_comes() {
    let usage = r#"{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}"#;
    let json = format!(r#"{{"object":"chat.completion","choices":[],"usage":{usage}}}"#);
    for name in [
        "content-type: application/json\r\n",
        "content-type: text/json\r\n",
        "content-type: application/vnd.api+json; charset=utf-8\r\n",
        "content-type: application/problem+json\r\n",
        "content-type: text/plain; charset=utf-8\r\n",
        "content-type: application/octet-stream\r\n",
        "",
    ] {
        let length = json.len();
        let head =
            format!("HTTP/1.1 200 OK\r\n{name}connection: close\r\ncontent-length: {length}");
        let raw = RawBackend::start(format!("{head}\r\n\r\n{json}")).await;
        let gateway = Setup::new()
            .backend_elsewhere("raw", json!({"limits": {"tokens_per_minute": ENDLESS}}), raw.port())
            .settings(|settings| settings.access_log = LOG.to_vec())
            .start()
            .await;
        let response = send(&gateway, CHAT, &body(r#""max_tokens":77"#)).await;
        assert_eq!(response.text(), json, "{name}");
        assert_eq!(logged(&gateway, 1).await[0]["total"], "12", "{name}");
    }
}

#[tokio::test]
async fn a_preamble_that_is_held_for_long_is_neither_lost_nor_doubled() {
    let gateway = Setup::new()
        .backend_with("first", json!({"limits": {"tokens_per_minute": ENDLESS}}), |mut mock| {
            mock.completion_tokens = 3;
            mock.with_latency(Duration::ZERO, Duration::from_millis(250))
        })
        .pool(json!({"failover": {"hold": {"time": "100ms"}}}))
        .start()
        .await;
    let asked = format!("{STREAMING},{ASKED}");
    let (expected, usage) = direct(&gateway, &asked).await;
    let response = send(&gateway, CHAT, &body(STREAMING)).await;
    assert_eq!(events(&response), expected);
    let response = send(&gateway, CHAT, &body(&asked)).await;
    let seen: Vec<String> =
        events(&response).into_iter().filter(|event| !is_usage_chunk(event)).collect();
    assert_eq!(seen, expected);
    assert!(response.text().contains(&usage[usage.find("\"usage\"").unwrap()..]));
}

#[tokio::test]
async fn a_preamble_before_a_silence_is_let_go_after_the_hold_time() {
    let gateway = metered()
        .pool(json!({"failover": {"hold": {"time": "200ms"}}}))
        .settings(|settings| settings.per_try_timeout = Duration::from_secs(2))
        .start()
        .await;
    gateway.mock("first").push_fault(Fault::StallMidStream { after_events: 1 });
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(body(STREAMING));
    let mut response = gateway.client.open(Method::POST, CHAT, &headers, body).await.unwrap();
    assert_eq!(response.status(), 200);
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    let came = String::from_utf8_lossy(frame.data_ref().unwrap()).into_owned();
    assert!(came.contains("prompt_filter_results"), "{came}");
}

/// What an operator would log.
const LOG: [(&str, &str); 7] = [
    ("prompt", "%FILTER_STATE(wasm.spillway.prompt_tokens:PLAIN)%"),
    ("completion", "%FILTER_STATE(wasm.spillway.completion_tokens:PLAIN)%"),
    ("total", "%FILTER_STATE(wasm.spillway.total_tokens:PLAIN)%"),
    ("backend", "%FILTER_STATE(wasm.spillway.backend:PLAIN)%"),
    ("pool", "%FILTER_STATE(wasm.spillway.pool:PLAIN)%"),
    ("consumer", "%FILTER_STATE(wasm.spillway.consumer:PLAIN)%"),
    ("addend", "%FILTER_STATE(envoy.ratelimit.hits_addend:PLAIN)%"),
];

/// The access log once it has this many lines.
async fn logged(gateway: &Gateway, lines: usize) -> Vec<Value> {
    eventually("it is logged", async || gateway.envoy.access_log().len() >= lines).await;
    gateway.envoy.access_log()
}

fn logging() -> Setup {
    Setup::new()
        .backend("first", json!({"limits": {"tokens_per_minute": ENDLESS}}))
        .whole(json!({"consumers": {"header": "x-consumer"}}))
        .settings(|settings| settings.access_log = LOG.to_vec())
}

#[tokio::test]
async fn access_logs_can_show_who_used_what_where() {
    let gateway = logging().start().await;
    let mut streamed = chat_body();
    streamed["stream"] = json!(true);
    let response = json!({"model": "gpt-4o", "input": "Say hello.", "stream": true});
    let embedding = json!({"model": "gpt-4o", "input": "Say hello."});
    let cases = [
        (CHAT, chat_body(), ["3", "16", "19"]),
        (CHAT, streamed, ["3", "16", "19"]),
        ("/v1/responses", response, ["3", "16", "19"]),
        ("/v1/embeddings", embedding, ["3", "0", "3"]),
    ];
    for (path, body, _) in &cases {
        let answer = gateway.client.post_with(path, &[("x-consumer", "alice")], body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let lines = logged(&gateway, cases.len()).await;
    for (line, (path, _, [prompt, completion, total])) in lines.iter().zip(cases) {
        let expected = json!({
            "prompt": prompt, "completion": completion, "total": total, "addend": total,
            "backend": "first", "pool": "gpt", "consumer": "alice"
        });
        assert_eq!(*line, expected, "{path}");
    }
}

#[tokio::test]
async fn access_logs_show_what_a_client_used_that_left() {
    let gateway = logging().start().await;
    gateway.mock("first").push_fault(Fault::StallMidStream { after_events: 7 });
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(body(STREAMING));
    let mut response = gateway.client.open(Method::POST, CHAT, &headers, body).await.unwrap();
    let mut came = String::new();
    while came.matches("data: ").count() < 7 {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        came.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
    }
    drop(response);
    let line = logged(&gateway, 1).await.remove(0);
    assert_eq!((&line["completion"], &line["backend"]), (&json!("5"), &json!("first")), "{line}");
}

#[tokio::test]
async fn access_logs_show_what_a_stream_took_that_broke() {
    let gateway = logging().start().await;
    gateway.mock("first").push_fault(Fault::ResetAfterHeaders { after_events: 7 });
    assert!(!gateway.chat_stream().await.complete);
    let line = logged(&gateway, 1).await.remove(0);
    assert_eq!((&line["completion"], &line["backend"]), (&json!("5"), &json!("first")), "{line}");
}
