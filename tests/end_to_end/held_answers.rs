//! Answers that are held because headers say what they took: one that breaks off meanwhile is another
//! backend's to give, and costs nothing.

use crate::harness::raw::RawBackend;
use crate::harness::{CHAT, Setup, chat_body, forgetful};
use serde_json::json;

#[tokio::test]
async fn an_answer_that_breaks_while_it_is_held_fails_over_and_costs_nothing() {
    let broken = RawBackend::start(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{\"choices\":",
    )
    .await;
    let gateway = Setup::new()
        .backend("second", json!({"priority": 2}))
        .backend_elsewhere("first", json!({"priority": 1}), broken.port())
        .pool(forgetful())
        .whole(json!({"consumers": {
            "header": "x-consumer",
            "default": {"tokens_per_minute": 100_000},
            "remaining_tokens_header": "on",
            "consumed_tokens_header": "on"
        }}))
        .start()
        .await;
    let mut left = 100_000;
    for asked in 1..=3 {
        let answer = gateway.client.post(CHAT, &chat_body()).await;
        assert_eq!((answer.status, answer.served_by()), (200, "second"), "{}", answer.text());
        assert!(answer.complete);
        assert_eq!(answer.header("x-spillway-trail"), Some("first;reset, second;200"));
        let used = answer.json()["usage"]["total_tokens"].as_u64().unwrap();
        left -= used;
        assert_eq!(answer.header("consumed-tokens"), Some(&*used.to_string()));
        assert_eq!(answer.header("remaining-tokens"), Some(&*left.to_string()));
        assert_eq!(broken.requests(), asked);
    }
}
