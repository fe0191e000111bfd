//! What a request reserved is settled to what it used, exactly once, however it ended.
//!
//! A budget cannot be seen from outside, but what it admits can: a bucket into which this many requests
//! fit by what they use, and far fewer (or more) by what they were expected to use. And one of a single
//! token admits nothing while anything at all is counted. A limit of tokens per minute gives nothing
//! back that was used by less than expected, because Azure does not.

use crate::harness::{Asking, CHAT, Gateway, Response, Setup, eventually, forgetful};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use mock_azure::{ErrorShape, Fault};
use serde_json::{Value, json};
use std::time::Duration;

/// What every completion has.
const COMPLETION_TOKENS: u64 = 60;
/// What the mock counts for `Say hello.`
const PROMPT_TOKENS: u64 = 3;
/// The maximum that requests name, and do not use.
const MAX_TOKENS: u64 = 500;
/// What the prompt may be estimated at.
const ESTIMATED_PROMPT_TOKENS: std::ops::Range<u64> = 3..20;
const REQUESTS: u64 = 12;

/// A backend with these keys, and one for what does not fit.
fn first_with(mut keys: Value) -> Setup {
    let chatty = |mut mock: mock_azure::MockConfig| {
        mock.completion_tokens = COMPLETION_TOKENS;
        mock
    };
    keys["priority"] = json!(1);
    Setup::new()
        .backend_with("first", keys, chatty)
        .backend_with("second", json!({"priority": 2}), chatty)
        .pool(forgetful())
}

/// A backend whose bucket holds this many tokens, of which one drains in a second.
fn bucket(burst_tokens: u64) -> Setup {
    first_with(json!({"provisioned": {
        "ptus": 1,
        "input_tokens_per_minute_per_ptu": 60,
        "output_token_weight": 1,
        "burst_tokens": burst_tokens
    }}))
}

fn chat(max_tokens: u64) -> Value {
    json!({
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": max_tokens
    })
}

fn with(mut body: Value, key: &str, value: Value) -> Value {
    body[key] = value;
    body
}

/// A bucket into which exactly [`REQUESTS`] fit when each uses `used`: it is full at 98 %.
fn bucket_for(used: u64) -> Setup {
    bucket((2 * REQUESTS - 1) * used / 2 * 100 / 98)
}

/// A limit of tokens per minute into which exactly [`REQUESTS`] fit when each counts `counted`.
fn limit_for(counted: std::ops::Range<u64>) -> Setup {
    let (least, most) = (REQUESTS * counted.end, (REQUESTS + 1) * counted.start);
    assert!(least < most, "{least} to {most}: too rough to show anything");
    first_with(json!({"limits": {"tokens_per_minute": u64::midpoint(least, most)}}))
}

/// How many of these requests, one after the other, the first backend serves in a row.
async fn fitting(gateway: &Gateway, path: &str, body: &Value) -> u64 {
    for served in 0..5 * REQUESTS {
        let response = gateway.client.post(path, body).await;
        assert_eq!((response.status, response.complete), (200, true), "{}", response.text());
        if response.served_by() == "second" {
            let trail = response.header("x-spillway-trail").unwrap();
            assert!(trail.starts_with("first;skip=budget;budget="), "{trail}");
            return served;
        }
    }
    panic!("it never ends: {path} {body}");
}

fn reserved(max_tokens: u64) -> std::ops::Range<u64> {
    ESTIMATED_PROMPT_TOKENS.start + max_tokens..ESTIMATED_PROMPT_TOKENS.end + max_tokens
}

#[tokio::test]
async fn what_was_reserved_too_much_of_provisioned_throughput_is_given_back() {
    let streamed = with(chat(MAX_TOKENS), "stream", json!(true));
    let asking = with(streamed.clone(), "stream_options", json!({"include_usage": true}));
    let response =
        json!({"model": "gpt-4o", "input": "Say hello.", "max_output_tokens": MAX_TOKENS});
    let completion = json!({"model": "gpt-4o", "prompt": "Say hello.", "max_tokens": MAX_TOKENS});
    let cases = [
        (CHAT, chat(MAX_TOKENS)),
        (CHAT, asking),
        (CHAT, streamed),
        ("/v1/completions", completion.clone()),
        ("/v1/completions", with(completion, "stream", json!(true))),
        ("/v1/responses", response.clone()),
        ("/v1/responses", with(response, "stream", json!(true))),
    ];
    let used = PROMPT_TOKENS + COMPLETION_TOKENS;
    for (path, body) in cases {
        let gateway = bucket_for(used).start().await;
        assert_eq!(fitting(&gateway, path, &body).await, REQUESTS, "{path} {body}");
    }
}

#[tokio::test]
async fn a_limit_of_tokens_per_minute_gives_back_nothing_of_what_was_served_or_lost() {
    let gateway = limit_for(reserved(MAX_TOKENS)).start().await;
    let fault = Fault::status(500);
    gateway.mock("first").push_fault(fault);
    assert_eq!(gateway.client.post(CHAT, &chat(MAX_TOKENS)).await.served_by(), "second");
    gateway.mock("first").push_fault(Fault::throttle(1));
    assert_eq!(gateway.client.post(CHAT, &chat(MAX_TOKENS)).await.served_by(), "second");
    // The first one counts, the refused one does not.
    assert_eq!(fitting(&gateway, CHAT, &chat(MAX_TOKENS)).await, REQUESTS - 1);
}

#[tokio::test]
async fn what_was_reserved_too_little_is_added() {
    // Two hundred texts of one letter are two hundred tokens, but have the bytes of fifty.
    let used = 200;
    let body = json!({"model": "gpt-4o", "input": vec!["a"; 200]});
    for limited in [bucket_for(used), limit_for(used..used + 1)] {
        let gateway = limited.start().await;
        assert_eq!(fitting(&gateway, "/v1/embeddings", &body).await, REQUESTS);
    }
}

#[tokio::test]
async fn a_stream_that_states_no_usage_is_settled_by_its_events() {
    // This version of the API cannot be asked for the usage.
    let path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01";
    let body = with(chat(MAX_TOKENS), "stream", json!(true));
    let used = ESTIMATED_PROMPT_TOKENS.end / 2 + COMPLETION_TOKENS;
    let gateway = bucket_for(used).start().await;
    assert_eq!(fitting(&gateway, path, &body).await, REQUESTS);
    assert!(!gateway.records("first")[0].body.windows(6).any(|part| part == b"_usage"));
}

/// Larger than any bucket here.
const WHOLE: u64 = 1_000_000;

fn whole(asking: Asking) -> (&'static str, Value) {
    match asking {
        Asking::Chat => (CHAT, chat(WHOLE)),
        Asking::ChatStream => (CHAT, with(chat(WHOLE), "stream", json!(true))),
        Asking::ResponsesStream => (
            asking.path(),
            json!({"model": "gpt-4o", "input": "Hi", "max_output_tokens": WHOLE, "stream": true}),
        ),
    }
}

async fn send_whole(gateway: &Gateway, asking: Asking) -> Response {
    let (path, body) = whole(asking);
    gateway.client.post(path, &body).await
}

#[tokio::test]
async fn a_request_that_brought_no_tokens_gives_all_back() {
    let gateway = bucket(1)
        .settings(|settings| settings.per_try_idle_timeout = Duration::from_millis(300))
        .start()
        .await;
    let status = Fault::status;
    let first_event = |shape, code: &str| Fault::ErrorFirstEvent { shape, code: code.to_owned() };
    let cases = [
        (Asking::Chat, status(500), 200),
        (Asking::Chat, status(503), 200),
        (Asking::Chat, status(400), 400),
        (Asking::Chat, Fault::ContentFilter400, 400),
        (Asking::ChatStream, Fault::ContentFilter400, 400),
        (Asking::Chat, Fault::throttle(1), 200),
        (Asking::Chat, Fault::ResetBeforeHeaders, 200),
        (Asking::ChatStream, Fault::CloseBeforeHeaders, 200),
        (Asking::ChatStream, Fault::EmptyStream, 200),
        (Asking::ChatStream, Fault::StallMidStream { after_events: 1 }, 200),
        (Asking::ChatStream, first_event(ErrorShape::Chat, "server_error"), 200),
        (Asking::ResponsesStream, first_event(ErrorShape::ResponseFailed, "server_error"), 200),
        (Asking::ChatStream, Fault::InBandThrottle { retry_after_ms: 1 }, 200),
        (Asking::ResponsesStream, Fault::InBandThrottle { retry_after_ms: 1 }, 200),
    ];
    for (asked, (asking, fault, expected)) in (1..).zip(cases) {
        gateway.mock("first").push_fault(fault.clone());
        let response = send_whole(&gateway, asking).await;
        let trail = response.header("x-spillway-trail").unwrap().to_owned();
        assert_eq!(response.status, expected, "{fault:?}: {trail}");
        assert_eq!(gateway.counts()[0], asked, "{fault:?}: {trail}");
    }
    // Successes are counted, so the table could have failed.
    assert_eq!(send_whole(&gateway, Asking::Chat).await.served_by(), "first");
    assert_eq!(send_whole(&gateway, Asking::Chat).await.served_by(), "second");
}

#[tokio::test]
async fn a_client_that_leaves_before_a_response_came_gives_all_back() {
    let gateway = bucket(1).start().await;
    for (cancelled, asking) in (1..).zip([Asking::Chat, Asking::ChatStream]) {
        let fault = Fault::DelayFirstByte { delay: Duration::from_secs(60) };
        gateway.mock("first").push_fault(fault);
        let (path, body) = whole(asking);
        let arrived = gateway.mock("first").records_when(|records| {
            records.len() == cancelled
                && records.last().is_some_and(|record| record.fault.is_some())
        });
        tokio::select! {
            response = gateway.client.post(path, &body) => panic!("{response:?}"),
            _ = arrived => {}
        }
        until_outcome(&gateway, "cancelled", cancelled as u64).await;
    }
    assert_eq!(send_whole(&gateway, Asking::Chat).await.served_by(), "first");
}

async fn until_outcome(gateway: &Gateway, outcome: &str, count: u64) {
    let name =
        format!("wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome.{outcome}");
    eventually(&name, async || gateway.envoy.stat(&name).await == count).await;
}

/// How many tokens came before it ended.
const CAME: u64 = 30;
/// The content filter's event and the role's come before them.
const EVENTS: usize = 32;

/// Asserts that what is counted is about the prompt and [`CAME`] tokens, by the time until they are drained.
async fn assert_counted_by_output(gateway: &Gateway) {
    let response = gateway.client.post(CHAT, &chat(1)).await;
    assert_eq!(response.served_by(), "second");
    let trail = response.header("x-spillway-trail").unwrap();
    let (_, time) = trail.split_once(";budget=").unwrap();
    let (ms, _) = time.split_once("ms").unwrap();
    let tokens = ms.parse::<u64>().unwrap() / 1_000;
    // Some have drained since.
    let counted = CAME - 5..CAME + ESTIMATED_PROMPT_TOKENS.end;
    assert!(counted.contains(&tokens), "{trail}");
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_is_settled_by_what_came() {
    let gateway = bucket(1).start().await;
    gateway.mock("first").push_fault(Fault::StallMidStream { after_events: EVENTS });
    let (path, body) = whole(Asking::ChatStream);
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(body.to_string());
    let mut response = gateway.client.open(Method::POST, path, &headers, body).await.unwrap();
    let mut came = String::new();
    while !came.contains(&format!("\" {}\"", CAME - 4)) {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        came.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
    }
    drop(response);
    until_outcome(&gateway, "cancelled", 1).await;
    assert_counted_by_output(&gateway).await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_settled_by_what_came() {
    for fault in [
        Fault::ResetAfterHeaders { after_events: EVENTS },
        Fault::MidStreamError { after_events: EVENTS },
    ] {
        let gateway = bucket(1).start().await;
        gateway.mock("first").push_fault(fault);
        let response = send_whole(&gateway, Asking::ChatStream).await;
        assert_eq!(response.served_by(), "first");
        assert!(!response.text().contains("[DONE]"), "{}", response.text());
        until_outcome(&gateway, "fault", 1).await;
        assert_counted_by_output(&gateway).await;
    }
}
