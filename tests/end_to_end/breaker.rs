//! The circuit breaker: what opens it, what it lets through, and what closes it.

use crate::harness::{CHAT, Gateway, Setup, chat_body, eventually};
use mock_azure::{Fault, Record};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How late a gateway on a busy machine may be.
const LATE: Duration = Duration::from_millis(250);

/// What reading two clocks in whole milliseconds may cost.
const ROUNDING: Duration = Duration::from_millis(2);

#[tokio::test]
async fn it_opens_at_exactly_the_threshold_and_then_nothing_is_sent() {
    let gateway = guarded(json!({"failure_condition": {"count": 3}}), json!({})).await;
    gateway.mock("a").set_fault(Some(Fault::status(500)));
    for _ in 0..10 {
        gateway.chat_served_by("b").await;
    }
    assert_eq!(gateway.counts(), [3, 10]);
    let response = gateway.chat().await;
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.starts_with("a;skip=breaker;breaker=") && trail.ends_with(", b;200"), "{trail}");
    assert_eq!(response.header("x-spillway-attempts"), Some("1"));
    assert_ne!(gateway.breaker_open_until_ms("a").await, 0);
    assert!(
        gateway.envoy.log().contains("circuit breaker of backend a opened for"),
        "nobody was told"
    );
}

#[tokio::test]
async fn one_fault_less_than_the_threshold_opens_nothing() {
    let gateway = guarded(json!({"failure_condition": {"count": 3}}), json!({})).await;
    (0..2).for_each(|_| gateway.mock("a").push_fault(Fault::status(500)));
    for _ in 0..4 {
        assert_eq!(gateway.chat().await.status, 200);
    }
    assert_eq!(gateway.counts(), [4, 2]);
    assert_eq!(gateway.breaker_open_until_ms("a").await, 0);
}

#[tokio::test]
async fn half_open_lets_exactly_one_of_twenty_requests_through() {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "300ms"});
    let gateway = guarded(rule, json!({"ramp_duration": "0s"})).await;
    trip(&gateway, 1).await;
    let opened = Instant::now();
    // The probe takes longer than sending all the others.
    gateway.mock("a").push_fault(Fault::DelayFirstByte { delay: Duration::from_millis(800) });
    tokio::time::sleep_until((opened + Duration::from_millis(310)).into()).await;
    let served = in_parallel(&gateway, 20).await;
    assert_eq!(served.iter().filter(|name| *name == "a").count(), 1, "{served:?}");
    assert_eq!(served.iter().filter(|name| *name == "b").count(), 19, "{served:?}");
    assert_eq!(gateway.records("a").len(), 2);
    // The probe succeeded, which closes it.
    for _ in 0..5 {
        assert_eq!(gateway.chat().await.served_by(), "a");
    }
    assert_eq!(gateway.breaker_open_until_ms("a").await, 0);
}

#[tokio::test]
async fn each_failed_probe_doubles_the_time_up_to_the_longest() {
    let rule = json!({"failure_condition": {"count": 2}, "trip_duration": "300ms"});
    let gateway = guarded(rule, json!({"max_trip_duration": "900ms", "ramp_duration": "0s"})).await;
    gateway.mock("a").set_fault(Some(Fault::status(500)));
    let records = until_recorded(&gateway, 2 + 4).await;
    let probes: Vec<Duration> =
        records[1..].windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    // Up to a tenth of jitter: upwards, and at the longest time downwards.
    for (gap, (least, most)) in probes.iter().zip([(300, 300), (600, 660), (810, 900), (810, 900)])
    {
        assert!(*gap >= Duration::from_millis(least) - ROUNDING, "{probes:?}");
        assert!(*gap <= Duration::from_millis(most) + LATE, "{probes:?}");
    }
    gateway.mock("a").clear_faults();
    eventually("a serves again", async || gateway.chat().await.served_by() == "a").await;
    assert_eq!(gateway.chat().await.served_by(), "a");
}

#[tokio::test]
async fn after_closing_only_a_part_comes_back_at_first() {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "200ms"});
    let gateway = guarded(rule, json!({"ramp_duration": "10m"})).await;
    trip(&gateway, 1).await;
    eventually("the probe succeeds", async || gateway.chat().await.served_by() == "a").await;
    gateway.mock("a").clear_records();
    // A tenth, by chance, until the second success; then a quarter, and so on.
    let mut served = 0;
    while gateway.records("a").is_empty() {
        assert_eq!(gateway.chat().await.status, 200);
        served += 1;
        assert!(served < 200, "it never gets anything");
    }
    for _ in 0..300 {
        assert_eq!(gateway.chat().await.status, 200);
    }
    // Eight successes are enough for everything, and take about thirty requests.
    let part = gateway.records("a").len();
    assert!((200..=299).contains(&part), "{part} of 300");
}

#[tokio::test]
async fn a_ramp_refuses_nobody_when_there_is_no_other_backend() {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "200ms"});
    let gateway = guarded(rule, json!({"ramp_duration": "10m"})).await;
    trip(&gateway, 1).await;
    eventually("the probe succeeds", async || gateway.chat().await.served_by() == "a").await;
    gateway.mock("b").push_fault(Fault::throttle(30_000));
    for _ in 0..50 {
        assert_eq!(gateway.chat().await.served_by(), "a");
    }
}

#[tokio::test]
async fn a_failure_that_began_before_the_trip_does_not_trip_again() {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "200ms"});
    let gateway = Setup::new()
        .backend_with("a", json!({"priority": 1}), |mock| {
            mock.with_latency(Duration::ZERO, Duration::from_millis(200))
        })
        .backend("b", json!({"priority": 2}))
        .pool(json!({"circuit_breaker": {"rules": [rule], "ramp_duration": "0s"}}))
        .start()
        .await;
    // A stream that breaks only after a second or more.
    gateway.mock("a").push_fault(Fault::ResetAfterHeaders { after_events: 6 });
    let client = gateway.another_client();
    let slow = tokio::spawn(async move {
        let mut body = chat_body();
        body["stream"] = json!(true);
        client.post(CHAT, &body).await
    });
    gateway.mock("a").records_when(|records| records.len() == 1).await;
    trip(&gateway, 1).await;
    eventually("the probe succeeds", async || gateway.chat().await.served_by() == "a").await;
    assert!(!slow.is_finished(), "the stream must outlast the trip");
    let slow = slow.await.unwrap();
    assert_eq!((slow.status, slow.complete), (200, false));
    eventually("the break is noticed", async || gateway.attempts("a", "fault").await == 2).await;
    assert_eq!(gateway.breaker_open_until_ms("a").await, 0);
    assert_eq!(gateway.chat().await.served_by(), "a");
}

#[tokio::test]
async fn a_share_of_the_attempts_opens_it_but_not_before_there_were_enough() {
    let condition = json!({"percentage": 50, "min_requests": 10});
    let gateway = guarded(json!({"failure_condition": condition}), json!({})).await;
    for _ in 0..4 {
        assert_eq!(gateway.chat().await.served_by(), "a");
    }
    gateway.mock("a").set_fault(Some(Fault::status(502)));
    for _ in 0..20 {
        assert_eq!(gateway.chat().await.served_by(), "b");
    }
    // Six of ten; five of nine were more than half, but too few.
    assert_eq!(gateway.records("a").len(), 10);
}

#[tokio::test]
async fn faults_in_a_row_open_it_and_a_success_ends_the_row() {
    let gateway = guarded(json!({"failure_condition": {"consecutive": 3}}), json!({})).await;
    for _ in 0..3 {
        (0..2).for_each(|_| gateway.mock("a").push_fault(Fault::status(500)));
        for expected in ["b", "b", "a"] {
            assert_eq!(gateway.chat().await.served_by(), expected);
        }
    }
    assert_eq!(gateway.records("a").len(), 9);
    (0..3).for_each(|_| gateway.mock("a").push_fault(Fault::status(500)));
    for _ in 0..6 {
        assert_eq!(gateway.chat().await.served_by(), "b");
    }
    assert_eq!(gateway.records("a").len(), 12);
}

#[tokio::test]
async fn slow_responses_can_open_it() {
    let condition = json!({
        "count": 2, "status_codes": [], "reasons": ["slow"], "slow_call_duration": "150ms"
    });
    let gateway = guarded(json!({"failure_condition": condition}), json!({})).await;
    assert_eq!(gateway.chat().await.served_by(), "a");
    let delay = Duration::from_millis(250);
    gateway.mock("a").set_fault(Some(Fault::DelayFirstByte { delay }));
    for expected in ["a", "a", "b", "b"] {
        assert_eq!(gateway.chat().await.served_by(), expected);
    }
    assert_eq!(gateway.counts(), [3, 2]);
}

#[tokio::test]
async fn the_time_that_the_backend_named_replaces_the_trip_duration() {
    let rule = json!({
        "failure_condition": {"count": 2}, "trip_duration": "30s", "accept_retry_after": true
    });
    let gateway = guarded(rule, json!({"ramp_duration": "0s"})).await;
    (0..2).for_each(|_| {
        gateway.mock("a").push_fault(Fault::status_with(503, &[("retry-after-ms", "400")], None))
    });
    let records = until_recorded(&gateway, 3).await;
    let gap = records[2].at - records[1].at;
    let named = Duration::from_millis(400);
    assert!(gap >= named - ROUNDING && gap <= named + LATE, "{gap:?}");
}

#[tokio::test]
async fn a_retry_after_of_zero_names_no_time() {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "2s"});
    let gateway = guarded(rule, json!({"ramp_duration": "0s"})).await;
    gateway.mock("a").push_fault(Fault::status_with(503, &[("retry-after", "0")], None));
    let records = until_recorded(&gateway, 2).await;
    let gap = records[1].at - records[0].at;
    assert!(gap >= Duration::from_secs(2) - ROUNDING, "{gap:?}");
}

/// Each response takes longer than the lease of a probe, and requests keep coming.
#[tokio::test]
async fn a_backend_that_is_slower_than_the_lease_of_a_probe_comes_back() {
    let rule = json!({"failure_condition": {"count": 1}, "trip_duration": "200ms"});
    let gateway = guarded(rule, json!({"probe_timeout": "1s", "ramp_duration": "0s"})).await;
    trip(&gateway, 1).await;
    let delay = Duration::from_millis(2_500);
    gateway.mock("a").set_fault(Some(Fault::DelayFirstByte { delay }));
    let started = Instant::now();
    let mut probes = Vec::new();
    while gateway.breaker_open_until_ms("a").await != 0 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "it never closes: {:?}",
            gateway.counts()
        );
        probes.push(gateway.spawn_chat());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(gateway.records("a").len() >= 3, "the lease was renewed meanwhile");
    for probe in probes {
        assert_eq!(probe.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn the_time_that_the_backend_named_can_be_ignored() {
    let rule = json!({
        "failure_condition": {"count": 2}, "trip_duration": "400ms", "accept_retry_after": false
    });
    let gateway = guarded(rule, json!({"ramp_duration": "0s"})).await;
    (0..2).for_each(|_| {
        gateway.mock("a").push_fault(Fault::status_with(503, &[("retry-after", "30")], None))
    });
    let records = until_recorded(&gateway, 3).await;
    let gap = records[2].at - records[1].at;
    let configured = Duration::from_millis(400);
    assert!(gap >= configured - ROUNDING && gap <= configured + LATE, "{gap:?}");
}

#[tokio::test]
async fn a_429_opens_it_only_where_a_rule_names_it() {
    for (statuses, reached) in [(json!([429]), 2), (json!(["5xx"]), 6)] {
        let condition = json!({"count": 2, "status_codes": statuses});
        let gateway = guarded(json!({"failure_condition": condition}), json!({})).await;
        gateway.mock("a").set_fault(Some(Fault::throttle(50)));
        let started = Instant::now();
        while gateway.records("a").len() < reached && started.elapsed() < Duration::from_secs(5) {
            assert_eq!(gateway.chat().await.served_by(), "b");
        }
        assert_eq!(gateway.records("a").len(), reached);
        assert_eq!(gateway.breaker_open_until_ms("a").await != 0, reached == 2);
        // Well past the gate's time.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let trail = gateway.chat().await.header("x-spillway-trail").unwrap().to_owned();
        assert_eq!(trail.starts_with("a;skip=breaker"), reached == 2, "{trail}");
    }
}

/// `a` first, then `b`; with one rule and `more` settings of the breaker.
async fn guarded(rule: Value, more: Value) -> Gateway {
    let mut breaker = json!({"rules": [rule]});
    breaker.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::tiers(["a", "b"]).pool(json!({"circuit_breaker": breaker})).start().await
}

/// Lets this many requests fail at `a`, which opens its breaker.
async fn trip(gateway: &Gateway, faults: usize) {
    for _ in 0..faults {
        gateway.mock("a").push_fault(Fault::status(500));
        assert_eq!(gateway.chat().await.served_by(), "b");
    }
    assert_ne!(gateway.breaker_open_until_ms("a").await, 0);
}

/// Sends requests without a pause until `a` received this many, and returns what it received.
async fn until_recorded(gateway: &Gateway, count: usize) -> Vec<Record> {
    let started = Instant::now();
    while gateway.records("a").len() < count {
        assert_eq!(gateway.chat().await.status, 200);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", gateway.counts());
    }
    gateway.records("a")
}

/// Who served this many requests that were sent at once.
async fn in_parallel(gateway: &Gateway, count: usize) -> Vec<String> {
    let requests: Vec<_> = (0..count)
        .map(|_| {
            let client = gateway.client.clone();
            tokio::spawn(async move {
                let response = client.post(CHAT, &chat_body()).await;
                assert_eq!(response.status, 200);
                response.served_by().to_owned()
            })
        })
        .collect();
    let mut served = Vec::new();
    for request in requests {
        served.push(request.await.unwrap());
    }
    served
}
