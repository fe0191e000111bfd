//! Azure's own spillover: another deployment of the resource serves instead of the provisioned one, and says so
//! in headers. What it says of itself is not the provisioned deployment's.

use crate::harness::{Gateway, Setup};
use mock_azure::Fault;
use serde_json::{Value, json};

/// The headers of a response that was spilled over because the provisioned deployment answered `error`,
/// in both spellings of Azure's documentation.
fn spilled(spelling: &str, error: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = [(spelling, "gpt-4o-ptu"), ("x-ms-deployment-name", "gpt-4o-standard")];
    let error = [("x-ms-spillover-error", error)];
    let all = own.iter().chain(&error).chain(more);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const SPELLINGS: [&str; 2] = ["x-ms-spillover-from-deployment", "x-ms-spillover-from-gpt-4o-ptu"];

async fn ptu_and_standard(keys: Value) -> Gateway {
    let mut ptu = json!({"priority": 1});
    ptu.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let setup = Setup::new().backend("ptu", ptu).backend("standard", json!({"priority": 2}));
    setup.start().await
}

async fn gauge(gateway: &Gateway, name: &str) -> u64 {
    gateway.envoy.stat(&format!("wasmcustom.spillway_{name}.pool.gpt.backend.ptu")).await
}

#[tokio::test]
async fn a_429_of_the_deployment_that_was_spilled_to_closes_no_gate_of_the_ptu() {
    let gateway = ptu_and_standard(json!({})).await;
    for spelling in SPELLINGS {
        let delays = [("retry-after", "30"), ("retry-after-ms", "30000")];
        let headers = spilled(spelling, "429", &delays);
        gateway.mock("ptu").push_fault(Fault::Status { status: 429, headers, body: None });
        let response = gateway.chat_served_by("standard").await;
        assert_eq!(
            response.header("x-spillway-trail"),
            Some("ptu;429, standard;200"),
            "{spelling}"
        );
        assert_eq!(gauge(&gateway, "gate_closed_until_ms").await, 0, "{spelling}");
        assert_eq!(gateway.chat().await.served_by(), "ptu", "{spelling}");
    }
    // Without the header the same response is the PTU's own.
    gateway.mock("ptu").push_fault(Fault::throttle(30_000));
    assert_eq!(gateway.chat().await.served_by(), "standard");
    assert_ne!(gauge(&gateway, "gate_closed_until_ms").await, 0);
}

#[tokio::test]
async fn a_spilled_response_is_reported_and_not_counted_in_the_bucket() {
    // Each answer takes more than the whole bucket has, and it drains in an hour.
    let provisioned = json!({"provisioned": {
        "ptus": 1, "input_tokens_per_minute_per_ptu": 2, "burst_tokens": 5
    }});
    let gateway = ptu_and_standard(provisioned).await;
    let outcome = "attempts_total.pool.gpt.backend.ptu.outcome.spilled";
    for (count, spelling) in (1..).zip(SPELLINGS.into_iter().cycle().take(6)) {
        let headers = spilled(spelling, "429", &[]);
        gateway.mock("ptu").push_fault(Fault::BackendHeaders { headers });
        let streams = count % 2 == 0;
        let response = if streams { gateway.chat_stream().await } else { gateway.chat().await };
        assert_eq!((response.status, response.served_by()), (200, "ptu"), "{count}");
        assert_eq!(response.header("x-spillway-trail"), Some("ptu;spilled"), "{count}");
        let stat = format!("wasmcustom.spillway_{outcome}");
        assert_eq!(gateway.envoy.stat(&stat).await, count, "{count}");
    }
    // The PTU's own response is counted: so the loop could have failed.
    assert_eq!(gateway.chat().await.header("x-spillway-trail"), Some("ptu;200"));
    let response = gateway.chat().await;
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.starts_with("ptu;skip=budget"), "{trail}");
}

#[tokio::test]
async fn an_error_for_which_it_was_spilled_over_is_a_fault_of_the_ptu() {
    for (error, is_fault) in [("500", true), ("503", true), ("429", false), ("400", false)] {
        let gateway = ptu_and_standard(json!({})).await;
        for _ in 0..5 {
            let headers = spilled(SPELLINGS[0], error, &[]);
            gateway.mock("ptu").push_fault(Fault::BackendHeaders { headers });
            let response = gateway.chat().await;
            assert_eq!((response.status, response.served_by()), (200, "ptu"), "{error}");
        }
        let response = gateway.chat().await;
        let expected = if is_fault { "standard" } else { "ptu" };
        assert_eq!(response.served_by(), expected, "{error}");
        assert_eq!(gauge(&gateway, "breaker_open_until_ms").await != 0, is_fault, "{error}");
    }
}
