use super::*;

fn request() -> Request {
    Request {
        at_ms: 0,
        prompt_tokens: 100,
        output_tokens: 50,
        max_tokens: Some(100),
        text_bytes: 400,
        streams: true,
        consumer: 0,
        roll: 9,
    }
}

fn deployment(capacity: Capacity) -> Deployment {
    Deployment {
        name: "a".to_owned(),
        capacity,
        speed: Speed::default(),
        counts_permille: 1_000,
        faults: Vec::new(),
        quota: None,
    }
}

fn provisioned(corrects: bool) -> Deployment {
    deployment(Capacity::Provisioned {
        tokens_per_minute: 60_000,
        burst_tokens: 400,
        output_weight: 4,
        corrects,
    })
}

fn standard(tokens_per_minute: u64) -> Deployment {
    deployment(Capacity::Standard { tokens_per_minute, requests_per_minute: 600 })
}

/// The status, and the value of a header.
fn ask(azure: &mut Azure, backend: usize, now_ms: u64, header: &str) -> (u16, String) {
    let Reaction::Response { head, .. } = azure.ask(backend, &request(), now_ms) else {
        return (0, String::new());
    };
    let value = head.headers.iter().find(|(name, _)| *name == header);
    (head.status, value.map(|(_, value)| value.clone()).unwrap_or_default())
}

#[test]
fn provisioned_throughput_states_its_utilization_and_refuses_with_the_exact_milliseconds() {
    let mut azure = Azure::new(vec![provisioned(true)]);
    let utilization = "azure-openai-deployment-utilization";
    assert_eq!(ask(&mut azure, 0, 0, utilization), (200, "125.0%".to_owned()));
    assert_eq!(ask(&mut azure, 0, 0, "retry-after-ms"), (429, "101".to_owned()));
    assert_eq!(ask(&mut azure, 0, 0, "retry-after"), (429, "1".to_owned()));
    assert_eq!(azure.out_until(0, &request(), 0), Some(101));
    assert_eq!(ask(&mut azure, 0, 101, utilization).0, 200);
}

#[test]
fn the_expected_tokens_become_the_used_ones_if_the_bucket_is_corrected() {
    for (corrects, level) in [(true, 750), (false, 1_250)] {
        let mut azure = Azure::new(vec![provisioned(corrects)]);
        let Reaction::Response { held: Some(held), .. } = azure.ask(0, &request(), 0) else {
            panic!("refused")
        };
        azure.end(0, &request(), held, true, 0);
        let Limits::Provisioned(bucket) = azure.limits_of(0) else { panic!() };
        assert_eq!(bucket.permille(0), level);
    }
}

#[test]
fn pay_as_you_go_gives_nothing_back_and_takes_what_is_more() {
    let mut azure = Azure::new(vec![standard(1_000)]);
    let Reaction::Response { held: Some(held), .. } = azure.ask(0, &request(), 0) else {
        panic!("refused")
    };
    azure.end(0, &request(), held, true, 0);
    let left = "x-ratelimit-remaining-tokens";
    assert_eq!(ask(&mut azure, 0, 0, left), (200, "600".to_owned()));
    let longer = Request { output_tokens: 300, ..request() };
    azure.end(0, &longer, held, true, 0);
    assert_eq!(ask(&mut azure, 0, 0, left), (200, "200".to_owned()));
    assert_eq!(ask(&mut azure, 0, 0, left).0, 200);
    assert_eq!(ask(&mut azure, 0, 20_000, "retry-after"), (429, "40".to_owned()));
}

#[test]
fn what_is_refused_for_its_tokens_counts_as_a_request() {
    let capacity = Capacity::Standard { tokens_per_minute: 100, requests_per_minute: 12 };
    let mut azure = Azure::new(vec![deployment(capacity)]);
    let reset = "x-ratelimit-reset-requests";
    assert_eq!(ask(&mut azure, 0, 0, reset), (429, String::new()));
    assert_eq!(ask(&mut azure, 0, 0, reset), (429, String::new()));
    assert_eq!(ask(&mut azure, 0, 0, reset), (429, "10".to_owned()));
}

#[test]
fn deployments_of_one_quota_share_it() {
    let shared = Deployment { quota: Some(1), ..standard(300) };
    let mut azure = Azure::new(vec![shared.clone(), shared, standard(300)]);
    assert_eq!(ask(&mut azure, 0, 0, "").0, 200);
    assert_eq!(ask(&mut azure, 1, 0, "").0, 429);
    assert_eq!(ask(&mut azure, 2, 0, "").0, 200);
}

#[test]
fn a_deployment_that_counts_more_is_full_sooner() {
    let mut azure = Azure::new(vec![Deployment { counts_permille: 1_300, ..standard(1_000) }]);
    assert_eq!(ask(&mut azure, 0, 0, "x-ratelimit-remaining-tokens"), (200, "740".to_owned()));
}

#[test]
fn faults_come_and_go_by_schedule() {
    let with = |fault| {
        let faults = vec![Period { from_ms: 10, until_ms: 20, fault }];
        Azure::new(vec![Deployment { faults, ..standard(10_000) }])
    };
    for (fault, status) in [(Fault::Status(503), 503), (Fault::Silent, 0), (Fault::Refused, 0)] {
        let mut azure = with(fault);
        assert_eq!(ask(&mut azure, 0, 9, "").0, 200);
        assert_eq!(ask(&mut azure, 0, 10, "").0, status, "{fault:?}");
        assert_eq!(azure.out_until(0, &request(), 10), Some(20));
        assert_eq!(ask(&mut azure, 0, 20, "").0, 200);
    }
    let mut azure = with(Fault::Lowered { percent: 1 });
    assert_eq!(ask(&mut azure, 0, 10, "x-ratelimit-limit-tokens"), (429, "100".to_owned()));
    let errors = with(Fault::Errors { percent: 10 });
    let hit = (0..1_000)
        .filter(|roll| errors.broken_until(0, &Request { roll: *roll, ..request() }, 15).is_some());
    let hit = hit.count();
    assert!((70..130).contains(&hit), "{hit}");
}
