//! Reading stored objects costs no tokens: the usage in them is that of another request.

use crate::harness::{Gateway, Response, Setup};
use hyper::Method;
use serde_json::{Value, json};

const CREATE: &str = "/v1/responses";

async fn gateway() -> Gateway {
    Setup::new()
        .backend(
            "north",
            json!({
                "api": "azure_v1",
                "limits": {"tokens_per_minute": 2000, "requests_per_minute": 6000}
            }),
        )
        .whole(json!({
            "consumers": {
                "header": "x-consumer",
                "default": {"tokens_per_minute": 2000},
                "consumed_tokens_header": "on",
                "remaining_tokens_header": "on"
            }
        }))
        .start()
        .await
}

async fn send(gateway: &Gateway, method: Method, path: &str, body: &Value) -> Response {
    let headers = [("x-consumer", "a"), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    gateway.client.send(method, path, &headers, body.into()).await.unwrap()
}

fn number(response: &Response, name: &str) -> u64 {
    let value =
        response.header(name).unwrap_or_else(|| panic!("no {name}: {:?}", response.headers));
    value.parse().unwrap()
}

#[tokio::test]
async fn polling_a_stored_response_is_free_for_its_consumer_and_its_backend() {
    let gateway = gateway().await;
    let body = json!({"model": "gpt-4o", "input": "Say hello.", "max_output_tokens": 100});
    let created = send(&gateway, Method::POST, CREATE, &body).await;
    assert_eq!(created.status, 200, "{}", created.text());
    let used = created.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(number(&created, "consumed-tokens"), used);
    let left = number(&created, "remaining-tokens");
    let path = format!("{CREATE}/{}", created.json()["id"].as_str().unwrap());
    for path in [path.clone(), format!("{path}?stream=true")] {
        // More often than the limits of tokens would allow.
        for _ in 0..40 {
            let polled = send(&gateway, Method::GET, &path, &Value::Null).await;
            assert_eq!(polled.status, 200, "{path}: {}", polled.text());
            assert_eq!(number(&polled, "consumed-tokens"), 0, "{path}");
            assert_eq!(number(&polled, "remaining-tokens"), left, "{path}");
        }
    }
    let deleted = send(&gateway, Method::DELETE, &path, &Value::Null).await;
    assert_eq!((deleted.status, number(&deleted, "consumed-tokens")), (200, 0));
}

#[tokio::test]
async fn a_consumer_over_its_limit_is_refused_whatever_it_asks_for() {
    let gateway = gateway().await;
    let body = json!({"model": "gpt-4o", "input": "x".repeat(9_000), "max_output_tokens": 16});
    let created = send(&gateway, Method::POST, CREATE, &body).await;
    assert_eq!(created.status, 200, "{}", created.text());
    assert_eq!(number(&created, "remaining-tokens"), 0);
    let again = send(&gateway, Method::POST, CREATE, &body).await;
    assert_eq!(again.status, 429, "{}", again.text());
}
