//! Input that no honest client or backend sends, and steps of the clock.

use crate::envoy::{Request, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::Process;

const NOISE: &[u8] = b"\xff\xfe\x80 caf\xe9 \x01";

#[test]
fn header_bytes_that_are_not_utf_8_are_bytes() {
    let requests = [
        ":path",
        ":method",
        ":authority",
        "content-type",
        "content-length",
        "api-key",
        "authorization",
        "x-any",
        "upgrade",
        "x-spillway-any",
    ];
    let answers = [
        ":status",
        "content-type",
        "retry-after",
        "retry-after-ms",
        "x-any",
        "x-spillway-retry",
        "x-ratelimit-remaining-tokens",
        "content-length",
    ];
    let process = Process::new("noise");
    worker(&process, TWO_TIERS, |envoy| {
        for name in requests {
            let mut request = Request::chat().without(name);
            request.headers.insert(0, (name.as_bytes().to_vec(), NOISE.to_vec()));
            let response = envoy.ask(request);
            assert_ne!(response.status(), 0, "{name}: an answer came");
        }
        let response = envoy.ask(Request::chat().raw_header(NOISE, NOISE));
        assert_eq!(response.status(), 200, "{response:?}");
        for name in answers {
            for script in [Script::ok(), Script::throttled(1), Script::events(&["data: 1\n\n"])] {
                let script = script.without(name).raw_header(name.as_bytes(), NOISE);
                process.script("a", [script]);
                envoy.ask(Request::chat());
                envoy.pass(120_000);
            }
        }
        process.script("a", [Script::ok().raw_header(NOISE, NOISE)]);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
    });
}

#[test]
fn what_every_message_has_may_be_missing() {
    let process = Process::new("missing");
    worker(&process, TWO_TIERS, |envoy| {
        for name in [":path", ":method", ":authority", "content-type", "content-length"] {
            let response = envoy.ask(Request::chat().without(name));
            assert_ne!(response.status(), 0, "{name}");
        }
        process.script("a", [Script::ok().without(":status"), Script::ok()]);
        let response = envoy.ask(Request::chat());
        assert_ne!(response.served_by(), "", "{response:?}");
        let mut request = Request::chat();
        request.headers.clear();
        assert_eq!(envoy.ask(request).status(), 404);
        let mut request = Request::chat();
        request.chunks = vec![Vec::new()];
        assert_ne!(envoy.ask(request).status(), 0);
    });
}

#[test]
fn an_absurd_content_length_changes_nothing() {
    let process = Process::new("content-length");
    worker(&process, TWO_TIERS, |envoy| {
        for length in ["18446744073709551615", "99999999999999999999", "-1", "0", "1e9", "", "+5"] {
            for request in [Request::chat(), Request::chat_v1()] {
                let response = envoy.ask(request.header("content-length", length));
                // The filter does not wait for a body that states that it is too long.
                let status = if length.starts_with("18") { 413 } else { 200 };
                assert_eq!(response.status(), status, "{length:?}: {response:?}");
            }
        }
    });
}

#[test]
fn bodies_that_are_no_json_get_a_response() {
    let process = Process::new("bodies");
    let deep = "[".repeat(200_000);
    let spaced = format!(r#"{{"model": "gpt", "x": "{}"}}"#, "y".repeat(300_000));
    let bodies =
        ["", "{", "null", "\u{feff}{}", "{\"model\":1}", "{\"model\":\"gpt\"", &deep, &spaced];
    worker(&process, TWO_TIERS, |envoy| {
        for body in bodies {
            for request in [Request::chat(), Request::chat_v1()] {
                let response = envoy.ask(request.body(body));
                let head: String = body.chars().take(20).collect();
                assert!(matches!(response.status(), 200 | 400), "{head}: {response:?}");
            }
        }
        let slow: Vec<String> = spaced.chars().map(String::from).take(2_000).collect();
        let parts: Vec<&str> = slow.iter().map(String::as_str).collect();
        assert_ne!(envoy.ask(Request::chat_v1().chunked(&parts)).status(), 0);
    });
}

/// The splice is beyond the slice at the front that can be edited, so the buffer is rotated.
#[test]
fn a_model_far_inside_a_large_body_is_replaced_and_nothing_else() {
    let process = Process::new("a large body");
    let settings = TWO_TIERS.replace(
        r#""host": "a.example","#,
        r#""host": "a.example", "api": "azure_v1", "deployment": "gpt-4o-ptu","#,
    );
    let filler = "y".repeat(200_000);
    let body = format!(r#"{{"x": "{filler}", "model": "gpt", "z": "{filler}"}}"#);
    process.script("a", [Script::throttled(1)]);
    worker(&process, &settings, |envoy| {
        assert_eq!(envoy.ask(Request::chat_v1().body(&body)).served_by(), "b");
    });
    let seen = process.seen();
    assert!(seen[0].body == body.replace("\"gpt\"", "\"gpt-4o-ptu\"").into_bytes());
    assert!(seen[1].body == body.into_bytes(), "the edit for one backend reached the next");
}

#[test]
fn clients_cannot_steer_the_gateway() {
    let process = Process::new("steering");
    worker(&process, TWO_TIERS, |envoy| {
        let request = Request::chat()
            .header("x-spillway-target", "b")
            .header("x-envoy-max-retries", "0")
            .header("x-ms-spillover-deployment", "mine")
            .header("authorization", "Bearer client-secret");
        assert_eq!(envoy.ask(request).served_by(), "a");
        process.script("a", [Script::ok().header("x-spillway-retry", "1")]);
        let response = envoy.ask(Request::chat());
        assert_eq!((response.served_by(), response.header("x-spillway-retry")), ("a".into(), None));
    });
    let seen = process.seen();
    let names = seen[0].headers.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    let leaked: Vec<String> = names
        .filter(|name| {
            name.starts_with("x-spillway")
                || name.starts_with("x-envoy")
                || name.starts_with("x-ms")
        })
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    assert_eq!(process.take_clusters(), ["a", "a"]);
}

/// The driver looks at every credential header of every attempt.
#[test]
fn a_key_in_a_header_of_one_kind_of_backend_does_not_reach_the_other_kind() {
    let openai = r#""host": "b.example", "api": "openai","#;
    let settings = TWO_TIERS
        .replace(r#""host": "b.example","#, openai)
        .replace(r#""priority": 1"#, r#""priority": 3"#);
    for (first, configuration) in
        [("a", TWO_TIERS.replace(r#""host": "b.example","#, openai)), ("b", settings)]
    {
        let process = Process::new(&format!("{first} first"));
        process.script(first, [Script::status(500)]);
        worker(&process, &configuration, |envoy| {
            assert_eq!(envoy.ask(Request::chat_v1()).status(), 200);
        });
        assert_eq!(process.take_clusters().first().map(String::as_str), Some(first));
    }
}

#[test]
fn an_attempt_at_a_cluster_that_is_not_its_backends_never_goes_out() {
    let process = Process::new("a confused route");
    worker(&process, TWO_TIERS, |envoy| {
        envoy.clusters.insert("a".to_owned(), "b".to_owned());
        let response = envoy.ask(Request::chat());
        assert_eq!(response.status(), 503, "{response:?}");
        envoy.clusters.clear();
        assert_eq!(envoy.ask(Request::chat()).status(), 503);
    });
    assert!(process.seen().is_empty());
}

#[test]
fn the_clock_may_step_by_hours_in_the_middle_of_everything() {
    const HOUR_MS: i64 = 3_600_000;
    let settings = two_tiers(
        r#""failover": {"max_wait": "2s", "max_attempts": 4, "first_byte_timeout": "1s"},
           "circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"},
               "trip_duration": "1s"}]}"#,
    );
    for step_ms in [5 * HOUR_MS, -5 * HOUR_MS, 1, -1, 9_600 * HOUR_MS, -9_600 * HOUR_MS] {
        for script in [
            Script::throttled(500),
            Script::status(500),
            Script::silence(),
            Script::events(&["data: {\"cho"]).then_stall(),
            Script::connect_failure().after_ms(20),
        ] {
            let process = Process::new(&format!("step {step_ms}, {script:?}"));
            process.script("a", [script.clone()]);
            process.script("b", [script]);
            worker(&process, &settings, |envoy| {
                let id = envoy.send(Request::chat());
                envoy.pass(10);
                process.step_clock(step_ms);
                let other = envoy.send(Request::chat());
                envoy.run();
                envoy.cancel(id);
                envoy.cancel(other);
                // Gates and breakers have recovered within their own lengths.
                envoy.pass(400_000);
                process.take_clusters();
                let response = envoy.ask(Request::chat());
                assert_eq!(response.served_by(), "a", "{}: {response:?}", process.scenario);
            });
        }
    }
}
