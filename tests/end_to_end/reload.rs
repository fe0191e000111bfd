//! Replacing the configuration while requests run, and what Envoy does with a bad one.

use crate::harness::{CHAT, Gateway, Response, Setup, chat_body, eventually};
use mock_azure::Fault;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;

#[tokio::test]
async fn a_new_configuration_takes_effect_and_a_running_stream_ends_under_the_old_one() {
    let gateway = Setup::new()
        .backend_with("a", json!({"priority": 1}), |mock| {
            mock.with_latency(Duration::ZERO, Duration::from_millis(150))
        })
        .backend("b", json!({"priority": 2}))
        .settings(|settings| settings.reloadable = true)
        .start()
        .await;
    let stream = spawn_stream(&gateway);
    gateway.mock("a").records_when(|records| records.len() == 1).await;

    let mut changed = gateway.configuration.clone();
    changed["pools"][0]["backends"].as_array_mut().unwrap().remove(0);
    changed["response"]["served_by_header"] = json!("x-backend");
    gateway.replace(&changed);
    takes_effect(&gateway, "x-backend", "b").await;
    let before = gateway.records("a").len();
    assert!(!stream.is_finished(), "the stream must outlast the change");
    let response = stream.await.unwrap();
    assert_eq!((response.status, response.complete), (200, true));
    assert_eq!(response.served_by(), "a");
    assert_eq!(response.events().last().unwrap().data, "[DONE]");
    assert_eq!(gateway.records("a").len(), before, "it is not in the new configuration");
    // What ended under the old configuration was counted.
    assert_eq!(gateway.attempts("a", "success").await, u64::try_from(before).unwrap());
}

#[tokio::test]
async fn a_request_that_waits_while_the_configuration_changes_is_served() {
    let gateway = reloadable(json!({"failover": {"max_wait": "5s"}})).await;
    gateway.mock("a").push_fault(Fault::throttle(2_500));
    gateway.mock("b").push_fault(Fault::throttle(60_000));
    let throttled = "wasmcustom.spillway_attempts_total.pool.gpt.backend.b.outcome.throttled";
    let (in_attempt, in_gateway) = (gateway.spawn_chat(), {
        eventually("both are closed", async || gateway.envoy.stat(throttled).await == 1).await;
        gateway.spawn_chat()
    });
    let mut changed = gateway.configuration.clone();
    changed["response"]["served_by_header"] = json!("x-backend");
    gateway.replace(&changed);
    // A request under the new configuration waits for the same gate.
    eventually("it is replaced", async || gateway.envoy.stat(UPDATED).await == 2).await;
    let under_new = gateway.spawn_chat();
    for request in [in_attempt, in_gateway, under_new] {
        let response = request.await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
    }
    takes_effect(&gateway, "x-backend", "a").await;
}

#[tokio::test]
async fn waiting_works_after_the_configuration_of_one_who_waited_is_gone() {
    let gateway = Setup::tiers(["a", "b"])
        .pool(json!({"failover": {"max_wait": "5s"}}))
        .settings(|settings| {
            settings.reloadable = true;
            settings.drain_time = Duration::from_secs(1);
        })
        .start()
        .await;
    gateway.mock("a").push_fault(Fault::throttle(60_000));
    gateway.mock("b").push_fault(Fault::throttle(6_500));
    assert_eq!(gateway.chat().await.status, 429);
    // From here on the wait is short enough, and the gateway's filter needs the timer.
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    let left = gateway.spawn_chat();
    eventually("it waits", async || gateway.envoy.stat(ACTIVE).await == 1).await;
    let mut changed = gateway.configuration.clone();
    changed["pools"][0]["backends"].as_array_mut().unwrap().remove(0);
    gateway.replace(&changed);
    eventually("it is replaced", async || gateway.envoy.stat(UPDATED).await == 2).await;
    left.abort();
    let draining = "listener_manager.total_filter_chains_draining";
    eventually("the old one is gone", async || {
        gateway.envoy.stat(ACTIVE).await == 0 && gateway.envoy.stat(draining).await == 0
    })
    .await;
    // The pool has one backend now, whose gate is not enforced; a further 429 closes it for longer
    // than the request waited that left.
    gateway.mock("b").push_fault(Fault::throttle(4_500));
    let response = tokio::time::timeout(Duration::from_secs(20), gateway.spawn_chat()).await;
    let response = response.expect("nobody woke it").unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
}

#[tokio::test]
async fn gates_and_breakers_of_backends_whose_name_stays_are_kept() {
    let rule = json!({"failure_condition": {"count": 2}, "trip_duration": "60s"});
    let gateway = Setup::tiers(["a", "b", "c"])
        .pool(json!({"circuit_breaker": {"rules": [rule]}}))
        .settings(|settings| settings.reloadable = true)
        .start()
        .await;
    gateway.mock("a").push_fault(Fault::throttle(60_000));
    (0..2).for_each(|_| {
        gateway.mock("b").push_fault(Fault::status(500));
    });
    for _ in 0..3 {
        assert_eq!(gateway.chat().await.served_by(), "c");
    }
    assert_eq!(gateway.counts(), [1, 2, 3]);

    // The backends change their places and their settings; their names stay.
    let mut changed = gateway.configuration.clone();
    changed["response"]["served_by_header"] = json!("x-backend");
    let backends = changed["pools"][0]["backends"].as_array_mut().unwrap();
    backends.rotate_left(1);
    backends[0]["weight"] = json!(7);
    gateway.replace(&changed);
    takes_effect(&gateway, "x-backend", "c").await;
    let response = gateway.another_client().post(CHAT, &chat_body()).await;
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.contains("a;skip=gate;") && trail.contains("b;skip=breaker;"), "{trail}");
    assert_eq!(gateway.counts()[..2], [1, 2]);
}

#[tokio::test]
async fn a_bad_configuration_is_refused_and_the_old_one_goes_on() {
    let gateway = reloadable(json!({})).await;
    let mut bad = gateway.configuration.clone();
    bad["response"]["served_by_header"] = json!("x-backend");
    bad["pools"][0]["failovr"] = json!({});
    bad["pools"][0]["backends"][1]["priority"] = json!(101);
    gateway.replace(&bad);
    let rejected = "listener_manager.lds.update_rejected";
    eventually("it is refused", async || gateway.envoy.stat(rejected).await == 1).await;
    for problem in [
        "the configuration has 2 errors",
        "pools[0].backends[1].priority: found 101, allowed are whole numbers from 0 to 100",
        "pools[0].failovr: unknown key, did you mean `failover`?",
    ] {
        assert!(gateway.envoy.log().contains(problem), "not in the log: {problem}");
    }
    let response = gateway.another_client().post(CHAT, &chat_body()).await;
    assert_eq!((response.status, response.served_by()), (200, "a"));

    // A good one after it is taken.
    let mut good = gateway.configuration.clone();
    good["response"]["served_by_header"] = json!("x-backend");
    gateway.replace(&good);
    takes_effect(&gateway, "x-backend", "a").await;
}

#[tokio::test]
async fn with_a_bad_configuration_envoy_does_not_start_and_says_all_that_is_wrong() {
    let started = Setup::new()
        .backend("a", json!({"weight": 1.5}))
        .pool(json!({"throttle": {"default_retry_after": "2 weeks"}}))
        .try_start()
        .await;
    let Err(log) = started else { panic!("Envoy started") };
    for place in [
        "spillway: configuration refused: the configuration has 2 errors",
        "pools[0].backends[0].weight: found 1.5",
        "pools[0].throttle.default_retry_after: found \"2 weeks\"",
    ] {
        assert!(log.contains(place), "not in the log: {place}\n{log}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_in_the_environment_keeps_envoy_from_starting() {
    let key = json!({"api_key": {"env": "NOT_SET_ANYWHERE"}});
    let started = Setup::new().backend("a", json!({"credential": key})).try_start().await;
    let Err(log) = started else { panic!("Envoy started") };
    assert!(log.contains("pools[0].backends[0].credential.api_key.env"), "{log}");
    assert!(log.contains("NOT_SET_ANYWHERE"), "{log}");
}

#[tokio::test]
async fn a_struct_means_the_same_as_the_text() {
    let rule = json!({"failure_condition": {"count": 2, "status_codes": ["5xx", 408]}});
    let gateway = Setup::new()
        .backend("a", json!({"priority": 1, "weight": 3}))
        .backend("b", json!({"priority": 2}))
        .pool(json!({"circuit_breaker": {"rules": [rule]}}))
        .whole(json!({"response": {"trail_header": true}}))
        .settings(|settings| settings.as_struct = true)
        .start()
        .await;
    gateway.mock("a").set_fault(Some(Fault::status(500)));
    for _ in 0..4 {
        let response = gateway.chat_served_by("b").await;
        assert!(response.header("x-spillway-trail").is_some());
    }
    assert_eq!(gateway.counts(), [2, 4]);
}

const ACTIVE: &str = "http.gateway.downstream_rq_active";
const UPDATED: &str = "listener_manager.lds.update_success";

async fn reloadable(pool: Value) -> Gateway {
    Setup::tiers(["a", "b"])
        .pool(pool)
        .settings(|settings| settings.reloadable = true)
        .start()
        .await
}

/// Waits until new connections get the configuration with this header, and `backend` serves them.
async fn takes_effect(gateway: &Gateway, header: &str, backend: &str) {
    eventually("the new configuration takes effect", async || {
        let response = gateway.another_client().post(CHAT, &chat_body()).await;
        assert_eq!(response.status, 200, "{}", response.text());
        response.header(header) == Some(backend)
    })
    .await;
}

fn spawn_stream(gateway: &Gateway) -> JoinHandle<Response> {
    let (client, mut body) = (gateway.another_client(), chat_body());
    body["stream"] = json!(true);
    tokio::spawn(async move { client.post(CHAT, &body).await })
}
