//! Which backend serves: tiers, weights, spill.

use crate::harness::Setup;
use serde_json::json;

#[tokio::test]
async fn the_first_tier_serves_while_it_can() {
    let gateway = Setup::new()
        .backend("ptu", json!({"priority": 1}))
        .backend("sweden", json!({"priority": 2}))
        .start()
        .await;
    for _ in 0..10 {
        let answer = gateway.chat().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.served_by(), "ptu");
        assert_eq!(answer.header("x-spillway-attempts"), Some("1"));
        assert_eq!(answer.header("x-spillway-trail"), Some("ptu;200"));
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
