//! Statuses that a backend should not send: a redirect, a bill, a switch of protocol. Another
//! backend serves the request, and no client is sent past the gateway.

use crate::harness::raw::{Connection, RawBackend};
use crate::harness::{
    CHAT, Gateway, Setup, chat_body, eventually, first_and_second, first_elsewhere,
};
use mock_azure::Fault;
use serde_json::json;

const REDIRECTS: [u16; 6] = [300, 301, 302, 303, 307, 308];
/// Statuses that one backend may send although another one serves.
const OF_ONE: [u16; 9] = [402, 405, 407, 410, 418, 421, 423, 451, 499];

fn answers(status: u16, headers: &[(&str, &str)]) -> Fault {
    Fault::status_with(status, headers, Some(r#"{"error":{}}"#))
}

fn redirect(status: u16) -> Fault {
    answers(status, &[("location", "https://first.openai.azure.com/elsewhere")])
}

/// A raw backend before a mock. Its one response is `answer`.
async fn raw_first(response: &str) -> (RawBackend, Gateway) {
    raw_first_with(response, |setup| setup).await
}

async fn raw_first_with(
    response: &str,
    change: impl FnOnce(Setup) -> Setup,
) -> (RawBackend, Gateway) {
    let backend = RawBackend::start(response).await;
    let setup = first_elsewhere(backend.port());
    (backend, change(setup).start().await)
}

async fn upgrade(gateway: &Gateway) -> (Connection, String) {
    let mut connection = Connection::open(gateway.envoy.port).await;
    let request = "GET /v1/realtime?model=gpt-4o HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    connection.send(request.as_bytes()).await;
    let head = connection.read_until("\r\n\r\n").await.to_lowercase();
    (connection, head)
}

#[tokio::test]
async fn a_redirect_or_a_status_of_one_backend_alone_fails_over() {
    let gateway = first_and_second().start().await;
    for status in REDIRECTS.into_iter().chain([304]).chain(OF_ONE) {
        gateway.mock("first").push_fault(redirect(status));
        let response = gateway.chat().await;
        assert_eq!((response.status, response.served_by()), (200, "second"), "{status}");
        let trail = format!("first;{status}, second;200");
        assert_eq!(response.header("x-spillway-trail"), Some(&*trail));
        assert_eq!(response.header("location"), None);
        assert_eq!(gateway.chat().await.served_by(), "first", "after {status}");
    }
}

#[tokio::test]
async fn a_redirect_of_every_backend_is_an_error_of_the_gateway() {
    for names in [&["first"][..], &["first", "second"]] {
        let setup = names.iter().fold(Setup::new(), |setup, name| setup.backend(name, json!({})));
        let gateway = setup.start().await;
        for status in REDIRECTS {
            for name in names {
                gateway.mock(name).push_fault(redirect(status));
            }
            let response = gateway.chat().await;
            assert_eq!(response.status, 502, "{status}: {}", response.text());
            assert_eq!(response.header("location"), None);
            let error = &response.json()["error"];
            assert!(error["message"].as_str().unwrap().contains("redirect"), "{error}");
            assert_eq!(response.header("x-spillway-attempts"), Some(&*names.len().to_string()));
        }
        let response = gateway.chat().await;
        assert_eq!(response.status, 200, "redirects of all opened a breaker: {}", response.text());
    }
}

#[tokio::test]
async fn a_status_that_every_backend_agrees_on_is_passed_on() {
    let gateway =
        Setup::new().backend("first", json!({})).backend("second", json!({})).start().await;
    for status in OF_ONE {
        for name in ["first", "second"] {
            gateway.mock(name).push_fault(answers(status, &[]));
        }
        let response = gateway.chat().await;
        assert_eq!(response.status, status, "{}", response.text());
        assert_eq!(response.text(), r#"{"error":{}}"#);
    }
}

#[tokio::test]
async fn a_backend_that_redirects_all_is_left_alone_after_some() {
    let backend = RawBackend::start(
        "HTTP/1.1 302 Found\r\nlocation: https://login.example/\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n",
    )
    .await;
    let gateway = first_elsewhere(backend.port()).start().await;
    for _ in 0..10 {
        gateway.chat_served_by("second").await;
    }
    assert_eq!(backend.requests(), 3);
    assert!(gateway.envoy.log().contains("first answered 302"), "nobody was told");
}

#[tokio::test]
async fn a_switch_to_a_protocol_that_was_not_requested_is_no_response() {
    let (backend, gateway) = raw_first(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    for _ in 0..2 {
        let response = gateway.client.post(CHAT, &chat_body()).await;
        assert_eq!((response.status, response.served_by()), (200, "second"), "{}", response.text());
    }
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn an_upgrade_that_is_answered_with_an_error_fails_over() {
    for status in ["402 Payment Required", "404 Not Found", "426 Upgrade Required"] {
        let (backend, gateway) = raw_first(&format!(
            "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
        .await;
        let (_connection, head) = upgrade(&gateway).await;
        assert!(head.starts_with("http/1.1 101 "), "{status}: {head}");
        assert!(head.contains("x-served-by: second"), "{status}: {head}");
        assert_eq!(backend.requests(), 1, "{status}");
    }
}

/// Envoy itself replies to the client then. So this request is lost, but not the next ones.
#[tokio::test]
async fn an_upgrade_that_is_answered_without_one_is_an_error_of_the_gateway_and_a_fault() {
    for status in ["200 OK", "204 No Content", "302 Found"] {
        let (backend, gateway) = raw_first(&format!(
            "HTTP/1.1 {status}\r\ncontent-length: 0\r\nlocation: /\r\nconnection: close\r\n\r\n"
        ))
        .await;
        for _ in 0..5 {
            let (mut connection, head) = upgrade(&gateway).await;
            assert!(head.starts_with("http/1.1 502 "), "{status}: {head}");
            assert!(head.contains("x-spillway-trail: first;no-upgrade"), "{status}: {head}");
            assert!(!head.contains("location"), "{status}: {head}");
            let body = connection.read_until("}}").await;
            assert!(body.contains("another protocol"), "{status}: {body}");
        }
        assert_eq!(backend.requests(), 5, "{status}");
        let (_connection, head) = upgrade(&gateway).await;
        assert!(head.contains("x-served-by: second"), "{status}: {head}");
    }
}

#[tokio::test]
async fn an_error_of_a_partner_model_is_what_the_model_says() {
    let gateway = first_and_second().start().await;
    let model_says = |status: &str| answers(424, &[("ms-azureml-model-error-statuscode", status)]);
    for status in ["400", "422"] {
        gateway.mock("first").push_fault(model_says(status));
        let response = gateway.chat().await;
        assert_eq!((response.status, response.served_by()), (424, "first"), "{status}");
    }
    for status in ["429", "500", "503"] {
        gateway.mock("first").push_fault(model_says(status));
        let response = gateway.chat().await;
        assert_eq!((response.status, response.served_by()), (200, "second"), "{status}");
        eventually("the gate is open", async || gateway.chat().await.served_by() == "first").await;
    }
}

#[tokio::test]
async fn an_upload_that_was_not_received_goes_to_another_backend() {
    for (connection, attempts) in [("close", "2"), ("keep-alive", "1")] {
        let (backend, gateway) = raw_first_with(
            &format!("HTTP/1.1 408 Request Timeout\r\nconnection: {connection}\r\ncontent-length: 0\r\n\r\n"),
            |setup| setup.whole(json!({"allow_operations": ["files"]})),
        )
        .await;
        let response = gateway.client.post("/v1/files", &json!({"purpose": "batch"})).await;
        assert_eq!(response.header("x-spillway-attempts"), Some(attempts), "{}", response.text());
        assert_eq!(backend.requests(), 1);
    }
}

#[tokio::test]
async fn nothing_that_is_kept_at_a_backend_is_had_by_a_redirect() {
    let gateway = first_and_second().whole(json!({"allow_operations": ["files"]})).start().await;
    for (method, path) in
        [("GET", "/v1/files/file-1/content"), ("GET", "/v1/files"), ("POST", "/v1/files")]
    {
        for name in ["first", "second"] {
            gateway.mock(name).push_fault(redirect(307));
        }
        let method = method.parse().unwrap();
        let response = gateway.client.send(method, path, &[], bytes::Bytes::new()).await.unwrap();
        assert_eq!((response.status, response.header("location")), (502, None), "{path}");
        assert_eq!(response.header("x-spillway-attempts"), Some("2"), "{path}");
    }
}

#[tokio::test]
async fn a_success_without_a_response_fails_over() {
    for (status, length) in [
        ("200 OK", "content-length: 0\r\n"),
        ("204 No Content", ""),
        ("205 Reset Content", "content-length: 0\r\n"),
    ] {
        let (backend, gateway) =
            raw_first(&format!("HTTP/1.1 {status}\r\n{length}connection: close\r\n\r\n")).await;
        let response = gateway.chat().await;
        assert_eq!((response.status, response.served_by()), (200, "second"), "{status}");
        assert_eq!(response.header("x-spillway-trail"), Some("first;empty, second;200"));
        assert_eq!(backend.requests(), 1);
    }
}
