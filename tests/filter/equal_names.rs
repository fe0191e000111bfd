//! Several configurations in one process: things with the same name are the same thing, and share their state.

use crate::envoy::{Envoy, Request, Script, worker};
use crate::host::{Process, with};

/// A pool of these backends, each a tier of its own, with this rule of the circuit breaker.
fn pool(name: &str, backends: &[&str], rule: &str) -> String {
    let backend = |(priority, name): (usize, &&str)| {
        format!(r#"{{"name": "{name}", "host": "{name}.example", "priority": {}}}"#, priority + 1)
    };
    let backends: Vec<String> = backends.iter().enumerate().map(backend).collect();
    format!(
        r#"{{"pools": [{{"name": "{name}", "models": ["gpt"], "backends": [{}], "circuit_breaker": {{"rules": [{rule}]}},
            "failover": {{"max_attempts": 4, "retry_budget": {{"percent": 100, "min_per_second": 1000}}}}}}]}}"#,
        backends.join(",")
    )
}

const TWO_IN_30_S: &str =
    r#"{"failure_condition": {"count": 2, "interval": "30s"}, "trip_duration": "60s"}"#;
const THREE_IN_60_S: &str =
    r#"{"failure_condition": {"count": 3, "interval": "60s"}, "trip_duration": "60s"}"#;

fn served_by(envoy: &mut Envoy) -> String {
    envoy.ask(Request::chat()).served_by()
}

#[test]
fn two_listeners_with_one_pool_name_keep_each_others_gates() {
    let process = Process::new("two pools of one name");
    let (left, right) =
        (pool("gpt", &["a", "b"], TWO_IN_30_S), pool("gpt", &["c", "d"], TWO_IN_30_S));
    worker(&process, &left, |envoy| {
        process.script("a", [Script::throttled(60_000)]);
        assert_eq!(served_by(envoy), "b");
        let left = envoy.configure_beside(&right);
        process.script("c", [Script::throttled(60_000)]);
        assert_eq!(served_by(envoy), "d");
        assert_eq!(served_by(envoy), "d", "its gate is closed");
        let right = envoy.switch_to(left);
        assert_eq!(served_by(envoy), "b", "its gate is still closed");
        for _ in 0..2 {
            process.script("b", [Script::status(500)]);
            envoy.ask(Request::chat());
        }
        envoy.switch_to(right);
        assert_eq!(served_by(envoy), "d");
        assert_eq!(process.metric("lost_updates"), 0);
    });
}

#[test]
fn a_gate_closes_although_another_configuration_came_since() {
    let process = Process::new("updates of an older configuration");
    worker(&process, &pool("gpt", &["a", "b"], TWO_IN_30_S), |old| {
        worker(&process, &pool("gpt", &["c", "d"], TWO_IN_30_S), |new| {
            assert_eq!(served_by(new), "c");
        });
        process.script("a", [Script::throttled(60_000)]);
        assert_eq!(served_by(old), "b");
        assert_eq!(served_by(old), "b", "the gate is closed");
        assert_eq!(process.metric("lost_updates"), 0);
    });
}

#[test]
fn two_sets_of_rules_for_one_backend_count_side_by_side() {
    let process = Process::new("two sets of rules");
    let (two, three) =
        (pool("gpt", &["a", "b"], TWO_IN_30_S), pool("gpt", &["a", "b"], THREE_IN_60_S));
    worker(&process, &three, |envoy| {
        let fail = |envoy: &mut Envoy| {
            process.script("a", [Script::status(500)]);
            assert_eq!(served_by(envoy), "b");
        };
        fail(envoy);
        fail(envoy);
        let three = envoy.configure_beside(&two);
        fail(envoy);
        assert_eq!(served_by(envoy), "a", "one fault of its own so far");
        let two = envoy.switch_to(three);
        assert_eq!(served_by(envoy), "a", "two of three");
        fail(envoy);
        assert_eq!(served_by(envoy), "b", "the third opens");
        envoy.switch_to(two);
        assert_eq!(served_by(envoy), "b", "for both");
    });
}

/// Their breakers differ, and so do the epochs that counts belong to.
#[test]
fn two_pools_that_have_a_backend_of_one_name_count_each_for_itself() {
    let process = Process::new("one backend in two pools");
    let (left, right) =
        (pool("left", &["a", "b"], TWO_IN_30_S), pool("right", &["a", "b"], TWO_IN_30_S));
    worker(&process, &left, |left_envoy| {
        for _ in 0..2 {
            process.script("a", [Script::status(500)]);
            assert_eq!(served_by(left_envoy), "b");
        }
        assert_eq!(served_by(left_envoy), "b", "it is open");
        worker(&process, &right, |right_envoy| {
            assert_eq!(served_by(right_envoy), "a");
            for _ in 0..2 {
                process.script("a", [Script::status(500)]);
                assert_eq!(served_by(right_envoy), "b");
            }
            assert_eq!(served_by(right_envoy), "b", "it is open");
        });
    });
}

#[test]
fn a_namespace_keeps_equal_names_apart() {
    let process = Process::new("namespaces");
    let plain = pool("gpt", &["a", "b"], TWO_IN_30_S);
    let spaced = |namespace: &str| {
        plain.replacen(
            '{',
            &format!(
                r#"{{"namespace": "{namespace}", "consumers": {{"header": "x-consumer",
            "default": {{"tokens_per_minute": 1000}}}}, "#
            ),
            1,
        )
    };
    worker(&process, &spaced("blue"), |blue| {
        process.script("a", [Script::throttled(60_000)]);
        assert_eq!(served_by(blue), "b");
        for other in [&plain, &spaced("green")] {
            worker(&process, other, |other| assert_eq!(served_by(other), "a"));
        }
        assert_eq!(served_by(blue), "b");
    });
    worker(&process, &spaced("blue"), |blue| assert_eq!(served_by(blue), "b"));
    worker(&process, &plain, |plain| {
        assert!(!plain.configure(&spaced("a.b")), "a name that is none");
    });
}

#[test]
fn configuring_repeatedly_defines_no_metric_twice_and_keeps_no_memory() {
    let process = Process::new("configured often");
    let both = [pool("gpt", &["a", "b"], TWO_IN_30_S), pool("gpt", &["c", "d"], THREE_IN_60_S)];
    worker(&process, &both[0], |envoy| {
        let configure = |envoy: &mut Envoy, times: usize| {
            for time in 0..times {
                assert!(envoy.configure(&both[time % 2]));
                assert_eq!(envoy.ask(Request::chat()).status(), 200);
            }
            process.forget();
        };
        // Collections grow to their size, and keep it.
        configure(envoy, 100);
        let keys = process.shared().keys();
        let (defined, before) = (calls("define_metric"), crate::leaks::live_bytes());
        configure(envoy, 100);
        assert_eq!(calls("define_metric"), defined);
        assert_eq!(process.shared().keys(), keys);
        let grown = crate::leaks::live_bytes() - before;
        assert!(grown < 1_024, "{grown} bytes stay of 100 configurations");
    });
}

fn calls(name: &str) -> u32 {
    with(|state| state.calls.get(name).copied().unwrap_or_default())
}
