//! Who is to blame for a failure: a backend that another one contradicts, or one that nothing can be compared with.

use crate::envoy::{Envoy, Request, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::Process;

const RULE: &str = r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1}}]}"#;

fn not_found(code: &str) -> Script {
    Script::status(404).body(&format!(r#"{{"error":{{"code":"{code}","message":"none"}}}}"#))
}

fn open_until(process: &Process, backend: &str) -> u64 {
    process.metric(&format!("breaker_open_until_ms.pool.gpt.backend.{backend}"))
}

/// Asks once, with what the first and the second backend send, and returns whose breakers are open.
fn opened(scenario: &str, first: Script, second: Script) -> [bool; 2] {
    let process = Process::new(scenario);
    process.script("a", [first]);
    process.script("b", [second]);
    worker(&process, &two_tiers(RULE), |envoy| drop(envoy.ask(Request::chat())));
    ["a", "b"].map(|backend| open_until(&process, backend) != 0)
}

#[test]
fn a_backend_that_failed_what_another_served_is_to_blame() {
    for (script, name) in [
        (Script::status(503), "status"),
        (Script::reset(), "reset"),
        (Script::connect_failure(), "connect"),
        (Script::events(&["data: {\"error\":{\"code\":\"x\"}}\n\n"]), "stream"),
        (not_found("DeploymentNotFound"), "deployment"),
    ] {
        assert_eq!(opened(name, script, Script::ok()), [true, false], "{name}");
    }
}

#[test]
fn what_no_backend_could_serve_opens_nothing() {
    for (first, second, name) in [
        (Script::status(503), Script::status(500), "two statuses"),
        (Script::reset(), Script::reset(), "two resets"),
        (Script::status(500), Script::status(400), "a fault and a 400"),
        (Script::status(500), Script::status(404), "a fault and a 404"),
        (Script::status(401), Script::status(403), "two credentials"),
        (not_found("model_not_found"), not_found("model_not_found"), "two deployments"),
        (not_found("x"), Script::ok(), "an object that lives elsewhere"),
    ] {
        assert_eq!(opened(name, first, second), [false, false], "{name}");
    }
}

#[test]
fn a_fault_counts_when_the_other_backend_said_nothing_of_the_request() {
    let throttled = || Script::throttled(1_000);
    assert_eq!(opened("throttled", Script::status(503), throttled()), [true, false]);
    assert_eq!(opened("throttled first", throttled(), Script::status(503)), [false, true]);
    let both = opened("no connection", Script::connect_failure(), Script::status(503));
    assert_eq!(both, [true, true]);
}

/// Takes down the backend, and sends it, as an attacker would, requests that fail in mid-stream.
fn break_off(envoy: &mut Envoy, process: &Process) {
    let first = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    process.script("a", [Script::events(&[first]).then_reset()]);
    envoy.ask(Request::chat());
}

#[test]
fn streams_that_break_off_count_only_when_nothing_else_is_completed() {
    let process = Process::new("breaks off");
    worker(&process, &two_tiers(RULE), |envoy| {
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
        for _ in 0..6 {
            break_off(envoy, &process);
            assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
            envoy.pass(9_000);
        }
        assert_eq!(open_until(&process, "a"), 0);
        envoy.pass(1_000);
        break_off(envoy, &process);
        assert_ne!(open_until(&process, "a"), 0, "it completed nothing for ten seconds");
    });
}

#[test]
fn another_worker_that_completes_requests_is_enough() {
    let process = Process::new("breaks off at another worker");
    worker(&process, &two_tiers(RULE), |envoy| drop(envoy.ask(Request::chat())));
    worker(&process, &two_tiers(RULE), |envoy| break_off(envoy, &process));
    assert_eq!(open_until(&process, "a"), 0);
}

/// Requests of unknown cost, or whose refusal is about something that the client named.
const HIDDEN: [(&str, &str); 5] = [
    ("/openai/v1/responses", r#"{"model":"gpt","input":[{"content":[{"file_id":"file-1"}]}]}"#),
    (
        "/openai/v1/responses",
        r#"{"model":"gpt","input":"x","tools":[{"type":"image_generation"}]}"#,
    ),
    ("/openai/v1/responses/input_tokens", r#"{"model":"gpt","input":"x"}"#),
    ("/openai/v1/completions", r#"{"model":"gpt","prompt":["x","x"],"max_tokens":2000}"#),
    (
        "/openai/v1/chat/completions",
        r#"{"model":"gpt","messages":[],"data_sources":[{"type":"x"}]}"#,
    ),
];

fn gate_until(process: &Process, backend: &str) -> u64 {
    process.metric(&format!("gate_closed_until_ms.pool.gpt.backend.{backend}"))
}

#[test]
fn a_429_to_a_request_of_unknown_cost_closes_no_gate_before_another_backend_served_it() {
    for (path, body) in HIDDEN {
        let process = Process::new(path);
        let request = || Request::new("POST", path).body(body);
        worker(&process, &two_tiers(RULE), |envoy| {
            for backend in ["a", "b"] {
                process.script(backend, [Script::throttled(30_000)]);
            }
            assert_eq!(envoy.ask(request()).status(), 429, "{path} {body}");
            assert_eq!(["a", "b"].map(|name| gate_until(&process, name)), [0, 0], "{path} {body}");
            process.script("a", [Script::throttled(30_000)]);
            assert_eq!(envoy.ask(request()).served_by(), "b", "{path} {body}");
            assert_ne!(gate_until(&process, "a"), 0, "{path} {body}");
            envoy.pass(29_000);
            assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
            envoy.pass(1_000);
            assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
        });
    }
}

#[test]
fn of_a_large_body_that_hides_its_tier_a_429_closes_no_gate_before_another_backend_served_it() {
    let process = Process::new("large");
    let text = "a".repeat(100_000);
    let body = format!(r#"{{"messages":"{text}","service_tier":"flex","user":"{text}"}}"#);
    worker(&process, &two_tiers(RULE), |envoy| {
        for backend in ["a", "b"] {
            process.script(backend, [Script::throttled(30_000)]);
        }
        assert_eq!(envoy.ask(Request::chat().body(&body)).status(), 429);
        assert_eq!(["a", "b"].map(|name| gate_until(&process, name)), [0, 0]);
        process.script("a", [Script::throttled(30_000)]);
        assert_eq!(envoy.ask(Request::chat().body(&body)).served_by(), "b");
        assert_ne!(gate_until(&process, "a"), 0);
    });
}

#[test]
fn what_is_said_of_a_clients_data_source_is_not_said_of_the_deployment() {
    for script in [not_found("DeploymentNotFound"), Script::status(401), Script::status(403)] {
        let process = Process::new("data source");
        worker(&process, &two_tiers(RULE), |envoy| {
            envoy.ask(Request::chat());
            for _ in 0..4 {
                process.script("a", [script.clone()]);
                let (path, body) = HIDDEN[4];
                assert_eq!(envoy.ask(Request::new("POST", path).body(body)).served_by(), "b");
            }
        });
        assert_eq!(open_until(&process, "a"), 0);
    }
}

#[test]
fn a_request_that_nobody_else_can_serve_probes_early() {
    let process = Process::new("early probe");
    let wrong = not_found("DeploymentNotFound");
    process.script("a", [wrong.clone(), Script::status(503)]);
    process.script("b", [Script::ok(), Script::throttled(500), Script::throttled(600_000)]);
    worker(&process, &two_tiers(RULE), |envoy| {
        envoy.ask(Request::chat());
        assert_ne!(open_until(&process, "a"), 0);
        envoy.pass(5_000);
        // The second backend refuses, so the first is asked although its breaker is open; it still fails.
        let failed = envoy.ask(Request::chat());
        assert_eq!(failed.status(), 503, "{failed:?}");
        // One a second.
        envoy.pass(900);
        process.take_clusters();
        let refused = envoy.ask(Request::chat());
        assert_eq!((refused.status(), process.take_clusters()), (503, vec!["b".to_owned()]));
        envoy.pass(100);
        let response = envoy.ask(Request::chat());
        assert_eq!((response.status(), response.served_by()), (200, "a".to_owned()));
        assert_eq!(open_until(&process, "a"), 0);
    });
}

#[test]
fn where_all_keys_are_refused_the_log_says_so() {
    let process = Process::new("all keys");
    for backend in ["a", "b"] {
        process.script(backend, vec![Script::status(401); 3]);
    }
    worker(&process, &two_tiers(RULE), |envoy| {
        for _ in 0..3 {
            assert_eq!(envoy.ask(Request::chat()).status(), 401);
        }
    });
    for backend in ["a", "b"] {
        let words = format!("backend {backend} answered 401 to a request that no backend served");
        assert_eq!(process.logged().matches(&words).count(), 1, "{}", process.logged());
    }
}

#[test]
fn where_all_deployments_are_missing_or_all_hosts_redirect_the_log_says_so() {
    for (script, part) in [
        (not_found("DeploymentNotFound"), "check its deployment"),
        (Script::status(302), "check its host"),
        (Script::status(403), "check its credential"),
    ] {
        let process = Process::new(part);
        for backend in ["a", "b"] {
            process.script(backend, [script.clone(), script.clone()]);
        }
        worker(&process, &two_tiers(RULE), |envoy| {
            for _ in 0..2 {
                envoy.ask(Request::chat());
            }
        });
        assert_eq!(process.logged().matches(part).count(), 2, "{}", process.logged());
    }
}

#[test]
fn a_client_that_leaves_while_the_next_backend_is_at_it_decides_nothing() {
    let process = Process::new("client left");
    process.script("a", [Script::status(503)]);
    process.script("b", [Script::silence()]);
    worker(&process, &two_tiers(RULE), |envoy| {
        let request = envoy.send(Request::chat());
        envoy.pass(5);
        envoy.cancel(request);
        envoy.run();
    });
    assert_eq!(["a", "b"].map(|name| open_until(&process, name) != 0), [false, false]);
}

#[test]
fn the_credential_is_wrong_after_three_refusals_in_a_row() {
    let process = Process::new("denied");
    let denied = |count: usize| vec![Script::status(401); count];
    worker(&process, &two_tiers(RULE), |envoy| {
        let mut ask = |scripts: Vec<Script>| {
            let count = scripts.len().max(1);
            process.script("a", scripts);
            for _ in 0..count {
                assert_eq!(envoy.ask(Request::chat()).status(), 200);
            }
        };
        ask(denied(2));
        ask(vec![Script::ok()]);
        ask(denied(2));
        assert_eq!(open_until(&process, "a"), 0);
        ask(denied(1));
        assert_ne!(open_until(&process, "a"), 0);
    });
    assert!(process.logged().contains("backend a answered 401"), "{}", process.logged());
}

#[test]
fn an_operation_that_a_backend_was_never_seen_to_serve_is_not_its_fault() {
    let process = Process::new("lacks an operation");
    worker(&process, &two_tiers(RULE), |envoy| {
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
        for _ in 0..4 {
            process.script("a", [not_found("DeploymentNotFound"), Script::status(403)]);
            for _ in 0..2 {
                let speech =
                    Request::new("POST", "/openai/deployments/gpt/audio/speech").body("{}");
                assert_eq!(envoy.ask(speech).served_by(), "b");
            }
        }
    });
    assert_eq!(open_until(&process, "a"), 0);
}

#[test]
fn connections_that_were_closed_at_once_are_one_fault() {
    let process = Process::new("bulk close");
    let settings =
        two_tiers(r#""circuit_breaker": {"rules": [{"failure_condition": {"consecutive": 2}}]}"#);
    let resets = || vec![Script::reset().after_ms(20); 8];
    worker(&process, &settings, |envoy| {
        process.script("a", resets());
        let side_by_side: Vec<u32> = (0..8).map(|_| envoy.send(Request::chat())).collect();
        finish(envoy, &side_by_side);
        assert_eq!(open_until(&process, "a"), 0);
        process.script("a", resets());
        for _ in 0..2 {
            let one = envoy.send(Request::chat());
            finish(envoy, &[one]);
        }
        assert_ne!(open_until(&process, "a"), 0);
    });
}

fn finish(envoy: &mut Envoy, requests: &[u32]) {
    envoy.run();
    for request in requests {
        assert_eq!(envoy.take(*request).served_by(), "b");
    }
}

const FLEX: &str = r#"{"model":"gpt","messages":[],"service_tier" : "flex"}"#;

fn no_capacity() -> Script {
    Script::status(429)
        .header("retry-after", "30")
        .body(r#"{"error":{"code":"resource_unavailable","message":"Resource Unavailable"}}"#)
}

#[test]
fn a_flex_request_that_is_refused_closes_no_gate() {
    let process = Process::new("flex");
    process.script("a", [no_capacity()]);
    let settings = two_tiers(r#""affinity": {"body": true}"#);
    worker(&process, &settings, |envoy| {
        let flex = || Request::new("POST", "/v1/chat/completions").body(FLEX);
        let response = envoy.ask(flex());
        let trail = response.header("x-spillway-trail").unwrap();
        assert_eq!(trail, "a;429;tier=flex, b;200;tier=flex");
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
    });
    assert_eq!(process.metric("served_flex_tier_total"), 1);
}

/// A 429 that does not state its reason.
fn plain_throttle() -> Script {
    Script::status(429).header("retry-after", "30").body(r#"{"error":{"code":"429"}}"#)
}

/// Requests that a backend may read as asking for the flex tier. A gateway that reads only the model, or
/// nothing, may or may not find that out.
fn tiers_out_of_sight() -> Vec<(&'static str, Request)> {
    const PATH: &str = "/openai/deployments/gpt/chat/completions?api-version=2024-10-21";
    let prompt = "The overflow goes \\\"safely\\\" downstream.\\n".repeat(10_000);
    let large = |before: &str, after: &str| {
        format!(r#"{{{before}"messages":[{{"role":"user","content":"{prompt}"}}]{after}}}"#)
    };
    let cut = |path: &str, body: &str| {
        let pieces: Vec<&str> =
            body.as_bytes().chunks(10_007).map(|it| std::str::from_utf8(it).unwrap()).collect();
        Request::new("POST", path).chunked(&pieces)
    };
    let below = |body: &str| cut(PATH, body);
    let flex = r#""service_tier":"flex""#;
    let escaped = r#""service\u005ftier":"fl\u0065x""#;
    vec![
        ("small", below(FLEX)),
        ("small, escaped", below(&format!(r#"{{"messages":[],{escaped}}}"#))),
        ("large, behind", below(&large("", &format!(",{flex}")))),
        ("large, before", below(&large(&format!("{flex},"), ""))),
        ("large, escaped", below(&large(&format!("{escaped},"), ""))),
        ("model in the body", {
            cut("/v1/chat/completions", &large(&format!("{flex},"), r#","model":"gpt""#))
        }),
        ("another one of two", below(&format!(r#"{{{flex},"service_tier":"default"}}"#))),
        ("compressed", below("\u{1f}\u{8b}").header("content-encoding", "gzip")),
        ("a charset", below("\0{\0}").header("content-type", "application/json; charset=utf-16")),
        ("broken", below(&format!("{{{flex},}}"))),
        ("no JSON by its label", {
            below(FLEX).header("content-type", "multipart/form-data; boundary=b")
        }),
    ]
}

#[test]
fn a_tier_is_found_wherever_it_stands_and_what_cannot_be_read_may_ask_for_one() {
    for (name, request) in tiers_out_of_sight() {
        let process = Process::new(name);
        process.script("a", [plain_throttle()]);
        worker(&process, TWO_TIERS, |envoy| {
            assert_eq!(envoy.ask(request).served_by(), "b", "{name}");
            assert_eq!(envoy.ask(Request::chat()).served_by(), "a", "{name}");
        });
    }
}

#[test]
fn a_request_that_asks_for_no_tier_closes_the_gate() {
    for body in [
        r#"{"messages":[]}"#,
        r#"{"messages":[],"service_tier":"default"}"#,
        r#"{"messages":[{"role":"user","content":"\"service_tier\":\"flex\""}]}"#,
    ] {
        let process = Process::new(body);
        process.script("a", [plain_throttle()]);
        worker(&process, TWO_TIERS, |envoy| {
            assert_eq!(envoy.ask(Request::chat().body(body)).served_by(), "b", "{body}");
            assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "{body}");
        });
    }
}

#[test]
fn a_flex_request_falls_back_to_the_default_tier_at_the_same_backend_where_the_pool_allows_it() {
    let process = Process::new("flex fallback");
    let alone = r#"{"pools": [{"name": "gpt", "flex_fallback": true, "backends": [
        {"name": "a", "host": "a.example"}]}], "response": {"trail_header": "on"}}"#;
    for (settings, name) in
        [(two_tiers(r#""flex_fallback": true"#), "two"), (alone.to_owned(), "one")]
    {
        process.script("a", [no_capacity()]);
        worker(&process, &settings, |envoy| {
            let response = envoy.ask(Request::new("POST", "/v1/chat/completions").body(FLEX));
            assert_eq!((response.status(), response.served_by()), (200, "a".to_owned()), "{name}");
            let trail = response.header("x-spillway-trail").unwrap();
            assert_eq!(trail, "a;429;tier=flex, a;200;tier=default");
        });
        let seen = process.seen();
        let bodies: Vec<String> = seen[seen.len() - 2..]
            .iter()
            .map(|seen| String::from_utf8(seen.body.clone()).unwrap())
            .collect();
        assert_eq!(bodies, [FLEX.to_owned(), FLEX.replace("flex", "default")]);
    }
    assert_eq!(process.metric("served_default_tier_total"), 2);
}
