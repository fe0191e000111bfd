//! The shipped Envoy configurations themselves, in real Envoy: with TLS, with names, with hosts that are missing.

use crate::harness::shipped::{run_azure, run_local, shipped_host};
use crate::harness::{Gateway, Name, eventually};
use mock_azure::Fault;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use testbed::programs::text_of;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// From the range for documentation: no machine has this address.
const NOWHERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

async fn assert_served_by(gateway: &Gateway, backend: &str, attempts: &str) {
    for response in [gateway.chat().await, gateway.chat_stream().await] {
        assert_eq!((response.status, response.served_by()), (200, backend), "{}", response.text());
        assert_eq!(response.header("x-spillway-attempts"), Some(attempts));
    }
}

/// Names are resolved while Envoy starts and soon after.
async fn serves(gateway: &Gateway, backend: &str) {
    eventually(&format!("{backend} serves"), async || gateway.chat().await.served_by() == backend)
        .await;
}

/// The text of `envoy/azure.yaml` with the filter's configuration that the README shows.
fn as_the_readme_says() -> String {
    let readme = text_of("README.md");
    let shown = readme.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let azure = text_of("envoy/azure.yaml");
    let (before, rest) = azure.split_once("                  value: |\n").unwrap();
    let (_, after) = rest.split_once("          - name: envoy.filters.http.router\n").unwrap();
    let indented: String =
        shown.lines().map(|line| format!("                    {}\n", line.trim_end())).collect();
    format!(
        "{before}                  value: |\n{indented}          - name: envoy.filters.http.router\n{after}"
    )
}

#[tokio::test]
async fn who_does_what_the_readme_says_has_a_gateway_that_serves_over_tls_1_3() {
    let shipped = run_azure(&as_the_readme_says(), &[]).await;
    serves(&shipped.gateway, "ptu-uksouth").await;
    assert_served_by(&shipped.gateway, "ptu-uksouth", "1").await;
    let versions = "cluster.ptu-uksouth.ssl.versions.TLSv1.3";
    assert!(shipped.gateway.envoy.stat(versions).await > 0);
    for record in shipped.gateway.records("ptu-uksouth") {
        assert_eq!(record.header("host"), Some(&*shipped_host("ptu-uksouth")));
    }
}

#[tokio::test]
async fn a_silent_name_server_neither_keeps_envoy_from_starting_nor_requests_from_being_served() {
    let started = Instant::now();
    let azure = text_of("envoy/azure.yaml");
    let shipped = run_azure(&azure, &[("ptu-uksouth", Name::Silent)]).await;
    // Envoy asks four times, for five seconds and longer, before it gives up.
    assert!(started.elapsed() < Duration::from_secs(18), "{:?}", started.elapsed());
    serves(&shipped.gateway, "payg-sweden").await;
    for _ in 0..6 {
        let response = shipped.gateway.chat().await;
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(response.served_by().starts_with("payg-"), "{:?}", response.headers);
    }
    let reason =
        "wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.ptu-uksouth.outcome.misrouted";
    assert!(shipped.gateway.envoy.stat(reason).await > 0);
}

#[tokio::test]
async fn a_host_with_addresses_of_both_kinds_is_reached_where_ipv6_does_not_work() {
    let azure = text_of("envoy/azure.yaml");
    let both = Name::At(vec![NOWHERE, HERE]);
    let only = Name::At(vec![NOWHERE]);
    let shipped = run_azure(&azure, &[("ptu-uksouth", both), ("payg-sweden", only)]).await;
    serves(&shipped.gateway, "ptu-uksouth").await;
    for _ in 0..4 {
        assert_served_by(&shipped.gateway, "ptu-uksouth", "1").await;
    }
}

#[tokio::test]
async fn a_host_that_is_known_later_serves_from_then_on() {
    // Failures from before there was an address must not keep the backend out for longer than this test waits.
    let open = r#""circuit_breaker": {"rules": []}, "models": ["#;
    let azure = text_of("envoy/azure.yaml").replace(r#""models": ["#, open);
    let none = Name::At(Vec::new());
    let nobody = ["payg-sweden", "payg-france"].map(|name| (name, none.clone()));
    let shipped = run_azure(&azure, &nobody).await;
    serves(&shipped.gateway, "ptu-uksouth").await;
    shipped.names.set(&shipped_host("ptu-uksouth"), Name::At(Vec::new()));
    shipped.names.set(&shipped_host("payg-france"), Name::At(vec![HERE]));
    serves(&shipped.gateway, "payg-france").await;
}

#[tokio::test]
async fn a_certificate_of_another_host_is_refused_and_another_backend_serves() {
    let azure = text_of("envoy/azure.yaml");
    let (host, other) = (shipped_host("ptu-uksouth"), "contoso.example.com");
    let text = azure.replace(&format!("sni: {host}"), &format!("sni: {other}"));
    let shipped = run_azure(&text, &[]).await;
    serves(&shipped.gateway, "payg-sweden").await;
    assert!(shipped.gateway.records("ptu-uksouth").is_empty());
}

#[tokio::test]
async fn the_local_file_serves_while_a_backend_has_no_host() {
    let gateway = run_local(|whole| {
        whole.cluster("ptu-uksouth")["load_assignment"]["endpoints"][0]["lb_endpoints"] = json!([]);
    })
    .await;
    for _ in 0..2 {
        let response = gateway.chat_with_status(200).await;
        assert_ne!(response.served_by(), "ptu-uksouth");
    }
}

#[tokio::test]
async fn a_response_with_more_headers_than_envoy_likes_is_no_reset() {
    let shipped = run_azure(&text_of("envoy/azure.yaml"), &[]).await;
    let azure = &shipped.gateway;
    serves(azure, "ptu-uksouth").await;
    let many = (0..300).map(|number| (format!("x-many-{number}"), "1".to_owned()));
    let long = (0..10).map(|number| (format!("x-long-{number}"), "1".repeat(15_000)));
    let headers: Vec<(String, String)> = many.chain(long).collect();
    let fault = Fault::Status { status: 422, headers, body: Some("{}".to_owned()) };
    azure.mock("ptu-uksouth").push_fault(fault);
    let response = azure.chat().await;
    assert_eq!(
        (response.status, response.served_by()),
        (422, "ptu-uksouth"),
        "{}",
        response.text()
    );
    assert_eq!(response.header("x-many-299"), Some("1"));
    assert_served_by(azure, "ptu-uksouth", "1").await;
}
