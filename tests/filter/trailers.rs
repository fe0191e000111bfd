//! Messages that end with trailers, as HTTP/2 and chunked bodies may: no part of the body says that
//! it is the last one.

use crate::envoy::{End, Request, Response, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::Process;

const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

fn names(response: &Response) -> Vec<String> {
    response.trailers.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn a_request_that_ends_with_trailers_is_routed_and_none_of_them_goes_on() {
    let process = Process::new("trailers of requests");
    let settings = two_tiers(r#""failover": {"max_wait": "2s", "max_attempts": 4}"#);
    worker(&process, &settings, |envoy| {
        for request in [
            Request::chat(),
            Request::chat_v1(),
            Request::chat_v1().chunked(&[r#"{"model":"#, r#""gpt""#, r#","messages":[]}"#]),
            Request::new("GET", "/openai/v1/responses/resp_1?model=gpt"),
        ] {
            let response = envoy.ask(request.trailer("api-key", "client-secret"));
            assert_eq!((response.status(), response.served_by()), (200, "a".to_owned()));
        }
        // Also when it has to wait.
        process.script("a", [Script::throttled(300)]);
        process.script("b", [Script::throttled(60_000)]);
        envoy.ask(Request::chat());
        process.script("a", [Script::throttled(300)]);
        let response = envoy.ask(Request::chat().trailer("x-checksum", "1"));
        assert_eq!((response.status(), response.served_by()), (200, "a".to_owned()));
    });
}

#[test]
fn a_request_that_is_refused_at_its_trailers_gets_its_response() {
    let process = Process::new("a malformed body with trailers");
    worker(&process, TWO_TIERS, |envoy| {
        let request = Request::chat_v1().chunked(&["{"]).trailer("x-checksum", "1");
        assert_eq!(envoy.ask(request).status(), 400);
    });
    assert!(process.seen().is_empty());
}

#[test]
fn a_response_that_ends_with_trailers_is_complete() {
    let process = Process::new("trailers of answers");
    let breaker = r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1}}]}"#;
    worker(&process, &two_tiers(breaker), |envoy| {
        for script in [Script::ok(), Script::events(&[EVENT]), Script::ok().no_body()] {
            let script = script.trailer("x-checksum", "1").trailer("x-envoy-ratelimited", "true");
            process.script("a", [script]);
            let response = envoy.ask(Request::chat());
            assert_eq!((response.status(), response.end), (200, End::Complete));
            assert_eq!(names(&response), ["x-checksum"]);
        }
        // Its breaker, which one fault would have opened, is closed.
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
    });
    assert_eq!(process.metric("outcome.success"), 4);
}

#[test]
fn a_held_response_that_ends_with_trailers_shows_what_it_is() {
    let process = Process::new("trailers of held answers");
    let stored = || Request::new("GET", "/openai/v1/responses/resp_1?model=gpt");
    worker(&process, TWO_TIERS, |envoy| {
        let unfinished = "data: {\"choices\"";
        process.script("a", [Script::events(&[unfinished]).trailer("x-checksum", "1")]);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "an event without an end");

        let refusal = r#"{"error":{"code":"unsupported_parameter","message":"m"}}"#;
        process.script("a", [Script::status(400).body(refusal).trailer("x-checksum", "1")]);
        let response = envoy.ask(stored());
        assert_eq!((response.status(), response.text()), (400, refusal.to_owned()));
        assert_eq!(names(&response), ["x-checksum"]);
    });
}

#[test]
fn headers_with_which_a_backend_would_steer_the_router_are_removed() {
    let process = Process::new("x-envoy headers of backends");
    let steering = ["x-envoy-ratelimited", "x-envoy-overloaded", "x-envoy-degraded"];
    worker(&process, TWO_TIERS, |envoy| {
        let steered =
            steering.iter().fold(Script::ok(), |script, name| script.header(name, "true"));
        process.script("a", [steered]);
        let response = envoy.ask(Request::chat());
        assert_eq!(response.status(), 200);
        assert!(steering.iter().all(|name| response.header(name).is_none()), "{response:?}");
    });
}
