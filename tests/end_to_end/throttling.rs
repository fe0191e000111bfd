//! A backend that answers 429 is left alone for as long as it asked, and not a moment longer.
//!
//! The gate opens by the gateway's clock, which starts with the 429; the mock's record of the request
//! that it refused is a little earlier. So the time between two records is never shorter than the
//! delay, except for the millisecond that clocks are read in.

use crate::harness::{CHAT, Gateway, Setup};
use mock_azure::Fault;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What reading two clocks in whole milliseconds may cost.
const ROUNDING: Duration = Duration::from_millis(2);

/// How late a gateway on a busy machine may be.
const LATE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn the_ptu_is_used_again_within_50_ms_of_the_end_of_its_300_ms() {
    let gateway = spilling(json!({})).await;
    let delay = Duration::from_millis(300);
    let mut late = Vec::new();
    for _ in 0..5 {
        let gap = closed_for(&gateway, Fault::throttle(300)).await;
        assert!(gap >= delay - ROUNDING, "used again after {gap:?}");
        late.push(gap.saturating_sub(delay));
    }
    late.sort();
    println!("used again {late:?} after the end of the delay");
    assert!(late[late.len() / 2] <= Duration::from_millis(50), "{late:?}");
}

#[tokio::test]
async fn requests_spill_while_the_ptu_is_throttled() {
    let gateway = spilling(json!({})).await;
    gateway.mock("ptu").push_fault(Fault::throttle(30_000));
    let first = gateway.chat_with_status(200).await;
    assert_eq!(first.served_by(), "sweden");
    assert_eq!(first.header("x-spillway-attempts"), Some("2"));
    let trail = first.header("x-spillway-trail").unwrap();
    assert!(trail.starts_with("ptu;429;gate=") && trail.ends_with("ms, sweden;200"), "{trail}");
    let closed_ms = number_after(trail, "gate=");
    assert!((29_900..=30_000).contains(&closed_ms), "{trail}");
    for _ in 0..5 {
        let response = gateway.chat().await;
        assert_eq!(response.served_by(), "sweden");
        assert_eq!(response.header("x-spillway-attempts"), Some("1"));
        let trail = response.header("x-spillway-trail").unwrap();
        assert!(trail.starts_with("ptu;skip=gate;gate="), "{trail}");
    }
    assert_eq!(gateway.counts(), [1, 6]);
    assert_eq!(gateway.envoy.stat("wasmcustom.spillway_spills_total.pool.gpt").await, 6);
}

#[tokio::test]
async fn a_429_to_a_large_request_does_not_shut_out_much_smaller_ones() {
    let gateway = spilling(json!({})).await;
    let large = json!({
        "model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50_000
    });
    for backend in ["ptu", "sweden"] {
        gateway.mock(backend).push_fault(Fault::throttle(30_000));
    }
    assert_eq!(gateway.client.post(CHAT, &large).await.status, 429);
    // As large: nobody is asked. Smaller: the backend has the last word.
    let again = gateway.client.post(CHAT, &large).await;
    assert_eq!((again.status, again.header("x-spillway-attempts")), (429, Some("0")));
    let small = gateway.chat_with_status(200).await;
    let trail = small.header("x-spillway-trail").unwrap();
    assert!(trail.starts_with("ptu;skip=gate;gate=") && trail.ends_with("ptu;200"), "{trail}");
    // Another one of that size is refused, and then no one asks for the size again.
    for backend in ["ptu", "sweden"] {
        gateway.mock(backend).push_fault(Fault::throttle(30_000));
    }
    assert_eq!(gateway.chat().await.header("x-spillway-attempts"), Some("2"));
    let last = gateway.chat().await;
    assert_eq!((last.status, last.header("x-spillway-attempts")), (429, Some("0")));
}

#[tokio::test]
async fn a_429_closes_the_gates_of_the_whole_quota_group_in_every_pool() {
    let group = |priority: u32| json!({"quota_group": "eu", "priority": priority});
    let gateway = Setup::new()
        .backend("a", group(1))
        .backend("b", group(2))
        .backend("c", json!({"priority": 3}))
        .backend("mini-a", group(1))
        .backend("mini-c", json!({"priority": 2}))
        .another_pool("gpt-mini", 2)
        .start()
        .await;
    let mut mini = crate::harness::chat_body();
    mini["model"] = json!("gpt-mini");
    let response = gateway.client.post(CHAT, &mini).await;
    assert_eq!(response.served_by(), "mini-a");

    gateway.mock("a").push_fault(Fault::throttle(700));
    assert_eq!(gateway.chat().await.served_by(), "c");
    let response = gateway.client.post(CHAT, &mini).await;
    assert_eq!(response.served_by(), "mini-c");
    let trail = response.header("x-spillway-trail").unwrap();
    assert!(trail.starts_with("mini-a;skip=gate;gate="), "{trail}");
    assert_eq!(gateway.counts(), [1, 0, 1, 1, 1]);

    // All of them come back together.
    crate::harness::eventually("a serves again", async || gateway.chat().await.served_by() == "a")
        .await;
    let response = gateway.client.post(CHAT, &mini).await;
    assert_eq!(response.served_by(), "mini-a");
    assert!(gateway.records("b").is_empty());
}

#[tokio::test]
async fn a_long_retry_after_counts_as_the_longest_allowed() {
    let gateway =
        spilling(json!({"max_retry_after": "400ms", "default_retry_after": "100ms"})).await;
    let gap = closed_for(&gateway, throttled(&[("retry-after", "3000")])).await;
    assert_about(gap, Duration::from_millis(400));
}

#[tokio::test]
async fn a_429_without_a_time_counts_as_the_default() {
    let gateway = spilling(json!({"default_retry_after": "350ms"})).await;
    let gap = closed_for(&gateway, throttled(&[])).await;
    assert_about(gap, Duration::from_millis(350));
    let gap = closed_for(&gateway, throttled(&[("retry-after", "soon")])).await;
    assert_about(gap, Duration::from_millis(350));
}

#[tokio::test]
async fn retry_after_can_be_a_date() {
    let gateway = spilling(json!({})).await;
    // Dates have whole seconds: this one is more than one and at most two seconds ahead.
    let date = SystemTime::now() + Duration::from_secs(2);
    let gap = closed_for(&gateway, throttled(&[("retry-after", &http_date(date))])).await;
    assert!(gap >= Duration::from_millis(900), "{gap:?}");
    assert!(gap <= Duration::from_secs(2) + LATE, "{gap:?}");
}

#[tokio::test]
async fn the_reset_of_the_exhausted_dimension_counts_when_nothing_better_is_said() {
    let gateway = spilling(json!({})).await;
    let headers = [
        ("x-ratelimit-remaining-requests", "5"),
        ("x-ratelimit-reset-requests", "30s"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "450ms"),
    ];
    let gap = closed_for(&gateway, throttled(&headers)).await;
    assert_about(gap, Duration::from_millis(450));
}

#[tokio::test]
async fn milliseconds_count_before_seconds() {
    let gateway = spilling(json!({})).await;
    for exact in ["retry-after-ms", "x-ms-retry-after-ms"] {
        let gap = closed_for(&gateway, throttled(&[("retry-after", "5"), (exact, "320")])).await;
        assert_about(gap, Duration::from_millis(320));
    }
}

async fn spilling(throttle: Value) -> Gateway {
    Setup::tiers(["ptu", "sweden"]).pool(json!({"throttle": throttle})).start().await
}

fn throttled(headers: &[(&str, &str)]) -> Fault {
    let headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Status { status: 429, headers, body: None }
}

/// Sends requests without a pause until the PTU serves again after `fault`; returns the time from
/// the request that it refused to the next one. No client sees any of it.
async fn closed_for(gateway: &Gateway, fault: Fault) -> Duration {
    gateway.mock("ptu").clear_records();
    gateway.mock("ptu").push_fault(fault);
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < Duration::from_secs(20), "it is never used again");
        let response = gateway.chat_with_status(200).await;
        if response.served_by() == "ptu" {
            break;
        }
        assert_eq!(response.served_by(), "sweden");
    }
    let records = gateway.records("ptu");
    assert_eq!((records[0].status, records[1].status), (Some(429), Some(200)));
    assert_eq!(records.len(), 2);
    records[1].at - records[0].at
}

fn assert_about(gap: Duration, delay: Duration) {
    assert!(gap >= delay - ROUNDING, "{gap:?} is less than {delay:?}");
    assert!(gap <= delay + LATE, "{gap:?} is far more than {delay:?}");
}

fn number_after(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).unwrap();
    rest.split_once("ms").unwrap().0.parse().unwrap()
}

/// The date form of RFC 9110, by Hinnant's days-to-civil algorithm.
fn http_date(time: SystemTime) -> String {
    let seconds = i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let month =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
            [month as usize];
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}
