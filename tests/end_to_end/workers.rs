//! What one worker learns takes effect in all workers at once.
//!
//! With `exact_balance`, new connections go to the workers in turn; each client here has a connection
//! of its own, so each worker has half of them.

use crate::harness::{CHAT, Client, Gateway, Setup, chat_body};
use mock_azure::Fault;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_429_that_one_worker_saw_closes_the_gate_for_both() {
    let gateway = two_workers(json!({})).await;
    let clients = clients(&gateway).await;
    gateway.mock("a").clear_records();
    gateway.mock("a").push_fault(Fault::throttle(700));
    assert_eq!(served_by(&clients[0]).await, "b");
    let all: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(async move { while served_by(&client).await != "a" {} }))
        .collect();
    for client in all {
        client.await.unwrap();
    }
    let records = gateway.records("a");
    let gap = records[1].at - records[0].at;
    assert!(gap >= Duration::from_millis(698), "a worker came back after {gap:?}");
    assert!(gap <= Duration::from_millis(1_200), "{gap:?}");
    assert!(gateway.records("b").len() > 20, "{:?}", gateway.counts());
}

#[tokio::test]
async fn faults_that_both_workers_saw_open_the_breaker_for_both() {
    let gateway = two_workers(json!({"circuit_breaker": {
        "rules": [{"failure_condition": {"count": 6}}]
    }}))
    .await;
    let clients = clients(&gateway).await;
    gateway.mock("a").clear_records();
    gateway.mock("a").set_fault(Some(Fault::status(500)));
    for client in clients.iter().cycle().take(24) {
        assert_eq!(served_by(client).await, "b");
    }
    assert_eq!(gateway.records("a").len(), 6);
}

#[tokio::test]
async fn both_workers_together_send_exactly_one_probe() {
    let gateway = two_workers(json!({"circuit_breaker": {
        "rules": [{"failure_condition": {"count": 1}, "trip_duration": "400ms"}],
        "ramp_duration": "0s"
    }}))
    .await;
    let clients = clients(&gateway).await;
    gateway.mock("a").clear_records();
    gateway.mock("a").push_fault(Fault::status(500));
    gateway.mock("a").push_fault(Fault::DelayFirstByte { delay: Duration::from_millis(800) });
    assert_eq!(served_by(&clients[0]).await, "b");
    let half_open = Instant::now() + Duration::from_millis(410);
    tokio::time::sleep_until(half_open.into()).await;
    let all: Vec<_> = clients
        .into_iter()
        .flat_map(|client| [client.clone(), client])
        .map(|client| tokio::spawn(async move { served_by(&client).await }))
        .collect();
    let mut probes = 0;
    for request in all {
        probes += usize::from(request.await.unwrap() == "a");
    }
    assert_eq!(probes, 1);
    assert_eq!(gateway.records("a").len(), 2);
    assert_eq!(gateway.chat().await.served_by(), "a");
}

async fn two_workers(pool: Value) -> Gateway {
    Setup::tiers(["a", "b"]).pool(pool).settings(|settings| settings.workers = 2).start().await
}

/// Twelve clients with an open connection each, six of each worker.
async fn clients(gateway: &Gateway) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..12 {
        let client = gateway.another_client();
        assert_eq!(served_by(&client).await, "a");
        clients.push(client);
    }
    for worker in 0..2 {
        let port = gateway.envoy.port;
        let stat = format!("listener.127.0.0.1_{port}.worker_{worker}.downstream_cx_active");
        assert_eq!(gateway.envoy.stat(&stat).await, 6, "worker {worker}");
    }
    clients
}

async fn served_by(client: &Client) -> String {
    let response = client.post(CHAT, &chat_body()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.served_by().to_owned()
}
