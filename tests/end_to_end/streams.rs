//! Streams: every chunk passes at once, a broken stream is not repaired without the client's knowledge, and a
//! client that leaves counts against no backend.

use crate::harness::{Asking, CHAT, Gateway, Setup, eventually, first_and_second};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use mock_azure::{Ending, Fault};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const STREAMS: [Asking; 2] = [Asking::ChatStream, Asking::ResponsesStream];

/// More events than any stream has before its first content.
const SAID_SOMETHING: usize = 6;

/// A circuit breaker that opens at this many faults.
fn breaker_of(count: u32) -> Value {
    json!({"circuit_breaker": {"rules": [
        {"failure_condition": {"count": count, "interval": "60s"}, "trip_duration": "60s"}
    ]}})
}

fn first_and_second_with_breaker(count: u32) -> Setup {
    Setup::tiers(["first", "second"]).pool(breaker_of(count))
}

async fn outcomes(gateway: &Gateway, outcome: &str) -> u64 {
    let name = "wasmcustom.spillway_attempts_total.pool.gpt.backend.first.outcome";
    gateway.envoy.stat(&format!("{name}.{outcome}")).await
}

/// Asserts that `fault` in mid-response reaches the client, at one backend and recorded there, and
/// that the breaker opens at the second one.
async fn is_not_retried(asking: Asking, fault: Fault, ends_in_order: bool) {
    let what = format!("{asking:?} with {fault:?}");
    let gateway = first_and_second_with_breaker(2)
        .settings(|settings| settings.per_try_idle_timeout = Duration::from_millis(400))
        .start()
        .await;
    for round in 1..=2 {
        gateway.mock("first").push_fault(fault.clone());
        let response = asking.send(&gateway).await;
        assert_eq!((response.status, response.served_by()), (200, "first"), "{what}");
        assert_eq!(response.header("x-spillway-attempts"), Some("1"), "{what}");
        assert_eq!(response.complete, ends_in_order, "{what}: {}", response.text());
        assert!(!response.text().contains("[DONE]"), "{what}: {}", response.text());
        assert!(!response.text().contains("response.completed"), "{what}: {}", response.text());
        assert_eq!(gateway.counts(), [round, 0], "{what}");
        eventually(&format!("a fault is counted: {what}"), async || {
            outcomes(&gateway, "fault").await == round as u64
        })
        .await;
    }
    let response = asking.send(&gateway).await;
    asking.assert_answered(&response, &what);
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.starts_with("first;skip=breaker;breaker="), "{what}: {trail}");
    assert!(trail.ends_with(", second;200"), "{what}: {trail}");
    assert_eq!(gateway.counts(), [2, 1], "{what}");
}

/// Asserts that a stall in mid-response ends at one backend and does not count against it: a client that does not
/// read looks the same.
async fn ends_without_blame(asking: Asking, after_events: usize) {
    let what = format!("{asking:?} after {after_events} events");
    let gateway = first_and_second_with_breaker(1)
        .settings(|settings| settings.per_try_idle_timeout = Duration::from_millis(400))
        .start()
        .await;
    gateway.mock("first").push_fault(Fault::StallMidStream { after_events });
    let response = asking.send(&gateway).await;
    assert_eq!((response.status, response.served_by()), (200, "first"), "{what}");
    assert!(!response.complete, "{what}: {}", response.text());
    assert_eq!(gateway.counts(), [1, 0], "{what}");
    let response = asking.send(&gateway).await;
    asking.assert_answered(&response, &what);
    assert_eq!(gateway.counts(), [2, 0], "{what}");
    assert_eq!(outcomes(&gateway, "fault").await, 0, "{what}");
}

#[tokio::test]
async fn a_stream_that_breaks_is_not_retried() {
    for asking in STREAMS {
        is_not_retried(asking, Fault::ResetAfterHeaders { after_events: SAID_SOMETHING }, false)
            .await;
        for ending in [Ending::Close, Ending::Reset] {
            let fault = Fault::HalfEvent { after_events: SAID_SOMETHING, ending };
            is_not_retried(asking, fault, false).await;
        }
    }
}

#[tokio::test]
async fn a_stream_that_stalls_is_ended_by_envoy_and_not_retried() {
    for asking in STREAMS {
        ends_without_blame(asking, SAID_SOMETHING).await;
    }
    ends_without_blame(Asking::Chat, 0).await;
}

#[tokio::test]
async fn an_error_in_a_running_stream_reaches_the_client_and_is_not_retried() {
    for asking in STREAMS {
        let fault = Fault::MidStreamError { after_events: SAID_SOMETHING };
        is_not_retried(asking, fault, true).await;
    }
}

#[tokio::test]
async fn a_whole_response_that_breaks_after_its_headers_is_not_retried() {
    let reset = Fault::ResetAfterHeaders { after_events: 0 };
    let half = Fault::HalfEvent { after_events: 0, ending: Ending::Close };
    for fault in [reset, half] {
        is_not_retried(Asking::Chat, fault, false).await;
    }
}

/// Sends a request that the first backend answers with `fault`, and gives it up as soon as the
/// client has what `enough` waits for.
async fn give_up(gateway: &Gateway, asking: Asking, fault: Fault, wait_for_answer: bool) {
    let known = gateway.counts()[0];
    gateway.mock("first").push_fault(fault);
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(asking.body());
    let sending = gateway.client.open(Method::POST, asking.path(), &headers, body);
    if wait_for_answer {
        let mut response = sending.await.unwrap();
        if asking != Asking::Chat {
            assert!(next_chunk(response.body_mut()).await.is_some());
        }
    } else {
        let arrived = gateway.mock("first").records_when(|records| {
            records.last().is_some_and(|record| records.len() > known && record.fault.is_some())
        });
        tokio::select! {
            answer = sending => panic!("{answer:?}"),
            _ = arrived => {}
        }
    }
    // The connection to the backend ends with the client's.
    let ended = gateway.mock("first").records_when(|records| records[known].ended);
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
}

async fn next_chunk(body: &mut Incoming) -> Option<Bytes> {
    body.frame().await?.unwrap().into_data().ok()
}

#[tokio::test]
async fn a_client_that_goes_away_trips_nothing() {
    let gateway = first_and_second_with_breaker(1)
        .pool(json!({"failover": {"hold": {"time": "10s"}}}))
        .start()
        .await;
    let silent = Fault::DelayFirstByte { delay: Duration::from_secs(60) };
    let stalled = |after_events| Fault::StallMidStream { after_events };
    let mut cases = vec![(Asking::Chat, silent.clone(), false), (Asking::Chat, stalled(0), true)];
    for asking in STREAMS {
        cases.push((asking, silent.clone(), false));
        // While the head of the stream is held, before its first event and after it.
        cases.push((asking, stalled(0), false));
        cases.push((asking, stalled(1), false));
        cases.push((asking, stalled(SAID_SOMETHING), true));
    }
    for (cancelled, (asking, fault, wait_for_answer)) in (1..).zip(cases) {
        let what = format!("{asking:?} {fault:?}");
        give_up(&gateway, asking, fault, wait_for_answer).await;
        eventually(&what, async || outcomes(&gateway, "cancelled").await == cancelled).await;
        let response = asking.send(&gateway).await;
        asking.assert_answered(&response, &what);
        assert_eq!(response.header("x-spillway-trail"), Some("first;200"), "{what}");
        assert_eq!(outcomes(&gateway, "fault").await, 0, "{what}");
    }
    assert_eq!(gateway.counts()[1], 0);
}

#[tokio::test]
async fn a_stream_passes_chunk_by_chunk() {
    const PAUSE: Duration = Duration::from_millis(60);
    let gateway = Setup::new()
        .backend_with("first", json!({}), |mock| mock.with_latency(Duration::ZERO, PAUSE))
        .start()
        .await;
    for asking in STREAMS {
        let known = gateway.counts()[0];
        let started = Instant::now();
        let headers = [("content-type", "application/json")];
        let body = Bytes::from(asking.body());
        let mut response =
            gateway.client.open(Method::POST, asking.path(), &headers, body).await.unwrap();
        let mut chunks = Vec::new();
        let mut first_after = None;
        while let Some(chunk) = next_chunk(response.body_mut()).await {
            if first_after.is_none() {
                first_after = Some(started.elapsed());
                assert!(!gateway.records("first")[known].completed, "{asking:?}: sent as a whole");
            }
            chunks.push(chunk);
        }
        let (first_after, total) = (first_after.unwrap(), started.elapsed());
        println!("{asking:?}: first of {} chunks after {first_after:?} of {total:?}", chunks.len());
        assert!(first_after * 2 < total, "{asking:?}: {first_after:?} of {total:?}");
        // Sixteen tokens, each an event: no two of them may have waited for each other.
        assert!(chunks.len() >= 16, "{asking:?}: {} chunks", chunks.len());
        let held = chunks.first().unwrap().len();
        let most = chunks.iter().skip(1).map(Bytes::len).max().unwrap();
        println!("{asking:?}: {held} bytes were held, at most {most} came at once after that");
    }
}

#[tokio::test]
async fn a_stream_that_is_slow_to_begin_is_let_go_after_the_hold_time() {
    let gateway = first_and_second()
        .pool(json!({"failover": {"hold": {"time": "200ms"}}}))
        .settings(|settings| settings.per_try_timeout = Duration::from_secs(2))
        .start()
        .await;
    gateway.mock("first").push_fault(Fault::StallMidStream { after_events: 1 });
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(Asking::ChatStream.body());
    let mut response = gateway.client.open(Method::POST, CHAT, &headers, body).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-served-by"], "first");
    let chunk = next_chunk(response.body_mut()).await.unwrap();
    assert!(String::from_utf8_lossy(&chunk).contains("prompt_filter_results"), "{chunk:?}");
}

#[tokio::test]
async fn streams_that_break_in_a_row_open_a_breaker_that_counts_in_a_row() {
    let gateway = Setup::tiers(["first", "second"])
        .pool(json!({"circuit_breaker": {"rules": [
            {"failure_condition": {"consecutive": 2, "interval": "60s"}, "trip_duration": "60s"}
        ]}}))
        .start()
        .await;
    for round in 1..=2 {
        gateway.mock("first").push_fault(Fault::ResetAfterHeaders { after_events: SAID_SOMETHING });
        assert!(!gateway.chat_stream().await.complete);
        eventually("a fault is counted", async || outcomes(&gateway, "fault").await == round).await;
    }
    assert_eq!(outcomes(&gateway, "success").await, 0);
    assert_eq!(gateway.chat_stream().await.served_by(), "second");
}
