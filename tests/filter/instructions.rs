//! Requests whose instructions `tools/instructions` counts: as many as `SPILLWAY_REQUESTS` says.
//! The difference between two counts is what a request costs, without start and warming up.

use crate::envoy::{Request, Script, worker};
use crate::host::Process;

/// Three equal backends, and a key to be sent.
const POOL: &str = r#"{"pools": [{"name": "gpt", "models": ["gpt"], "backends": [
    {"name": "a", "host": "a.example", "deployment": "x", "credential": {"api_key": {"env": "A_KEY"}}},
    {"name": "b", "host": "b.example", "deployment": "x", "credential": {"api_key": {"env": "B_KEY"}}},
    {"name": "c", "host": "c.example", "deployment": "x", "credential": {"api_key": {"env": "C_KEY"}}}
]}]}"#;

/// The same with limits that are out of reach.
const BUDGETS: &str = r#"{"consumers": {"header": "x-consumer", "default": {"tokens_per_minute": 1000000000}},
  "pools": [{"name": "gpt", "models": ["gpt"], "backends": [
    {"name": "a", "host": "a.example", "limits": {"tokens_per_minute": 1000000000}},
    {"name": "b", "host": "b.example", "limits": {"tokens_per_minute": 1000000000}},
    {"name": "c", "host": "c.example", "limits": {"tokens_per_minute": 1000000000}}
]}]}"#;

/// How many times that is done of which the instructions are counted.
fn times() -> usize {
    let times = std::env::var("SPILLWAY_REQUESTS").ok().and_then(|count| count.parse().ok());
    times.unwrap_or(3)
}

fn ask(name: &str, configuration: &str) {
    let process = Process::new(name);
    worker(&process, configuration, |envoy| {
        for _ in 0..times() {
            let answer = envoy.ask(Request::chat_v1().header("x-consumer", "team-a"));
            assert_eq!(answer.status(), 200, "{answer:?}");
            envoy.pass(1);
        }
    });
}

#[test]
fn small_requests() {
    ask("small", POOL);
}

#[test]
fn small_requests_with_budgets() {
    ask("budgets", BUDGETS);
}

/// One stream with so many events, each of which comes by itself.
fn stream(name: &str, configuration: &str, event: &str) {
    let process = Process::new(name);
    for backend in ["a", "b", "c"] {
        process.script(backend, [Script::events(&vec![event; times()])]);
    }
    let body = r#"{"model":"gpt","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    worker(&process, configuration, |envoy| {
        let answer = envoy.ask(Request::chat_v1().header("x-consumer", "team-a").body(body));
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().len(), event.len() * times());
    });
}

const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n";

/// As Azure writes it.
const AZURE_EVENT: &str = concat!(
    r#"data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}},"delta":{"content":" word"},"finish_reason":null,"index":0,"logprobs":null}],"created":1760000000,"id":"chatcmpl-CdEfGhIjKlMnOpQrStUvWxYz01234","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","obfuscation":"q2W","system_fingerprint":"fp_ee1d74bde0","usage":null}"#,
    "\n\n"
);

#[test]
fn events_of_a_stream() {
    stream("events", POOL, EVENT);
}

#[test]
fn events_of_a_stream_with_budgets() {
    stream("events with budgets", BUDGETS, EVENT);
}

#[test]
fn long_events_of_a_stream_with_budgets() {
    stream("long events with budgets", BUDGETS, AZURE_EVENT);
}
