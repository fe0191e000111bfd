//! Each way in which a backend can fail before its first byte: another one serves, and the client
//! sees nothing of it but the trail.

use crate::harness::{Asking, Gateway, assert_for, first_and_second};
use mock_azure::{Ending, ErrorShape, Fault, body_hash};
use serde_json::json;
use std::time::Duration;

const ALL: [Asking; 3] = [Asking::Chat, Asking::ChatStream, Asking::ResponsesStream];
const STREAMS: [Asking; 2] = [Asking::ChatStream, Asking::ResponsesStream];

fn error_first(shape: ErrorShape, code: &str) -> Fault {
    Fault::ErrorFirstEvent { shape, code: code.to_owned() }
}

/// Asserts that with `fault` at the first backend the second one answers, and that it was sent what
/// the client sent.
async fn fails_over(gateway: &Gateway, asking: Asking, fault: Fault, result: &str) {
    let what = format!("{asking:?} with {fault:?}");
    let before = gateway.counts();
    gateway.mock("first").push_fault(fault);
    let response = asking.send(gateway).await;
    asking.assert_answered(&response, &what);
    assert_eq!(response.served_by(), "second", "{what}");
    assert_eq!(response.header("x-spillway-attempts"), Some("2"), "{what}");
    assert_trail(response.header("x-spillway-trail").unwrap(), result, &what);
    let after = gateway.counts();
    assert_eq!(after, [before[0] + 1, before[1] + 1], "{what}");
    for name in ["first", "second"] {
        let record = gateway.records(name).pop().unwrap();
        assert_for(&record, name, &what);
        assert_eq!(record.path, asking.classic_path(name), "{what}");
        assert_eq!(record.body_hash, body_hash(asking.classic_body(name).as_bytes()), "{what}");
    }
}

fn assert_trail(trail: &str, result: &str, what: &str) {
    // The gate of a throttle is closed for a millisecond, of which none may be left.
    let plain = trail.replace(";gate=1ms", "").replace(";gate=0ms", "");
    assert_eq!(plain, format!("first;{result}, second;200"), "{what}: {trail}");
}

/// The throttle gate of the first backend closes for a millisecond.
async fn until_the_gate_is_open() {
    tokio::time::sleep(Duration::from_millis(3)).await;
}

#[tokio::test]
async fn every_status_of_a_backend_that_cannot_serve_fails_over() {
    let gateway = first_and_second().start().await;
    for asking in ALL {
        for number in [408, 429, 500, 501, 502, 503, 504, 529] {
            fails_over(&gateway, asking, Fault::status(number), &number.to_string()).await;
            until_the_gate_is_open().await;
        }
        for retry_after_ms in [None, Some(0), Some(1), Some(40_000)] {
            fails_over(&gateway, asking, Fault::Throttle { retry_after_ms }, "429").await;
            until_the_gate_is_open().await;
        }
    }
}

#[tokio::test]
async fn an_error_that_is_not_json_fails_over_by_its_status() {
    let gateway = first_and_second().start().await;
    for asking in ALL {
        for body in ["<html>Bad gateway</html>", "", "{\"error\":", "\u{0}\u{0}"] {
            let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
            let fault = Fault::Status { status: 502, headers, body: Some(body.to_owned()) };
            fails_over(&gateway, asking, fault, "502").await;
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_response_fails_over() {
    let gateway = first_and_second().start().await;
    for asking in ALL {
        for fault in [Fault::ResetBeforeHeaders, Fault::CloseBeforeHeaders, Fault::GarbageBytes] {
            // On a new connection and on one that served before.
            for _ in 0..2 {
                fails_over(&gateway, asking, fault.clone(), "reset").await;
                assert_eq!(asking.send(&gateway).await.served_by(), "first");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_connection_fails_over() {
    let gateway = first_and_second().start().await;
    for asking in ALL {
        // First a connection of the pool is closed, then there was none.
        for _ in 0..2 {
            assert_eq!(asking.send(&gateway).await.served_by(), "first");
            gateway.mock("first").stop().await.unwrap();
            for _ in 0..2 {
                let response = asking.send(&gateway).await;
                asking.assert_answered(&response, "connection refused");
                assert_eq!(response.header("x-spillway-trail"), Some("first;connect, second;200"));
                assert_for(&gateway.records("second").pop().unwrap(), "second", "refused");
            }
            gateway.mock("first").restart().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_response_that_is_late_for_envoys_limit_fails_over() {
    let gateway = first_and_second()
        .settings(|settings| settings.per_try_timeout = Duration::from_millis(500))
        .start()
        .await;
    let late = Fault::DelayFirstByte { delay: Duration::from_secs(30) };
    let slow = Fault::SlowHeaders { bytes: 100, pause: Duration::from_millis(50) };
    for asking in ALL {
        for fault in [&late, &slow] {
            fails_over(&gateway, asking, fault.clone(), "reset").await;
        }
    }
}

#[tokio::test]
async fn a_response_that_is_late_for_the_pools_own_limit_is_a_timeout_and_fails_over() {
    let limit = Duration::from_millis(400);
    let gateway =
        first_and_second().pool(json!({"failover": {"first_byte_timeout": "400ms"}})).start().await;
    let late = Fault::DelayFirstByte { delay: Duration::from_secs(30) };
    let slow = Fault::SlowHeaders { bytes: 100, pause: Duration::from_millis(50) };
    for asking in ALL {
        for fault in [&late, &slow] {
            let started = std::time::Instant::now();
            fails_over(&gateway, asking, fault.clone(), "timeout").await;
            // The clock of Envoy's timers is early by one turn of its event loop.
            assert!(started.elapsed() >= limit * 9 / 10, "{:?}", started.elapsed());
        }
    }
    assert_eq!(gateway.attempts("first", "fault").await, 6);
}

#[tokio::test]
async fn a_stream_that_is_silent_before_its_first_event_fails_over_in_time() {
    let gateway =
        first_and_second().pool(json!({"failover": {"first_byte_timeout": "400ms"}})).start().await;
    for asking in STREAMS {
        let silent = Fault::StallMidStream { after_events: 0 };
        fails_over(&gateway, asking, silent, "timeout").await;
    }
}

#[tokio::test]
async fn an_error_as_first_event_fails_over_in_every_shape() {
    let gateway = first_and_second().start().await;
    let chat = [ErrorShape::Chat];
    let responses =
        [ErrorShape::ResponsesNested, ErrorShape::ResponsesFlat, ErrorShape::ResponseFailed];
    for (asking, shapes) in
        [(Asking::ChatStream, &chat[..]), (Asking::ResponsesStream, &responses[..])]
    {
        for shape in shapes {
            let failed = error_first(*shape, "server_error");
            fails_over(&gateway, asking, failed, "stream-error").await;
            let refused = error_first(*shape, "rate_limit_exceeded");
            fails_over(&gateway, asking, refused, "in-band").await;
            until_the_gate_is_open().await;
        }
    }
}

#[tokio::test]
async fn a_refusal_within_a_stream_is_a_throttle_and_fails_over() {
    let gateway = first_and_second().start().await;
    for asking in STREAMS {
        fails_over(&gateway, asking, Fault::InBandThrottle { retry_after_ms: 700 }, "in-band")
            .await;
        until_the_gate_is_open().await;
    }
    let outcome = "wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome";
    assert_eq!(gateway.envoy.stat(&format!("{outcome}.throttled")).await, 2);
    assert_eq!(gateway.envoy.stat(&format!("{outcome}.fault")).await, 0);
}

#[tokio::test]
async fn a_stream_that_ends_before_its_first_event_fails_over() {
    let gateway = first_and_second().start().await;
    for asking in STREAMS {
        fails_over(&gateway, asking, Fault::EmptyStream, "stream-error").await;
        let half = Fault::HalfEvent { after_events: 0, ending: Ending::End };
        fails_over(&gateway, asking, half, "stream-error").await;
        for ending in [Ending::Close, Ending::Reset] {
            let half = Fault::HalfEvent { after_events: 0, ending };
            fails_over(&gateway, asking, half, "reset").await;
        }
        let reset = Fault::ResetAfterHeaders { after_events: 0 };
        fails_over(&gateway, asking, reset, "reset").await;
        // The first event of either stream says only that there will be a response.
        let reset = Fault::ResetAfterHeaders { after_events: 1 };
        fails_over(&gateway, asking, reset, "reset").await;
        let error = Fault::MidStreamError { after_events: 1 };
        fails_over(&gateway, asking, error, "stream-error").await;
    }
}

#[tokio::test]
async fn a_long_announcement_is_held_up_to_the_configured_length() {
    let huge = |bytes, then_error| Fault::HugeCreatedEvent { bytes, then_error };
    let asking = Asking::ResponsesStream;
    let gateway = first_and_second().start().await;
    fails_over(&gateway, asking, huge(40_000, true), "stream-error").await;
    for bytes in [40_000, 400_000, 2_000_000] {
        gateway.mock("first").push_fault(huge(bytes, false));
        let response = asking.send(&gateway).await;
        asking.assert_answered(&response, "a huge first event");
        assert_eq!(response.served_by(), "first");
        assert!(response.body.len() > bytes);
    }
    // Beyond what is held the error reaches the client, and is recorded.
    gateway.mock("first").push_fault(huge(4_000_000, true));
    let response = asking.send(&gateway).await;
    assert_eq!((response.status, response.served_by()), (200, "first"));
    assert_eq!(response.events().last().unwrap().name.as_deref(), Some("error"));
    assert_eq!(gateway.attempts("first", "fault").await, 2);

    let holding_more = json!({"failover": {"hold": {"bytes": 1_048_576, "time": "5s"}}});
    let gateway = first_and_second().pool(holding_more).start().await;
    fails_over(&gateway, asking, huge(900_000, true), "stream-error").await;
}

#[tokio::test]
async fn a_page_of_html_with_status_200_passes_as_it_is() {
    // It is a response by its status, and a gateway that judged contents would have to understand
    // all that may ever be asked for.
    let gateway = first_and_second().start().await;
    for asking in ALL {
        gateway.mock("first").push_fault(Fault::GarbageHtml);
        let response = asking.send(&gateway).await;
        assert_eq!((response.status, response.served_by()), (200, "first"));
        assert_eq!(response.header("content-type"), Some("text/html"));
        assert!(response.text().starts_with("<!DOCTYPE html>"));
    }
    assert_eq!(gateway.counts(), [3, 0]);
}
