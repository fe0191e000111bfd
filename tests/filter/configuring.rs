//! Configurations that are accepted, refused, and replaced while requests run.

use crate::envoy::{Envoy, Request, Script, worker};
use crate::failover::TWO_TIERS;
use crate::host::Process;

/// Another gateway: the pool has one other backend.
const ONLY_C: &str =
    r#"{"pools": [{"name": "gpt", "backends": [{"name": "c", "host": "c.example"}]}]}"#;

/// Requests may wait.
const WAITING: &str = r#"{"pools": [{"name": "gpt",
    "failover": {"max_wait": "10s", "max_attempts": 4},
    "backends": [{"name": "a", "host": "a.example"}, {"name": "b", "host": "b.example"}]}]}"#;

/// Both backends throttle once.
fn throttle(process: &Process, retry_after_ms: u64) {
    for backend in ["a", "b"] {
        process.script(backend, [Script::throttled(retry_after_ms)]);
    }
}

#[test]
fn a_bad_configuration_is_refused_with_all_its_problems() {
    let process = Process::new("bad configuration");
    worker(&process, TWO_TIERS, |envoy: &mut Envoy| {
        let two = r#"{"pools": [{"name": "x.y", "backends": []}], "unknown_key": 1}"#;
        assert!(!envoy.configure(two));
        let logged = process.logged();
        for part in ["pools[0].name", "pools[0].backends", "unknown_key"] {
            assert!(logged.contains(part), "{part} in {logged}");
        }
        for bad in ["", "{", "null", "[]", "\u{0}", "{\"role\": \"other\"}", "{\"pools\": 1e999}"] {
            assert!(!envoy.configure(bad), "{bad}");
        }
        assert_eq!(envoy.ask(Request::chat()).status(), 200, "the old one still runs");
    });
}

#[test]
fn requests_in_flight_keep_the_configuration_that_they_began_with() {
    let process = Process::new("reconfigured in flight");
    process.script("a", [Script::throttled(300).after_ms(100)]);
    worker(&process, TWO_TIERS, |envoy| {
        let id = envoy.send(Request::chat());
        envoy.pass(50);
        assert!(envoy.configure(ONLY_C));
        assert_eq!(envoy.ask(Request::chat()).served_by(), "c");
        envoy.run();
        assert_eq!(envoy.take(id).served_by(), "b");
        assert!(envoy.configure(TWO_TIERS));
        assert_eq!(envoy.ask(Request::chat()).status(), 200);
    });
}

#[test]
fn what_is_known_of_a_backend_outlives_a_new_configuration() {
    let process = Process::new("reconfigured");
    process.script("a", [Script::throttled(1_000)]);
    worker(&process, TWO_TIERS, |envoy| {
        envoy.ask(Request::chat());
        assert!(envoy.configure(TWO_TIERS));
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
    });
}

#[test]
fn what_is_known_of_a_backend_outlives_the_vm() {
    let process = Process::new("a VM restarts");
    process.script("a", [Script::throttled(1_000)]);
    worker(&process, TWO_TIERS, |envoy| envoy.ask(Request::chat()));
    worker(&process, TWO_TIERS, |envoy| {
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
        envoy.pass(1_000);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
    });
}

/// The host's tick belongs to a plugin and ends with it; another plugin must resume requests that still wait.
#[test]
fn a_timer_rings_although_the_plugin_that_armed_the_tick_is_gone() {
    let process = Process::new("the ticking root is gone");
    throttle(&process, 5_000);
    worker(&process, WAITING, |envoy| {
        let id = envoy.send(Request::chat());
        envoy.pass(10);
        envoy.cancel(id);
    });
    // In a new VM the gates are closed, so that only the gateway's plugin ticks.
    worker(&process, WAITING, |envoy| {
        let old = envoy.send(Request::chat());
        envoy.pass(10);
        assert!(envoy.is_open(old));
        assert!(envoy.configure(WAITING));
        let new = envoy.send(Request::chat());
        envoy.cancel(old);
        envoy.run();
        assert_eq!(envoy.take(new).status(), 200);
    });
}

#[test]
fn a_context_that_is_deleted_with_its_timer_set_is_not_woken() {
    let process = Process::new("deleted with a timer");
    throttle(&process, 500);
    worker(&process, WAITING, |envoy| {
        let first = envoy.send(Request::chat());
        envoy.pass(10);
        let second = envoy.send(Request::chat());
        envoy.pass(10);
        assert!(envoy.is_open(first) && envoy.is_open(second));
        envoy.cancel(first);
        envoy.cancel(second);
        envoy.run();
        envoy.pass(500);
        assert_eq!(envoy.ask(Request::chat()).status(), 200);
    });
}
