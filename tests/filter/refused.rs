//! Refusals that clients can cause, in every format of Azure, OpenAI and the proxies in front of them:
//! after each, the first tier serves the next request.

use crate::envoy::{Envoy, Request, Script, worker};
use crate::failover::TWO_TIERS;
use crate::host::Process;
use memchr::memmem;
use mock_azure::{RefusalResponse, refusal_responses};
use std::sync::Arc;

const ONE_BACKEND: &str = r#"{"pools": [{"name": "gpt", "backends": [{"name": "a", "host": "a.example"}]}],
    "response": {"trail_header": "on"}}"#;

/// More than any rule of the breaker needs.
const TIMES: usize = 6;

fn script(refusal: &RefusalResponse) -> Script {
    if refusal.status == 0 {
        return Script::reset();
    }
    let body = String::from_utf8(refusal.body.clone()).unwrap();
    let script = Script::status(refusal.status);
    let script = if body.is_empty() { script.no_body() } else { script.body(&body) };
    refusal.headers.iter().fold(script, |script, (name, value)| script.header(name, value))
}

/// Text that only odd requests have, by which backends recognise them.
const ODD: &str = "odd";

fn odd(operation: &str) -> Request {
    let path = format!("/openai/deployments/gpt/{operation}?api-version=2024-10-21");
    Request::new("POST", &path)
        .body(r#"{"input":"odd","messages":[{"role":"user","content":"odd"}]}"#)
}

/// A process in which these backends refuse odd requests, and serve all others.
fn refusing(backends: &'static [&'static str], refusal: &RefusalResponse) -> Arc<Process> {
    let process = Process::new(refusal.name);
    let refusal = refusal.clone();
    process.respond(move |seen| {
        let is_odd = memmem::find(&seen.body, ODD.as_bytes()).is_some();
        let refuses = is_odd && backends.contains(&seen.cluster.as_str());
        if refuses { script(&refusal) } else { Script::ok() }
    });
    process
}

/// The reason why the first tier does not serve the next request, if there is one.
fn harm(envoy: &mut Envoy, process: &Process) -> Option<String> {
    let response = envoy.ask(Request::chat());
    let trail = response.header("x-spillway-trail").unwrap_or_default();
    if (response.status(), trail.as_str()) != (200, "a;200") {
        return Some(format!(
            "{}: the next is answered {} by {trail}",
            process.scenario,
            response.status()
        ));
    }
    ["gate_closed_until_ms", "breaker_open_until_ms"]
        .into_iter()
        .find(|gauge| process.metric(gauge) != 0)
        .map(|gauge| format!("{}: {gauge} is set", process.scenario))
}

/// Sends `operation` six times where these backends refuse it in each of the ways that `counts`; returns
/// the ways that did harm.
fn harms(
    configuration: &str,
    backends: &'static [&'static str],
    operation: &str,
    counts: impl Fn(&RefusalResponse) -> bool,
) -> Vec<String> {
    let mut harms = Vec::new();
    for refusal in refusal_responses().filter(counts) {
        let process = refusing(backends, &refusal);
        let harm = worker(&process, configuration, |envoy| {
            assert_eq!(harm(envoy, &process), None);
            for _ in 0..TIMES {
                envoy.ask(odd(operation));
            }
            harm(envoy, &process)
        });
        harms.extend(harm);
    }
    harms
}

#[test]
fn what_every_backend_refuses_alike_costs_the_next_request_nothing() {
    let harms = harms(TWO_TIERS, &["a", "b"], "chat/completions", |_| true);
    assert!(harms.is_empty(), "{harms:#?}");
}

#[test]
fn what_the_only_backend_of_a_pool_refuses_does_not_close_it() {
    let harms = harms(ONE_BACKEND, &["a"], "chat/completions", |_| true);
    assert!(harms.is_empty(), "{harms:#?}");
}

#[test]
fn what_the_only_backend_that_may_be_asked_refuses_does_not_close_it() {
    let once = TWO_TIERS
        .replace(r#""name": "gpt","#, r#""name": "gpt", "failover": {"max_attempts": 1},"#);
    let harms = harms(&once, &["a"], "chat/completions", |_| true);
    assert!(harms.is_empty(), "{harms:#?}");
}

#[test]
fn a_redirect_is_no_service_that_convicts_others() {
    let process = Process::new("redirect");
    process.respond(|seen| {
        let is_embedding = seen.header(":path").is_some_and(|path| path.contains("embeddings"));
        match seen.cluster.as_str() {
            "a" if is_embedding => Script::status(404)
                .body(r#"{"error":{"code":"DeploymentNotFound","message":"none"}}"#),
            "b" if is_embedding => Script::status(307).header("location", "/elsewhere"),
            _ => Script::ok(),
        }
    });
    worker(&process, TWO_TIERS, |envoy| {
        for _ in 0..TIMES {
            envoy.ask(odd("embeddings"));
        }
        assert_eq!(harm(envoy, &process), None);
    });
}

#[test]
fn an_operation_that_only_the_next_backend_has_is_not_held_against_the_first() {
    let counts = |refusal: &RefusalResponse| matches!(refusal.status, 400..=407);
    let harms = harms(TWO_TIERS, &["a"], "embeddings", counts);
    assert!(harms.is_empty(), "{harms:#?}");
}

#[test]
fn a_client_that_leaves_while_the_next_backend_is_at_it_puts_no_blame_on_the_first() {
    let process = Process::new("leaves");
    process.respond(|seen| {
        let is_odd = memmem::find(&seen.body, ODD.as_bytes()).is_some();
        match seen.cluster.as_str() {
            "a" if is_odd => Script::status(500),
            "b" if is_odd => Script::silence(),
            _ => Script::ok(),
        }
    });
    worker(&process, TWO_TIERS, |envoy| {
        for _ in 0..TIMES {
            let id = envoy.send(odd("chat/completions"));
            envoy.pass(10);
            assert!(envoy.is_open(id), "b is at it");
            envoy.cancel(id);
        }
        assert_eq!(harm(envoy, &process), None);
    });
}
