//! What a request itself makes the mock refuse.

mod support;

use mock_azure::{Mock, MockConfig, REFUSAL_MARKER, refusal_names};
use support::*;

async fn particular(operations: &[&str]) -> Mock {
    let config = MockConfig::new("sweden").with_refusals(operations.iter().copied(), 30_000);
    Mock::start(config).await.unwrap()
}

fn asking_for(name: &str) -> String {
    format!(r#"{{"model":"gpt","messages":[{{"content":"{REFUSAL_MARKER}{name}"}}]}}"#)
}

#[tokio::test]
async fn every_refusal_can_be_asked_for_and_is_no_success() {
    let mock = particular(&[]).await;
    for name in refusal_names() {
        let reply = post(&mock, "/v1/chat/completions", &asking_for(name)).await;
        match reply.status() {
            200 => {
                assert!(reply.header("content-type").unwrap().starts_with("text/event"), "{name}")
            }
            // Connections that end without a response.
            0 => assert!(name.starts_with("poison-"), "{name}"),
            status => assert!(status >= 300, "{name}: {status}"),
        }
    }
    assert_eq!(post(&mock, "/v1/chat/completions", CHAT).await.status(), 200);
}

#[tokio::test]
async fn a_mock_that_was_not_told_to_refuse_serves_the_same_requests() {
    let mock = Mock::start(MockConfig::new("sweden")).await.unwrap();
    let body = asking_for("vector-store-openai");
    assert_eq!(post(&mock, "/v1/chat/completions", &body).await.status(), 200);
}

#[tokio::test]
async fn a_size_a_tier_a_reference_and_an_operation_are_refused_for_what_they_are() {
    let mock = particular(&["chat", "responses"]).await;
    let status = async |path: &str, body: &str| post(&mock, path, body).await.status();
    let large = r#"{"model":"gpt","messages":[],"max_tokens":1000000000000}"#;
    assert_eq!(status("/v1/chat/completions", large).await, 429);
    let flex = r#"{"model":"gpt","messages":[],"service_tier":"flex"}"#;
    assert_eq!(status("/v1/chat/completions", flex).await, 429);
    let search = r#"{"model":"gpt","input":"x","tools":[{"vector_store_ids":["vs_1"]}]}"#;
    assert!(matches!(status("/v1/responses", search).await, 400 | 404));
    let embedding = r#"{"model":"gpt","input":"x"}"#;
    assert!(matches!(status("/v1/embeddings", embedding).await, 400 | 404));
    assert_eq!(status("/v1/responses", embedding).await, 200);
}

#[tokio::test]
async fn a_wrong_key_is_reported_before_anything_else() {
    let config = MockConfig::new("sweden").with_api_key("right").with_refusals(["chat"], 30_000);
    let mock = Mock::start(config).await.unwrap();
    let reply = post(&mock, "/v1/chat/completions", &asking_for("teapot")).await;
    assert_eq!(reply.status(), 401);
}

#[tokio::test]
async fn the_same_request_is_refused_in_the_same_words_everywhere() {
    let (one, other) = (particular(&["chat"]).await, particular(&["chat"]).await);
    for number in 0..20 {
        let body = format!(r#"{{"model":"gpt","input":"{number}"}}"#);
        let (first, second) = (
            post(&one, "/v1/embeddings", &body).await,
            post(&other, "/v1/embeddings", &body).await,
        );
        assert_eq!((first.status(), first.text()), (second.status(), second.text()));
    }
}
