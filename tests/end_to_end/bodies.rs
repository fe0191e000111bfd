//! Bodies whose model the gateway must read or write: a doubtful body is refused, and no
//! backend ever reads a model that the gateway did not choose.

use crate::harness::raw::{Connection, exchange};
use crate::harness::{CHAT, Gateway, Response, Setup};
use hyper::Method;
use serde_json::json;

const CLASSIC: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
const SPEECH: &str = "/v1/audio/transcriptions";
const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data; boundary=xyz";

async fn gateway(api: &str) -> Gateway {
    Setup::new().backend("north", json!({"api": api})).start().await
}

async fn send(
    gateway: &Gateway,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Response {
    gateway.client.send(Method::POST, path, headers, body.into().into()).await.unwrap()
}

fn assert_refused(response: &Response, status: u16, code: &str, what: &str) {
    assert_eq!(response.status, status, "{what}: {}", response.text());
    assert_eq!(response.json()["error"]["code"], code, "{what}");
}

#[tokio::test]
async fn a_model_that_is_not_sure_is_refused_wherever_it_is_read_or_written() {
    for api in ["azure_v1", "openai"] {
        let gateway = gateway(api).await;
        for body in [
            r#"{"model":"gpt-4o","messages":[],"model":"other"}"#,
            r#"{"model":"other","messages":[],"model":"gpt-4o"}"#,
            r#"{"model":"gpt-4o","messages":[],"mod\u0065l":"other"}"#,
            r#"{"model":"gpt-4o","messages":[],"Model":"other"}"#,
            r#"{"MODEL":"gpt-4o","messages":[]}"#,
            r#"{"model":"gpt-4o","messages":[],"model":7}"#,
        ] {
            for path in [CHAT, CLASSIC] {
                let response = send(&gateway, path, &[("content-type", JSON)], body).await;
                assert_refused(&response, 400, "ambiguous_model", body);
            }
            // Also where reading both ends of a large body would be enough.
            let large = body.replace("[]", &format!("[\"{}\"]", "x".repeat(100_000)));
            let response = send(&gateway, CHAT, &[("content-type", JSON)], large).await;
            assert_refused(&response, 400, "ambiguous_model", body);
        }
        assert_eq!(gateway.counts(), [0]);
        gateway.assert_alive("models that are not sure").await;
    }
}

#[tokio::test]
async fn where_the_path_names_the_deployment_two_models_change_nothing() {
    let gateway = gateway("azure").await;
    let body = r#"{"model":"a","messages":[],"Model":"b","model":"c"}"#;
    let response = send(&gateway, CLASSIC, &[("content-type", JSON)], body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let record = gateway.records("north").remove(0);
    assert!(record.path.starts_with("/openai/deployments/gpt-4o-north/"), "{}", record.path);
    assert_eq!(record.body, body);
    // A model in the body chooses the pool, and the deployment in the path is still the pool's.
    let prompt = "x".repeat(100_000);
    let large = format!(r#"{{"model":"other","messages":["{prompt}"],"model":"gpt-4o"}}"#);
    gateway.mock("north").clear_records();
    send(&gateway, CHAT, &[("content-type", JSON)], large).await;
    for record in gateway.records("north") {
        assert!(record.path.starts_with("/openai/deployments/gpt-4o-north/"), "{}", record.path);
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_rewritten_is_not_sent_with_the_clients_model() {
    let gateway = gateway("azure_v1").await;
    let good = r#"{"model":"gpt-4o","messages":[]}"#;
    let utf_16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for path in [CHAT, CLASSIC] {
        for (headers, body, status, code) in [
            (
                &[("content-type", JSON), ("content-encoding", "gzip")][..],
                good.into(),
                415,
                "unsupported_content_encoding",
            ),
            (
                &[("content-type", JSON), ("content-encoding", "br")],
                good.into(),
                415,
                "unsupported_content_encoding",
            ),
            (&[("content-type", "multipart/form-data")], good.into(), 400, "unreadable_body"),
            (
                &[("content-type", "multipart/mixed; boundary=x")],
                good.into(),
                400,
                "unreadable_body",
            ),
            (
                &[("content-type", "application/json; charset=utf-16")],
                utf_16.clone(),
                400,
                "unreadable_body",
            ),
            (&[("content-type", JSON)], utf_16.clone(), 400, "malformed_body"),
            (&[("content-type", JSON)], b"{".to_vec(), 400, "malformed_body"),
            (&[("content-type", JSON)], Vec::new(), 400, "malformed_body"),
            (&[("content-type", FORM)], b"--abc\r\n\r\n--abc--".to_vec(), 400, "malformed_body"),
        ] {
            let what = format!("{path} {headers:?}");
            let response = send(&gateway, path, headers, body).await;
            assert_refused(&response, status, code, &what);
        }
    }
    assert_eq!(gateway.counts(), [0]);
    let headers = [("content-type", JSON), ("content-encoding", "identity")];
    assert_eq!(send(&gateway, CHAT, &headers, good).await.status, 200);
    gateway.assert_alive("bodies that cannot be rewritten").await;
}

fn part(name: &str, value: &str) -> String {
    format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(content: &str) -> String {
    format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n{content}\r\n"
    )
}

#[tokio::test]
async fn a_line_that_only_begins_like_the_boundary_hides_no_model() {
    for tail in ["-2", "abc", " abc", "-"] {
        // One gateway each: a backend that misreads the form may refuse it.
        let gateway = gateway("azure_v1").await;
        let content = format!(
            "RIFF\r\n--xyz{tail}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nhidden"
        );
        let form = |model: &str| part("model", model) + &file(&content) + "--xyz--\r\n";
        send(&gateway, SPEECH, &[("content-type", FORM)], form("gpt-4o")).await;
        let record = gateway.records("north").pop().unwrap_or_else(|| panic!("{tail}: not sent"));
        let expected = form("gpt-4o-north");
        assert!(record.body == expected, "{tail}: {}", String::from_utf8_lossy(&record.body));
    }
}

#[tokio::test]
async fn a_form_that_parsers_take_apart_differently_is_refused() {
    let gateway = gateway("azure_v1").await;
    let model = part("model", "gpt-4o");
    for body in [
        part("model", "other") + &file("RIFF") + &model + "--xyz--",
        part("Model", "other") + &model + "--xyz--",
        model.replace("name=\"model\"", "name=\"x\"; name=\"model\"") + "--xyz--",
        model.replace("name=\"model\"", "name=\"model\"; name*=utf-8''x") + "--xyz--",
        model.replace("\r\n", "\n") + "\r\n--xyz--",
        format!("{model}--xyz--\r\n{}--xyz--", part("model", "other")),
        file(&format!("RIFF\n{}", part("model", "other"))) + &model + "--xyz--",
    ] {
        let response = send(&gateway, SPEECH, &[("content-type", FORM)], body.clone()).await;
        assert_eq!(response.status, 400, "{body}: {}", response.text());
    }
    for content_type in
        ["multipart/form-data; boundary=xyz; boundary=abc", "multipart/form-data; boundary*=xyz"]
    {
        let body = model.clone() + "--xyz--";
        let response = send(&gateway, SPEECH, &[("content-type", content_type)], body).await;
        assert_refused(&response, 400, "unreadable_body", content_type);
    }
    assert_eq!(gateway.counts(), [0]);
    gateway.assert_alive("odd forms").await;
}

/// Calls that need no body may have one.
const BODILESS: [(&str, &str); 8] = [
    ("GET", "/v1/responses/resp_1"),
    ("DELETE", "/v1/responses/resp_1"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("POST", "/v1/chat/completions/chatcmpl_1"),
    ("GET", "/v1/files/f_1/content"),
    ("DELETE", "/v1/files/f_1"),
    ("POST", "/v1/batches/b_1/cancel"),
    ("POST", "/v1/threads/t_1/runs/r_1/cancel"),
];

#[tokio::test]
async fn an_unfinished_body_keeps_no_backend_waiting_where_none_is_needed() {
    let gateway = Setup::new()
        .backend("north", json!({"api": "azure_v1"}))
        .whole(json!({
            "request_body": {"timeout": "300ms", "max_bytes": 4096},
            "allow_operations": ["files", "batches", "threads"]
        }))
        .start()
        .await;
    for (method, path) in BODILESS {
        for content_type in ["", "content-type: text/plain\r\n"] {
            for begin in ["", "{}"] {
                let mut connection = Connection::open(gateway.envoy.port).await;
                let head = format!(
                    "{method} {path} HTTP/1.1\r\nhost: g\r\n{content_type}content-length: 9\r\n\r\n{begin}"
                );
                connection.send(head.as_bytes()).await;
                let response = connection.read_until("}}").await;
                assert!(
                    response.starts_with("HTTP/1.1 408 "),
                    "{method} {path} {begin}: {response}"
                );
            }
        }
        let long = format!(
            "{method} {path} HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: 5000\r\n\r\n"
        );
        let response = exchange(gateway.envoy.port, long.as_bytes()).await;
        assert!(response.starts_with("HTTP/1.1 413 "), "{method} {path}: {response}");
    }
    assert_eq!(gateway.counts(), [0]);
    // A complete body continues as it came.
    for (sent, (method, path)) in BODILESS.into_iter().enumerate() {
        let whole = format!(
            "{method} {path} HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        exchange(gateway.envoy.port, whole.as_bytes()).await;
        assert_eq!(gateway.counts(), [sent + 1], "{method} {path}");
        assert_eq!(gateway.records("north").pop().unwrap().body, "{}", "{method} {path}");
    }
    gateway.assert_alive("unfinished bodies").await;
}

#[tokio::test]
async fn an_upload_goes_to_its_backend_while_it_comes() {
    let gateway = Setup::new()
        .backend("north", json!({"api": "azure_v1"}))
        .whole(json!({"request_body": {"max_bytes": 4096}, "allow_operations": ["files"]}))
        .start()
        .await;
    let form = [("content-type", FORM)];
    let response = send(&gateway, "/v1/files", &form, file(&"x".repeat(9_000))).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(gateway.counts(), [1]);
}

#[tokio::test]
async fn a_body_has_a_time_limit_and_a_length_limit() {
    let gateway = Setup::new()
        .backend("north", json!({}))
        .whole(json!({"request_body": {"timeout": "300ms", "max_bytes": 4096}}))
        .start()
        .await;
    for path in [CHAT, CLASSIC] {
        for begin in ["", "{\"model\":\"gpt-4o\","] {
            let mut connection = Connection::open(gateway.envoy.port).await;
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
                 content-length: 1000\r\n\r\n{begin}"
            );
            connection.send(head.as_bytes()).await;
            let response = connection.read_until("}}").await;
            assert!(response.starts_with("HTTP/1.1 408 "), "{path} {begin}: {response}");
            assert!(response.contains("\"invalid_request_error\""), "{response}");
        }
        let large = json!({"model": "gpt-4o", "messages": [], "x": "y".repeat(5_000)});
        let response = gateway.client.post(path, &large).await;
        assert_refused(&response, 413, "413", path);
        let parts = vec![
            large.to_string()[..3_000].to_owned().into(),
            large.to_string()[3_000..].to_owned().into(),
        ];
        let response = gateway.client.send_in_parts(path, parts).await;
        assert_refused(&response, 413, "413", path);
    }
    assert_eq!(gateway.counts(), [0]);
    gateway.assert_alive("bodies that were too late or too long").await;
}
