//! How much of a body crosses into the VM: only what the filter needs.

use crate::envoy::{Envoy, Request, worker};
use crate::failover::TWO_TIERS;
use crate::host::{Process, with};

/// A chat completion of a megabyte, in the parts in which it comes in.
fn large(before: &str, after: &str) -> Request {
    let prompt = "The overflow goes \\\"safely\\\" downstream.\\n".repeat(25_000);
    let whole =
        format!(r#"{{{before}"messages":[{{"role":"user","content":"{prompt}"}}]{after}}}"#);
    let parts: Vec<&str> = whole
        .as_bytes()
        .chunks(16 * 1024)
        .map(|part| std::str::from_utf8(part).expect("the body is ASCII"))
        .collect();
    Request::new("POST", "/v1/chat/completions").chunked(&parts)
}

/// How many slices of 64 KiB it has.
const SLICES: u32 = 17;

/// How often a part of a body crosses for `request`, which backend `a` must receive unchanged.
fn crossings(process: &Process, envoy: &mut Envoy, request: Request) -> u32 {
    let body = request.chunks.concat();
    with(|state| state.calls.clear());
    assert_eq!(envoy.ask(request).status(), 200, "{}", process.scenario);
    assert!(process.seen().last().is_some_and(|seen| seen.body == body), "{}", process.scenario);
    with(|state| state.calls.get("get_buffer").copied().unwrap_or(0))
}

#[test]
fn of_a_body_whose_model_is_known_the_service_tier_is_sought_where_clients_write_it() {
    let process = Process::new("deployment in the path");
    let below = |request: Request| {
        Request { headers: Request::chat().headers, ..request }.header("content-type", "text/plain")
    };
    worker(&process, TWO_TIERS, |envoy| {
        assert_eq!(crossings(&process, envoy, Request::chat()), 1);
        let malformed = Request::chat().body("{\"messages\":");
        assert_eq!(crossings(&process, envoy, malformed), 1, "it is the backend's to judge");
        assert_eq!(crossings(&process, envoy, below(large("", ""))), 2, "both ends");
        let tier = r#","service_tier":"default""#;
        let slices = crossings(&process, envoy, below(large("", tier)));
        assert!((SLICES + 2..=SLICES + 3).contains(&slices), "seen, then read: {slices}");
        let form = Request { headers: Request::chat().headers, ..large("", "") }
            .header(":path", "/openai/deployments/gpt/audio/transcriptions")
            .header("content-type", "multipart/form-data; boundary=b");
        assert_eq!(crossings(&process, envoy, form), 0, "a form asks for no tier");
    });
}

#[test]
fn a_glance_at_a_large_body_finds_its_model() {
    let process = Process::new("a megabyte");
    worker(&process, TWO_TIERS, |envoy| {
        let behind = large("", r#","model":"gpt","stream":false"#);
        assert_eq!(crossings(&process, envoy, behind), 2, "both ends");
        let before = large(r#""model":"gpt","#, "");
        assert_eq!(crossings(&process, envoy, before), 2, "both ends");
        let hidden = large(r#""tools":[],"model":"gpt","#, "");
        assert!(crossings(&process, envoy, hidden) > 16, "all of it");
    });
}

#[test]
fn a_large_body_that_names_no_model_is_read_and_refused() {
    let process = Process::new("no model");
    worker(&process, TWO_TIERS, |envoy| {
        let response = envoy.ask(large("", ""));
        assert_eq!(response.status(), 400, "{response:?}");
        assert!(response.text().contains("model"), "{response:?}");
        let response = envoy.ask(large("", r#","model":"unknown""#));
        assert_eq!(response.status(), 404, "{response:?}");
        assert!(process.seen().is_empty());
    });
}

#[test]
fn where_something_else_matters_all_of_the_body_is_read() {
    let limits = TWO_TIERS
        .replace(r#""priority""#, r#""limits": {"tokens_per_minute": 1000000000}, "priority""#);
    let prompts =
        TWO_TIERS.replacen(r#""priority""#, r#""max_prompt_tokens": 1000000, "priority""#, 1);
    let affinity =
        TWO_TIERS.replacen(r#""backends""#, r#""affinity": {"body": true}, "backends""#, 1);
    for configuration in [limits, prompts, affinity] {
        let process = Process::new(&configuration);
        worker(&process, &configuration, |envoy| {
            let behind = large("", r#","model":"gpt""#);
            assert!(crossings(&process, envoy, behind) > 16);
        });
    }
}
