//! A budget sends a request to another backend before its backend refuses it. It never refuses one while
//! another backend is left; when none is, it says when to come back.

use crate::harness::{CHAT, Client, Gateway, Response, Setup, chat_body};
use mock_azure::{Fault, Kind, MockConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const COMPLETION_TOKENS: u64 = 20;
/// What one request of [`asking_for_all`] uses, which is about what it reserves.
const TOKENS: u64 = 100 + COMPLETION_TOKENS;
const TOKENS_PER_MINUTE: u64 = 100 * TOKENS;
const UNLIMITED: u64 = 1_000_000_000;
/// The length of Azure's windows of requests.
const WINDOW: Duration = Duration::from_secs(10);
/// Small enough to fill some windows.
const REQUESTS_PER_MINUTE: u64 = 150;
const REQUESTS_PER_WINDOW: usize = 25;

/// A request whose maximum is what it will use.
fn asking_for_all() -> Value {
    json!({
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "word".repeat(100)}],
        "max_tokens": COMPLETION_TOKENS
    })
}

fn limited_mock(
    tokens_per_minute: u64,
    requests_per_minute: u64,
) -> impl FnOnce(MockConfig) -> MockConfig {
    move |mut mock| {
        mock.completion_tokens = COMPLETION_TOKENS;
        mock.with_kind(Kind::Standard { tokens_per_minute, requests_per_minute })
    }
}

fn long(mut mock: MockConfig) -> MockConfig {
    mock.completion_tokens = COMPLETION_TOKENS;
    mock
}

fn limits(keys: Value) -> Value {
    json!({"priority": 1, "limits": keys})
}

/// Sends `body` this many times, some at a time.
async fn send_many(gateway: &Gateway, body: &Value, count: usize) -> Vec<Response> {
    const AT_A_TIME: usize = 16;
    let mut running = JoinSet::new();
    for worker in 0..AT_A_TIME {
        let (client, body) = (gateway.another_client(), body.clone());
        let share = count / AT_A_TIME + usize::from(worker < count % AT_A_TIME);
        running.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..share {
                answers.push(client.post(CHAT, &body).await);
            }
            answers
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

fn refusals(gateway: &Gateway, backend: &str) -> usize {
    gateway.records(backend).iter().filter(|record| record.status == Some(429)).count()
}

fn trail(response: &Response) -> &str {
    response.header("x-spillway-trail").unwrap_or("")
}

#[tokio::test]
async fn tokens_beyond_the_limit_go_elsewhere_without_a_refusal() {
    let gateway = Setup::new()
        .backend_with(
            "sweden",
            limits(json!({"tokens_per_minute": TOKENS_PER_MINUTE})),
            limited_mock(TOKENS_PER_MINUTE, UNLIMITED),
        )
        .backend_with("france", json!({"priority": 2}), long)
        .settings(|settings| settings.workers = 4)
        .start()
        .await;
    let answers = send_many(&gateway, &asking_for_all(), 300).await;
    assert_eq!(answers.len(), 300);
    let passed_over = answers.iter().filter(|response| response.served_by() == "france");
    for response in &answers {
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("x-spillway-attempts"), Some("1"), "{}", trail(response));
    }
    let mut count = 0;
    for response in passed_over {
        count += 1;
        assert!(trail(response).starts_with("sweden;skip=budget;budget="), "{}", trail(response));
        assert!(trail(response).ends_with("ms, france;200"), "{}", trail(response));
    }
    let used = gateway.mock("sweden").stats()["tokens_used"].as_u64().unwrap();
    println!("{used} of {TOKENS_PER_MINUTE} tokens, {count} requests elsewhere");
    assert_eq!(refusals(&gateway, "sweden"), 0);
    assert_eq!(gateway.counts(), [300 - count, count]);
    // The last few requests reserve a little more than they will use.
    assert!((TOKENS_PER_MINUTE - 2 * TOKENS..=TOKENS_PER_MINUTE).contains(&used), "{used}");
}

/// Sends requests at about `per_second` for so long.
async fn send_for(client: &Client, length: Duration, per_second: u32) -> Vec<Response> {
    let started = Instant::now();
    let mut answers = Vec::new();
    while started.elapsed() < length {
        answers.push(client.post(CHAT, &chat_body()).await);
        let due =
            started + Duration::from_secs(1) * u32::try_from(answers.len()).unwrap() / per_second;
        tokio::time::sleep_until(due.into()).await;
    }
    answers
}

#[tokio::test]
async fn requests_are_limited_in_windows_of_ten_seconds() {
    let keys = || limits(json!({"requests_per_minute": REQUESTS_PER_MINUTE}));
    let gateway = Setup::new()
        .backend("sweden", keys())
        .backend("france", json!({"priority": 2}))
        .start()
        .await;
    let azure = Setup::new()
        .backend_with("sweden", keys(), limited_mock(UNLIMITED, REQUESTS_PER_MINUTE))
        .backend("france", json!({"priority": 2}))
        .start()
        .await;
    let length = WINDOW + WINDOW / 2;
    let (answers, others) =
        tokio::join!(send_for(&gateway.client, length, 10), send_for(&azure.client, length, 10));
    for response in answers.iter().chain(&others) {
        assert_eq!(response.status, 200, "{}", response.text());
    }
    let windows = |backend| {
        let mut counts = BTreeMap::<u128, usize>::new();
        for record in gateway.records(backend) {
            // It was counted just before it arrived.
            let at = record.at_unix.as_millis() / WINDOW.as_millis();
            *counts.entry(at).or_default() += 1;
        }
        counts
    };
    let (sweden, france) = (windows("sweden"), windows("france"));
    println!("in each window {sweden:?}, elsewhere {france:?}");
    assert!(!france.is_empty());
    assert!(sweden.len() >= 2);
    for window in france.keys() {
        // One request may have been counted at the end of a window and have arrived in the next.
        let count = sweden.get(window).copied().unwrap_or(0);
        assert!(count.abs_diff(REQUESTS_PER_WINDOW) <= 1, "{sweden:?} {france:?}");
    }
    // Azure's windows need not begin with those of the clock: one request in each finds out.
    let refused = refusals(&azure, "sweden");
    println!("{refused} refusals of {} attempts", azure.counts()[0]);
    assert!(refused <= 3, "{refused}");
}

#[tokio::test]
async fn when_all_budgets_are_used_up_a_backend_has_the_last_word() {
    let gateway = Setup::new()
        .backend("sweden", limits(json!({"tokens_per_minute": 10})))
        .backend("france", limits(json!({"requests_per_minute": 1})))
        .start()
        .await;
    for number in 0..6 {
        let response = gateway.chat().await;
        assert_eq!(response.status, 200, "{number}: {}", trail(&response));
    }
    let last = gateway.chat().await;
    // A window of requests may end in between; that of tokens does not.
    assert!(trail(&last).contains("sweden;skip=budget;budget="), "{}", trail(&last));
    assert!(gateway.counts()[0] >= 2, "{:?}", gateway.counts());
    // What it says is believed.
    for backend in ["sweden", "france"] {
        gateway.mock(backend).push_fault(Fault::throttle(20_000));
    }
    let refused = gateway.chat().await;
    assert_eq!(refused.status, 429, "{}", trail(&refused));
    assert_eq!(refused.header("x-spillway-attempts"), Some("2"), "{}", trail(&refused));
    let again = gateway.chat().await;
    assert_eq!((again.status, again.header("x-spillway-attempts")), (429, Some("0")));
    let wait = retry_after(&again);
    assert!((Duration::from_secs(10)..=Duration::from_secs(22)).contains(&wait), "{wait:?}");
}

fn retry_after(response: &Response) -> Duration {
    let exact = response.header("retry-after-ms").unwrap().parse().unwrap();
    let rounded: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(rounded, u64::div_ceil(exact, 1_000));
    Duration::from_millis(exact)
}

#[tokio::test]
async fn a_single_backend_is_asked_beyond_its_budget_too() {
    let gateway =
        Setup::new().backend("only", limits(json!({"tokens_per_minute": 10}))).start().await;
    assert_eq!(gateway.chat().await.status, 200);
    let response = gateway.chat_with_status(200).await;
    assert!(trail(&response).starts_with("only;skip=budget;budget="), "{}", trail(&response));
    assert!(trail(&response).ends_with("only;200"), "{}", trail(&response));
}

#[tokio::test]
async fn a_backend_whose_budget_is_full_is_no_place_to_fail_over_to() {
    let gateway = Setup::new()
        .backend("first", limits(json!({"tokens_per_minute": 10})))
        .backend("second", json!({"priority": 2}))
        .backend("third", json!({"priority": 3}))
        .start()
        .await;
    assert_eq!(gateway.chat().await.served_by(), "first");
    let fault = Fault::status(500);
    gateway.mock("second").push_fault(fault);
    let response = gateway.chat().await;
    assert_eq!((response.status, response.served_by()), (200, "third"), "{}", trail(&response));
    assert_eq!(gateway.counts(), [1, 1, 1]);
}

/// Two equal backends, whose budgets are too large to matter.
async fn two_equal() -> Gateway {
    Setup::new()
        .backend("first", limits(json!({"tokens_per_minute": UNLIMITED})))
        .backend("second", limits(json!({"tokens_per_minute": UNLIMITED})))
        .start()
        .await
}

/// How many of twenty requests the first of two equal backends serves when its responses carry these
/// headers.
async fn share_with(gateway: &Gateway, headers: &[(&str, &str)]) -> usize {
    let before = gateway.counts()[0];
    gateway.mock("first").set_fault(Some(said(headers)));
    for _ in 0..20 {
        gateway.chat_with_status(200).await;
    }
    gateway.counts()[0] - before
}

fn said(headers: &[(&str, &str)]) -> Fault {
    let headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::BackendHeaders { headers }
}

const REMAINING: &str = "x-ratelimit-remaining-tokens";
const LIMIT: &str = "x-ratelimit-limit-tokens";

#[tokio::test]
async fn a_backend_that_has_little_left_gets_less() {
    let requests = "x-ratelimit-remaining-requests";
    let little: [&[(&str, &str)]; 3] = [
        &[(REMAINING, "10"), (LIMIT, "100000")],
        &[(requests, "0"), ("x-ratelimit-limit-requests", "10")],
        &[("azure-openai-deployment-utilization", "99.5%")],
    ];
    for headers in little {
        let share = share_with(&two_equal().await, headers).await;
        assert!((1..=3).contains(&share), "{headers:?}: {share}");
    }
    let enough = [(REMAINING, "50000"), (LIMIT, "100000")];
    assert_eq!(share_with(&two_equal().await, &enough).await, 10);
}

#[tokio::test]
async fn what_headers_cannot_mean_changes_nothing() {
    let gateway = two_equal().await;
    for (remaining, limit) in [
        ("-1", "-1"),
        ("-27978", "100000"),
        ("0", "0"),
        ("", ""),
        ("soon", "NaN"),
        ("5", "-5"),
        ("inf", "5000"),
        ("1e300", "999999999999999999999999"),
    ] {
        let share = share_with(&gateway, &[(REMAINING, remaining), (LIMIT, limit)]).await;
        assert_eq!(share, 10, "{remaining} of {limit}");
    }
}

/// How many requests of one word fit into the budget of a backend that states this limit.
async fn fitting_when_told(limits_said: &[&str]) -> usize {
    let gateway = Setup::new()
        .backend_with("first", limits(json!({"tokens_per_minute": 20 * TOKENS})), long)
        .backend_with("second", json!({"priority": 2}), long)
        .start()
        .await;
    for limit in limits_said.iter().cycle().take(40) {
        gateway.mock("first").set_fault(Some(said(&[(LIMIT, limit)])));
        assert_eq!(gateway.client.post(CHAT, &asking_for_all()).await.status, 200);
    }
    gateway.counts()[0]
}

#[tokio::test]
async fn a_limit_that_the_backend_says_is_lower_counts_and_no_other() {
    let half = (10 * TOKENS).to_string();
    let fitting = fitting_when_told(&[&half]).await;
    assert!((9..=10).contains(&fitting), "{fitting}");
    let odd = ["-1", "0", "1000000", "", "many", "99999999999999999999"];
    let fitting = fitting_when_told(&odd).await;
    assert!((19..=20).contains(&fitting), "{fitting}");
}
