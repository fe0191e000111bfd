//! Responses that are held because headers state their cost: what they cost when they do not reach the
//! client.

use crate::envoy::{Request, Script, worker};
use crate::host::Process;
use crate::usage::{first_estimate, used};

const LIMIT: u32 = 1_000_000_000;

/// What the responses state.
const STATED: u64 = 366;
const USAGE: &str =
    r#"{"usage":{"prompt_tokens":321,"completion_tokens":45,"total_tokens":366},"choices":["#;

/// A pool with limits and a consumer with as many tokens; `headers` are its keys for response headers.
fn settings(headers: &str) -> String {
    format!(
        r#"{{"consumers": {{"header": "x-consumer", "default": {{"tokens_per_minute": {LIMIT}}}{headers}}},
        "pools": [{{"name": "gpt", "backends": [
            {{"name": "a", "host": "a.example", "priority": 1, "limits": {{"tokens_per_minute": {LIMIT}}}}},
            {{"name": "b", "host": "b.example", "priority": 2, "limits": {{"tokens_per_minute": {LIMIT}}}}}],
            "circuit_breaker": {{"rules": []}}}}]}}"#
    )
}

/// It names maxima and has images, so that the filter learns nothing.
fn chat() -> Request {
    const BODY: &str = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],"max_tokens":500}"#;
    Request::new("POST", "/openai/deployments/gpt/chat/completions?api-version=2024-10-21")
        .body(BODY)
        .header("x-consumer", "alice")
}

/// What backend `a` and the consumer were charged for a response of `body` that stalls there, when the
/// client then leaves.
fn charged_when_left(name: &str, headers: &str, body: &str) -> (u64, u64) {
    let process = Process::new(name);
    process.script("a", [Script::ok().body(body).then_stall()]);
    let charged = worker(&process, &settings(headers), |envoy| {
        let id = envoy.send(chat());
        envoy.pass(10);
        assert!(envoy.is_open(id), "{name}");
        envoy.cancel(id);
        used(&process, "a", LIMIT)
    });
    assert_eq!(process.metric("outcome.cancelled"), 1, "{name}");
    assert_eq!(process.metric("outcome.fault"), 0, "{name}");
    let consumer = worker(&process, &settings(r#","remaining_tokens_header": "on""#), |envoy| {
        let nothing = Script::status(400).body(r#"{"error":{}}"#);
        process.script("a", [nothing]);
        let left: u64 = envoy.ask(chat()).header("remaining-tokens").unwrap().parse().unwrap();
        u64::from(LIMIT) - left
    });
    (charged, consumer)
}

#[test]
fn a_client_that_leaves_while_its_response_is_held_is_charged_as_when_it_flows() {
    // A backend with a limit counts at least what was expected.
    let estimate = first_estimate(&chat()).total();
    for (body, expected) in [
        (USAGE, STATED),
        (r#"{"choices":["#, estimate),
        (r#"{"usage":{"prompt_tokens":32"#, estimate),
    ] {
        let flowing = charged_when_left(&format!("flowing {body}"), "", body);
        assert_eq!(flowing, (estimate, expected), "{body}");
        let on = r#","consumed_tokens_header": "on""#;
        let held = charged_when_left(&format!("held {body}"), on, body);
        assert_eq!(held, (estimate, expected), "{body}");
    }
}

#[test]
fn what_breaks_while_it_is_held_costs_the_consumer_nothing_also_when_the_client_leaves_the_next_backend()
 {
    let process = Process::new("broken, then left");
    process.script("a", [Script::ok().body(USAGE).then_reset()]);
    process.script("b", [Script::silence()]);
    let on = r#","consumed_tokens_header": "on", "remaining_tokens_header": "on""#;
    worker(&process, &settings(on), |envoy| {
        let id = envoy.send(chat());
        envoy.pass(10);
        envoy.cancel(id);
        let estimate = first_estimate(&chat()).total();
        let counted = ["a", "b"].map(|backend| used(&process, backend, LIMIT));
        assert_eq!(counted, [estimate; 2], "both got it");
        let response = envoy.ask(chat());
        assert_eq!(response.header("remaining-tokens"), {
            let taken: u64 = response.header("consumed-tokens").unwrap().parse().unwrap();
            Some((u64::from(LIMIT) - taken).to_string())
        });
    });
}
