//! Which operations clients may use: the gateway's keys could do more, but clients may do only what the
//! configuration allows.

use crate::harness::raw::exchange;
use crate::harness::{Gateway, Response, Setup, chat_body};
use hyper::Method;
use mock_azure::Fault;
use serde_json::json;

async fn ask(gateway: &Gateway, method: &str, path: &str) -> Response {
    let method: Method = method.parse().unwrap();
    let headers = [("content-type", "application/json")];
    let body = if method == Method::POST { r#"{"model":"gpt-4o"}"# } else { "" };
    gateway.client.send(method, path, &headers, body.into()).await.unwrap()
}

fn assert_refused(response: &Response, code: &str, what: &str) {
    assert_eq!(response.status, 404, "{what}: {}", response.text());
    let error = &response.json()["error"];
    assert_eq!(error["code"], code, "{what}: {error}");
    assert_eq!(error.as_object().unwrap().len(), 4, "{what}: {error}");
    assert_eq!(response.header("retry-after"), None, "{what}");
}

#[tokio::test]
async fn what_all_clients_of_a_resource_share_is_refused_until_it_is_allowed() {
    let paths = [
        ("DELETE", "/v1/files/file-of-somebody-else"),
        ("GET", "/openai/files?api-version=2024-10-21"),
        ("POST", "/openai/deployments/gpt-4o/batches?api-version=2024-10-21"),
        ("GET", "/v1/vector_stores"),
        ("POST", "/v1/threads"),
        ("GET", "/v1/assistants"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/containers"),
        ("GET", "/v1/conversations/conv_1"),
        ("POST", "/v1/uploads"),
        ("POST", "/v1/evals"),
        ("POST", "/v1/videos"),
        ("POST", "/v1/realtime/client_secrets"),
    ];
    for api in ["azure", "openai"] {
        let closed = Setup::new().backend("north", json!({"api": api})).start().await;
        for (method, path) in paths {
            let response = ask(&closed, method, path).await;
            assert_refused(&response, "operation_not_allowed", path);
        }
        assert_eq!(closed.counts(), [0]);
        closed.assert_alive("operations that nobody allowed").await;
    }
    let open = Setup::new()
        .backend("north", json!({"api": "azure_v1"}))
        .whole(json!({"allow_operations": ["files"]}))
        .start()
        .await;
    assert_eq!(ask(&open, "GET", "/v1/files").await.status, 200);
    assert_refused(&ask(&open, "GET", "/v1/batches").await, "operation_not_allowed", "batches");
    assert_eq!(open.counts(), [1]);
}

#[tokio::test]
async fn unknown_operations_are_refused_under_any_spelling() {
    let families = json!({"allow_operations": ["files", "batches", "fine_tuning"]});
    let gateway =
        Setup::new().backend("north", json!({"api": "azure_v1"})).whole(families).start().await;
    for (method, path) in [
        ("GET", "/v1/organization/admin_api_keys"),
        ("DELETE", "/v1/models/gpt-4o"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/openai/deployments/gpt-4o/unknown?api-version=2024-10-21"),
        ("DELETE", "/openai/deployments/gpt-4o?api-version=2024-10-21"),
        ("GET", "/openai/deployments?api-version=2022-12-01"),
        ("PUT", "/v1/files/f"),
        ("PATCH", "/v1/files/f"),
        ("OPTIONS", "/v1/files"),
        ("HEAD", "/v1/chat/completions"),
        ("GET", "/v1/Files"),
        ("GET", "/V1/files"),
        ("GET", "/OpenAI/v1/files"),
        ("GET", "/v1/responses"),
        ("GET", "/v1/responses/compact"),
        ("DELETE", "/v1/responses/input_tokens"),
        ("POST", "/v1/responses/compact/cancel"),
    ] {
        let response = ask(&gateway, method, path).await;
        assert_eq!(response.status, 404, "{method} {path}: {}", response.text());
    }
    for path in [
        "/v1/files/..%2Fbatches",
        "/v1/files/..%2fbatches",
        "/v1/files/%2e%2e%2fbatches",
        "/v1/files/%252e%252e%252fbatches",
        "/v1/files/..%5Cbatches",
        "/v1/files/..\\batches",
        "/v1/files/a;b=c",
        "/v1/files/a%3Bb",
        "/v1/files/a%253Bb",
        "/v1/files/%00",
        "/v1/files/a%0d%0ax:y",
        "/v1/files/...",
        "/v1/files/%2e",
        "/v1/responses/resp_1%2F..%2F..%2Ffiles",
        "/openai/deployments/gpt-4o%2F..%2F..%2Ffiles/chat/completions?api-version=2024-10-21",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let line = format!(
                "{method} {path} HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let response = exchange(gateway.envoy.port, line.as_bytes()).await;
            assert!(response.starts_with("HTTP/1.1 40"), "{method} {path}: {response}");
        }
    }
    assert_eq!(gateway.counts(), [0]);
    gateway.assert_alive("odd paths").await;
}

#[tokio::test]
async fn an_operation_that_no_backend_takes_is_not_found_and_not_unavailable() {
    let gateway = Setup::new()
        .backend("north", json!({"operations": ["chat_completions"]}))
        .backend("south", json!({"operations": ["chat_completions", "responses"]}))
        .whole(json!({"allow_operations": ["files"]}))
        .start()
        .await;
    let embeddings = json!({"model": "gpt-4o", "input": "x"});
    let answer = gateway.client.post("/v1/embeddings", &embeddings).await;
    assert_refused(&answer, "operation_not_served", "embeddings");
    for path in ["/v1/responses/resp_1", "/v1/files"] {
        assert_refused(&ask(&gateway, "GET", path).await, "operation_not_served", path);
    }
    assert_eq!(gateway.counts(), [0, 0]);
    let response = json!({"model": "gpt-4o", "input": "x"});
    assert_eq!(gateway.client.post("/v1/responses", &response).await.served_by(), "south");
}

#[tokio::test]
async fn what_creates_something_is_not_repeated_when_it_may_have_been_done() {
    let gateway = Setup::new()
        .backend("north", json!({"api": "azure_v1", "priority": 1}))
        .backend("south", json!({"api": "azure_v1", "priority": 2}))
        .pool(crate::harness::forgetful())
        .whole(json!({"allow_operations": ["files"]}))
        .start()
        .await;
    let status = Fault::status;
    // (what north does, the status, and how often each was asked)
    for (fault, status, counts) in [
        (Fault::ResetBeforeHeaders, 502, [1, 0]),
        (status(500), 500, [1, 0]),
        (status(502), 502, [1, 0]),
        (status(503), 503, [1, 0]),
        (status(504), 504, [1, 0]),
        (Fault::throttle(1), 200, [1, 1]),
    ] {
        let case = format!("{fault:?}");
        gateway.mock("north").clear_records();
        gateway.mock("south").clear_records();
        gateway.mock("north").push_fault(fault);
        let response = ask(&gateway, "POST", "/v1/files").await;
        assert_eq!(response.status, status, "{case}: {}", response.text());
        assert_eq!(gateway.counts(), counts, "{case}");
        // The SDKs would repeat each of these by themselves.
        let told = if status == 200 { None } else { Some("false") };
        assert_eq!(response.header("x-should-retry"), told, "{case}");
        if case == "ResetBeforeHeaders" {
            assert_eq!(response.json()["error"]["code"], "outcome_unknown", "{case}");
        }
    }
    // A model's response is worth a retry.
    gateway.mock("north").push_fault(Fault::ResetBeforeHeaders);
    let response = gateway.client.post("/v1/chat/completions", &chat_body()).await;
    assert_eq!((response.status, response.served_by()), (200, "south"));
}
