//! A backend's response headers reach the client unless they name the backend's host, are a credential, or
//! would speak for the gateway's own host.

use crate::harness::{Gateway, Response, Setup, deployment_of, host_of, key_of};
use mock_azure::{Fault, MockConfig};
use serde_json::{Value, json};

const SECRET: &str = "secret-of-the-backend";

/// Headers that must not pass; each value says why.
fn unwanted() -> Vec<(String, String)> {
    let host = host_of("north");
    let (key, deployment) = (key_of("north"), deployment_of("north"));
    let secrets = [
        "api-key",
        "authorization",
        "proxy-authenticate",
        "x-ms-client-principal",
        "x-api-token",
        "set-cookie",
        "openai-organization",
        "openai-project",
        "x-ms-deployment-name",
        "x-ms-spillover-error",
        "azureml-model-deployment",
        "azureml-model-session",
        "x-served-by",
        "strict-transport-security",
        "alt-svc",
        "link",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "accept-ch",
        "content-security-policy",
        "critical-ch",
        "expect-ct",
        "origin-trial",
        "permissions-policy",
        "service-worker-allowed",
        "speculation-rules",
        "x-accel-redirect",
        "x-frame-options",
    ];
    let hosts = ["x-upstream", "via", "x-forwarded-host", "location", "content-location"];
    let of_secrets = secrets.map(|name| (name.to_owned(), SECRET.to_owned()));
    let of_hosts = hosts.map(|name| (name.to_owned(), format!("https://other.{host}/x")));
    let challenge = ("www-authenticate".to_owned(), format!("Bearer realm=\"{SECRET}\""));
    let told = [
        ("x-up", format!("https://{}/x", host.to_uppercase())),
        ("x-debug", format!("Bearer {key}")),
        ("x-sent", format!("api-key={key}; x")),
        ("openai-model", deployment.clone()),
        ("x-path", format!("/openai/deployments/{deployment}/chat")),
    ];
    let told = told.map(|(name, value)| (name.to_owned(), value));
    of_secrets.into_iter().chain(of_hosts).chain([challenge]).chain(told).collect()
}

/// What passes as it is.
const HARMLESS: [(&str, &str); 8] = [
    ("apim-request-id", "1"),
    ("x-request-id", "2"),
    ("x-ms-request-id", "3"),
    ("openai-processing-ms", "4"),
    ("x-ms-rai-invoked", "true"),
    ("content-disposition", "attachment"),
    ("x-accel-buffering", "no"),
    ("operation-location", "/openai/v1/operations/1"),
];

fn all_headers() -> Vec<(String, String)> {
    let harmless = HARMLESS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    unwanted().into_iter().chain(harmless).collect()
}

fn assert_clean(response: &Response, what: &str) {
    let text = format!("{:?}", response.headers);
    for told in [SECRET, &host_of("north"), &key_of("north"), &deployment_of("north")] {
        assert!(!text.to_lowercase().contains(told), "{what}: {told} in {text}");
    }
    assert_eq!(response.served_by(), "north", "{what}");
    for (name, value) in HARMLESS {
        assert_eq!(response.header(name), Some(value), "{what}: {text}");
    }
}

async fn one(keys: Value) -> Gateway {
    let setup = Setup::new();
    setup.backend_with("north", keys, |mock| MockConfig { api_key: None, ..mock }).start().await
}

#[tokio::test]
async fn no_response_header_names_a_member_or_holds_a_credential() {
    for api in ["azure", "azure_v1", "openai"] {
        let gateway = one(json!({"api": api})).await;
        gateway.mock("north").push_fault(Fault::BackendHeaders { headers: all_headers() });
        assert_clean(&gateway.chat().await, &format!("{api}, whole"));
        gateway.mock("north").push_fault(Fault::BackendHeaders { headers: all_headers() });
        assert_clean(&gateway.chat_stream().await, &format!("{api}, streamed"));
        for status in [400, 401, 404] {
            let fault = Fault::Status { status, headers: all_headers(), body: None };
            gateway.mock("north").push_fault(fault);
            let response = gateway.chat().await;
            assert_eq!(response.status, status, "{}", response.text());
            assert_clean(&response, &format!("{api}, {status}"));
        }
    }
}

#[tokio::test]
async fn a_location_at_the_backend_becomes_a_path() {
    let gateway = one(json!({})).await;
    for (sent, told) in [
        (format!("https://{}/openai/v1/responses/r_1?sig=x", host_of("north")), true),
        (format!("//{}:443/openai/v1/responses/r_1", host_of("north").to_uppercase()), true),
        ("/openai/v1/responses/r_1".to_owned(), true),
        ("https://10.0.0.1:8443/openai/v1/responses/r_1".to_owned(), false),
        (format!("https://{}/openai/deployments/gpt-4o-north/x", host_of("north")), false),
    ] {
        let headers = ["location", "content-location", "operation-location"];
        let headers = headers.map(|name| (name.to_owned(), sent.clone())).to_vec();
        gateway.mock("north").push_fault(Fault::BackendHeaders { headers });
        let response = gateway.chat().await;
        for name in ["location", "content-location", "operation-location"] {
            let expected = told.then_some("/openai/v1/responses/r_1");
            assert_eq!(response.header(name), expected, "{sent}: {:?}", response.headers);
        }
    }
}

#[tokio::test]
async fn a_challenge_reaches_the_client_whose_own_credential_was_refused() {
    let gateway = one(json!({"credential": "passthrough"})).await;
    let headers = vec![("www-authenticate".to_owned(), "Bearer".to_owned())];
    gateway.mock("north").push_fault(Fault::Status { status: 401, headers, body: None });
    let response = gateway.chat().await;
    assert_eq!((response.status, response.header("www-authenticate")), (401, Some("Bearer")));
}
