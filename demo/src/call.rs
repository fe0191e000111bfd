//! One request as an application would send it, and its outcome.
//!
//! A response counts only when it is whole: a stream to its last event, JSON with the member that an SDK
//! would read. A status of 200 alone proves nothing, because faults also break what follows it.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use testbed::{Client, Event, Response};
use tokio::time::{Instant, timeout};

use crate::story::Chapter;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What clients call the model; each backend has its own deployment for it.
const MODEL: &str = "gpt-4o";
/// Repetitions of the question that make a document of about 1500 tokens.
const DOCUMENT_LENGTH: usize = 125;
/// The client's own key. It never reaches a backend.
pub(crate) const CLIENT_KEY: &str = "the-clients-own-key";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    ChatStream,
    /// Chat about a long document, which fills a provisioned backend's bucket at once.
    Document,
    Embeddings,
    Responses,
    ResponsesStream,
}

/// In which of the three dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/openai/deployments/{deployment}/…?api-version=`.
    Azure,
    /// `/openai/v1/…`.
    AzureV1,
    /// `/v1/…`.
    OpenAi,
}

/// One request to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
}

/// What the client saw of one request.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) kind: Kind,
    /// The chapter in which it was sent.
    pub(crate) chapter: Chapter,
    /// When it was over.
    pub(crate) ended_at: Instant,
    /// Why it failed.
    pub(crate) problem: Option<String>,
    /// `x-served-by`.
    pub(crate) served_by: Option<String>,
    /// `x-spillway-attempts`.
    pub(crate) attempts: Option<u32>,
    /// Until the first byte of the body.
    pub(crate) first_byte: Duration,
    /// Until the last one.
    pub(crate) latency: Duration,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Chat,
        Self::ChatStream,
        Self::Document,
        Self::Embeddings,
        Self::Responses,
        Self::ResponsesStream,
    ];

    /// Whether the response is an event stream.
    pub(crate) fn streams(self) -> bool {
        matches!(self, Self::ChatStream | Self::ResponsesStream)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Chat | Self::ChatStream | Self::Document => "chat/completions",
            Self::Embeddings => "embeddings",
            Self::Responses | Self::ResponsesStream => "responses",
        }
    }

    fn body(self) -> Value {
        let text = "How does a spillway protect a dam from a flood? ";
        let text =
            if self == Self::Document { text.repeat(DOCUMENT_LENGTH) } else { text.to_owned() };
        match self {
            Self::Chat | Self::ChatStream | Self::Document => json!({
                "messages": [{ "role": "user", "content": text }], "stream": self.streams(),
            }),
            Self::Embeddings => json!({ "input": text }),
            Self::Responses | Self::ResponsesStream => {
                json!({ "input": text, "stream": self.streams() })
            }
        }
    }

    /// The member that a JSON response must have.
    fn member(self) -> &'static str {
        match self {
            Self::Chat | Self::ChatStream | Self::Document => "choices",
            Self::Embeddings => "data",
            Self::Responses | Self::ResponsesStream => "output",
        }
    }

    /// Whether this is the expected response, and complete.
    fn check(self, response: &Response) -> Result<(), String> {
        let excerpt = |text: &str| text.chars().take(120).collect::<String>();
        let text = response.text();
        if response.status != 200 {
            return Err(format!("status {}: {}", response.status, excerpt(&text)));
        }
        if !response.complete {
            return Err("a response that was broken off".to_owned());
        }
        if !self.streams() {
            let json: Option<Value> = serde_json::from_str(&text).ok();
            let member = json.as_ref().and_then(|json| json.get(self.member()));
            let missing = || format!("a response without '{}': {}", self.member(), excerpt(&text));
            return member.map(|_| ()).ok_or_else(missing);
        }
        let events = response.events();
        let is_error = |event: &&Event| {
            event.name.as_deref() == Some("error") || event.data.starts_with(r#"{"error""#)
        };
        if let Some(error) = events.iter().find(is_error) {
            return Err(format!("an error within the stream: {}", excerpt(&error.data)));
        }
        let is_last = |event: &Event| match self {
            Self::ResponsesStream => event.name.as_deref() == Some("response.completed"),
            _ => event.data == "[DONE]",
        };
        let is_whole = text.ends_with("\n\n") && events.last().is_some_and(is_last);
        is_whole.then_some(()).ok_or_else(|| "a stream without its last event".to_owned())
    }
}

impl Call {
    /// The same request, as a client of the backend itself would send it.
    pub(crate) const DIRECT: Self = Self { kind: Kind::Embeddings, shape: Shape::Azure };

    /// Path and body.
    fn request(self) -> (String, Value) {
        let (operation, mut body) = (self.kind.path(), self.kind.body());
        if self.shape != Shape::Azure || operation == "responses" {
            body["model"] = json!(MODEL);
        }
        let path = match self.shape {
            Shape::Azure if operation == "responses" => {
                "/openai/responses?api-version=2025-04-01-preview".to_owned()
            }
            Shape::Azure => {
                format!("/openai/deployments/{MODEL}/{operation}?api-version=2024-10-21")
            }
            Shape::AzureV1 => format!("/openai/v1/{operation}"),
            Shape::OpenAi => format!("/v1/{operation}"),
        };
        (path, body)
    }

    /// Sends it with this key, and reads the response to its end.
    pub(crate) async fn send(self, client: &Client, key: &str, chapter: Chapter) -> Outcome {
        let begun_at = Instant::now();
        let (path, body) = self.request();
        let credential = match self.shape {
            Shape::OpenAi => ("authorization", format!("Bearer {key}")),
            Shape::Azure | Shape::AzureV1 => ("api-key", key.to_owned()),
        };
        let headers = [("content-type", "application/json"), (credential.0, &*credential.1)];
        let sent = client.send(Method::POST, &path, &headers, body.to_string().into());
        let late = |_| Err(format!("no whole response within {PATIENCE:?}"));
        let response = timeout(PATIENCE, sent).await.unwrap_or_else(late);
        let latency = begun_at.elapsed();
        let header = |name| response.as_ref().ok()?.header(name).map(str::to_owned);
        Outcome {
            kind: self.kind,
            chapter,
            ended_at: Instant::now(),
            served_by: header("x-served-by"),
            attempts: header("x-spillway-attempts").and_then(|value| value.parse().ok()),
            first_byte: response.as_ref().map_or(latency, |response| response.first_byte),
            latency,
            problem: response.and_then(|response| self.kind.check(&response)).err(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, body: &'static str) -> Result<(), String> {
        let headers = hyper::HeaderMap::new();
        let (first_byte, took) = (Duration::ZERO, Duration::ZERO);
        let body = body.into();
        kind.check(&Response { status: 200, headers, body, complete: true, first_byte, took })
    }

    #[test]
    fn a_stream_is_whole_only_with_its_last_event() {
        assert_eq!(check(Kind::ChatStream, "data: {\"id\":1}\n\ndata: [DONE]\n\n"), Ok(()));
        let broken = ["", "data: {\"id\":1}\n\n", "data: {}\n\ndata: [DO", "data: [DONE]"];
        for broken in broken {
            assert!(check(Kind::ChatStream, broken).is_err(), "{broken}");
        }
        let whole = "event: response.completed\ndata: {}\n\n";
        assert_eq!(check(Kind::ResponsesStream, whole), Ok(()));
        assert!(check(Kind::ResponsesStream, "event: response.created\ndata: {}\n\n").is_err());
    }

    #[test]
    fn an_error_within_a_stream_is_found() {
        let body = "data: {\"error\":{\"code\":\"429\"}}\n\ndata: [DONE]\n\n";
        let problem = check(Kind::ChatStream, body).unwrap_err();
        assert!(problem.contains("error within the stream"), "{problem}");
    }

    #[test]
    fn json_without_the_member_that_a_client_reads_is_a_problem() {
        assert_eq!(check(Kind::Embeddings, "{\"data\":[]}"), Ok(()));
        assert!(check(Kind::Embeddings, "{\"choices\":[]}").is_err());
        assert!(check(Kind::Chat, "<html>").is_err());
    }

    #[test]
    fn each_dialect_names_the_model_in_its_own_place() {
        let azure = Call { kind: Kind::Chat, shape: Shape::Azure }.request();
        assert_eq!(azure.0, "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21");
        assert_eq!(azure.1.get("model"), None);
        let v1 = Call { kind: Kind::Responses, shape: Shape::AzureV1 }.request();
        assert_eq!((v1.0.as_str(), &v1.1["model"]), ("/openai/v1/responses", &json!(MODEL)));
    }
}
