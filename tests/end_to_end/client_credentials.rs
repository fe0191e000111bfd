//! A client's credentials reach no backend, whatever their name and place.

use crate::harness::raw::Connection;
use crate::harness::{CHAT, Gateway, Setup, chat_body, everything, key_of};
use serde_json::json;

const SECRET: &str = "the-clients-secret";

/// What SDKs and tracing send.
const HARMLESS: [(&str, &str); 8] = [
    ("x-stainless-lang", "python"),
    ("x-stainless-retry-count", "0"),
    ("openai-beta", "b"),
    ("user-agent", "OpenAI/Python"),
    ("x-ms-client-request-id", "1"),
    ("x-ms-useragent", "sdk"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("idempotency-key", "retry-1"),
];

/// All that a backend received; nothing of it may be the client's.
fn assert_clean(gateway: &Gateway, what: &str) {
    let records = gateway.records("north");
    assert!(!records.is_empty(), "{what}");
    for record in records {
        let all = everything(&record);
        assert!(!all.contains(SECRET), "{what}: {all}");
        assert!(all.contains(&key_of("north")), "{what}: {all}");
    }
    gateway.mock("north").clear_records();
}

#[tokio::test]
async fn no_header_with_a_credential_or_an_identity_reaches_a_backend() {
    for api in ["azure", "azure_v1", "openai"] {
        let gateway = Setup::new().backend("north", json!({"api": api})).start().await;
        for name in [
            "api-key",
            "authorization",
            "x-api-key",
            "ocp-apim-subscription-key",
            "ocp-apim-trace",
            "subscription-key",
            "proxy-authorization",
            "cookie",
            "openai-organization",
            "openai-project",
            "x-goog-api-key",
            "x-amz-security-token",
            "x-functions-key",
            "x-ms-client-principal",
            "x-ms-token-aad-access-token",
            "x-forwarded-access-token",
            "x-auth-token",
            "x-http-method-override",
            "x-method-override",
            "x-http-method",
            "x-original-url",
            "x-rewrite-url",
            "x-sas",
            "x-session-id",
            "session_id",
            "x-csrf",
            "x-xsrf-header",
            "x-user-pass",
            "x-pwd",
            "x-ms-identity",
            "x-forwarded-user",
            "x-forwarded-email",
            "remote-user",
            "x-client-id",
            "x-arr-clientcert",
            "x-amzn-oidc-data",
            "x-amzn-mtls-subject",
            "x-wsse",
            "x-ssl-client-verify",
            "x-firebase-appcheck",
        ] {
            let headers = [&[(name, SECRET)], &HARMLESS[..]].concat();
            let response = gateway.client.post_with(CHAT, &headers, &chat_body()).await;
            assert_eq!(response.status, 200, "{api} {name}: {}", response.text());
            let record = gateway.records("north").pop().unwrap();
            for (harmless, value) in HARMLESS {
                assert_eq!(record.header(harmless), Some(value), "{name}");
            }
            assert_clean(&gateway, &format!("{api} {name}"));
        }
    }
}

#[tokio::test]
async fn no_value_in_the_form_of_a_credential_reaches_a_backend_under_any_name() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    let jwt = format!("eyJhbGciOiJFUzI1NiJ9.{SECRET}.c2ln");
    let parameter = format!(
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&x={jwt}&y=Bearer%20{SECRET}"
    );
    assert_eq!(gateway.client.post(&parameter, &chat_body()).await.status, 200);
    assert_clean(&gateway, "parameters");
    for value in [
        jwt,
        format!("Bearer {SECRET}"),
        format!("basic {SECRET}"),
        format!("UsernameToken Username=\"{SECRET}\""),
    ] {
        let headers = [&[("x-any", &*value), ("x-other", &*value)], &HARMLESS[..]].concat();
        let response = gateway.client.post_with(CHAT, &headers, &chat_body()).await;
        assert_eq!(response.status, 200, "{value}: {}", response.text());
        let record = gateway.records("north").pop().unwrap();
        for (harmless, value) in HARMLESS {
            assert_eq!(record.header(harmless), Some(value));
        }
        assert_clean(&gateway, &value);
    }
}

#[tokio::test]
async fn no_parameter_with_a_credential_reaches_a_backend() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    for parameter in [
        "api-key=",
        "api_key=",
        "apikey=",
        "API-Key=",
        "api%2Dkey=",
        "%61pi-key=",
        "key=",
        "code=",
        "subscription-key=",
        "access_token=",
        "sig=",
        "x=1;api-key=",
        "pwd=",
        "session=",
        "sessionId=",
        "sid=",
        "user=",
        "x=1;sid=",
    ] {
        let path = format!(
            "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&{parameter}{SECRET}&x=1"
        );
        let response = gateway.client.post(&path, &chat_body()).await;
        assert_eq!(response.status, 200, "{parameter}: {}", response.text());
        assert!(gateway.records("north")[0].path.ends_with("?api-version=2024-10-21&x=1"));
        assert_clean(&gateway, parameter);
    }
}

#[tokio::test]
async fn no_parameter_names_another_deployment_at_a_backend() {
    for api in ["azure", "azure_v1", "openai"] {
        let gateway = Setup::new().backend("north", json!({"api": api})).start().await;
        for name in ["model", "deployment", "deployment-id", "MODEL", "%6dodel", "x=1;model"] {
            let path = format!("{CHAT}?{name}=dearest&x=1");
            let response = gateway.client.post(&path, &chat_body()).await;
            assert_eq!(response.status, 200, "{api} {name}: {}", response.text());
            let path = gateway.records("north").pop().unwrap().path;
            assert!(path.ends_with("x=1") && !path.contains("dearest"), "{api} {name}: {path}");
        }
    }
}

async fn upgrade(gateway: &Gateway, subprotocols: &str) -> String {
    let mut connection = Connection::open(gateway.envoy.port).await;
    let request = format!(
        "GET /v1/realtime?model=gpt-4o&api-key={SECRET} HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: {subprotocols}\r\n\r\n"
    );
    connection.send(request.as_bytes()).await;
    connection.read_until("\r\n\r\n").await.to_lowercase()
}

#[tokio::test]
async fn a_key_among_the_subprotocols_stays_behind_and_the_others_go_on() {
    let gateway = Setup::new().backend("north", json!({"api": "openai"})).start().await;
    let offered = format!(
        "realtime, openai-insecure-api-key.{SECRET}, openai-organization.{SECRET}, \
         openai-project.{SECRET}, openai-ephemeral-token.{SECRET}, {SECRET}, \
         base64url.bearer.authorization.k8s.io.{SECRET}, openai-beta.realtime-v1"
    );
    let head = upgrade(&gateway, &offered).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-protocol: realtime"), "{head}");
    let record = gateway.records("north").remove(0);
    let sent = record.header("sec-websocket-protocol");
    assert_eq!(sent, Some("realtime, openai-beta.realtime-v1"));
    assert_clean(&gateway, "subprotocols");
    let head = upgrade(&gateway, &format!("openai-insecure-api-key.{SECRET}")).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert_clean(&gateway, "only a key");
}

#[tokio::test]
async fn with_passthrough_the_clients_key_goes_on_and_what_belongs_to_it() {
    let gateway = Setup::new()
        .backend_with("north", json!({"credential": "passthrough"}), |mock| {
            mock_azure::MockConfig { api_key: None, ..mock }
        })
        .start()
        .await;
    let headers = [
        ("authorization", "Bearer own"),
        ("openai-organization", "org"),
        ("openai-project", "proj"),
        ("cookie", SECRET),
        ("ocp-apim-subscription-key", SECRET),
        ("x-api-key", SECRET),
    ];
    let response = gateway.client.post_with(CHAT, &headers, &chat_body()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let record = gateway.records("north").remove(0);
    for (name, value) in &headers[..3] {
        assert_eq!(record.header(name), Some(*value), "{name}");
    }
    assert!(!everything(&record).contains(SECRET), "{}", everything(&record));
    gateway.mock("north").clear_records();
    let offered = format!("realtime, openai-insecure-api-key.{SECRET}");
    assert!(upgrade(&gateway, &offered).await.starts_with("http/1.1 101 "));
    let record = gateway.records("north").remove(0);
    assert_eq!(record.header("sec-websocket-protocol"), Some(&*offered));
    assert!(record.path.contains(&format!("api-key={SECRET}")), "{}", record.path);
}
