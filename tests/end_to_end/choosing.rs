//! Which backend serves: tiers, weights, affinity.

use crate::harness::{CHAT, Gateway, Setup, chat_body};
use mock_azure::Fault;
use serde_json::{Value, json};

#[tokio::test]
async fn the_first_tier_serves_while_it_can() {
    let gateway = Setup::tiers(["ptu", "sweden"]).start().await;
    for _ in 0..10 {
        let response = gateway.chat_with_status(200).await;
        assert_eq!(response.served_by(), "ptu");
        assert_eq!(response.header("x-spillway-attempts"), Some("1"));
        assert_eq!(response.header("x-spillway-trail"), Some("ptu;200"));
    }
    assert_eq!(gateway.counts(), [10, 0]);
}

#[tokio::test]
async fn equal_weights_alternate_exactly() {
    let gateway = Setup::new().backend("a", json!({})).backend("b", json!({})).start().await;
    let mut served = Vec::new();
    for _ in 0..20 {
        served.push(gateway.chat().await.served_by().to_owned());
    }
    for pair in served.windows(2) {
        assert_ne!(pair[0], pair[1], "{served:?}");
    }
}

#[tokio::test]
async fn weights_of_three_to_one_are_kept_within_one_request_in_a_hundred() {
    let gateway = Setup::new()
        .backend("a", json!({"weight": 3}))
        .backend("b", json!({"weight": 1}))
        .start()
        .await;
    for _ in 0..100 {
        assert_eq!(gateway.chat().await.status, 200);
    }
    let counts = gateway.counts();
    assert!((74..=76).contains(&counts[0]), "{counts:?}");
}

#[tokio::test]
async fn a_backend_without_weight_serves_only_when_no_other_of_its_tier_can() {
    let gateway = Setup::new()
        .backend("a", json!({"weight": 1}))
        .backend("reserve", json!({"weight": 0}))
        .backend("last", json!({"priority": 2}))
        .start()
        .await;
    for _ in 0..10 {
        assert_eq!(gateway.chat().await.served_by(), "a");
    }
    gateway.mock("a").push_fault(Fault::throttle(60_000));
    for _ in 0..10 {
        assert_eq!(gateway.chat().await.served_by(), "reserve");
    }
    assert_eq!(gateway.counts(), [11, 10, 0]);
}

#[tokio::test]
async fn a_member_that_was_throttled_comes_back_to_its_share_without_a_burst() {
    let gateway = Setup::new().backend("a", json!({})).backend("b", json!({})).start().await;
    gateway.mock("a").push_fault(Fault::throttle(400));
    let mut served = Vec::new();
    // It is back when it has served twice; the time before is the time without it.
    while served.iter().filter(|name| *name == "a").count() < 2 {
        let response = gateway.chat_with_status(200).await;
        served.push(response.served_by().to_owned());
    }
    let alone = served.iter().take_while(|name| *name == "b").count();
    assert!(alone >= 10, "b served {alone} alone");
    for _ in 0..20 {
        served.push(gateway.chat().await.served_by().to_owned());
    }
    for pair in served[alone..].windows(2) {
        assert_ne!(pair[0], pair[1], "{served:?}");
    }
}

#[tokio::test]
async fn affinity_by_header_keeps_a_session_at_one_backend() {
    let gateway = affine(json!({"header": "x-session"})).start().await;
    let send = async |session: &str| {
        let response =
            gateway.client.post_with(CHAT, &[("x-session", session)], &chat_body()).await;
        assert_eq!(response.status, 200);
        response.served_by().to_owned()
    };
    sticks_and_moves(&gateway, send).await;
}

#[tokio::test]
async fn affinity_by_body_keeps_a_prompt_cache_key_at_one_backend() {
    let gateway = affine(json!({"body": true})).start().await;
    let send = async |session: &str| {
        let mut body = chat_body();
        body["prompt_cache_key"] = json!(session);
        let response = gateway.client.post(CHAT, &body).await;
        assert_eq!(response.status, 200);
        response.served_by().to_owned()
    };
    sticks_and_moves(&gateway, send).await;
}

fn affine(affinity: Value) -> Setup {
    Setup::new()
        .backend("a", json!({}))
        .backend("b", json!({}))
        .backend("c", json!({}))
        .backend("below", json!({"priority": 2}))
        .pool(json!({"affinity": affinity}))
}

/// Sends requests of 30 sessions; then the home of the first is throttled.
async fn sticks_and_moves(gateway: &Gateway, send: impl AsyncFn(&str) -> String) {
    let mut homes = Vec::new();
    for session in 0..30 {
        let session = format!("session-{session}");
        let home = send(&session).await;
        for _ in 0..3 {
            assert_eq!(send(&session).await, home);
        }
        homes.push(home);
    }
    for name in ["a", "b", "c"] {
        assert!(homes.iter().any(|home| home == name), "nobody is at home at {name}: {homes:?}");
    }
    assert!(gateway.records("below").is_empty());

    let out = homes[0].clone();
    gateway.mock(&out).push_fault(Fault::throttle(60_000));
    for (session, home) in homes.iter().enumerate() {
        let session = format!("session-{session}");
        let place = send(&session).await;
        assert_ne!(place, out);
        assert_ne!(place, "below");
        if *home != out {
            assert_eq!(place, *home, "only those whose home is out move");
        }
        assert_eq!(send(&session).await, place, "they stay where they moved");
    }
}
