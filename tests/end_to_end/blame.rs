//! No response that a client can cause takes a backend out: after each such request the first tier serves
//! an innocent one, no breaker is open and no gate is closed.

use crate::harness::{CHAT, Gateway, Response, Setup, chat_body};
use mock_azure::{ErrorShape, Fault};
use serde_json::{Value, json};
use std::time::Duration;

const EMBEDDINGS: &str = "/v1/embeddings";
const RESPONSES: &str = "/v1/responses";
const SPEECH: &str = "/v1/audio/speech";

fn status(status: u16, headers: &[(&str, &str)], body: &Value) -> Fault {
    Fault::status_with(status, headers, Some(&body.to_string()))
}

fn error(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "type": "invalid_request_error"}})
}

async fn pool(backends: usize) -> Gateway {
    let names = ["a", "b", "c"].into_iter().zip(1..).take(backends);
    let setup = names.fold(Setup::new(), |setup, (name, priority)| {
        setup.backend(name, json!({"priority": priority}))
    });
    setup.start().await
}

/// Sends a request that all backends of the pool answer with `fault`.
async fn refused(
    gateway: &Gateway,
    names: &[&str],
    path: &str,
    body: &Value,
    fault: &Fault,
) -> Response {
    for name in names {
        gateway.mock(name).set_fault(Some(fault.clone()));
    }
    let response = gateway.client.post(path, body).await;
    for name in names {
        gateway.mock(name).clear_faults();
    }
    response
}

async fn assert_unharmed(gateway: &Gateway, names: &[&str], after: &str) {
    let response = gateway.chat().await;
    assert_eq!((response.status, response.served_by()), (200, "a"), "{after}: {}", response.text());
    assert_eq!(response.header("x-spillway-trail"), Some("a;200"), "{after}");
    for name in names {
        for gauge in ["breaker_open_until_ms", "gate_closed_until_ms"] {
            let stat = format!("wasmcustom.spillway_{gauge}.pool.gpt.backend.{name}");
            assert_eq!(gateway.envoy.stat(&stat).await, 0, "{after}: {stat}");
        }
    }
}

/// What Azure and OpenAI send for requests that are wrong, or that only they cannot serve.
fn refusals() -> Vec<(&'static str, Value, Fault)> {
    let model = |path: &'static str, fault| {
        let body = match path {
            CHAT => chat_body(),
            EMBEDDINGS => json!({"model": "gpt-4o", "input": "Hello."}),
            SPEECH => json!({"model": "gpt-4o", "input": "Hello.", "voice": "alloy"}),
            _ => json!({"model": "gpt-4o", "input": "Hello.", "tools": [
                {"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
        };
        (path, body, fault)
    };
    let large = "Request too large for gpt-4o on tokens per min (TPM): Limit 1000, Requested 4000. \
                 The input or output tokens must be reduced in order to run successfully.";
    let limited = error("429", "Requests have exceeded token rate limit.");
    vec![
        model(RESPONSES, status(404, &[], &error("not_found", "Vector store vs_1 not found."))),
        model(RESPONSES, status(403, &[], &error("forbidden", "No access to vector store vs_1."))),
        model(RESPONSES, status(401, &[], &error("missing_scope", "Missing scopes: x.request"))),
        model(RESPONSES, status(404, &[], &error("model_not_found", "The model `x` is unknown."))),
        model(RESPONSES, status(404, &[], &error("DeploymentNotFound", "It does not exist."))),
        model(SPEECH, status(404, &[], &error("DeploymentNotFound", "It does not exist."))),
        model(EMBEDDINGS, status(404, &[], &error("404", "Resource not found"))),
        model(EMBEDDINGS, status(401, &[], &error("401", "Access denied due to a missing scope."))),
        model(CHAT, status(404, &[], &error("x", "This is a chat model and not supported."))),
        model(CHAT, status(500, &[], &error("server_error", "The server had an error."))),
        model(CHAT, status(503, &[("retry-after", "30")], &error("503", "Unable to process."))),
        model(CHAT, Fault::ResetBeforeHeaders),
        model(CHAT, Fault::GarbageBytes),
        model(CHAT, status(429, &[("retry-after", "86400")], &limited)),
        model(CHAT, status(429, &[], &error("rate_limit_exceeded", large))),
        model(
            CHAT,
            status(
                429,
                &[("retry-after", "9")],
                &error("429", "It exceeds the maximum usage size."),
            ),
        ),
        model(
            CHAT,
            status(429, &[("retry-after", "9"), ("x-ratelimit-limit-tokens", "1")], &limited),
        ),
        model(
            CHAT,
            status(429, &[("x-ms-spillover-from-deployment", "p"), ("retry-after", "9")], &limited),
        ),
    ]
}

#[tokio::test]
async fn no_request_that_every_backend_refuses_takes_anything_out() {
    for names in [&["a", "b"][..], &["a", "b", "c"]] {
        let gateway = pool(names.len()).await;
        assert_unharmed(&gateway, names, "nothing").await;
        for (path, body, fault) in refusals() {
            for _ in 0..6 {
                let response = refused(&gateway, names, path, &body, &fault).await;
                assert!(response.status >= 400, "{fault:?}: {}", response.text());
            }
            assert_unharmed(&gateway, names, &format!("{path} with {fault:?}")).await;
        }
        gateway.assert_alive("all of them").await;
    }
}

#[tokio::test]
async fn no_request_that_only_the_first_backend_refuses_takes_it_out() {
    let names = ["a", "b"];
    let gateway = pool(2).await;
    assert_unharmed(&gateway, &names, "nothing").await;
    for (path, body, fault) in refusals() {
        let is_fault = matches!(&fault, Fault::Status { status: 500.., .. })
            || !matches!(fault, Fault::Status { .. });
        // A backend that fails what others serve is to blame, but not for one request in a while.
        for _ in 0..if is_fault { 1 } else { 3 } {
            let response = refused(&gateway, &["a"], path, &body, &fault).await;
            assert_eq!(response.served_by(), "b", "{path} with {fault:?}");
            assert_unharmed(&gateway, &names, &format!("{path} with {fault:?}")).await;
        }
    }
}

#[tokio::test]
async fn the_same_4xx_of_all_backends_is_the_response() {
    for names in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
        let gateway = pool(names.len()).await;
        for number in [401, 403, 404] {
            let body = error("not_here", "It is not here.");
            let fault = status(number, &[], &body);
            let response = refused(&gateway, names, CHAT, &chat_body(), &fault).await;
            assert_eq!((response.status, response.json()), (number, body));
            assert_eq!(response.served_by(), *names.last().unwrap());
            assert_unharmed(&gateway, names, &number.to_string()).await;
        }
    }
}

#[tokio::test]
async fn a_timeout_that_hits_all_backends_counts_against_none() {
    let gateway = Setup::tiers(["a", "b"])
        .pool(json!({"failover": {"first_byte_timeout": "100ms"}}))
        .start()
        .await;
    let late = Fault::DelayFirstByte { delay: Duration::from_secs(30) };
    for _ in 0..6 {
        let response = refused(&gateway, &["a", "b"], CHAT, &chat_body(), &late).await;
        assert_eq!(response.status, 503, "{}", response.text());
    }
    assert_unharmed(&gateway, &["a", "b"], "six prompts that take too long").await;
}

#[tokio::test]
async fn a_missing_deployment_is_taken_out_when_another_backend_shows_that_it_is_missing() {
    let gateway = pool(2).await;
    let missing = status(404, &[], &error("DeploymentNotFound", "It does not exist."));
    let response = refused(&gateway, &["a"], CHAT, &chat_body(), &missing).await;
    assert_eq!((response.status, response.served_by()), (200, "b"));
    let trail = gateway.chat().await.header("x-spillway-trail").unwrap().to_owned();
    assert!(trail.starts_with("a;skip=breaker"), "{trail}");
    assert!(gateway.envoy.log().contains("backend a answered 404"), "nobody was told");
}

#[tokio::test]
async fn a_wrong_key_is_taken_out_after_three_requests() {
    let gateway = pool(2).await;
    let denied = status(401, &[], &error("401", "Access denied due to invalid subscription key."));
    gateway.mock("a").set_fault(Some(denied));
    for _ in 0..6 {
        assert_eq!(gateway.chat().await.served_by(), "b");
    }
    assert_eq!(gateway.counts(), [3, 6]);
}

#[tokio::test]
async fn a_stream_that_fails_everywhere_takes_nothing_out() {
    let gateway = pool(2).await;
    let mut body = chat_body();
    body["stream"] = json!(true);
    let fault = Fault::ErrorFirstEvent { shape: ErrorShape::Chat, code: "server_error".to_owned() };
    for _ in 0..6 {
        refused(&gateway, &["a", "b"], CHAT, &body, &fault).await;
    }
    assert_unharmed(&gateway, &["a", "b"], "six streams").await;
}

#[tokio::test]
async fn a_follow_up_waits_for_the_backend_that_may_own_its_object() {
    let gateway = pool(2).await;
    let throttle = Fault::throttle(20_000);
    gateway.mock("b").push_fault(throttle);
    gateway.mock("a").push_fault(status(503, &[], &json!({})));
    assert_eq!(gateway.chat().await.status, 503);
    let unknown = status(404, &[], &error("not_found", "Response resp_1 not found."));
    gateway.mock("a").set_fault(Some(unknown));
    let body = json!({"model": "gpt-4o", "input": "Go on.", "previous_response_id": "resp_1"});
    let response = gateway.client.post(RESPONSES, &body).await;
    assert_eq!(response.status, 429, "{}", response.text());
    let delay_ms: u64 = response.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((10_000..=22_000).contains(&delay_ms), "{delay_ms}");
}

#[tokio::test]
async fn a_response_that_was_spilled_over_is_not_the_backends() {
    let gateway = pool(2).await;
    let spilled = |error: &str| {
        let headers = [("x-ms-spillover-from-deployment", "p"), ("x-ms-spillover-error", error)];
        status(200, &[headers[0], headers[1], ("content-type", "application/json")], &json!({}))
    };
    gateway.mock("a").push_fault(spilled("429"));
    let response = gateway.chat_served_by("a").await;
    assert_eq!(response.header("x-spillway-trail"), Some("a;spilled"));
    assert_eq!(gateway.attempts("a", "spilled").await, 1);
    for _ in 0..5 {
        gateway.mock("a").push_fault(spilled("503"));
        assert_eq!(gateway.chat().await.status, 200);
    }
    assert_eq!(gateway.chat().await.served_by(), "b", "the deployment itself failed five times");
}
