//! Tests the driver of Spillway: it shows the core's guarantees, request by request.

use serde_json::{Value, json};
use simulator::azure::{Capacity, Deployment, Fault, Period, Speed};
use simulator::load::Request;
use simulator::record::Record;
use simulator::simulation::{Kind, Simulation};

const PTU: usize = 0;
const STANDARD: usize = 1;

fn request(at_ms: u64) -> Request {
    Request {
        at_ms,
        prompt_tokens: 1_000,
        output_tokens: 100,
        max_tokens: Some(100),
        text_bytes: 4_000,
        streams: false,
        consumer: 0,
        roll: at_ms,
    }
}

fn deployment(name: &str, capacity: Capacity) -> Deployment {
    let speed =
        Speed { base_ms: 10, prompt_per_s: 100_000, output_per_s: 10_000, jitter_percent: 0 };
    let (name, faults) = (name.to_owned(), Vec::new());
    Deployment { name, capacity, speed, counts_permille: 1_000, faults, quota: None }
}

/// A bucket that one request fills, and of which one request drains in a second. Another backend is below it.
fn simulation(requests: Vec<Request>) -> Simulation {
    let provisioned = Capacity::Provisioned {
        tokens_per_minute: 66_000,
        burst_tokens: 1_000,
        output_weight: 1,
        corrects: true,
    };
    let standard = Capacity::Standard { tokens_per_minute: 1_000_000, requests_per_minute: 6_000 };
    Simulation {
        document: document(&json!({})).to_string(),
        deployments: vec![deployment("ptu", provisioned), deployment("payg", standard)],
        requests,
        patience_ms: 0,
        replicas: 1,
        workers: 3,
        seed: 1,
    }
}

fn document(failover: &Value) -> Value {
    let backend =
        |name, priority| json!({ "name": name, "host": "a.example", "priority": priority });
    let backends = [backend("ptu", 1), backend("payg", 2)];
    json!({ "pools": [{ "name": "any", "backends": backends, "failover": failover }] })
}

/// With the capacity of the bucket configured.
fn configured() -> Value {
    let mut document = document(&json!({}));
    document["pools"][0]["backends"][PTU]["provisioned"] = json!({
        "ptus": 66, "input_tokens_per_minute_per_ptu": 1_000, "output_token_weight": 1,
        "burst_tokens": 1_000,
    });
    document
}

fn run(simulation: &Simulation) -> Record {
    simulation.run(Kind::Spillway).unwrap()
}

/// Who served each request, and after how many milliseconds the attempt began.
fn served(record: &Record) -> Vec<(usize, u64)> {
    record.served.iter().flatten().map(|served| (served.backend, served.added_ms)).collect()
}

fn backends(record: &Record) -> Vec<usize> {
    served(record).into_iter().map(|(backend, _)| backend).collect()
}

#[test]
fn a_throttled_backend_is_used_again_after_the_milliseconds_that_it_named() {
    // The first request pours 1100 tokens into the bucket, which needs 91 ms to be below 1000 again. The second one
    // learns that five milliseconds later.
    let times = [0, 10, 40, 95, 96, 150];
    let record = run(&simulation(times.map(request).to_vec()));
    let expected = [(PTU, 0), (STANDARD, 6), (STANDARD, 0), (STANDARD, 0), (PTU, 0), (STANDARD, 6)];
    assert_eq!(served(&record), expected);
    assert_eq!(record.wasted, 2);
}

#[test]
fn each_replica_learns_of_a_throttle_by_itself() {
    let times = (0..40).map(|count| request(10 + count)).collect();
    let one = run(&simulation(times));
    let times = (0..40).map(|count| request(10 + count)).collect();
    let four = run(&Simulation { replicas: 4, ..simulation(times) });
    assert_eq!(one.wasted, 6, "until the first response is there");
    assert!(four.wasted > one.wasted, "{}", four.wasted);
}

#[test]
fn a_backend_that_fails_is_left_alone_and_no_client_notices() {
    let mut simulation = simulation((0..100).map(|count| request(count * 500)).collect());
    let fault = Fault::Status(503);
    simulation.deployments[PTU].faults = vec![Period { from_ms: 0, until_ms: 50_000, fault }];
    let record = run(&simulation);
    assert!(record.refusals.is_empty());
    assert_eq!(served(&record).iter().filter(|(backend, _)| *backend == STANDARD).count(), 100);
    // Five requests open its circuit breaker, and some probes follow.
    assert!((6..=20).contains(&record.at_dead.len()), "{:?}", record.at_dead);
}

#[test]
fn a_silent_backend_costs_its_first_requests_the_limit_of_the_first_byte() {
    let mut simulation = simulation(vec![request(0)]);
    simulation.document = document(&json!({ "first_byte_timeout": "5s" })).to_string();
    let fault = Fault::Silent;
    simulation.deployments[PTU].faults = vec![Period { from_ms: 0, until_ms: 50_000, fault }];
    assert_eq!(served(&run(&simulation)), [(STANDARD, 5_001)]);
}

#[test]
fn a_request_waits_for_the_backend_that_is_back_first() {
    let mut simulation = simulation([0, 5, 20].map(request).to_vec());
    simulation.document = document(&json!({ "max_wait": "1s" })).to_string();
    // One request in ten seconds.
    simulation.deployments[STANDARD].capacity =
        Capacity::Standard { tokens_per_minute: 1_000_000, requests_per_minute: 6 };
    let record = run(&simulation);
    assert!(record.refusals.is_empty(), "{:?}", record.refusals);
    assert_eq!(served(&record), [(PTU, 0), (STANDARD, 6), (PTU, 77)]);
}

#[test]
fn a_backend_with_a_full_configured_bucket_is_not_asked() {
    let mut simulation = simulation([0, 10, 40, 60, 120].map(request).to_vec());
    simulation.document = configured().to_string();
    let record = run(&simulation);
    assert_eq!(record.wasted, 0);
    assert_eq!(backends(&record), [PTU, STANDARD, STANDARD, STANDARD, PTU]);
}

#[test]
fn the_unused_tokens_of_a_request_are_given_back_to_the_bucket_when_it_ends() {
    // Each may use 9000 tokens, and uses 1100. It ends after 30 ms.
    let large = |at_ms| Request { max_tokens: Some(8_000), ..request(at_ms) };
    let mut simulation = simulation([0, 10, 200, 210].map(large).to_vec());
    simulation.document = configured().to_string();
    let record = run(&simulation);
    assert_eq!(record.wasted, 0);
    assert_eq!(backends(&record), [PTU, STANDARD, PTU, STANDARD]);
}

#[test]
fn a_consumer_over_its_limit_is_refused_and_nobody_else_is() {
    // Each may use 2000 tokens, and uses 1100.
    let of = |count: usize| Request {
        consumer: count % 2,
        max_tokens: Some(1_000),
        ..request(count as u64 * 900)
    };
    let requests = (0..40).map(of);
    let mut simulation = simulation(requests.collect());
    let mut document = document(&json!({}));
    document["consumers"] = json!({
        "header": "x-consumer",
        "by_name": { "tenant-0": { "tokens_per_minute": 12_000 } },
    });
    simulation.document = document.to_string();
    let record = run(&simulation);
    assert_eq!(record.limited, (20..40).step_by(2).collect::<Vec<_>>());
    assert!(record.refusals.is_empty());
}
