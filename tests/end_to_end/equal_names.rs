//! What listeners of one Envoy share because it has the same name, and what a namespace keeps apart.

use crate::harness::{CHAT, Client, Gateway, Setup, chat_body, deployment_of, eventually, host_of};
use mock_azure::Fault;
use serde_json::{Value, json};
use spillway::policy::keys::key_of;
use std::collections::HashMap;

/// The document of a second listener: a pool of the same name and model, with these of the backends.
fn document(backends: &[&str]) -> Value {
    let backend = |(priority, name): (usize, &&str)| {
        json!({
            "name": name, "host": host_of(name), "deployment": deployment_of(name),
            "priority": priority + 1,
            "credential": {"api_key": {"env": format!("KEY_{}", name.to_uppercase())}}
        })
    };
    let backends: Vec<Value> = backends.iter().enumerate().map(backend).collect();
    json!({"pools": [{"name": "gpt", "models": ["gpt-4o"], "backends": backends}]})
}

/// Two listeners: one with `a`, then `b`, the other with `second`.
async fn two_listeners(second: Value) -> (Gateway, Client) {
    let gateway = Setup::tiers(["a", "b"])
        .settings(|settings| settings.more_listeners.push(second))
        .start()
        .await;
    let other = gateway.client_of(gateway.more_ports[0]);
    (gateway, other)
}

fn throttle() -> Fault {
    Fault::throttle(60_000)
}

async fn served_by(client: &Client) -> String {
    let response = client.post(CHAT, &chat_body()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.served_by().to_owned()
}

/// The second listener is configured last, so the pool's record would be its own alone.
#[tokio::test]
async fn a_second_listener_with_a_pool_of_the_same_name_takes_no_gate_away() {
    let (gateway, other) = two_listeners(document(&["b"])).await;
    assert_eq!(served_by(&other).await, "b");
    gateway.mock("a").push_fault(throttle());
    for _ in 0..5 {
        assert_eq!(served_by(&gateway.client).await, "b");
    }
    assert_eq!(gateway.records("a").len(), 1, "its gate is closed");
    let lost = "wasmcustom.spillway_lost_updates_total.pool.gpt";
    assert_eq!(gateway.envoy.stat(lost).await, 0);
}

#[tokio::test]
async fn listeners_share_what_has_the_same_name_unless_a_namespace_keeps_it_apart() {
    for namespace in [None, Some("second")] {
        let mut second = document(&["a", "b"]);
        if let Some(namespace) = namespace {
            second["namespace"] = json!(namespace);
        }
        let (gateway, other) = two_listeners(second).await;
        gateway.mock("a").push_fault(throttle());
        assert_eq!(served_by(&gateway.client).await, "b");
        let expected = if namespace.is_none() { "b" } else { "a" };
        assert_eq!(served_by(&other).await, expected, "{namespace:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_is_replaced_often_keeps_gates_and_still_counts() {
    let gateway =
        Setup::tiers(["a", "b"]).settings(|settings| settings.reloadable = true).start().await;
    gateway.mock("a").push_fault(throttle());
    assert_eq!(served_by(&gateway.client).await, "b");
    let updated = "listener_manager.lds.update_success";
    for number in 0..5_u64 {
        let before = gateway.envoy.stat(updated).await;
        let mut changed = gateway.configuration.clone();
        changed["response"]["served_by_header"] = json!("x-served-by");
        changed["request_body"] = json!({"max_bytes": 1_000_000 + number});
        gateway.replace(&changed);
        eventually("it is replaced", async || gateway.envoy.stat(updated).await > before).await;
        assert_eq!(served_by(&gateway.another_client()).await, "b");
    }
    let attempts = "wasmcustom.spillway_attempts_total.pool.gpt.backend.b.outcome.success";
    eventually("all are counted", async || gateway.envoy.stat(attempts).await == 6).await;
}

/// Five pairs of names that meet in one of the 1024 slots under the hash without a secret.
fn colliding_names() -> Vec<(String, String)> {
    let mut by_slot: HashMap<u64, String> = HashMap::new();
    let mut pairs = Vec::new();
    for name in (0..).map(|number| format!("tenant-{number}")) {
        match by_slot.remove(&(key_of(&name) % 1_024)) {
            Some(other) => pairs.push((name, other)),
            None => drop(by_slot.insert(key_of(&name) % 1_024, name)),
        }
        if pairs.len() == 5 {
            break;
        }
    }
    pairs
}

#[tokio::test]
async fn no_name_can_be_chosen_to_use_the_tokens_of_another() {
    let gateway = Setup::new()
        .backend("a", json!({}))
        .whole(json!({"consumers": {
            "header": "x-consumer", "default": {"tokens_per_minute": 60}
        }}))
        .start()
        .await;
    let ask = async |who: &str| {
        let mut body = chat_body();
        body["max_tokens"] = json!(40);
        gateway.client.post_with(CHAT, &[("x-consumer", who)], &body).await.status
    };
    let mut hit = 0;
    for (attacker, victim) in colliding_names() {
        let mut status = 200;
        for _ in 0..20 {
            status = ask(&attacker).await;
        }
        assert_eq!(status, 429, "{attacker} used up its tokens");
        hit += u32::from(ask(&victim).await != 200);
    }
    // By chance one in some 200 runs.
    assert!(hit <= 1, "{hit} of 5 were hit");
}
