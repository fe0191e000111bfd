//! Responses that no attempt released: what Envoy did not do although it was told to, and what it did
//! unasked.

use crate::envoy::{End, Request, Response, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::Process;

const TRIPS_AT_ONCE: &str =
    r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"}}]}"#;

/// Asserts that this is an error with a time to retry, in the format that SDKs read.
fn assert_says_when(response: &Response, what: &str) {
    assert!(response.status() >= 400, "{what}: {response:?}");
    assert!(response.header("retry-after-ms").is_some(), "{what}: {response:?}");
    assert!(response.header("x-spillway-retry").is_none(), "{what}: {response:?}");
}

#[test]
fn a_retry_that_envoy_does_not_make_ends_with_the_last_attempts_error() {
    let refused = || Script::events(&["data: {\"error\":{\"code\":\"x\"}}\n\n"]);
    for (script, status, is_passed_on) in [
        (Script::throttled(700), 429, true),
        (Script::status(500), 500, true),
        (refused(), 503, false),
        (Script::events(&[]).header("retry-after-ms", "400"), 503, false),
        (Script::status(401), 503, false),
        (Script::connect_failure(), 503, false),
        (Script::reset(), 503, false),
    ] {
        let what = format!("{script:?}");
        let process = Process::new(&what);
        process.script("a", [script]);
        worker(&process, TWO_TIERS, |envoy| {
            envoy.retries_max = 0;
            let response = envoy.ask(Request::chat());
            assert_eq!(response.status(), status, "{what}");
            assert_says_when(&response, &what);
            assert_eq!(response.text() == "{}", is_passed_on, "{what}: {}", response.text());
            assert_eq!(response.header("x-spillway-attempts").as_deref(), Some("1"), "{what}");
        });
        assert_eq!(process.take_clusters(), ["a"]);
        assert_eq!(process.metric("failovers_limited"), 1, "{what}");
    }
}

#[test]
fn a_backend_to_which_envoy_has_no_way_is_left_alone_from_the_first_sight_on() {
    for (details, word) in [("cluster_not_found", "no-cluster"), ("no_healthy_upstream", "no-host")]
    {
        let process = Process::new(details);
        worker(&process, TWO_TIERS, |envoy| {
            envoy.no_cluster = details;
            let way = envoy.clusters.remove("a").unwrap();
            let response = envoy.ask(Request::chat());
            assert_eq!(response.status(), 503);
            assert_says_when(&response, details);
            assert_eq!(response.header("retry-after").as_deref().map(|it| it.len()), Some(1));
            assert_eq!(response.header("x-spillway-attempts").as_deref(), Some("1"));
            assert_eq!(response.header("x-spillway-trail"), Some(format!("a;{word}")));
            for _ in 0..5 {
                assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "{}", process.logged());
            }
            assert_eq!(process.metric("backend.a.outcome.misrouted"), 1);
            assert_eq!(process.logged().matches("cannot be reached").count(), 1);
            // When the backend can be reached again, a probe finds it.
            envoy.clusters.insert("a".to_owned(), way);
            envoy.pass(60_000);
            assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
        });
    }
}

#[test]
fn what_the_matcher_does_not_know_fails_over_without_a_key() {
    let process = Process::new("no route");
    worker(&process, TWO_TIERS, |envoy| {
        envoy.clusters.insert("a".to_owned(), "spillway_exhausted".to_owned());
        process.script("spillway_exhausted", [Script::connect_failure()]);
        for attempts in ["2", "1", "1"] {
            let response = envoy.ask(Request::chat_v1());
            assert_eq!((response.status(), response.served_by()), (200, "b".to_owned()));
            assert_eq!(response.header("x-spillway-attempts").as_deref(), Some(attempts));
        }
        assert!(process.logged().contains("has no entry for it"), "{}", process.logged());
    });
    let seen = process.seen();
    let stray = seen.iter().find(|seen| seen.cluster == "spillway_exhausted").unwrap();
    assert_eq!((stray.header("api-key"), stray.header("authorization")), (None, None));
    assert_eq!(stray.header(":path").as_deref(), Some("/"));
    assert!(seen.iter().filter(|seen| seen.cluster == "b").count() == 3);
}

#[test]
fn what_answers_for_the_unknown_is_not_believed() {
    let process = Process::new("an answer from nowhere");
    worker(&process, TWO_TIERS, |envoy| {
        envoy.clusters.insert("a".to_owned(), "spillway_exhausted".to_owned());
        process.script("spillway_exhausted", [Script::ok().body("who?")]);
        let response = envoy.ask(Request::chat());
        assert_eq!((response.served_by(), response.text()), ("b".to_owned(), "{}".to_owned()));
    });
}

#[test]
fn a_route_to_another_backends_cluster_opens_the_breaker_and_sends_nothing() {
    let process = Process::new("a wrong cluster");
    worker(&process, TWO_TIERS, |envoy| {
        envoy.clusters.insert("a".to_owned(), "b".to_owned());
        let response = envoy.ask(Request::chat());
        assert_eq!(response.status(), 503);
        assert_says_when(&response, "wrong cluster");
        assert_eq!(response.header("x-spillway-trail").as_deref(), Some("a;wrong-cluster"));
        assert!(process.seen().is_empty());
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
    });
}

#[test]
fn what_envoys_own_filters_refuse_keeps_what_a_client_needs() {
    let process = Process::new("filters behind");
    let settings = two_tiers(TRIPS_AT_ONCE);
    worker(&process, &settings, |envoy| {
        let mut refused = |status, headers: &[(&'static str, &'static str)]| {
            envoy.filter_behind = Some((status, headers.to_vec()));
            let response = envoy.ask(Request::chat());
            assert_eq!(response.status(), status);
            assert!(response.text().starts_with(r#"{"error":{"message":"#), "{}", response.text());
            response
        };
        let limits = [("x-ratelimit-limit", "10"), ("x-ratelimit-reset", "7")];
        let response = refused(429, &limits);
        assert!(response.text().contains(r#""type":"rate_limit_exceeded""#), "{}", response.text());
        assert_eq!(response.header("x-ratelimit-limit").as_deref(), Some("10"));
        assert_eq!(response.header("retry-after").as_deref(), Some("7"));
        let response = refused(429, &[("retry-after", "3"), ("x-ratelimit-reset", "7")]);
        assert_eq!(response.header("retry-after").as_deref(), Some("3"));
        // Without a stated time, it is the same as for any other 429.
        for headers in [&[][..], &[("x-ratelimit-reset", "0")]] {
            let response = refused(429, headers);
            assert!(
                matches!(response.header("retry-after").as_deref(), Some("1" | "2")),
                "{response:?}"
            );
            assert_eq!(response.header("x-spillway-trail"), None, "it would be empty");
        }
        let response = refused(401, &[("www-authenticate", "Bearer")]);
        assert!(
            response.text().contains(r#""type":"authentication_error""#),
            "{}",
            response.text()
        );
        assert_eq!(response.header("www-authenticate").as_deref(), Some("Bearer"));
        assert!(refused(403, &[]).text().contains(r#""type":"permission_error""#));
        // A page or a redirect of the route itself is no refusal.
        envoy.filter_behind = Some((301, vec![("location", "/elsewhere")]));
        let response = envoy.ask(Request::chat());
        assert_eq!(
            (response.status(), response.header("location")),
            (301, Some("/elsewhere".into()))
        );
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a", "nothing of it was the backend's");
    });
    assert_eq!(process.take_clusters(), ["a"]);
}

#[test]
fn a_stream_that_ends_early_counts_only_when_its_backend_ended_it() {
    const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    for (details, server) in [
        (None, "b"),
        (Some("upstream_per_try_idle_timeout"), "a"),
        (Some("stream_idle_timeout"), "a"),
        (Some("max_duration_timeout"), "a"),
    ] {
        let process = Process::new(&format!("{details:?}"));
        let settings = two_tiers(TRIPS_AT_ONCE);
        worker(&process, &settings, |envoy| {
            let script = Script::events(&[EVENT]);
            let ends = if details.is_some() { script.then_stall() } else { script.then_reset() };
            process.script("a", [ends]);
            let id = envoy.send(Request::chat());
            envoy.run();
            if let Some(details) = details {
                envoy.break_off(id, details);
            }
            assert_eq!(envoy.take(id).end, End::Reset, "{details:?}");
            assert_eq!(envoy.ask(Request::chat()).served_by(), server, "{details:?}");
        });
    }
}
