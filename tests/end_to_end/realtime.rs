//! A WebSocket goes to a chosen backend like any request, and its frames pass unchanged in both directions.

use crate::harness::raw::Connection;
use crate::harness::{CHAT, Gateway, Setup, chat_body, deployment_of, host_of, key_of};
use mock_azure::Fault;
use serde_json::{Value, json};

const FINAL_TEXT: u8 = 0x81;
const FINAL_BINARY: u8 = 0x82;
const FINAL_CLOSE: u8 = 0x88;
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// Asks for an upgrade; returns the connection and the head of the response.
async fn upgrade(gateway: &Gateway, path: &str) -> (Connection, String) {
    let mut connection = Connection::open(gateway.envoy.port).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         api-key: the-clients-own\r\nopenai-beta: realtime=v1\r\n\r\n"
    );
    connection.send(request.as_bytes()).await;
    let head = connection.read_until("\r\n\r\n").await.to_lowercase();
    (connection, head)
}

/// A frame as a client sends it (RFC 6455 5.2).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

async fn read_frame(connection: &mut Connection) -> (u8, Vec<u8>) {
    let head = connection.read_bytes(2).await;
    let length = match head[1] {
        126 => connection.read_bytes(2).await.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)),
        127 => connection.read_bytes(8).await.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)),
        length => usize::from(length),
    };
    (head[0], connection.read_bytes(length).await)
}

/// The first event of a session, which states the backend and the deployment.
async fn created(connection: &mut Connection) -> Value {
    let (first, payload) = read_frame(connection).await;
    assert_eq!(first, FINAL_TEXT);
    let event: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(event["type"], "session.created");
    event["session"].clone()
}

#[tokio::test]
async fn a_session_reaches_a_backend_of_any_shape_from_a_client_of_any_shape() {
    let clients = [
        "/openai/realtime?api-version=2024-10-01-preview&deployment=gpt-4o&intent=x",
        "/openai/v1/realtime?model=gpt-4o&intent=x",
        "/v1/realtime?intent=x&model=gpt-4o",
    ];
    for api in ["azure", "azure_v1", "openai"] {
        let gateway = Setup::new().backend("north", json!({"api": api})).start().await;
        for client in clients {
            gateway.mock("north").clear_records();
            let case = format!("{client} at {api}");
            let (mut connection, head) = upgrade(&gateway, client).await;
            assert!(head.starts_with("http/1.1 101 "), "{case}: {head}");
            assert!(head.contains("sec-websocket-accept: "), "{case}: {head}");
            assert!(head.contains("x-served-by: north"), "{case}: {head}");
            let session = created(&mut connection).await;
            assert_eq!(session["model"], *deployment_of("north"), "{case}");

            let record = gateway.records("north").remove(0);
            let version = match client.contains("api-version") {
                true => "2024-10-01-preview",
                false => "2025-04-01-preview",
            };
            let expected = match api {
                "azure" => format!(
                    "/openai/realtime?api-version={version}&deployment=gpt-4o-north&intent=x"
                ),
                "azure_v1" => "/openai/v1/realtime?model=gpt-4o-north&intent=x".to_owned(),
                _ => "/v1/realtime?model=gpt-4o-north&intent=x".to_owned(),
            };
            assert_eq!(record.path, expected, "{case}");
            assert_eq!(record.header("host"), Some(&*host_of("north")), "{case}");
            assert_eq!(record.header("openai-beta"), Some("realtime=v1"), "{case}");
            let key = key_of("north");
            match api {
                "openai" => {
                    assert_eq!(record.header("api-key"), None, "{case}");
                    assert_eq!(record.header("authorization"), Some(&*format!("Bearer {key}")));
                }
                _ => assert_eq!(record.header("api-key"), Some(&*key), "{case}"),
            }
        }
    }
}

#[tokio::test]
async fn frames_of_any_size_go_both_ways_untouched() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    let (mut connection, _) = upgrade(&gateway, "/v1/realtime?model=gpt-4o").await;
    created(&mut connection).await;
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let payload: Vec<u8> = (0..=255).cycle().take(size).collect();
        connection.send(&frame(FINAL_BINARY, &payload)).await;
        let (first, echoed) = read_frame(&mut connection).await;
        assert_eq!(first, FINAL_BINARY, "{size}");
        assert!(echoed == payload, "{size}");
    }
    // A frame that looks like an error event is just a frame here.
    let text = b"event: error\ndata: {\"error\":{\"code\":\"429\"}}\n\n";
    connection.send(&frame(FINAL_TEXT, text)).await;
    assert_eq!(read_frame(&mut connection).await, (FINAL_TEXT, text.to_vec()));
    connection.send(&frame(FINAL_CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(read_frame(&mut connection).await.0, FINAL_CLOSE);
    assert_eq!(connection.read_to_end().await, "");
    gateway.assert_alive("a session").await;
}

#[tokio::test]
async fn a_refused_upgrade_fails_over_and_closes_the_gate() {
    let gateway = Setup::tiers(["ptu", "sweden"]).start().await;
    gateway.mock("ptu").push_fault(Fault::throttle(60_000));
    for attempts in [2, 1] {
        let (mut connection, head) = upgrade(&gateway, "/v1/realtime?model=gpt-4o").await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("x-served-by: sweden"), "{head}");
        assert!(head.contains(&format!("x-spillway-attempts: {attempts}")), "{head}");
        let session = created(&mut connection).await;
        assert_eq!(session["served_by"], "sweden");
        assert_eq!(session["model"], *deployment_of("sweden"));
        connection.send(&frame(FINAL_TEXT, b"still here")).await;
        assert_eq!(read_frame(&mut connection).await, (FINAL_TEXT, b"still here".to_vec()));
    }
    assert_eq!(gateway.counts(), [1, 2]);
    let record = gateway.records("sweden").remove(0);
    assert_eq!(record.header("host"), Some(&*host_of("sweden")));
    assert_eq!(record.header("api-key"), Some(&*key_of("sweden")));
    // The gate belongs to the deployment, whatever the operation.
    assert_eq!(gateway.client.post(CHAT, &chat_body()).await.served_by(), "sweden");
}

#[tokio::test]
async fn an_upgrade_that_every_backend_refuses_is_answered_in_the_clients_words() {
    let gateway =
        Setup::new().backend("north", json!({})).backend("south", json!({})).start().await;
    for name in ["north", "south"] {
        gateway.mock(name).push_fault(Fault::throttle(30_000));
    }
    let (mut connection, head) = upgrade(&gateway, "/v1/realtime?model=gpt-4o").await;
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    assert!(head.contains("retry-after: 3"), "{head}");
    let body = connection.read_until("}}").await;
    assert!(body.contains("All backends are throttled"), "{body}");
}

#[tokio::test]
async fn a_session_for_an_unknown_model_is_not_found() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    for path in
        ["/v1/realtime?model=gpt-9", "/openai/realtime?api-version=2024-10-21&deployment=gpt-9"]
    {
        let (mut connection, head) = upgrade(&gateway, path).await;
        assert!(head.starts_with("http/1.1 404 "), "{path}: {head}");
        let body = connection.read_until("}}").await;
        assert!(body.contains("model_not_found"), "{path}: {body}");
    }
    assert_eq!(gateway.counts(), [0]);
}
