//! The main paths, in virtual time: from a 429 to the backend that serves, and back.

use crate::envoy::{End, Request, Script, worker};
use crate::host::Process;

/// Two tiers: `a`, then `b`.
pub(crate) const TWO_TIERS: &str = r#"{"pools": [{"name": "gpt", "backends": [
    {"name": "a", "host": "a.example", "priority": 1},
    {"name": "b", "host": "b.example", "priority": 2}]}],
    "response": {"trail_header": "on"}}"#;

/// Two tiers, with more settings of the pool.
pub(crate) fn two_tiers(settings: &str) -> String {
    TWO_TIERS.replace(r#""name": "gpt","#, &format!(r#""name": "gpt", {settings},"#))
}

#[test]
fn a_429_goes_to_the_next_tier_and_the_client_sees_nothing_of_it() {
    let process = Process::new("429");
    process.script("a", [Script::throttled(300)]);
    worker(&process, TWO_TIERS, |envoy| {
        let response = envoy.ask(Request::chat());
        assert_eq!(
            (response.status(), response.served_by()),
            (200, "b".to_owned()),
            "{response:?}"
        );
        assert_eq!(response.header("x-spillway-attempts").as_deref(), Some("2"));
        assert_eq!(response.header("x-spillway-trail").as_deref(), Some("a;429;gate=300ms, b;200"));
        assert_eq!(response.header("x-spillway-retry"), None);
    });
    let seen = process.seen();
    assert_eq!(process.take_clusters(), ["a", "b"]);
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[1].header(":authority").as_deref(), Some("b.example"));
}

#[test]
fn a_closed_gate_spills_and_reopens_exactly_at_its_millisecond() {
    let process = Process::new("gate");
    process.script("a", [Script::throttled(300)]);
    worker(&process, TWO_TIERS, |envoy| {
        envoy.ask(Request::chat());
        envoy.pass(299);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
        envoy.pass(1);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
    });
    assert_eq!(process.take_clusters(), ["a", "b", "b", "a"]);
    assert_eq!(process.metric("spills_total"), 2);
}

#[test]
fn whatever_keeps_an_attempt_from_answering_leads_to_the_next_backend() {
    let settings = two_tiers(r#""failover": {"first_byte_timeout": "100ms"}"#);
    for (script, trail) in [
        (Script::connect_failure(), "a;connect, b;200"),
        (Script::reset(), "a;reset, b;200"),
        (Script::silence(), "a;timeout, b;200"),
        (Script::status(500), "a;500, b;200"),
        (Script::status(401), "a;401, b;200"),
        (Script::events(&[]).then_reset(), "a;reset, b;200"),
        (Script::events(&["data: {\"cho"]).then_reset(), "a;reset, b;200"),
        (Script::events(&["data: {\"error\":{\"code\":\"x\"}}\n\n"]), "a;stream-error, b;200"),
    ] {
        let process = Process::new(&format!("{script:?}"));
        process.script("a", [script]);
        worker(&process, &settings, |envoy| {
            let response = envoy.ask(Request::chat_v1());
            assert_eq!(response.status(), 200, "{}: {response:?}", process.scenario);
            let told = response
                .header("x-spillway-trail")
                .unwrap()
                .replace("stream_error", "stream-error");
            assert_eq!(told, trail, "{}", process.scenario);
        });
        assert_eq!(process.take_clusters(), ["a", "b"], "{}", process.scenario);
    }
}

#[test]
fn a_breaker_trips_at_its_threshold_lets_one_probe_through_and_closes() {
    let process = Process::new("breaker");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 2, "interval": "30s"},
            "trip_duration": "1s"}]}"#,
    );
    process.script("a", [Script::status(500), Script::status(500)]);
    worker(&process, &settings, |envoy| {
        envoy.ask(Request::chat());
        envoy.ask(Request::chat());
        assert_eq!(process.take_clusters(), ["a", "b", "a", "b"]);
        envoy.pass(999);
        envoy.ask(Request::chat());
        assert_eq!(process.take_clusters(), ["b"], "the breaker is open");
        envoy.pass(200);
        process.script("a", [Script::ok().after_ms(50)]);
        let probe = envoy.send(Request::chat());
        let beside = envoy.send(Request::chat());
        envoy.run();
        assert_eq!(envoy.take(probe).served_by(), "a");
        assert_eq!(envoy.take(beside).served_by(), "b", "one probe only");
        process.take_clusters();
        envoy.pass(600_000);
        envoy.ask(Request::chat());
        assert_eq!(process.take_clusters(), ["a"], "the ramp is over");
    });
    assert!(
        process.logged().contains("circuit breaker of backend a opened for"),
        "{}",
        process.logged()
    );
}

#[test]
fn a_probe_whose_client_left_gives_its_lease_back() {
    let process = Process::new("probe cancelled");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"},
            "trip_duration": "1s"}], "probe_timeout": "10m"}"#,
    );
    process.script("a", [Script::status(500), Script::silence()]);
    worker(&process, &settings, |envoy| {
        envoy.ask(Request::chat());
        envoy.pass(1_200);
        let probe = envoy.send(Request::chat());
        envoy.run();
        process.take_clusters();
        envoy.cancel(probe);
        assert_eq!(envoy.take(probe).end, End::Cancelled);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
    });
}

/// A pool with these backends and keys.
fn pool_of(backends: &str, keys: &str) -> String {
    format!(r#"{{"pools": [{{"name": "gpt", "backends": [{backends}], {keys}}}]}}"#)
}

#[test]
fn a_probe_that_takes_long_keeps_a_pool_of_one_out_for_three_seconds_and_not_for_thirty() {
    let process = Process::new("a long probe");
    let settings = pool_of(
        r#"{"name": "a", "host": "a.example"}"#,
        r#""circuit_breaker": {"rules": [{"failure_condition": {"consecutive": 1}}]}"#,
    );
    process.script("a", [Script::status(503), Script::ok().after_ms(20_000)]);
    worker(&process, &settings, |envoy| {
        assert_eq!(envoy.ask(Request::chat()).status(), 503);
        envoy.pass(1_000);
        let long = envoy.send(Request::chat());
        envoy.pass(2_999);
        assert_eq!(envoy.ask(Request::chat()).header("x-spillway-attempts").unwrap(), "0");
        envoy.pass(1);
        assert_eq!(envoy.ask(Request::chat()).status(), 200);
        assert_eq!(envoy.ask(Request::chat()).status(), 200, "the circuit breaker is closed");
        envoy.pass(20_000);
        assert_eq!(envoy.take(long).status(), 200);
    });
}

#[test]
fn a_request_without_a_connection_does_not_wait_and_is_sent_beyond_a_budget() {
    let process = Process::new("no connection, no budget");
    let settings = pool_of(
        r#"{"name": "a", "host": "a.example", "priority": 1},
           {"name": "b", "host": "b.example", "priority": 2, "limits": {"requests_per_minute": 1}}"#,
        r#""failover": {"max_wait": "60s"}"#,
    );
    process.script("a", [Script::connect_failure(), Script::connect_failure()]);
    worker(&process, &settings, |envoy| {
        for _ in 0..2 {
            let response = envoy.ask(Request::chat());
            assert_eq!((response.status(), response.served_by().as_str()), (200, "b"));
        }
    });
}

#[test]
fn all_backends_that_throttle_for_no_time_are_throttled_and_not_unavailable() {
    for zero in ["0", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let process = Process::new(&format!("retry-after: {zero}"));
        for backend in ["a", "b"] {
            process.script(backend, [Script::status(429).header("retry-after", zero)]);
        }
        worker(&process, &two_tiers(r#""failover": {}"#), |envoy| {
            let response = envoy.ask(Request::chat());
            assert_eq!(response.status(), 429, "{zero}: {response:?}");
            assert!(response.header("retry-after").is_some(), "{zero}");
        });
    }
}

#[test]
fn with_max_wait_a_request_waits_for_the_gate_and_then_goes() {
    let process = Process::new("max_wait");
    let settings = two_tiers(r#""failover": {"max_wait": "1s", "max_attempts": 4}"#);
    process.script("a", [Script::throttled(200)]);
    process.script("b", [Script::throttled(900)]);
    worker(&process, &settings, |envoy| {
        let start_ms = process.monotonic_ms();
        let in_response = envoy.send(Request::chat());
        envoy.pass(50);
        let in_request = envoy.send(Request::chat_v1());
        envoy.pass(149);
        assert!(envoy.is_open(in_response) && envoy.is_open(in_request));
        envoy.pass(1);
        assert_eq!(process.monotonic_ms() - start_ms, 200);
        for request in [in_response, in_request] {
            let response = envoy.take(request);
            assert_eq!((response.status(), response.served_by()), (200, "a".to_owned()));
        }
    });
    assert_eq!(process.take_clusters(), ["a", "b", "a", "a"]);
}

#[test]
fn a_request_that_waits_can_be_cancelled() {
    let process = Process::new("max_wait, cancelled");
    let settings = two_tiers(r#""failover": {"max_wait": "1s", "max_attempts": 4}"#);
    process.script("a", [Script::throttled(200)]);
    process.script("b", [Script::throttled(900)]);
    worker(&process, &settings, |envoy| {
        let in_response = envoy.send(Request::chat());
        envoy.pass(50);
        let in_request = envoy.send(Request::chat());
        envoy.cancel(in_response);
        envoy.cancel(in_request);
        envoy.run();
        envoy.pass(200);
        let later = envoy.ask(Request::chat());
        assert_eq!(later.served_by(), "a");
    });
    assert_eq!(process.take_clusters(), ["a", "b", "a"]);
}

#[test]
fn the_retry_budget_bounds_failovers_beyond_the_first_of_a_request() {
    let process = Process::new("retry budget");
    let third = r#"{"name": "c", "host": "c.example", "priority": 3}]}]"#;
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": []},
           "failover": {"retry_budget": {"percent": 0, "min_per_second": 1}}"#,
    )
    .replace("}]}]", &format!("}}, {third}"));
    process.script("a", vec![Script::status(500); 15]);
    process.script("b", vec![Script::status(500); 15]);
    worker(&process, &settings, |envoy| {
        let ok = (0..15).filter(|_| envoy.ask(Request::chat()).status() == 200).count();
        assert_eq!(ok, 10, "one per second, over ten seconds");
    });
    assert_eq!(process.metric("failovers_limited_total"), 5);
}

#[test]
fn an_exhausted_pool_answers_for_itself() {
    let process = Process::new("exhausted");
    process.script("a", [Script::throttled(20_000)]);
    process.script("b", [Script::throttled(5_000)]);
    worker(&process, TWO_TIERS, |envoy| {
        for attempts in ["2", "0"] {
            let response = envoy.ask(Request::chat());
            assert_eq!(response.status(), 429, "{response:?}");
            assert_eq!(response.header("x-spillway-attempts").as_deref(), Some(attempts));
            let after_ms: u64 = response.header("retry-after-ms").unwrap().parse().unwrap();
            assert!((5_000..=5_500).contains(&after_ms), "the soonest, jittered: {after_ms}");
            assert!(response.text().contains("\"error\""), "{}", response.text());
        }
    });
    assert_eq!(process.metric("exhausted_total"), 2);
}

#[test]
fn a_prompt_too_long_for_provisioned_capacity_goes_elsewhere_and_counts_nowhere() {
    let process = Process::new("long prompt");
    let provisioned = r#""provisioned": {"ptus": 15, "input_tokens_per_minute_per_ptu": 2500},"#;
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"}}]}"#,
    )
    .replace(r#""host": "a.example","#, &format!(r#""host": "a.example", {provisioned}"#));
    let too_long = r#"{"error": {"code": "context_length_exceeded", "message": "m"}}"#;
    process.script(
        "a",
        [
            Script::status(400).body(too_long),
            Script::status(400).body("{\"error\": {}}"),
            Script::status(400).no_body(),
        ],
    );
    worker(&process, &settings, |envoy| {
        let answers = [(); 4].map(|()| envoy.ask(Request::chat()));
        let seen = answers.map(|response| (response.status(), response.served_by()));
        let of = |status, backend: &str| (status, backend.to_owned());
        assert_eq!(seen, [of(200, "b"), of(400, "a"), of(400, "a"), of(200, "a")]);
    });
}
