//! A backend's cluster without a host: the attempt fails, and another backend serves.

use crate::harness::{
    CHAT, Gateway, Hosts, Name, NameServer, Setup, chat_body, deployment_of, eventually, forgetful,
    host_of,
};
use serde_json::json;
use std::time::{Duration, Instant};

/// A first backend whose cluster has these hosts, and a second one.
fn first_at(hosts: Hosts) -> Setup {
    Setup::tiers(["first", "second"])
        .pool(forgetful())
        .settings(|settings| settings.cluster("first", |cluster| cluster.hosts = hosts))
}

async fn assert_second_serves(gateway: &Gateway) {
    for _ in 0..4 {
        for response in [gateway.chat().await, gateway.chat_stream().await] {
            assert_eq!(
                (response.status, response.served_by()),
                (200, "second"),
                "{}",
                response.text()
            );
            assert_eq!(response.header("x-spillway-attempts"), Some("2"));
            assert_eq!(response.header("x-spillway-trail"), Some("first;no-host, second;200"));
        }
    }
    assert_eq!(gateway.counts(), [0, 8]);
}

async fn first_comes_back(gateway: &Gateway) {
    eventually("the first backend serves", async || gateway.chat().await.served_by() == "first")
        .await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_failed_attempt() {
    let names = NameServer::start().await;
    let gateway = first_at(Hosts::Name("first.test".into()))
        .settings(|settings| settings.name_server = Some(names.port()))
        .start()
        .await;
    assert_second_serves(&gateway).await;
    names.set("first.test", Name::At(vec![[127, 0, 0, 1].into()]));
    first_comes_back(&gateway).await;
}

#[tokio::test]
async fn names_that_resolve_late_open_no_breaker() {
    let names = NameServer::start().await;
    let gateway = Setup::tiers(["first", "second"])
        .settings(|settings| {
            settings.name_server = Some(names.port());
            settings.cluster("first", |it| it.hosts = Hosts::Name("first.test".into()));
            settings.cluster("second", |it| it.hosts = Hosts::Name("second.test".into()));
        })
        .start()
        .await;
    for _ in 0..12 {
        let response = gateway.chat_with_status(503).await;
        assert_eq!(response.header("x-spillway-trail"), Some("first;no-host, second;no-host"));
        // Soon: the names may resolve at any moment.
        let delay_ms: u64 = response.header("retry-after-ms").unwrap().parse().unwrap();
        assert!(delay_ms < 2_000, "{delay_ms}");
    }
    assert!(gateway.envoy.log().contains("backend first: its cluster has no host"), "not told");
    names.set("first.test", Name::At(vec![[127, 0, 0, 1].into()]));
    first_comes_back(&gateway).await;
}

#[tokio::test]
async fn a_list_of_endpoints_that_is_empty_is_a_failed_attempt() {
    let gateway = first_at(Hosts::File).start().await;
    assert_second_serves(&gateway).await;
    gateway.set_hosts("first", Some(gateway.mock("first").port()));
    first_comes_back(&gateway).await;
    gateway.set_hosts("first", None);
    eventually("the second backend serves", async || {
        let response = gateway.chat_with_status(200).await;
        response.served_by() == "second"
    })
    .await;
}

#[tokio::test]
async fn a_cluster_without_hosts_is_a_failed_attempt() {
    assert_second_serves(&first_at(Hosts::None).start().await).await;
}

#[tokio::test]
async fn when_no_backend_has_a_host_the_response_says_when_to_come_back() {
    let gateway = first_at(Hosts::None)
        .settings(|settings| settings.cluster("second", |cluster| cluster.hosts = Hosts::None))
        .start()
        .await;
    let response = gateway.chat_with_status(503).await;
    assert_eq!(response.header("x-spillway-trail"), Some("first;no-host, second;no-host"));
    assert!(response.header("retry-after").is_some());
    let message = response.json()["error"]["message"].to_string();
    assert!(message.contains("All backends are unavailable."), "{message}");
}

#[tokio::test]
async fn a_name_server_that_is_silent_does_not_keep_envoy_from_starting() {
    let names = NameServer::start().await;
    names.set("first.test", Name::Silent);
    let started = Instant::now();
    let gateway = first_at(Hosts::Name("first.test".into()))
        .settings(|settings| settings.name_server = Some(names.port()))
        .start()
        .await;
    // Envoy asks four times, each time for at least five seconds, before it reports an unknown name.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_second_serves(&gateway).await;
}

#[tokio::test]
async fn listeners_of_one_envoy_serve_side_by_side() {
    let other = json!({"pools": [{
        "name": "other",
        "models": ["gpt-4o"],
        "backends": [{"name": "second", "host": host_of("second"), "deployment": deployment_of("second")}]
    }]});
    let gateway = first_at(Hosts::Fixed)
        .settings(|settings| {
            settings.environment.push(("SECOND_KEY".into(), "key-of-second".into()));
            settings.more_listeners.push(other);
        })
        .start()
        .await;
    let beside = gateway.client_of(gateway.more_ports[0]);
    assert_eq!(gateway.chat().await.served_by(), "first");
    assert_eq!(beside.post(CHAT, &chat_body()).await.served_by(), "second");
}
