//! The requests that most tests send: whole or streamed, with a body of which every byte matters.
//!
//! The body has parts that a gateway would change if it parsed and rewrote it: odd spacing, escapes that
//! could be written otherwise, a number with a needless zero, a member twice.

use super::{Gateway, Response, Setup, deployment_of, host_of, key_of};
use bytes::Bytes;
use hyper::Method;
use mock_azure::Record;
use serde_json::json;

/// The operation, and whether the response is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// A chat completion in one piece.
    Chat,
    /// A chat completion as an event stream.
    ChatStream,
    /// A response as an event stream.
    ResponsesStream,
}

/// Headers of a client that must reach no backend: its own credentials, and what steers the gateway.
/// The address is one that Envoy trusts with its own headers.
const MEDDLING: [(&str, &str); 9] = [
    ("x-forwarded-for", "10.0.0.1"),
    ("content-type", "application/json"),
    ("api-key", "key-of-the-client"),
    ("authorization", "Bearer key-of-the-client"),
    ("x-spillway-retry", "1"),
    ("x-spillway-target", "second"),
    ("x-envoy-max-retries", "0"),
    ("x-envoy-retry-on", "gateway-error"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
];

impl Asking {
    /// Where a client of OpenAI sends it.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat | Self::ChatStream => "/v1/chat/completions",
            Self::ResponsesStream => "/v1/responses",
        }
    }

    /// What a client of OpenAI sends.
    pub(crate) fn body(self) -> String {
        self.body_for("gpt-4o")
    }

    /// The same for another model: what a backend must receive if it reads the model from the body.
    pub(crate) fn body_for(self, model: &str) -> String {
        let text = r#""Gr\u00fc\u00dfe, \"Welt\"\/ \ud83d\ude00 – ü 😀 {\"model\":\"gpt-4o\"}""#;
        let (prompt, stream) = match self {
            Self::Chat => (format!(r#""messages":[{{"role" :"user","content":{text}}} ]"#), false),
            Self::ChatStream => {
                (format!(r#""messages":[{{"role" :"user","content":{text}}} ]"#), true)
            }
            Self::ResponsesStream => (format!(r#""input":{text}"#), true),
        };
        format!(
            "{{ {prompt},\n\t\"temperature\" :1.0,\"top_p\":0.50, \"top_p\":5e-1,\r\n \"model\" : \
             \"{model}\" , \"stream\":{stream}}}\n"
        )
    }

    /// The path at a backend of Azure's classic API.
    pub(crate) fn classic_path(self, backend: &str) -> String {
        match self {
            Self::Chat | Self::ChatStream => format!(
                "/openai/deployments/{}/chat/completions?api-version=2024-10-21",
                deployment_of(backend)
            ),
            Self::ResponsesStream => "/openai/responses?api-version=2025-04-01-preview".to_owned(),
        }
    }

    /// The body at a backend of Azure's classic API, which reads the model of chats from the path.
    pub(crate) fn classic_body(self, backend: &str) -> String {
        match self {
            Self::Chat | Self::ChatStream => self.body(),
            Self::ResponsesStream => self.body_for(&deployment_of(backend)),
        }
    }

    /// Sends it, with headers that a client must not send.
    pub(crate) async fn send(self, gateway: &Gateway) -> Response {
        let body = Bytes::from(self.body());
        gateway.client.send(Method::POST, self.path(), &MEDDLING, body).await.unwrap()
    }

    /// Asserts that the response is a whole one.
    pub(crate) fn assert_answered(self, response: &Response, what: &str) {
        let text = response.text();
        assert_eq!(response.status, 200, "{what}: {text}\n{:?}", response.headers);
        assert!(response.complete, "{what}: {text}");
        match self {
            Self::Chat => {
                let content = &response.json()["choices"][0]["message"]["content"];
                let content = content.as_str().unwrap_or_else(|| panic!("{what}: {text}"));
                assert!(content.contains(" answers as "), "{what}: {text}");
            }
            Self::ChatStream => {
                let events = response.events();
                assert_eq!(events.last().unwrap().data, "[DONE]", "{what}: {text}");
                assert!(!text.contains("\"error\""), "{what}: {text}");
            }
            Self::ResponsesStream => {
                let events = response.events();
                let name = |event: Option<&super::Event>| event.unwrap().name.clone().unwrap();
                assert_eq!(name(events.first()), "response.created", "{what}: {text}");
                assert_eq!(name(events.last()), "response.completed", "{what}: {text}");
            }
        }
    }
}

/// Two backends, the second for requests that the first cannot serve. `first` is asked again each time,
/// whatever it sent before, so a table of faults needs only one gateway.
pub(crate) fn first_and_second() -> Setup {
    Setup::tiers(["first", "second"]).pool(forgetful())
}

/// The same with the shipped rules, and `first` is whatever listens on this port.
pub(crate) fn first_elsewhere(port: u16) -> Setup {
    Setup::new().backend("second", json!({"priority": 2})).backend_elsewhere(
        "first",
        json!({"priority": 1}),
        port,
    )
}

/// All that a backend could read: path, headers, body.
pub(crate) fn everything(record: &Record) -> String {
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
        .collect();
    format!("{}\n{}\n{}", record.path, headers.join("\n"), String::from_utf8_lossy(&record.body))
}

/// Keys of a pool that remembers nothing of what went wrong.
pub(crate) fn forgetful() -> serde_json::Value {
    json!({
        "throttle": {"default_retry_after": "1ms", "max_retry_after": "1ms"},
        "circuit_breaker": {"rules": []},
        "failover": {"retry_budget": {"percent": 100, "min_per_second": 10_000}}
    })
}

/// Asserts that the request that a backend received was made for it and for no other.
pub(crate) fn assert_for(record: &Record, backend: &str, what: &str) {
    let headers: Vec<(&str, String)> = record
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    assert_eq!(record.header("host"), Some(&*host_of(backend)), "{what}: {headers:?}");
    let credentials: Vec<&str> = headers
        .iter()
        .filter(|(name, _)| matches!(*name, "api-key" | "authorization"))
        .map(|(_, value)| value.strip_prefix("Bearer ").unwrap_or(value))
        .collect();
    assert_eq!(credentials, [key_of(backend)], "{what}: {headers:?}");
    let framing: Vec<_> = headers
        .iter()
        .filter(|(name, _)| matches!(*name, "content-length" | "transfer-encoding"))
        .collect();
    assert_eq!(framing.len(), 1, "{what}: {headers:?}");
    if let Some(length) = record.header("content-length") {
        assert_eq!(length, record.body_length.to_string(), "{what}: {headers:?}");
    }
    for (name, value) in &headers {
        let is_own = !name.starts_with("x-spillway-") && !name.starts_with("x-envoy-");
        assert!(is_own, "{what}: {headers:?}");
        assert!(!value.contains("key-of-the-client"), "{what}: {headers:?}");
        for other in ["first", "second", "third"].into_iter().filter(|other| *other != backend) {
            assert!(!value.contains(other), "{what}: {name} names {other}: {headers:?}");
        }
    }
    for other in ["first", "second", "third"].into_iter().filter(|other| *other != backend) {
        assert!(!record.path.contains(other), "{what}: {}", record.path);
    }
}
