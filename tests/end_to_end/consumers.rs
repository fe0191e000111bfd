//! What consumers may use, and what their responses state about it.

use crate::harness::raw::RawBackend;
use crate::harness::{CHAT, Gateway, Response, Setup};
use mock_azure::Fault;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WHO: &str = "x-consumer";

/// A gateway with one backend and these keys in `consumers`; all response headers are on.
async fn start(keys: Value) -> Gateway {
    setup(keys).backend("first", json!({})).start().await
}

fn setup(keys: Value) -> Setup {
    let mut consumers = json!({
        "header": WHO,
        "remaining_tokens_header": "on",
        "consumed_tokens_header": "on",
        "remaining_quota_header": "on"
    });
    consumers.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    Setup::new().whole(json!({"consumers": consumers}))
}

/// A small chat request of `who`; its response has 16 tokens, so that the estimate is 24 too high.
fn chat() -> Value {
    json!({
        "model": "gpt-4o", "max_tokens": 40,
        "messages": [{"role": "user", "content": "Say hello."}]
    })
}

async fn ask(gateway: &Gateway, who: &str) -> Response {
    gateway.client.post_with(CHAT, &[(WHO, who)], &chat()).await
}

/// Sends requests until the gateway refuses one. Returns the responses before it, and the refusal.
async fn ask_until_refused(gateway: &Gateway, who: &str) -> (Vec<Response>, Response) {
    let mut answers = Vec::new();
    loop {
        let response = ask(gateway, who).await;
        if response.status != 200 {
            return (answers, response);
        }
        answers.push(response);
        assert!(answers.len() < 100, "never refused");
    }
}

/// What a response cost, as it states itself.
fn used(response: &Response) -> u64 {
    response.json()["usage"]["total_tokens"].as_u64().unwrap()
}

fn number(response: &Response, header: &str) -> u64 {
    let value = response.header(header);
    value.unwrap_or_else(|| panic!("no {header}: {:?}", response.headers)).parse().unwrap()
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Waits until no calendar period ends within the next seconds, so that a test runs within one.
async fn early_in_the_hour() {
    let left = 3_600 - since_epoch().as_secs() % 3_600;
    if left < 20 {
        tokio::time::sleep(Duration::from_secs(left + 1)).await;
    }
}

#[tokio::test]
async fn tokens_per_minute_are_counted_as_used_and_refused_until_the_first_are_a_minute_old() {
    let gateway = start(json!({"default": {"tokens_per_minute": 150}})).await;
    let began = since_epoch();
    let first = ask(&gateway, "alice").await;
    let first_ended = since_epoch();
    let (mut answers, refusal) = ask_until_refused(&gateway, "alice").await;
    let refused = since_epoch();
    answers.insert(0, first);

    let total: u64 = answers.iter().map(used).sum();
    assert!(answers.len() >= 3, "by their estimates there were two: {}", answers.len());
    let mut left = 150;
    for response in &answers {
        left -= used(response);
        assert_eq!(number(response, "consumed-tokens"), used(response));
        assert_eq!(number(response, "remaining-tokens"), left);
        assert_eq!(response.header("remaining-quota-tokens"), None, "there is no quota");
    }
    assert_eq!(refusal.status, 429);
    assert_eq!(number(&refusal, "remaining-tokens"), 150 - total);
    assert_eq!(number(&refusal, "consumed-tokens"), 0);
    let error = &refusal.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("tokens"), &json!("rate_limit_exceeded")));
    assert!(error["message"].is_string() && error["param"].is_null(), "{error}");
    assert_eq!(gateway.counts(), [answers.len()], "a refusal reaches no backend");

    // Whole seconds are counted: there is room when the first's second is no longer among
    // the last 61.
    let delay = Duration::from_millis(number(&refusal, "retry-after-ms"));
    assert_eq!(number(&refusal, "retry-after"), delay.as_millis().div_ceil(1_000) as u64);
    let reopens = refused + delay;
    let (soonest, latest) = (began.as_secs() + 61, first_ended.as_secs() + 61);
    let until = format!("{reopens:?} is not from {soonest} to {latest} s");
    // SDKs obey no delay above a minute, so the gateway never states a longer one.
    let is_capped = delay == Duration::from_secs(60);
    assert!(is_capped || reopens >= Duration::from_secs(soonest), "{until}");
    assert!(refused.as_secs() < latest, "{until}");
    let noise = refusal.took + Duration::from_millis(200);
    assert!(reopens <= Duration::from_secs(latest) + noise, "{until}");
}

#[tokio::test]
async fn a_quota_ends_in_403_until_its_period_ends() {
    early_in_the_hour().await;
    let named = |period: &str| json!({"quota": {"tokens": 150, "period": period}});
    let gateway = start(json!({"by_name": {
        "hourly": named("hour"), "daily": named("day"), "monthly": named("month")
    }}))
    .await;
    for (who, longest) in [("hourly", 3_600), ("daily", 86_400), ("monthly", 31 * 86_400)] {
        let (answers, refusal) = ask_until_refused(&gateway, who).await;
        let mut left = 150;
        assert!(answers.len() >= 3, "{who}: {}", answers.len());
        for response in &answers {
            left -= used(response);
            assert_eq!(number(response, "consumed-tokens"), used(response), "{who}");
            assert_eq!(number(response, "remaining-quota-tokens"), left, "{who}");
            assert_eq!(response.header("remaining-tokens"), None, "{who}");
        }
        assert_eq!(refusal.status, 403, "{who}");
        assert_eq!(number(&refusal, "remaining-quota-tokens"), left, "{who}");
        assert_eq!(number(&refusal, "consumed-tokens"), 0, "{who}");
        assert_eq!(refusal.json()["error"]["code"], "quota_exceeded", "{who}");
        let delay = number(&refusal, "retry-after");
        assert!(delay <= longest, "{who}: {delay} s");
        if who != "monthly" {
            let end = (since_epoch().as_millis() as u64 + number(&refusal, "retry-after-ms")) / 100;
            let past = end % (longest * 10);
            assert!(past <= 50 || past >= longest * 10 - 50, "{who}: not at its end, {past}");
        }
    }
}

#[tokio::test]
async fn an_exceeded_quota_is_told_before_an_exceeded_minute() {
    let limits = json!({"tokens_per_minute": 60, "quota": {"tokens": 60, "period": "month"}});
    let gateway = start(json!({"default": limits})).await;
    let (answers, refusal) = ask_until_refused(&gateway, "alice").await;
    assert_eq!((answers.len(), refusal.status), (1, 403));
    let left = 60 - used(&answers[0]);
    assert_eq!(number(&refusal, "remaining-tokens"), left);
    assert_eq!(number(&refusal, "remaining-quota-tokens"), left);
}

#[tokio::test]
async fn every_consumer_has_its_own_tokens() {
    let gateway = start(json!({
        "default": {"tokens_per_minute": 60},
        "by_name": {"large": {"tokens_per_minute": 200}, "unlimited": {}}
    }))
    .await;
    // Each of them gets one response: unlisted consumers share the default's limit, not its count.
    for who in ["alice", "bob", "Large", "carol"] {
        let (answers, refusal) = ask_until_refused(&gateway, who).await;
        assert_eq!((answers.len(), refusal.status), (1, 429), "{who}");
    }
    // Requests without a name, or with an empty one, are one consumer.
    let nameless = gateway.client.post(CHAT, &chat()).await;
    assert_eq!(nameless.status, 200);
    assert_eq!(gateway.client.post(CHAT, &chat()).await.status, 429);
    assert_eq!(ask(&gateway, "").await.status, 429);

    let (answers, refusal) = ask_until_refused(&gateway, "large").await;
    assert!(answers.len() > 3 && refusal.status == 429, "{}", answers.len());
    for _ in 0..20 {
        let response = ask(&gateway, "unlimited").await;
        assert_eq!(response.status, 200);
        assert_eq!(number(&response, "consumed-tokens"), used(&response));
        assert_eq!(response.header("remaining-tokens"), None);
    }
}

#[tokio::test]
async fn the_response_headers_have_the_configured_names_and_are_off_otherwise() {
    let limits = json!({"tokens_per_minute": 60, "quota": {"tokens": 1_000, "period": "month"}});
    let gateway = start(json!({
        "default": limits,
        "remaining_tokens_header": "x-left",
        "consumed_tokens_header": "off",
        "remaining_quota_header": "x-quota-left"
    }))
    .await;
    let response = ask(&gateway, "alice").await;
    assert_eq!(number(&response, "x-left"), 60 - used(&response));
    assert_eq!(number(&response, "x-quota-left"), 1_000 - used(&response));
    let refusal = ask(&gateway, "alice").await;
    assert_eq!(refusal.status, 429);
    assert_eq!(number(&refusal, "x-left"), 60 - used(&response));
    assert_eq!(number(&refusal, "x-quota-left"), 1_000 - used(&response));
    for response in [response, refusal] {
        for name in ["remaining-tokens", "consumed-tokens", "remaining-quota-tokens"] {
            assert_eq!(response.header(name), None);
        }
    }
}

#[tokio::test]
async fn an_event_stream_begins_with_the_estimate_and_is_counted_when_it_ends() {
    let gateway = start(json!({"default": {"tokens_per_minute": 10_000}})).await;
    let mut body = chat();
    body["stream"] = json!(true);
    let stream = gateway.client.post_with(CHAT, &[(WHO, "alice")], &body).await;
    assert_eq!(stream.status, 200);
    assert!(stream.complete && !stream.text().contains("total_tokens"), "{}", stream.text());
    let estimate = number(&stream, "consumed-tokens");
    assert!(estimate > 40, "{estimate}");
    assert_eq!(number(&stream, "remaining-tokens"), 10_000 - estimate);
    // The same request without a stream costs as many tokens, so the cost of the stream is known.
    let response = ask(&gateway, "alice").await;
    assert_eq!(number(&response, "remaining-tokens"), 10_000 - 2 * used(&response));
}

#[tokio::test]
async fn what_no_backend_served_costs_nothing() {
    let gateway = start(json!({"default": {"tokens_per_minute": 100}})).await;
    let first = gateway.mock("first");
    let error = Fault::status;
    for fault in [
        error(500),
        error(400),
        Fault::ContentFilter400,
        Fault::throttle(1),
        Fault::ResetBeforeHeaders,
    ] {
        first.push_fault(fault.clone());
        let response = ask(&gateway, "alice").await;
        assert_ne!(response.status, 200, "{fault:?}");
        assert_eq!(number(&response, "consumed-tokens"), 0, "{fault:?}");
        assert_eq!(number(&response, "remaining-tokens"), 100, "{fault:?}");
    }
}

/// A response in chunks, from a backend that does not state its length.
fn in_chunks(parts: &[&str]) -> String {
    let chunks: String =
        parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n{chunks}0\r\n\r\n"
    )
}

const USAGE: &str = r#""usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}"#;

#[tokio::test]
async fn a_response_of_unknown_length_is_counted_as_well() {
    let backend = RawBackend::start(in_chunks(&["{", USAGE, "}"])).await;
    let gateway = setup(json!({"default": {"tokens_per_minute": 1_000}}))
        .backend_elsewhere("first", json!({}), backend.port())
        .start()
        .await;
    for left in [994, 988] {
        let response = ask(&gateway, "alice").await;
        assert_eq!((response.status, response.text()), (200, format!("{{{USAGE}}}")));
        assert_eq!(number(&response, "consumed-tokens"), 6);
        assert_eq!(number(&response, "remaining-tokens"), left);
    }
}

#[tokio::test]
async fn a_large_response_is_not_held_for_its_tokens() {
    let text = "x".repeat(400_000);
    let parts = ["{\"a\": \"", &text, &text, &text, &text, "\", ", USAGE, "}"];
    let whole = parts.concat();
    let with_length = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{whole}",
        whole.len()
    );
    for response in [with_length, in_chunks(&parts)] {
        let backend = RawBackend::start(response).await;
        let gateway = setup(json!({"default": {"tokens_per_minute": 1_000}}))
            .backend_elsewhere("first", json!({}), backend.port())
            .start()
            .await;
        let response = ask(&gateway, "alice").await;
        assert_eq!(response.status, 200);
        assert!(response.text() == whole, "{} bytes", response.body.len());
        let estimate = number(&response, "consumed-tokens");
        assert!(estimate > 40, "{estimate}");
        assert_eq!(number(&response, "remaining-tokens"), 1_000 - estimate);
        // It was counted when it ended.
        let next = ask(&gateway, "alice").await;
        assert_eq!(number(&next, "remaining-tokens"), 1_000 - 6 - number(&next, "consumed-tokens"));
    }
}

#[tokio::test]
async fn a_held_response_that_breaks_off_costs_nothing() {
    let broken = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\
                  connection: close\r\n\r\n{\"choices\": [";
    let backend = RawBackend::start(broken).await;
    let gateway = setup(json!({"default": {"tokens_per_minute": 100}}))
        .backend_elsewhere("first", json!({}), backend.port())
        .start()
        .await;
    for asked in 1..=2 {
        let response = ask(&gateway, "alice").await;
        assert_eq!(response.status, 503, "{}", response.text());
        assert_eq!(number(&response, "consumed-tokens"), 0);
        assert_eq!(number(&response, "remaining-tokens"), 100);
        assert_eq!(backend.requests(), asked);
    }
}

/// Envoy's own filter that authenticates callers by key; `key-of-{who}` is the key of `who`.
fn authentication(names: &[&str]) -> Value {
    let credentials: Vec<Value> =
        names.iter().map(|name| json!({"key": format!("key-of-{name}"), "client": name})).collect();
    json!({"name": "envoy.filters.http.api_key_auth", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
        "credentials": credentials,
        "key_sources": [{"header": "api-key"}, {"header": "authorization"}],
        "forwarding": {"header": WHO, "hide_credentials": true}
    }})
}

#[tokio::test]
async fn who_calls_is_what_the_key_says_and_not_what_the_client_says() {
    let gateway = setup(json!({
        "default": {"tokens_per_minute": 1_000},
        "by_name": {"alice": {"tokens_per_minute": 60}, "rich": {}}
    }))
    .backend("first", json!({}))
    .settings(|settings| settings.filters_before.push(authentication(&["alice", "rich"])))
    .start()
    .await;
    let ask =
        async |headers: &[(&str, &str)]| gateway.client.post_with(CHAT, headers, &chat()).await;
    let bearer = ("authorization", "Bearer key-of-alice");
    for nobody in [&[][..], &[(WHO, "rich")], &[("api-key", "guessed"), (WHO, "rich")]] {
        assert_eq!(ask(nobody).await.status, 401);
    }
    assert_eq!(gateway.counts(), [0]);
    // These are Alice's tokens, whatever name she claims, and whichever header has her key.
    let response = ask(&[("api-key", "key-of-alice"), (WHO, "rich"), (WHO, "other")]).await;
    assert_eq!(response.status, 200);
    assert_eq!(number(&response, "remaining-tokens"), 60 - used(&response));
    assert_eq!(ask(&[bearer, ("X-Consumer", "rich")]).await.status, 429);
    let records = gateway.records("first");
    let names: Vec<_> = records[0].headers.iter().filter(|(name, _)| name == WHO).collect();
    assert_eq!(names, [&(WHO.to_owned(), b"alice".to_vec())]);
    assert_eq!(records[0].header("api-key"), Some("key-of-first"));
    let rich = ask(&[("api-key", "key-of-rich"), (WHO, "alice")]).await;
    assert_eq!((rich.status, rich.header("remaining-tokens")), (200, None));
}
