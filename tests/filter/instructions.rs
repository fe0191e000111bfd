//! Requests whose instructions `tools/instructions` counts: as many as `SPILLWAY_REQUESTS` says.
//! The difference between two counts is what a request costs, without start and warming up.

use crate::envoy::{Request, Script, worker};
use crate::host::{Process, Seen};

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

/// How often the measured request is repeated.
fn times() -> usize {
    let times = std::env::var("SPILLWAY_REQUESTS").ok().and_then(|count| count.parse().ok());
    times.unwrap_or(3)
}

/// The headers that the official Python SDK adds to those of every request.
const SDK: [(&str, &str); 12] = [
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate"),
    ("user-agent", "OpenAI/Python 2.6.1"),
    ("x-stainless-lang", "python"),
    ("x-stainless-package-version", "2.6.1"),
    ("x-stainless-os", "Linux"),
    ("x-stainless-arch", "x64"),
    ("x-stainless-runtime", "CPython"),
    ("x-stainless-runtime-version", "3.12.3"),
    ("x-stainless-async", "false"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-read-timeout", "600"),
];

/// The headers that Azure adds to those of every response.
const AZURE: [(&str, &str); 7] = [
    ("apim-request-id", "6c6a1b1e-7d5c-4d5e-9e0a-0f7d1f6f5a11"),
    ("x-request-id", "0a7a1d0e-3b0e-4c7e-8f1e-6e6f2f0d7c22"),
    ("x-ms-region", "Sweden Central"),
    ("x-ratelimit-remaining-requests", "9999"),
    ("x-ratelimit-remaining-tokens", "999900"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
    ("x-content-type-options", "nosniff"),
];

fn ask(name: &str, configuration: &str) {
    let process = Process::new(name);
    process.respond(|_: &Seen| {
        AZURE.into_iter().fold(Script::ok(), |script, (name, value)| script.header(name, value))
    });
    worker(&process, configuration, |envoy| {
        for _ in 0..times() {
            let request = Request::chat_v1().header("x-consumer", "team-a");
            let request = SDK.into_iter().fold(request, |it, (name, value)| it.header(name, value));
            let response = envoy.ask(request);
            assert_eq!(response.status(), 200, "{response:?}");
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

/// One stream with this many events, each of which comes by itself.
fn stream(name: &str, configuration: &str, event: &str) {
    let process = Process::new(name);
    for backend in ["a", "b", "c"] {
        process.script(backend, [Script::events(&vec![event; times()])]);
    }
    let body = r#"{"model":"gpt","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    worker(&process, configuration, |envoy| {
        let response = envoy.ask(Request::chat_v1().header("x-consumer", "team-a").body(body));
        assert_eq!(response.status(), 200);
        assert_eq!(response.text().len(), event.len() * times());
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
