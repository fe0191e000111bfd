//! A host that refuses each call of a request once. The request gets a response or is sent on,
//! nothing panics, and no credential goes where it does not belong (the driver looks at each
//! attempt).

use crate::envoy::{Envoy, Request, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::{Process, with};

/// Runs `act` again and again, with the first, second, … host call refused, until it makes fewer.
fn refuse_each(name: &str, configuration: &str, act: fn(&Process, &mut Envoy)) {
    for call in 0..1_000 {
        let process = Process::new(&format!("{name}, host call {call} refused"));
        let refused = worker(&process, configuration, |envoy| {
            with(|state| state.refuse_in = Some(call));
            act(&process, envoy);
            let refused = with(|state| state.refused.take());
            with(|state| state.refuse_in = None);
            // This request uses the scripts that are left.
            envoy.ask(Request::chat());
            envoy.pass(600_000);
            assert_eq!(envoy.ask(Request::chat()).status(), 200, "{}", process.scenario);
            refused
        });
        if refused.is_none() {
            assert!(call > 10, "{name}: {call} calls are too few");
            return;
        }
    }
    panic!("{name}: too many calls");
}

fn ask(process: &Process, envoy: &mut Envoy, request: Request) {
    let id = envoy.send(request);
    envoy.run();
    let refused = with(|state| state.refused);
    assert!(!envoy.is_open(id), "{} ({refused:?}): it hangs", process.scenario);
    let response = envoy.take(id);
    assert_ne!(response.status(), 0, "{} ({refused:?}): {response:?}", process.scenario);
}

#[test]
fn a_refusal_during_a_plain_request() {
    refuse_each("plain", TWO_TIERS, |process, envoy| ask(process, envoy, Request::chat()));
}

#[test]
fn a_refusal_during_a_failover() {
    refuse_each("failover", TWO_TIERS, |process, envoy| {
        process.script("a", [Script::throttled(100).header("x-ratelimit-remaining-tokens", "1")]);
        ask(process, envoy, Request::chat_v1());
    });
}

#[test]
fn a_refusal_while_all_fail() {
    refuse_each("exhausted", TWO_TIERS, |process, envoy| {
        process.script("a", [Script::status(500)]);
        process.script("b", [Script::connect_failure()]);
        ask(process, envoy, Request::chat());
    });
}

#[test]
fn a_refusal_during_a_stream() {
    refuse_each("stream", TWO_TIERS, |process, envoy| {
        process.script("a", [Script::events(&["data: {\"error\":{\"code\":\"x\"}}\n\n"])]);
        let chunks = ["data: {\"id\"", ":1}\n\n", "data: [DONE]\n\n"];
        process.script("b", [Script::events(&chunks).every_ms(600)]);
        ask(process, envoy, Request::chat());
    });
}

#[test]
fn a_refusal_while_the_request_waits() {
    let settings = two_tiers(r#""failover": {"max_wait": "2s", "max_attempts": 4}"#);
    refuse_each("waiting", &settings, |process, envoy| {
        process.script("a", [Script::throttled(100)]);
        process.script("b", [Script::throttled(100)]);
        ask(process, envoy, Request::chat());
    });
}

#[test]
fn a_refusal_at_configure_never_panics() {
    for call in 0..200 {
        let process = Process::new(&format!("configure, host call {call} refused"));
        let done = worker(&process, TWO_TIERS, |envoy| {
            with(|state| state.refuse_in = Some(call));
            envoy.configure(TWO_TIERS);
            with(|state| state.refuse_in = None);
            assert_eq!(envoy.ask(Request::chat()).status(), 200, "{}", process.scenario);
            with(|state| state.refused.is_none())
        });
        if done {
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn an_attempt_without_a_request_answers_503_and_shows_no_key() {
    let process = Process::new("stray attempts");
    worker(&process, TWO_TIERS, |envoy| {
        let ended = envoy.send(Request::chat());
        envoy.run();
        let running = envoy.send(Request::chat());
        let ids = [ended, running, 0, u32::MAX].map(|id| id.to_le_bytes().to_vec());
        for id in ids.into_iter().chain([Vec::new(), vec![1], vec![0; 9]]) {
            let (status, headers) = envoy.stray_attempt(&id);
            assert_eq!(status, Some(503), "{id:?}");
            let headers = format!("{headers:?}");
            assert!(!headers.contains("api-key"), "{headers}");
        }
    });
}
