//! What no model is named for: stored objects, which are passed through as they are.

use crate::harness::raw::Connection;
use crate::harness::{Gateway, Setup, eventually, key_of};
use hyper::Method;
use serde_json::json;

async fn two_equal_backends() -> Gateway {
    Setup::new()
        .backend("north", json!({"api": "azure_v1"}))
        .backend("south", json!({"api": "azure_v1"}))
        .whole(json!({"allow_operations": ["files"]}))
        .start()
        .await
}

#[tokio::test]
async fn a_stored_response_is_found_at_whichever_backend_has_it() {
    let gateway = two_equal_backends().await;
    let create = json!({"model": "gpt-4o", "input": "Remember this."});
    let mut ids = Vec::new();
    for _ in 0..4 {
        let response = gateway.client.post("/v1/responses", &create).await;
        assert_eq!(response.status, 200, "{}", response.text());
        ids.push((
            response.json()["id"].as_str().unwrap().to_owned(),
            response.served_by().to_owned(),
        ));
    }
    assert!(ids.iter().any(|(_, at)| at == "north") && ids.iter().any(|(_, at)| at == "south"));
    for method in [Method::GET, Method::DELETE] {
        for (id, at) in &ids {
            let path = format!("/v1/responses/{id}?include=x");
            let response =
                gateway.client.send(method.clone(), &path, &[], "".into()).await.unwrap();
            assert_eq!(response.status, 200, "{method} {id}: {}", response.text());
            assert_eq!(response.served_by(), at);
            let record = gateway.records(at).pop().unwrap();
            assert_eq!(record.path, format!("/openai/v1/responses/{id}?include=x"));
            assert_eq!(record.method, method.as_str());
        }
    }
    // Once deleted it is nowhere: the backend's own 404 is the response, and no backend is blamed.
    let (id, _) = &ids[0];
    let response = gateway.client.get(&format!("/v1/responses/{id}"), &[]).await;
    assert_eq!(response.status, 404, "{}", response.text());
    assert!(response.text().contains(id), "{}", response.text());
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    gateway.assert_alive("a response that is nowhere").await;
}

#[tokio::test]
async fn a_response_is_continued_at_the_backend_that_has_the_one_before() {
    let gateway = two_equal_backends().await;
    for _ in 0..4 {
        let first = json!({"model": "gpt-4o", "input": "Remember this."});
        let first = gateway.client.post("/v1/responses", &first).await;
        let next = json!({
            "model": "gpt-4o", "input": "And?", "previous_response_id": first.json()["id"]
        });
        let next = gateway.client.post("/v1/responses", &next).await;
        assert_eq!(next.status, 200, "{}", next.text());
        assert_eq!(next.served_by(), first.served_by());
    }
}

#[tokio::test]
async fn files_go_to_the_default_pool_as_they_are() {
    let gateway = two_equal_backends().await;
    let response = gateway.client.get("/openai/v1/files?purpose=batch&limit=2", &[]).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let served_by = response.served_by().to_owned();
    assert_eq!(gateway.records(&served_by)[0].path, "/openai/v1/files?purpose=batch&limit=2");

    let form = "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nkeep\r\n--x--\r\n";
    let headers = [("content-type", "multipart/form-data; boundary=x")];
    let response =
        gateway.client.send(Method::POST, "/v1/files", &headers, form.into()).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let record = gateway.records(response.served_by()).pop().unwrap();
    assert_eq!((&*record.path, &*record.body), ("/openai/v1/files", form.as_bytes()));
    assert_eq!(record.header("api-key"), Some(&*key_of(response.served_by())));
}

#[tokio::test]
async fn the_default_pool_takes_what_names_no_model() {
    let pools = json!({"pools": [
        {"name": "chat", "models": ["gpt-4o"], "backends": [
            {"name": "north", "host": "north.openai.azure.com", "deployment": "gpt-4o-north",
             "credential": {"api_key": {"env": "KEY_NORTH"}}}]},
        {"name": "rest", "models": ["other"], "backends": [
            {"name": "south", "host": "south.openai.azure.com", "deployment": "gpt-4o-south",
             "credential": {"api_key": {"env": "KEY_SOUTH"}}}]}
    ], "default_pool": "rest", "allow_operations": ["files"]});
    let gateway = Setup::new()
        .backend("north", json!({}))
        .backend("south", json!({}))
        .whole(pools)
        .start()
        .await;
    assert_eq!(gateway.chat().await.served_by(), "north");
    let response = gateway.client.get("/v1/files", &[]).await;
    assert_eq!((response.status, response.served_by()), (200, "south"));
}

#[tokio::test]
async fn a_large_upload_of_a_file_is_streamed_and_not_held() {
    let gateway = Setup::new()
        .backend("north", json!({}))
        .whole(json!({"allow_operations": ["files"]}))
        .settings(|settings| settings.body_limit_bytes = 256 * 1024)
        .start()
        .await;
    let part = vec![b'x'; 1024 * 1024];
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\
         content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        8 * part.len()
    );
    let mut connection = Connection::open(gateway.envoy.port).await;
    connection.send(head.as_bytes()).await;
    connection.send(&part).await;
    // The backend is asked while seven eighths are yet to be sent.
    eventually("the backend has the request", async || gateway.counts() == [1]).await;
    for _ in 1..8 {
        connection.send(&part).await;
    }
    let response = connection.read_to_end().await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert_eq!(gateway.records("north")[0].body_length, 8 * 1024 * 1024);
}

#[tokio::test]
async fn a_stream_that_is_asked_for_in_an_unread_body_flows() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    let path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
    let body = r#"{"stream": true, "messages": []}"#;
    // A form without a boundary cannot be read; the deployment in the path is enough.
    let headers = [("content-type", "multipart/form-data")];
    let response = gateway.client.send(Method::POST, path, &headers, body.into()).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.events().last().unwrap().data, "[DONE]");
    assert_eq!(gateway.records("north")[0].body, body);
}
