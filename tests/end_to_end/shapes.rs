//! Three shapes of the API at the client, three at the backend: every operation in every pair.
//!
//! What must be true of each: the backend's path, `api-version`, host and credential; the deployment
//! in the path or in the body; every other byte of the body as it was sent; every other parameter
//! of the query kept.

use crate::harness::{Gateway, Setup, deployment_of, host_of, key_of};
use hyper::Method;
use mock_azure::Record;
use serde_json::json;

const SHAPES: [&str; 3] = ["azure", "azure_v1", "openai"];
const EXTRA_QUERY: &str = "tag=a%2Fb&tag=%20c&flag";
const CLIENT_API_VERSION: &str = "2025-03-01-preview";

/// A JSON body with everything that careless rewriting would change: spaces, escapes, numbers
/// with trailing zeros, an unknown key, a `model` that is not the model.
const JSON_BEFORE_MODEL: &str = "{ \"metadata\" : {\"model\": \"not this\"},\r\n \"model\"\t:  ";
const JSON_AFTER_MODEL: &str = " ,\"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9\\/ “x”\"}],\
    \"input\": \"say\", \"prompt\":\"model\", \"temperature\":1.0e+0,\"unknown\": [1.500, null ]}\n";

const MODEL_PART: &str = "--limit\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n";
const FORM_TYPE: &str = "multipart/form-data; boundary=limit";

/// What differs between the operations.
struct Operation {
    /// Below the base of the API.
    suffix: &'static str,
    is_form: bool,
    /// Whether the classic API has it below a deployment.
    is_below_deployment: bool,
}

const fn json_operation(suffix: &'static str) -> Operation {
    Operation { suffix, is_form: false, is_below_deployment: true }
}

const fn form_operation(suffix: &'static str) -> Operation {
    Operation { suffix, is_form: true, is_below_deployment: true }
}

const OPERATIONS: [Operation; 9] = [
    json_operation("chat/completions"),
    json_operation("completions"),
    json_operation("embeddings"),
    Operation { suffix: "responses", is_form: false, is_below_deployment: false },
    json_operation("images/generations"),
    json_operation("audio/speech"),
    form_operation("images/edits"),
    form_operation("audio/transcriptions"),
    form_operation("audio/translations"),
];

impl Operation {
    /// The path as a client of `shape` calls it.
    fn client_path(&self, shape: &str) -> String {
        let suffix = self.suffix;
        match shape {
            "azure" if self.is_below_deployment => format!(
                "/openai/deployments/gpt-4o/{suffix}?tag=a%2Fb&api-version={CLIENT_API_VERSION}&tag=%20c&flag"
            ),
            "azure" => {
                format!("/openai/{suffix}?{EXTRA_QUERY}&api-version={CLIENT_API_VERSION}")
            }
            "azure_v1" => format!("/openai/v1/{suffix}?{EXTRA_QUERY}"),
            _ => format!("/v1/{suffix}?{EXTRA_QUERY}"),
        }
    }

    /// The path at the backend `name` of `shape`; a client of the classic API names a version.
    fn backend_path(&self, shape: &str, name: &str, client_shape: &str) -> String {
        let (suffix, deployment) = (self.suffix, deployment_of(name));
        let has_released_version =
            !matches!(suffix, "responses" | "images/generations" | "images/edits" | "audio/speech");
        let version = match client_shape {
            "azure" => CLIENT_API_VERSION,
            _ if has_released_version => "2024-10-21",
            _ => "2025-04-01-preview",
        };
        match shape {
            "azure" if self.is_below_deployment => format!(
                "/openai/deployments/{deployment}/{suffix}?api-version={version}&{EXTRA_QUERY}"
            ),
            "azure" => format!("/openai/{suffix}?api-version={version}&{EXTRA_QUERY}"),
            "azure_v1" => format!("/openai/v1/{suffix}?{EXTRA_QUERY}"),
            _ => format!("/v1/{suffix}?{EXTRA_QUERY}"),
        }
    }

    /// Whether the backend reads the deployment from the body.
    fn names_model_in_body(&self, shape: &str) -> bool {
        shape != "azure" || !self.is_below_deployment
    }

    fn body(&self, model: &str) -> Vec<u8> {
        if self.is_form { form(Some(model)) } else { json_body(model) }
    }

    fn content_type(&self) -> &'static str {
        if self.is_form { FORM_TYPE } else { "application/json; charset=utf-8" }
    }
}

fn json_body(model: &str) -> Vec<u8> {
    format!("{JSON_BEFORE_MODEL}\"{model}\"{JSON_AFTER_MODEL}").into_bytes()
}

/// A form with a file of bytes that look like everything else, and the model behind it.
fn form(model: Option<&str>) -> Vec<u8> {
    let mut body =
        b"--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
        Content-Type: audio/wav\r\n\r\n"
            .to_vec();
    body.extend((0..=255).cycle().take(100_000));
    body.extend_from_slice(b"\r\n--limi\r\nname=\"model\"\r\n\r\n\xff\xfe\r\n");
    if let Some(model) = model {
        body.extend_from_slice(format!("{MODEL_PART}{model}\r\n").as_bytes());
    }
    body.extend_from_slice(
        b"--limit\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nmodel\r\n--limit--\r\n",
    );
    body
}

async fn gateway(shape: &str) -> Gateway {
    Setup::new().backend("north", json!({"api": shape})).start().await
}

/// Sends `body` and returns what the backend received.
async fn received(
    gateway: &Gateway,
    operation: &Operation,
    client_shape: &str,
    body: Vec<u8>,
) -> Record {
    gateway.mock("north").clear_records();
    let path = operation.client_path(client_shape);
    let headers = [("content-type", operation.content_type())];
    let response = gateway.client.send(Method::POST, &path, &headers, body.into()).await.unwrap();
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    assert_eq!(response.served_by(), "north", "{path}");
    let mut records = gateway.records("north");
    assert_eq!(records.len(), 1, "{path}");
    records.remove(0)
}

async fn every_operation_reaches_a_backend_of(shape: &str) {
    let gateway = gateway(shape).await;
    for operation in &OPERATIONS {
        for client_shape in SHAPES {
            let record =
                received(&gateway, operation, client_shape, operation.body("gpt-4o")).await;
            let case = format!("{} from {client_shape} to {shape}", operation.suffix);
            assert_eq!(record.path, operation.backend_path(shape, "north", client_shape), "{case}");
            assert_eq!(record.header("host"), Some(&*host_of("north")), "{case}");
            assert_eq!(record.header("content-type"), Some(operation.content_type()), "{case}");
            let key = key_of("north");
            let bearer = format!("Bearer {key}");
            let (api_key, authorization) = match shape {
                "openai" => (None, Some(&*bearer)),
                _ => (Some(&*key), None),
            };
            assert_eq!(record.header("api-key"), api_key, "{case}");
            assert_eq!(record.header("authorization"), authorization, "{case}");
            let expected = match operation.names_model_in_body(shape) {
                true => operation.body(&deployment_of("north")),
                false => operation.body("gpt-4o"),
            };
            assert!(record.body == expected, "{case}: {}", String::from_utf8_lossy(&record.body));
            let length = expected.len().to_string();
            assert_eq!(record.header("content-length"), Some(&*length), "{case}");
        }
    }
}

#[tokio::test]
async fn every_operation_in_every_shape_reaches_a_classic_azure_backend() {
    every_operation_reaches_a_backend_of("azure").await;
}

#[tokio::test]
async fn every_operation_in_every_shape_reaches_an_azure_v1_backend() {
    every_operation_reaches_a_backend_of("azure_v1").await;
}

#[tokio::test]
async fn every_operation_in_every_shape_reaches_an_openai_backend() {
    every_operation_reaches_a_backend_of("openai").await;
}

#[tokio::test]
async fn a_classic_client_need_not_name_the_model_in_the_body() {
    for shape in SHAPES {
        let gateway = gateway(shape).await;
        let chat = json_operation("chat/completions");
        let sent = br#"{"messages":[{"role":"user","content":"hi"}]}"#;
        let record = received(&gateway, &chat, "azure", sent.to_vec()).await;
        let expected = match shape {
            "azure" => sent.to_vec(),
            _ => [br#"{"model":"gpt-4o-north","#, &sent[1..]].concat(),
        };
        assert_eq!(record.body, expected, "{shape}: {}", String::from_utf8_lossy(&record.body));

        for suffix in ["audio/transcriptions", "audio/translations", "images/edits"] {
            let record = received(&gateway, &form_operation(suffix), "azure", form(None)).await;
            let case = format!("{suffix} to {shape}");
            if shape == "azure" {
                assert!(record.body == form(None), "{case}");
                continue;
            }
            // The model became a part of its own, and taking it away leaves what was sent.
            let inserted = format!("{MODEL_PART}gpt-4o-north\r\n").into_bytes();
            let at = record
                .body
                .windows(inserted.len())
                .position(|window| window == inserted)
                .unwrap_or_else(|| panic!("{case}: {}", String::from_utf8_lossy(&record.body)));
            let rest = [&record.body[..at], &record.body[at + inserted.len()..]].concat();
            assert!(rest == form(None), "{case}");
        }
    }
}

#[tokio::test]
async fn the_deployment_in_the_path_wins_over_the_model_in_the_body() {
    for shape in SHAPES {
        let gateway = gateway(shape).await;
        let chat = json_operation("chat/completions");
        let record = received(&gateway, &chat, "azure", json_body("some-other")).await;
        let expected = if shape == "azure" { "some-other" } else { "gpt-4o-north" };
        assert_eq!(record.body, json_body(expected), "{shape}");
    }
}

#[tokio::test]
async fn speech_comes_back_byte_for_byte() {
    let expected = [b"\xff\xfb\x90\x00north".to_vec(), b"\x00\xff\xfe\x80".repeat(256)].concat();
    for shape in SHAPES {
        let gateway = gateway(shape).await;
        let response = gateway
            .client
            .post("/v1/audio/speech", &json!({"model": "gpt-4o", "input": "hi", "voice": "alloy"}))
            .await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("audio/mpeg"));
        assert!(response.body == expected, "{shape}");
    }
}

#[tokio::test]
async fn a_backend_has_the_api_version_and_base_path_of_its_configuration() {
    let gateway = Setup::new()
        .backend("north", json!({"api": "azure", "api_version": "2024-02-01"}))
        .backend("south", json!({"api": "azure_v1", "api_version": "preview"}))
        .backend("west", json!({"api": "openai", "base_path": "/openai/v1"}))
        .start()
        .await;
    for client_shape in SHAPES {
        for name in ["north", "south", "west"] {
            gateway.mock(name).clear_records();
        }
        let chat = json_operation("chat/completions");
        for _ in 0..3 {
            let path = chat.client_path(client_shape);
            let headers = [("content-type", "application/json")];
            let body = json_body("gpt-4o").into();
            let response = gateway.client.send(Method::POST, &path, &headers, body).await.unwrap();
            assert_eq!(response.status, 200, "{}", response.text());
        }
        let path = |name| gateway.records(name)[0].path.clone();
        let suffix = "chat/completions";
        assert_eq!(
            path("north"),
            format!(
                "/openai/deployments/gpt-4o-north/{suffix}?api-version=2024-02-01&{EXTRA_QUERY}"
            )
        );
        assert_eq!(path("south"), format!("/openai/v1/{suffix}?api-version=preview&{EXTRA_QUERY}"));
        assert_eq!(path("west"), format!("/openai/v1/{suffix}?{EXTRA_QUERY}"));
    }
}

#[tokio::test]
async fn a_failover_between_shapes_starts_from_what_the_client_sent() {
    let gateway = Setup::new()
        .backend("one", json!({"api": "azure_v1", "priority": 1}))
        .backend("two", json!({"api": "azure", "priority": 2}))
        .backend("three", json!({"api": "openai", "priority": 3}))
        .start()
        .await;
    for name in ["one", "two"] {
        gateway.mock(name).push_fault(mock_azure::Fault::throttle(60_000));
    }
    let chat = json_operation("chat/completions");
    let headers = [("content-type", "application/json")];
    let path = chat.client_path("openai");
    let body = json_body("gpt-4o").into();
    let response = gateway.client.send(Method::POST, &path, &headers, body).await.unwrap();
    assert_eq!((response.status, response.served_by()), (200, "three"));
    for (name, shape) in [("one", "azure_v1"), ("two", "azure"), ("three", "openai")] {
        let record = gateway.records(name).remove(0);
        assert_eq!(record.path, chat.backend_path(shape, name, "openai"));
        assert_eq!(record.header("host"), Some(&*host_of(name)));
        let model = if shape == "azure" { "gpt-4o".to_owned() } else { deployment_of(name) };
        assert_eq!(record.body, json_body(&model), "{name}");
        let length = json_body(&model).len().to_string();
        assert_eq!(record.header("content-length"), Some(&*length), "{name}");
    }
}
