//! What the client learns about the backend that served it, and what it does not.

use crate::harness::{CHAT, Gateway, Setup, chat_body, first_and_second};
use mock_azure::{Fault, Kind};
use serde_json::json;

/// A trail without its durations, which must be at most `at_most_ms`.
fn without_lengths(trail: &str, at_most_ms: u64) -> String {
    let mut plain = Vec::new();
    for field in trail.split(';') {
        let Some((name, length)) = field.split_once('=').filter(|(_, value)| value.contains("ms"))
        else {
            plain.push(field.to_owned());
            continue;
        };
        let (digits, rest) = length.split_once("ms").unwrap();
        let ms: u64 = digits.parse().unwrap();
        assert!((1..=at_most_ms).contains(&ms), "{trail}");
        plain.push(format!("{name}=_{rest}"));
    }
    plain.join(";")
}

async fn two() -> Gateway {
    Setup::tiers(["first", "second"]).start().await
}

/// Asserts the trail of a request that the second backend served after `fault` at the first, and
/// what the next one is told.
async fn tells(fault: Fault, own: &str, next: &str) {
    let gateway = two().await;
    gateway.mock("first").push_fault(fault);
    for (attempts, trail) in [("2", own), ("1", next)] {
        let response = gateway.chat_stream().await;
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("x-spillway-attempts"), Some(attempts), "{trail}");
        let told = response.header("x-spillway-trail").unwrap();
        assert_eq!(without_lengths(told, 30_000), trail, "{told}");
        let served_by = trail.rsplit(", ").next().unwrap().split(';').next();
        assert_eq!(Some(response.served_by()), served_by);
    }
}

#[tokio::test]
async fn the_trail_tells_of_a_throttle_and_of_the_closed_gate_after_it() {
    let throttled = Fault::throttle(30_000);
    tells(throttled, "first;429;gate=_, second;200", "first;skip=gate;gate=_, second;200").await;
    let in_band = Fault::InBandThrottle { retry_after_ms: 30_000 };
    tells(in_band, "first;in-band;gate=_, second;200", "first;skip=gate;gate=_, second;200").await;
}

#[tokio::test]
async fn the_trail_tells_of_faults() {
    let broken = Fault::status(502);
    tells(broken, "first;502, second;200", "first;200").await;
    tells(Fault::ResetBeforeHeaders, "first;reset, second;200", "first;200").await;
    tells(Fault::EmptyStream, "first;stream-error, second;200", "first;200").await;
    // The request itself may be the cause of one refused credential.
    let denied = Fault::status(401);
    tells(denied, "first;401, second;200", "first;200").await;
}

#[tokio::test]
async fn the_trail_tells_of_a_refused_connection() {
    let gateway = two().await;
    gateway.mock("first").stop().await.unwrap();
    let response = gateway.chat().await;
    assert_eq!(response.served_by(), "second");
    assert_eq!(response.header("x-spillway-attempts"), Some("2"));
    assert_eq!(response.header("x-spillway-trail"), Some("first;connect, second;200"));
}

#[tokio::test]
async fn the_trail_is_off_by_default_and_the_serving_backends_header_can_change() {
    let gateway = Setup::new().backend("first", json!({})).whole(json!({"response": {}})).start();
    let answer = gateway.await.chat().await;
    assert_eq!(answer.header("x-spillway-trail"), None);
    assert_eq!(answer.header("x-spillway-attempts"), Some("1"));
    assert_eq!(answer.served_by(), "first");

    let response = json!({"response": {"served_by_header": "x-Region"}});
    let gateway = Setup::new().backend("first", json!({})).whole(response).start();
    let answer = gateway.await.chat().await;
    assert_eq!(answer.header("x-region"), Some("first"));
    assert_eq!(answer.header("x-served-by"), None);
}

const RATE_LIMITS: [&str; 4] = [
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
];

const UTILISATION: &str = "azure-openai-deployment-utilization";

async fn limited(response: serde_json::Value) -> Gateway {
    let kind = Kind::Provisioned { tokens_per_minute: 1_000_000, burst_tokens: 1_000_000 };
    let standard = Kind::Standard { tokens_per_minute: 1_000_000, requests_per_minute: 60_000 };
    Setup::new()
        .backend_with("first", json!({"weight": 1}), |mock| mock.with_kind(kind))
        .backend_with("second", json!({"weight": 1}), |mock| mock.with_kind(standard))
        .whole(json!({"response": response}))
        .start()
        .await
}

#[tokio::test]
async fn the_rate_limits_of_one_backend_do_not_pass() {
    let gateway = limited(json!({})).await;
    for _ in 0..2 {
        let response = gateway.chat_with_status(200).await;
        for name in response.headers.keys() {
            assert!(!name.as_str().starts_with("x-ratelimit-"), "{:?}", response.headers);
            assert_ne!(name.as_str(), UTILISATION);
        }
        // The headers that Azure's support asks for pass.
        for name in ["apim-request-id", "x-ms-region", "x-request-id"] {
            assert!(response.header(name).is_some(), "{name}: {:?}", response.headers);
        }
    }
    assert_eq!(gateway.counts(), [1, 1]);
}

#[tokio::test]
async fn the_rate_limits_of_one_backend_pass_when_configured() {
    let gateway = limited(json!({"backend_rate_limits": "on"})).await;
    for _ in 0..2 {
        let response = gateway.chat().await;
        match response.served_by() {
            "first" => assert!(response.header(UTILISATION).is_some(), "{:?}", response.headers),
            _ => {
                for name in RATE_LIMITS {
                    assert!(response.header(name).is_some(), "{name}: {:?}", response.headers);
                }
            }
        }
    }
    assert_eq!(gateway.counts(), [1, 1]);
}

#[tokio::test]
async fn what_only_the_gateway_may_say_is_not_taken_from_a_backend() {
    let gateway = first_and_second().start().await;
    let headers = [
        ("x-spillway-retry", "1"),
        ("x-spillway-trail", "forged"),
        ("x-spillway-attempts", "77"),
        ("x-spillway-secret", "forged"),
        ("x-served-by", "forged"),
    ];
    let headers: Vec<(String, String)> =
        headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let forged_200 = Fault::BackendHeaders { headers: headers.clone() };
    let forged_400 = Fault::Status { status: 400, headers, body: Some("{}".to_owned()) };
    for (fault, status) in [(forged_200.clone(), 200), (forged_200, 200), (forged_400, 400)] {
        gateway.mock("first").push_fault(fault);
        let response =
            if status == 200 { gateway.chat_stream().await } else { gateway.chat().await };
        assert_eq!((response.status, response.served_by()), (status, "first"));
        let own: Vec<_> = response
            .headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("x-spillway-"))
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let trail = format!("first;{status}");
        assert_eq!(own.len(), 2, "{own:?}");
        assert!(own.contains(&("x-spillway-attempts", "1")), "{own:?}");
        assert!(own.contains(&("x-spillway-trail", &trail)), "{own:?}");
        assert_eq!(response.headers.get_all("x-served-by").iter().count(), 1);
    }
    assert_eq!(gateway.counts(), [3, 0]);
}

#[tokio::test]
async fn what_only_the_gateway_may_say_is_not_taken_from_a_client() {
    let gateway = first_and_second().start().await;
    let headers = [
        ("x-spillway-retry", "1"),
        ("x-spillway-attempts", "9"),
        ("x-spillway-anything", "second"),
        ("X-Spillway-Target", "second"),
    ];
    let response = gateway.client.post_with(CHAT, &headers, &chat_body()).await;
    assert_eq!(response.header("x-spillway-trail"), Some("first;200"));
    assert_eq!(response.header("x-spillway-attempts"), Some("1"));
    let record = gateway.records("first").pop().unwrap();
    assert!(record.headers.iter().all(|(name, _)| !name.starts_with("x-spillway-")));
}

#[tokio::test]
async fn a_client_hears_nothing_of_other_ways_to_a_backend_nor_gets_its_cookies() {
    let gateway = two().await;
    let headers = [("alt-svc", "h3=\":443\""), ("set-cookie", "a=b"), ("x-ms-region", "here")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    gateway.mock("first").push_fault(Fault::Status { status: 422, headers, body: None });
    let response = gateway.chat().await;
    assert_eq!((response.status, response.header("x-ms-region")), (422, Some("here")));
    assert_eq!((response.header("alt-svc"), response.header("set-cookie")), (None, None));
}
