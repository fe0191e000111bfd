//! The list of models: the gateway makes it from its configuration.

use crate::harness::{Gateway, Setup};
use hyper::Method;
use serde_json::json;

async fn gateway() -> Gateway {
    Setup::new()
        .backend("north", json!({}))
        .backend("south", json!({}))
        .pool(json!({"models": ["gpt-4o", "gpt-4o-2024-11-20"]}))
        .start()
        .await
}

#[tokio::test]
async fn models_are_listed_in_every_shape_without_a_backend() {
    let gateway = gateway().await;
    for path in ["/v1/models", "/openai/v1/models", "/openai/models?api-version=2024-10-21"] {
        let response = gateway.client.get(path, &[]).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/json"));
        let list = response.json();
        assert_eq!(list["object"], "list");
        let ids: Vec<&str> =
            list["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["gpt-4o", "gpt-4o-2024-11-20"]);
        for model in list["data"].as_array().unwrap() {
            assert_eq!(model["object"], "model");
            assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
        }
    }
    assert_eq!(gateway.counts(), [0, 0]);
}

#[tokio::test]
async fn one_model_is_shown_as_the_list_shows_it() {
    let gateway = gateway().await;
    let list = gateway.client.get("/v1/models", &[]).await.json();
    for path in
        ["/v1/models/gpt-4o", "/openai/v1/models/gpt%2D4o", "/openai/models/gpt-4o?api-version=x"]
    {
        let response = gateway.client.get(path, &[]).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert_eq!(response.json(), list["data"][0], "{path}");
    }
    assert_eq!(gateway.counts(), [0, 0]);
}

#[tokio::test]
async fn an_unknown_model_is_not_found_wherever_it_is_named() {
    let gateway = gateway().await;
    let body = |model: &str| json!({"model": model, "messages": []}).to_string();
    let requests = [
        (Method::GET, "/v1/models/gpt-9", String::new()),
        (Method::POST, "/v1/chat/completions", body("gpt-9")),
        (Method::POST, "/openai/v1/chat/completions", body("gpt-9")),
        (
            Method::POST,
            "/openai/deployments/gpt-9/chat/completions?api-version=2024-10-21",
            body("gpt-4o"),
        ),
        (Method::POST, "/v1/chat/completions", body("GPT-4o")),
        (Method::POST, "/v1/chat/completions", body("")),
    ];
    for (method, path, body) in requests {
        let case = format!("{method} {path} {body}");
        let response = gateway.client.send(method, path, &[], body.into()).await.unwrap();
        assert_eq!(response.status, 404, "{case}: {}", response.text());
        let error = &response.json()["error"];
        assert_eq!(error["code"], "model_not_found", "{case}");
        assert_eq!(error["type"], "invalid_request_error", "{case}");
        assert_eq!(error["param"], "model", "{case}");
        assert!(error["message"].as_str().unwrap().contains("does not exist"), "{case}");
    }
    assert_eq!(gateway.counts(), [0, 0]);
}

#[tokio::test]
async fn a_client_that_asks_for_models_needs_no_body_and_no_credential() {
    let gateway = gateway().await;
    let headers = [("authorization", "Bearer nonsense"), ("api-key", "nonsense")];
    let response = gateway.client.get("/v1/models", &headers).await;
    assert_eq!(response.status, 200);
    let head = gateway.client.send(Method::HEAD, "/v1/models", &[], "".into()).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(gateway.counts(), [0, 0]);
}
