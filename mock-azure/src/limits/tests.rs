use super::*;

fn header<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    &headers.iter().find(|(key, _)| key == name).expect(name).1
}

fn refusal(limits: &mut Limits, estimate: u64, now: Instant) -> Problem {
    limits.admit(estimate, now).expect_err("should be refused")
}

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn start() -> Instant {
    Instant::now()
}

#[test]
fn a_full_bucket_refuses_with_the_exact_time_until_it_is_below_its_capacity() {
    let now = start();
    let kind = Kind::Provisioned { tokens_per_minute: 60_000, burst_tokens: 1_000 };
    let mut limits = Limits::new(kind, now);
    limits.admit(1_300, now).expect("an empty bucket admits even what overflows it");
    let problem = refusal(&mut limits, 1, now);
    assert_eq!(problem.status, 429);
    assert_eq!(header(&problem.headers, "retry-after-ms"), "301");
    assert_eq!(header(&problem.headers, "retry-after"), "1");
    assert_eq!(header(&problem.headers, "azure-openai-deployment-utilization"), "130.0%");
    refusal(&mut limits, 1, now + ms(299));
    limits.admit(1, now + ms(301)).expect("drained");
}

#[test]
fn a_refused_request_adds_nothing_to_the_bucket() {
    let now = start();
    let kind = Kind::Provisioned { tokens_per_minute: 60_000, burst_tokens: 1_000 };
    let mut limits = Limits::new(kind, now);
    limits.admit(1_100, now).expect("empty");
    for _ in 0..100 {
        refusal(&mut limits, 500, now);
    }
    limits.admit(1, now + ms(101)).expect("drained");
}

#[test]
fn a_bucket_is_corrected_to_what_was_used() {
    let now = start();
    let kind = Kind::Provisioned { tokens_per_minute: 60, burst_tokens: 1_000 };
    let mut limits = Limits::new(kind, now);
    limits.admit(2_000, now).expect("empty");
    refusal(&mut limits, 1, now);
    limits.settle(2_000, 500, now);
    assert_eq!(limits.utilisation_percent(now), Some(50.0));
    limits.admit(1, now).expect("corrected");
}

#[test]
fn tokens_come_back_when_they_leave_the_sliding_minute() {
    let now = start();
    let kind = Kind::Standard { tokens_per_minute: 1_000, requests_per_minute: 6_000 };
    let mut limits = Limits::new(kind, now);
    limits.admit(600, now).expect("empty");
    let headers = limits.admit(400, now + ms(30_000)).expect("exactly full");
    assert_eq!(header(&headers, "x-ratelimit-remaining-tokens"), "0");
    assert_eq!(header(&headers, "x-ratelimit-limit-tokens"), "1000");
    let problem = refusal(&mut limits, 600, now + ms(30_500));
    assert_eq!(header(&problem.headers, "retry-after-ms"), "29500");
    assert_eq!(header(&problem.headers, "retry-after"), "30");
    let problem = refusal(&mut limits, 601, now + ms(30_500));
    assert_eq!(header(&problem.headers, "retry-after-ms"), "59500");
    refusal(&mut limits, 600, now + ms(59_999));
    limits.admit(600, now + ms(60_000)).expect("the first has left");
}

#[test]
fn a_request_larger_than_the_limit_is_sent_away_for_a_day() {
    let now = start();
    let kind = Kind::Standard { tokens_per_minute: 1_000, requests_per_minute: 6_000 };
    let problem = refusal(&mut Limits::new(kind, now), 1_001, now);
    assert_eq!(header(&problem.headers, "retry-after"), "86400");
}

#[test]
fn requests_are_counted_in_windows_of_ten_seconds_refused_ones_included() {
    let now = start();
    let kind = Kind::Standard { tokens_per_minute: 10, requests_per_minute: 12 };
    let mut limits = Limits::new(kind, now);
    refusal(&mut limits, 11, now);
    let headers = limits.admit(1, now).expect("the second of two");
    assert_eq!(header(&headers, "x-ratelimit-limit-requests"), "2");
    assert_eq!(header(&headers, "x-ratelimit-remaining-requests"), "0");
    let problem = refusal(&mut limits, 1, now + ms(4_000));
    assert_eq!(header(&problem.headers, "retry-after-ms"), "6000");
    limits.admit(1, now + ms(10_000)).expect("a new window");
}

#[test]
fn an_unlimited_backend_sends_no_limit_headers() {
    let now = start();
    assert!(Limits::new(Kind::Unlimited, now).admit(u64::MAX, now).expect("no limit").is_empty());
}
