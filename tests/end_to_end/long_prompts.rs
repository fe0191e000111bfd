//! Prompts that are longer than backends take.

use crate::harness::{CHAT, Setup};
use mock_azure::Fault;
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";

fn prompt(tokens: usize) -> Value {
    let text = "word".repeat(tokens);
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}], "max_tokens": 5})
}

fn takes(tokens: u64) -> Value {
    json!({"max_prompt_tokens": tokens, "operations": ["chat_completions"]})
}

#[tokio::test]
async fn a_prompt_that_no_backend_takes_is_the_requests_fault() {
    for api in ["azure", "azure_v1", "openai"] {
        let gateway = Setup::new()
            .backend("short", json!({"api": api, "max_prompt_tokens": 100}))
            .backend("long", {
                let mut keys = takes(1_000);
                keys["api"] = json!(api);
                keys
            })
            .start()
            .await;
        let response = gateway.client.post(CHAT, &prompt(5_000)).await;
        assert_eq!(response.status, 400, "{api}: {}", response.text());
        let error = &response.json()["error"];
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
        assert_eq!(error["type"], "invalid_request_error", "{error}");
        assert!(error["message"].as_str().unwrap().contains("1000"), "{error}");
        assert_eq!(response.header("retry-after"), None, "{api}");
        assert_eq!(gateway.counts(), [0, 0], "{api}");
        // The one that takes longer prompts does not take this operation.
        let input = json!({"model": "gpt-4o", "input": "word".repeat(500)});
        let response = gateway.client.post(RESPONSES, &input).await;
        assert_eq!(
            response.json()["error"]["code"],
            "context_length_exceeded",
            "{}",
            response.text()
        );
        let response = gateway.client.post(CHAT, &prompt(500)).await;
        assert_eq!((response.status, response.served_by()), (200, "long"), "{}", response.text());
        assert_eq!(gateway.chat().await.status, 200);
    }
}

#[tokio::test]
async fn a_prompt_that_a_throttled_backend_would_take_is_to_be_repeated() {
    let gateway = Setup::new()
        .backend("short", takes(100))
        .backend("long", json!({"priority": 2}))
        .start()
        .await;
    gateway.mock("long").push_fault(Fault::throttle(20_000));
    for _ in 0..2 {
        let response = gateway.client.post(CHAT, &prompt(5_000)).await;
        assert_eq!(response.status, 429, "{}", response.text());
        assert!(response.header("retry-after").is_some());
    }
    assert_eq!(gateway.counts(), [0, 1]);
    assert_eq!(gateway.chat().await.served_by(), "short");
}
