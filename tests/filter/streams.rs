//! Event streams: the head is held until it is clear what it is, the rest passes.

use crate::envoy::{End, Request, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::Process;

const FIRST: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const SECOND: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: [DONE]\n\n";

#[test]
fn a_stream_flows_chunk_by_chunk_and_byte_for_byte() {
    let process = Process::new("stream");
    process.script("a", [Script::events(&[FIRST, SECOND]).every_ms(100)]);
    worker(&process, TWO_TIERS, |envoy| {
        let id = envoy.send(Request::chat());
        envoy.pass(99);
        assert_eq!(envoy.response(id).status(), 0, "the head is held");
        envoy.pass(1);
        assert_eq!(
            (envoy.response(id).status(), envoy.response(id).text()),
            (200, FIRST.to_owned())
        );
        envoy.run();
        let response = envoy.take(id);
        assert_eq!((response.end, response.text()), (End::Complete, format!("{FIRST}{SECOND}")));
        assert_eq!(response.served_by(), "a");
    });
}

#[test]
fn a_head_that_shows_nothing_is_held_no_longer_than_the_hold_time() {
    let process = Process::new("hold time");
    let settings = two_tiers(r#""failover": {"hold": {"time": "300ms"}}"#);
    process.script("a", [Script::events(&["data: {\"cho"]).every_ms(20).then_stall()]);
    worker(&process, &settings, |envoy| {
        let id = envoy.send(Request::chat());
        envoy.pass(299);
        assert_eq!(envoy.response(id).status(), 0);
        envoy.pass(1);
        let response = envoy.response(id);
        assert_eq!((response.status(), response.text()), (200, "data: {\"cho".to_owned()));
    });
}

#[test]
fn a_head_without_a_byte_is_held_no_longer_than_the_hold_time() {
    let process = Process::new("hold time without a byte");
    let settings = two_tiers(r#""failover": {"hold": {"time": "300ms"}}"#);
    process.script("a", [Script::events(&[FIRST]).every_ms(5_000)]);
    worker(&process, &settings, |envoy| {
        let id = envoy.send(Request::chat());
        envoy.pass(299);
        assert_eq!(envoy.response(id).status(), 0);
        envoy.pass(1);
        assert_eq!((envoy.response(id).status(), envoy.response(id).text()), (200, String::new()));
        envoy.run();
        let response = envoy.take(id);
        assert_eq!((response.end, response.text()), (End::Complete, FIRST.to_owned()));
        assert_eq!(response.served_by(), "a");
    });
}

#[test]
fn after_the_first_byte_nothing_is_retried_and_the_fault_counts() {
    let process = Process::new("reset in mid-stream");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s",
            "reasons": ["reset"]}}]}"#,
    );
    process.script("a", [Script::events(&[FIRST]).then_reset()]);
    worker(&process, &settings, |envoy| {
        let response = envoy.ask(Request::chat());
        assert_eq!((response.end, response.text()), (End::Reset, FIRST.to_owned()));
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "the breaker is open");
    });
    assert_eq!(process.take_clusters(), ["a", "b"]);
}

#[test]
fn an_in_band_refusal_closes_the_gate_and_is_retried() {
    let process = Process::new("in-band");
    process.script("a", [Script::events(&[]).header("retry-after-ms", "400")]);
    worker(&process, TWO_TIERS, |envoy| {
        let response = envoy.ask(Request::chat());
        assert_eq!((response.status(), response.served_by()), (200, "b".to_owned()));
        envoy.pass(399);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
        envoy.pass(1);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a");
    });
}

#[test]
fn a_client_that_leaves_a_stream_harms_nobody() {
    let process = Process::new("cancel in mid-stream");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"}}]}"#,
    );
    worker(&process, &settings, |envoy| {
        for script in [
            Script::silence(),
            Script::events(&["data: {\"cho"]).then_stall(),
            Script::events(&[FIRST]).then_stall(),
        ] {
            process.script("a", [script]);
            let id = envoy.send(Request::chat());
            envoy.pass(10);
            envoy.cancel(id);
            envoy.run();
        }
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a", "the breaker is closed");
    });
}

#[test]
fn an_error_later_in_the_stream_counts_and_flows() {
    let process = Process::new("late error");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"}}]}"#,
    );
    let error = "data: {\"error\":{\"message\":\"m\",\"code\":\"server_error\"}}\n\n";
    process.script("a", [Script::events(&[FIRST, &error[..9], &error[9..]])]);
    worker(&process, &settings, |envoy| {
        let response = envoy.ask(Request::chat());
        assert_eq!(response.text(), format!("{FIRST}{error}"));
    });
    assert_eq!(process.metric("outcome.fault"), 1, "{}", process.logged());
}
