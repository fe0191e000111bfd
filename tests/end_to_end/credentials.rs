//! Which key goes where: the gateway's to its own backend, the client's nowhere unless configured.

use crate::harness::{CHAT, Gateway, Response, Setup, chat_body, everything, key_of};
use mock_azure::{Fault, MockConfig, Record};
use serde_json::json;

const CLIENT_KEY: &str = "the-clients-own-key";
const CLIENT_TOKEN: &str = "Bearer the-clients-own-token";

fn let_everyone_in(mock: MockConfig) -> MockConfig {
    MockConfig { api_key: None, ..mock }
}

async fn chat_with(gateway: &Gateway, headers: &[(&str, &str)]) -> Response {
    let response = gateway.client.post_with(CHAT, headers, &chat_body()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response
}

fn credentials(record: &Record) -> (Option<&str>, Option<&str>) {
    (record.header("api-key"), record.header("authorization"))
}

#[tokio::test]
async fn a_clients_credential_never_reaches_a_backend_with_a_key() {
    let both = [("api-key", CLIENT_KEY), ("authorization", CLIENT_TOKEN)];
    for (api, is_bearer) in [("azure", false), ("azure_v1", false), ("openai", true)] {
        let gateway = Setup::new().backend("north", json!({"api": api})).start().await;
        for headers in [&both[..], &both[..1], &both[1..], &[]] {
            gateway.mock("north").clear_records();
            chat_with(&gateway, headers).await;
            let record = gateway.records("north").remove(0);
            let key = key_of("north");
            let bearer = format!("Bearer {key}");
            let expected = if is_bearer { (None, Some(&*bearer)) } else { (Some(&*key), None) };
            assert_eq!(credentials(&record), expected, "{api} {headers:?}");
            assert!(!everything(&record).contains("the-clients-own"), "{api} {headers:?}");
        }
    }
}

#[tokio::test]
async fn a_credential_given_twice_is_removed_twice() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    let twice = [
        ("api-key", CLIENT_KEY),
        ("api-key", "the-clients-own-other"),
        ("Authorization", CLIENT_TOKEN),
        ("AUTHORIZATION", "Basic the-clients-own-other"),
    ];
    chat_with(&gateway, &twice).await;
    let record = gateway.records("north").remove(0);
    assert!(!everything(&record).contains("the-clients-own"), "{}", everything(&record));
    assert_eq!(credentials(&record), (Some(&*key_of("north")), None));
}

#[tokio::test]
async fn a_passthrough_backend_gets_exactly_the_clients_credential() {
    let gateway = Setup::new()
        .backend_with("north", json!({"credential": {"passthrough": {}}}), let_everyone_in)
        .start()
        .await;
    let both = [("api-key", CLIENT_KEY), ("authorization", CLIENT_TOKEN)];
    for headers in [&both[..], &both[..1], &both[1..], &[]] {
        gateway.mock("north").clear_records();
        chat_with(&gateway, headers).await;
        let record = gateway.records("north").remove(0);
        let sent = |name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        assert_eq!(credentials(&record), (sent("api-key"), sent("authorization")), "{headers:?}");
        assert!(!everything(&record).contains(&key_of("north")));
    }
}

#[tokio::test]
async fn what_openai_sends_to_a_clients_own_key_affects_no_other_client() {
    let own = json!({"priority": 1, "api": "openai", "credential": {"passthrough": {}}});
    let gateway = Setup::new()
        .backend_with("own", own, let_everyone_in)
        .backend("keyed", json!({"priority": 2}))
        .start()
        .await;
    let missing = json!({"error": {"code": "model_not_found", "message": "none", "type": "x"}});
    for fault in [
        Fault::throttle(30_000),
        Fault::Status { status: 404, headers: vec![], body: Some(missing.to_string()) },
    ] {
        assert_eq!(gateway.chat().await.served_by(), "own");
        gateway.mock("own").push_fault(fault);
        assert_eq!(gateway.chat().await.served_by(), "keyed");
    }
    assert_eq!(gateway.chat().await.served_by(), "own");
}

#[tokio::test]
async fn a_failover_between_passthrough_and_keyed_backends_leaks_nothing() {
    let gateway = Setup::new()
        .backend_with(
            "own",
            json!({"priority": 1, "credential": {"passthrough": {}}}),
            let_everyone_in,
        )
        .backend("keyed", json!({"priority": 2}))
        .backend("bearer", json!({"priority": 3, "api": "openai"}))
        .backend_with(
            "back",
            json!({"priority": 4, "credential": {"passthrough": {}}}),
            let_everyone_in,
        )
        .start()
        .await;
    for name in ["own", "keyed", "bearer"] {
        gateway.mock(name).push_fault(Fault::status(500));
    }
    let headers = [("api-key", CLIENT_KEY), ("authorization", CLIENT_TOKEN)];
    let response = chat_with(&gateway, &headers).await;
    assert_eq!(response.served_by(), "back");
    assert_eq!(gateway.counts(), [1, 1, 1, 1]);

    let clients = (Some(CLIENT_KEY), Some(CLIENT_TOKEN));
    let (key, bearer) = (key_of("keyed"), format!("Bearer {}", key_of("bearer")));
    let expected =
        [("own", clients), ("keyed", (Some(&*key), None)), ("bearer", (None, Some(&*bearer)))];
    for (name, expected) in expected.into_iter().chain([("back", clients)]) {
        let record = gateway.records(name).remove(0);
        assert_eq!(credentials(&record), expected, "{name}");
        for other in ["keyed", "bearer"].into_iter().filter(|other| *other != name) {
            assert!(!everything(&record).contains(&key_of(other)), "{name} has {other}'s key");
        }
    }
}

#[tokio::test]
async fn a_clients_wrong_credential_trips_nothing() {
    let gateway =
        Setup::new().backend("north", json!({"credential": {"passthrough": {}}})).start().await;
    for _ in 0..20 {
        let headers = [("api-key", "wrong")];
        let response = gateway.client.post_with(CHAT, &headers, &chat_body()).await;
        assert_eq!(response.status, 401, "{}", response.text());
    }
    let key = key_of("north");
    chat_with(&gateway, &[("api-key", &key)]).await;
}

#[tokio::test]
async fn keys_show_in_no_log_statistic_configuration_dump_or_response() {
    let gateway = Setup::tiers(["north", "south"]).start().await;
    // The gateway logs most about a refused credential.
    gateway.mock("north").push_fault(Fault::status(401));
    let headers = [("api-key", CLIENT_KEY), ("authorization", CLIENT_TOKEN)];
    let response = chat_with(&gateway, &headers).await;
    assert_eq!(response.served_by(), "south");
    assert!(gateway.envoy.log().contains("backend north answered 401"), "{}", gateway.envoy.log());
    let stats = gateway.envoy.admin("/stats?format=prometheus").await;
    let configuration = gateway.envoy.admin("/config_dump").await;
    assert!(configuration.contains("KEY_NORTH"), "only the name is there: {configuration}");
    let answered = format!("{:?} {}", response.headers, response.text());
    for text in [gateway.envoy.log(), stats, configuration, answered] {
        for secret in [&*key_of("north"), &*key_of("south"), "the-clients-own"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn nothing_that_would_steer_envoy_or_azure_passes_from_a_client_to_a_backend() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    let steering = [
        ("x-envoy-max-retries", "0"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-original-path", "/elsewhere"),
        ("x-envoy-anything", "1"),
        ("X-Envoy-Mixed-Case", "1"),
        ("x-spillway-retry", "1"),
        ("x-spillway-target", "south"),
        ("X-Spillway-Anything", "1"),
        ("x-ms-spillover-deployment", "elsewhere"),
        ("X-MS-Spillover-Deployment", "elsewhere"),
        ("accept-encoding", "gzip"),
    ];
    let headers = [&steering[..], &[("x-ms-client-request-id", "keep"), ("x-envoy", "keep")]];
    chat_with(&gateway, &headers.concat()).await;
    let record = gateway.records("north").remove(0);
    for (name, _) in &record.headers {
        let is_own = ["x-envoy-expected-rq-timeout-ms"].contains(&&**name);
        let steers = name.starts_with("x-envoy-")
            || name.starts_with("x-spillway-")
            || name == "x-ms-spillover-deployment"
            || name == "accept-encoding";
        assert!(!steers || is_own, "{name}: {}", everything(&record));
    }
    assert_eq!(record.header("x-ms-client-request-id"), Some("keep"));
    assert_eq!(record.header("x-envoy"), Some("keep"));
}
