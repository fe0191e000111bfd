//! Every fault, as a client sees it on the wire.

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use mock_azure::{Ending, ErrorShape, Fault, Mock, MockConfig, Record};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

async fn mock() -> Mock {
    Mock::start(MockConfig::new("sweden")).await.unwrap()
}

/// The reply to one streaming chat request that meets this fault.
async fn chat_with(fault: Fault) -> (Reply, Record) {
    let mock = mock().await;
    mock.push_fault(fault);
    let reply = post(&mock, &classic("chat/completions"), CHAT_STREAM).await;
    let record = mock.records_when(|records| records.iter().all(|record| record.ended)).await;
    assert_eq!(post(&mock, &classic("chat/completions"), CHAT).await.status(), 200, "only once");
    (reply, record.into_iter().next().unwrap())
}

async fn responses_with(fault: Fault) -> Reply {
    let mock = mock().await;
    mock.push_fault(fault);
    post(&mock, "/v1/responses", RESPONSES_STREAM).await
}

#[tokio::test]
async fn a_status_is_answered_with_its_headers_and_body() {
    let headers = vec![("x-ratelimit-remaining-tokens".to_owned(), "-1".to_owned())];
    let body = Some(r#"{"mine":1}"#.to_owned());
    let (reply, record) = chat_with(Fault::Status { status: 503, headers, body }).await;
    assert_eq!((reply.status(), reply.text().as_str()), (503, r#"{"mine":1}"#));
    assert_eq!(reply.header("x-ratelimit-remaining-tokens"), Some("-1"));
    assert_eq!((record.status, record.fault.as_deref()), (Some(503), Some("status")));
}

#[tokio::test]
async fn a_status_without_a_body_has_azures_own() {
    let fault = Fault::Status { status: 500, headers: Vec::new(), body: None };
    let (reply, _) = chat_with(fault).await;
    assert_eq!(reply.json()["error"]["code"], "InternalServerError");
}

#[tokio::test]
async fn a_throttle_carries_both_headers_or_none() {
    let (reply, _) = chat_with(Fault::Throttle { retry_after_ms: Some(1_300) }).await;
    assert_eq!(reply.status(), 429);
    assert_eq!(reply.header("retry-after"), Some("2"));
    assert_eq!(reply.header("retry-after-ms"), Some("1300"));
    let (reply, _) = chat_with(Fault::Throttle { retry_after_ms: None }).await;
    assert_eq!((reply.status(), reply.header("retry-after")), (429, None));
}

#[tokio::test]
async fn a_delayed_response_is_late_and_normal() {
    let asked = Instant::now();
    let (reply, _) = chat_with(Fault::DelayFirstByte { delay: Duration::from_millis(150) }).await;
    assert!(asked.elapsed() >= Duration::from_millis(150));
    assert!(reply.whole && reply.status() == 200);
}

#[tokio::test]
async fn a_stalled_stream_sends_its_events_and_then_nothing() {
    let mock = mock().await;
    mock.push_fault(Fault::StallMidStream { after_events: 3 });
    let mut stream = TcpStream::connect(mock.address()).await.unwrap();
    let request = request("POST", "/v1/chat/completions", "", CHAT_STREAM.as_bytes());
    stream.write_all(&request).await.unwrap();
    let mut received = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut received);
    tokio::time::timeout(Duration::from_millis(200), reading).await.unwrap_err();
    assert_eq!(String::from_utf8_lossy(&received).matches("data: ").count(), 3);
    drop(stream);
    let ended = mock.records_when(|records| records[0].ended);
    let records = tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
    assert!(!records[0].completed);
}

#[tokio::test]
async fn a_reset_instead_of_a_response_is_a_reset() {
    let (reply, record) = chat_with(Fault::ResetBeforeHeaders).await;
    assert_eq!((reply.raw.len(), reply.error), (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!((record.status, record.completed), (None, false));
}

#[tokio::test]
async fn a_close_instead_of_a_response_is_no_reset() {
    let (reply, _) = chat_with(Fault::CloseBeforeHeaders).await;
    assert_eq!((reply.raw.len(), reply.error), (0, None));
}

#[tokio::test]
async fn a_reset_after_the_headers_comes_after_its_events() {
    for after_events in [0, 2] {
        let (reply, record) = chat_with(Fault::ResetAfterHeaders { after_events }).await;
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.events().len(), after_events);
        assert_eq!(reply.error, Some(ErrorKind::ConnectionReset));
        assert!(!record.completed);
    }
}

#[tokio::test]
async fn half_an_event_ends_in_each_of_three_ways() {
    for ending in [Ending::Close, Ending::Reset, Ending::End] {
        let (reply, _) = chat_with(Fault::HalfEvent { after_events: 1, ending }).await;
        assert_eq!(reply.text().matches("\n\n").count(), 1, "{ending:?}");
        assert!(!reply.text().ends_with("\n\n"), "{ending:?}");
        assert_eq!(reply.whole, ending == Ending::End, "{ending:?}");
        let reset = (ending == Ending::Reset).then_some(ErrorKind::ConnectionReset);
        assert_eq!(reply.error, reset, "{ending:?}");
    }
}

#[tokio::test]
async fn half_a_json_response_is_shorter_than_it_announced() {
    let mock = mock().await;
    mock.push_fault(Fault::HalfEvent { after_events: 0, ending: Ending::Close });
    let reply = post(&mock, "/v1/chat/completions", CHAT).await;
    let announced: usize = reply.header("content-length").unwrap().parse().unwrap();
    assert_eq!(reply.body.len(), announced / 2);
}

#[tokio::test]
async fn garbage_is_html_or_no_http_at_all() {
    let (reply, _) = chat_with(Fault::GarbageHtml).await;
    assert_eq!((reply.status(), reply.header("content-type")), (200, Some("text/html")));
    let (reply, _) = chat_with(Fault::GarbageBytes).await;
    assert!(reply.raw.starts_with(b"\x00\xff"), "{:?}", reply.raw);
}

#[tokio::test]
async fn refused_connections_come_back_after_their_time() {
    let mock = mock().await;
    let mut idle = TcpStream::connect(mock.address()).await.unwrap();
    assert_eq!(get(&mock, "/v1/models").await.status(), 200);
    mock.push_fault(Fault::Refuse { length: Duration::from_millis(200) });
    assert_eq!(read_reply(&mut idle).await.raw.len(), 0, "open connections are closed");
    let refused = TcpStream::connect(mock.address()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(get(&mock, "/v1/models").await.status(), 200);
}

#[tokio::test]
async fn a_stopped_mock_refuses_until_it_is_restarted_on_its_port() {
    let mock = mock().await;
    for _ in 0..3 {
        mock.stop().await.unwrap();
        assert!(TcpStream::connect(mock.address()).await.is_err());
        mock.restart().await.unwrap();
        assert_eq!(get(&mock, "/v1/models").await.status(), 200);
    }
}

#[tokio::test]
async fn an_error_can_be_the_first_event_in_four_shapes() {
    let code = || "server_error".to_owned();
    let with = |shape| Fault::ErrorFirstEvent { shape, code: code() };
    let (reply, _) = chat_with(with(ErrorShape::Chat)).await;
    assert_eq!(
        (reply.status(), &reply.events()[0]["error"]["code"]),
        (200, &"server_error".into())
    );
    let nested = responses_with(with(ErrorShape::ResponsesNested)).await.events();
    assert_eq!(
        (&nested[0]["type"], &nested[0]["error"]["code"]),
        (&"error".into(), &"server_error".into())
    );
    let flat = responses_with(with(ErrorShape::ResponsesFlat)).await.events();
    assert_eq!((&flat[0]["type"], &flat[0]["code"]), (&"error".into(), &"server_error".into()));
    let failed = responses_with(with(ErrorShape::ResponseFailed)).await.events();
    assert_eq!(failed[0]["response"]["error"]["code"], "server_error");
}

#[tokio::test]
async fn a_fault_of_streams_waits_for_a_stream() {
    let mock = mock().await;
    mock.push_fault(Fault::EmptyStream);
    assert_eq!(post(&mock, "/v1/chat/completions", CHAT).await.json()["object"], "chat.completion");
    let empty = post(&mock, "/v1/chat/completions", CHAT_STREAM).await;
    assert_eq!((empty.status(), empty.body.len(), empty.whole), (200, 0, true));
}

#[tokio::test]
async fn a_refusal_can_hide_in_a_200_stream() {
    let reply = responses_with(Fault::InBandThrottle { retry_after_ms: 4_000 }).await;
    assert_eq!((reply.status(), reply.header("retry-after")), (200, Some("4")));
    let types: Vec<_> = reply.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types, ["response.created", "error", "response.failed"]);
    let (reply, _) = chat_with(Fault::InBandThrottle { retry_after_ms: 250 }).await;
    assert_eq!((reply.status(), reply.header("retry-after-ms")), (200, Some("250")));
    assert!(reply.events()[0]["error"].is_object());
}

#[tokio::test]
async fn slow_headers_dribble() {
    let asked = Instant::now();
    let fault = Fault::SlowHeaders { bytes: 20, pause: Duration::from_millis(10) };
    let (reply, _) = chat_with(fault).await;
    assert!(asked.elapsed() >= Duration::from_millis(200));
    assert!(reply.whole && reply.status() == 200);
}

#[tokio::test]
async fn an_error_can_come_in_mid_stream() {
    let (reply, _) = chat_with(Fault::MidStreamError { after_events: 3 }).await;
    let events = reply.events();
    assert_eq!(events.len(), 4);
    assert!(events[2]["choices"].is_array() && events[3]["error"].is_object());
}

#[tokio::test]
async fn the_two_special_400s_have_their_codes() {
    let (reply, _) = chat_with(Fault::ContentFilter400).await;
    assert_eq!((reply.status(), &reply.json()["error"]["code"]), (400, &"content_filter".into()));
    let (reply, _) = chat_with(Fault::ContextLength400).await;
    let code = &reply.json()["error"]["code"];
    assert_eq!((reply.status(), code), (400, &"context_length_exceeded".into()));
}

#[tokio::test]
async fn a_huge_created_event_precedes_an_error_or_the_real_stream() {
    let huge = |then_error| Fault::HugeCreatedEvent { bytes: 40 << 10, then_error };
    let failed = responses_with(huge(true)).await;
    assert!(failed.body.len() > 40 << 10);
    assert_eq!(failed.events()[1]["type"], "error");
    let served = responses_with(huge(false)).await.events();
    assert_eq!(served[1]["type"], "response.in_progress");
    assert_eq!(served.last().unwrap()["type"], "response.completed");
}

#[tokio::test]
async fn a_backend_may_send_any_header() {
    let headers = vec![
        ("x-spillway-retry".to_owned(), "1".to_owned()),
        ("x-ms-region".to_owned(), "Elsewhere".to_owned()),
    ];
    let (reply, _) = chat_with(Fault::BackendHeaders { headers }).await;
    assert_eq!(reply.header("x-spillway-retry"), Some("1"));
    assert_eq!(reply.header("x-ms-region"), Some("elsewhere"));
    assert!(reply.whole);
}

#[tokio::test]
async fn a_standing_fault_stands_behind_the_queue() {
    let mock = mock().await;
    let status = |status| Fault::Status { status, headers: Vec::new(), body: None };
    mock.set_fault(Some(status(500)));
    mock.push_fault(status(503));
    mock.push_fault_for("embeddings", status(502));
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(get(&mock, "/v1/models").await.status());
    }
    seen.push(post(&mock, &classic("embeddings"), "{}").await.status());
    mock.set_fault(None);
    seen.push(get(&mock, "/v1/models").await.status());
    assert_eq!(seen, [503, 500, 500, 502, 200]);
}
