//! The rules of Azure OpenAI that the mock keeps when it was not told to fail.

mod support;

use std::time::Duration;

use mock_azure::{Kind, Mock, MockConfig};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

async fn mock() -> Mock {
    Mock::start(MockConfig::new("sweden")).await.unwrap()
}

#[tokio::test]
async fn a_chat_response_names_the_mock_and_accounts_for_its_tokens() {
    let mock = mock().await;
    for path in
        [&*classic("chat/completions"), "/openai/v1/chat/completions", "/v1/chat/completions"]
    {
        let reply = post(&mock, path, CHAT).await;
        assert_eq!(reply.status(), 200, "{path}");
        let json = reply.json();
        assert_eq!(json["object"], "chat.completion");
        assert_eq!(json["model"], "gpt");
        let text = json["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(text.starts_with("sweden answers as gpt"), "{text}");
        assert_eq!(json["usage"]["prompt_tokens"], 2);
        assert_eq!(json["usage"]["completion_tokens"], 16);
        assert_eq!(json["usage"]["total_tokens"], 18);
        assert!(reply.header("apim-request-id").is_some());
        assert_eq!(reply.header("x-ms-deployment-name"), Some("gpt"));
        assert_eq!(reply.header("x-ms-region"), Some("mock central"));
    }
}

#[tokio::test]
async fn a_callers_maximum_cuts_the_response_short() {
    let mock = mock().await;
    let body = r#"{"messages":[{"content":"x"}],"max_tokens":3}"#;
    let json = post(&mock, &classic("chat/completions"), body).await.json();
    assert_eq!(json["usage"]["completion_tokens"], 3);
    assert_eq!(json["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_chat_stream_begins_with_the_content_filter_and_ends_with_done() {
    let mock = mock().await;
    let reply = post(&mock, &classic("chat/completions"), CHAT_STREAM).await;
    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
    assert!(reply.whole);
    let events = reply.events();
    assert_eq!(events[0]["choices"], serde_json::json!([]));
    assert!(events[0]["prompt_filter_results"].is_array());
    assert_eq!(events[1]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[2]["choices"][0]["delta"]["content"], "sweden");
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[events.len() - 1], "[DONE]");
    assert!(events.iter().all(|event| event.get("usage").is_none()));
}

#[tokio::test]
async fn usage_is_streamed_only_to_those_who_ask() {
    let mock = mock().await;
    let body = CHAT_STREAM
        .replace(r#""stream":true"#, r#""stream":true,"stream_options":{"include_usage":true}"#);
    let events = post(&mock, "/v1/chat/completions", &body).await.events();
    let last = &events[events.len() - 2];
    assert_eq!(last["usage"]["total_tokens"], 18);
    assert_eq!(last["choices"], serde_json::json!([]));
    assert!(events[..events.len() - 2].iter().all(|event| event["usage"].is_null()));
}

#[tokio::test]
async fn a_responses_stream_is_numbered_and_completes_with_usage() {
    let mock = mock().await;
    let events = post(&mock, "/openai/v1/responses", RESPONSES_STREAM).await.events();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types[..2], ["response.created", "response.in_progress"]);
    assert_eq!(types[2..4], ["response.output_item.added", "response.content_part.added"]);
    assert_eq!(types.iter().filter(|kind| **kind == "response.output_text.delta").count(), 16);
    assert_eq!(*types.last().unwrap(), "response.completed");
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    assert_eq!(events.last().unwrap()["response"]["usage"]["total_tokens"], 18);
}

#[tokio::test]
async fn a_stored_response_exists_only_where_it_was_made() {
    let (here, elsewhere) = (mock().await, mock().await);
    let made = post(&here, "/v1/responses", r#"{"model":"gpt","input":"Hi"}"#).await.json();
    let id = made["id"].as_str().unwrap();
    let path = format!("/openai/responses/{id}?api-version=2025-04-01-preview");
    let next = format!(r#"{{"model":"gpt","input":"Hi","previous_response_id":"{id}"}}"#);
    assert_eq!(get(&here, &path).await.json()["id"], id);
    assert_eq!(post(&here, "/v1/responses", &next).await.status(), 200);
    assert_eq!(get(&elsewhere, &path).await.status(), 404);
    assert_eq!(post(&elsewhere, "/v1/responses", &next).await.status(), 400);
    assert_eq!(send(&here, "DELETE", &path, "", b"").await.json()["deleted"], true);
    assert_eq!(get(&here, &path).await.status(), 404);
}

#[tokio::test]
async fn every_other_operation_answers_in_its_own_shape() {
    let mock = mock().await;
    let completion = post(&mock, &classic("completions"), r#"{"prompt":"Hi"}"#).await.json();
    assert!(completion["choices"][0]["text"].as_str().unwrap().starts_with("sweden"));
    let embeddings = post(&mock, &classic("embeddings"), r#"{"input":["a","b"]}"#).await.json();
    assert_eq!(embeddings["data"].as_array().unwrap().len(), 2);
    let image = post(&mock, &classic("images/generations"), r#"{"prompt":"a cat"}"#).await.json();
    assert!(image["data"][0]["b64_json"].is_string());
    let speech = post(&mock, &classic("audio/speech"), r#"{"input":"Hi"}"#).await;
    assert_eq!(speech.header("content-type"), Some("audio/mpeg"));
    let form = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x--\r\n";
    let kind = "content-type: multipart/form-data; boundary=x\r\n";
    let heard = send(&mock, "POST", "/v1/audio/transcriptions", kind, form.as_bytes()).await;
    assert_eq!(heard.json()["text"], "sweden heard it as whisper");
    assert_eq!(get(&mock, "/v1/models").await.json()["object"], "list");
    assert_eq!(get(&mock, "/v1/files").await.json()["object"], "list");
}

#[tokio::test]
async fn the_front_end_refuses_with_two_fields_and_the_model_with_four() {
    let config = MockConfig::new("sweden").with_api_key("secret").with_deployments(["gpt"]);
    let mock = Mock::start(config).await.unwrap();
    let path = classic("chat/completions");
    let refused = post(&mock, &path, CHAT).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.json()["error"]["code"], "401");
    assert_eq!(refused.json()["error"].as_object().unwrap().len(), 2);

    let with_key = "api-key: secret\r\n";
    let bearer = "authorization: Bearer secret\r\n";
    assert_eq!(send(&mock, "POST", &path, bearer, CHAT.as_bytes()).await.status(), 200);
    let malformed = send(&mock, "POST", &path, with_key, b"{").await;
    assert_eq!(malformed.status(), 400);
    assert_eq!(malformed.json()["error"].as_object().unwrap().len(), 4);
    let unknown = path.replace("/gpt/", "/other/");
    let unknown = send(&mock, "POST", &unknown, with_key, CHAT.as_bytes()).await;
    assert_eq!(
        (unknown.status(), &unknown.json()["error"]["code"]),
        (404, &"DeploymentNotFound".into())
    );
    let bad_version =
        send(&mock, "POST", "/openai/deployments/gpt/chat/completions", with_key, b"{}");
    assert_eq!(bad_version.await.json()["error"]["message"], "Resource not found");
}

#[tokio::test]
async fn a_provisioned_backend_takes_requests_again_exactly_when_it_said() {
    let kind = Kind::Provisioned { tokens_per_minute: 60_000, burst_tokens: 100 };
    let mock = Mock::start(MockConfig::new("ptu").with_kind(kind)).await.unwrap();
    let prompt = "x".repeat(1_600);
    let body = format!(r#"{{"model":"gpt","messages":[{{"content":"{prompt}"}}]}}"#);
    let served = post(&mock, "/v1/chat/completions", &body).await;
    assert_eq!(served.status(), 200);
    assert!(served.header("azure-openai-deployment-utilization").unwrap().ends_with('%'));
    assert!(served.header("x-ratelimit-limit-tokens").is_none());
    let asked = Instant::now();
    let refused = post(&mock, "/v1/chat/completions", &body).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let wait_ms: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((150..=316).contains(&wait_ms), "{wait_ms}");
    tokio::time::sleep_until(asked + Duration::from_millis(wait_ms + 20)).await;
    assert_eq!(post(&mock, "/v1/chat/completions", &body).await.status(), 200);
    assert_eq!(mock.stats()["throttled"], 1);
}

#[tokio::test]
async fn a_standard_backend_counts_down_and_refuses_with_its_headers() {
    let kind = Kind::Standard { tokens_per_minute: 40, requests_per_minute: 600 };
    let mock = Mock::start(MockConfig::new("payg").with_kind(kind)).await.unwrap();
    let path = classic("chat/completions");
    let first = post(&mock, &path, CHAT).await;
    assert_eq!(first.header("x-ratelimit-remaining-tokens"), Some("22"));
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("100"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("99"));
    assert_eq!(post(&mock, &path, CHAT).await.status(), 200);
    let refused = post(&mock, &path, CHAT).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.json()["error"]["code"], "429");
    assert_eq!(refused.header("retry-after"), Some("60"));
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("97"));
}

#[tokio::test]
async fn latency_delays_the_headers_and_each_event() {
    let (first, each) = (Duration::from_millis(80), Duration::from_millis(10));
    let config = MockConfig::new("slow").with_latency(first, each);
    let mock = Mock::start(config).await.unwrap();
    let asked = Instant::now();
    let events = post(&mock, "/v1/chat/completions", CHAT_STREAM).await.events();
    let pauses = u32::try_from(events.len() - 1).unwrap();
    assert!(asked.elapsed() >= first + each * pauses, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_record_holds_what_was_sent_and_how_it_ended() {
    let mock = mock().await;
    let path = classic("chat/completions");
    send(&mock, "POST", &path, "x-odd: \u{e9}\r\n", CHAT.as_bytes()).await;
    let records = mock.records_when(|records| records.iter().any(|record| record.ended)).await;
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.method.as_str(), &record.path), ("POST", &path));
    assert_eq!(record.header("x-odd"), Some("\u{e9}"));
    assert_eq!(record.body, CHAT.as_bytes());
    assert_eq!(record.body_hash, mock_azure::body_hash(CHAT.as_bytes()));
    assert_eq!((record.status, record.completed), (Some(200), true));
    mock.clear_records();
    assert!(mock.records().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_is_seen() {
    let latency = MockConfig::new("slow").with_latency(Duration::from_secs(60), Duration::ZERO);
    let mock = Mock::start(latency).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(mock.address()).await.unwrap();
    let request = request("POST", "/v1/chat/completions", "", CHAT.as_bytes());
    stream.write_all(&request).await.unwrap();
    mock.records_when(|records| !records.is_empty()).await;
    drop(stream);
    let left = mock.records_when(|records| records[0].ended);
    let records = tokio::time::timeout(Duration::from_secs(5), left).await.unwrap();
    assert_eq!((records[0].completed, records[0].status), (false, None));
}

#[tokio::test]
async fn a_body_of_twelve_mebibytes_is_kept_whole() {
    let mock = mock().await;
    let text = "x".repeat(12 << 20);
    let body = format!(r#"{{"model":"gpt","messages":[{{"content":"{text}"}}]}}"#);
    assert_eq!(post(&mock, "/v1/chat/completions", &body).await.status(), 200);
    assert!(mock.records()[0].body == body.as_bytes());
}

#[tokio::test]
async fn a_realtime_session_introduces_itself_and_echoes() {
    use tokio::io::AsyncReadExt;
    let mock = mock().await;
    let mut stream = tokio::net::TcpStream::connect(mock.address()).await.unwrap();
    // The key and the expected response are those of RFC 6455.
    let hello = "GET /openai/realtime?api-version=2024-10-01-preview&deployment=rt HTTP/1.1\r\n\
        host: mock\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(hello.as_bytes()).await.unwrap();
    stream.write_all(&[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2]).await.unwrap();
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    let text = String::from_utf8_lossy(&received);
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    assert!(text.contains("session.created") && text.contains(r#""served_by":"sweden""#), "{text}");
    assert!(received.ends_with(&[0x81, 2, b'h', b'i', 0x88, 0]), "{text}");
}
