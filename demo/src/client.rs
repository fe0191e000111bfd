//! One request as an application would send it, and what came of it.
//!
//! An answer counts only when it is whole: a stream to its last event, JSON with the member that an SDK
//! would read. A status of 200 alone proves nothing, because faults also break what follows it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::{Http, with_causes};
use crate::story::Chapter;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What clients call the model; each backend has its own deployment for it.
const MODEL: &str = "gpt-4o";
/// Repetitions of the question that make a document of about 1500 tokens.
const DOCUMENT_LENGTH: usize = 125;
/// The client's own key. It never reaches a backend.
const CLIENT_KEY: &str = "the-clients-own-key";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    ChatStream,
    /// Chat about a long document: what fills a provisioned backend's bucket at one blow.
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
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    /// The chapter in which it was sent.
    pub(crate) chapter: Chapter,
    /// When it was over.
    pub(crate) ended_at: Instant,
    /// Why it is no answer.
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

    /// Whether the answer is an event stream.
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

    /// How the last event of a stream begins.
    fn last_event(self) -> &'static [u8] {
        if self == Self::ChatStream { b"data: [DONE]" } else { b"event: response.completed" }
    }

    /// The member of a JSON answer without which it is none.
    fn member(self) -> &'static str {
        match self {
            Self::Chat | Self::ChatStream | Self::Document => "choices",
            Self::Embeddings => "data",
            Self::Responses | Self::ResponsesStream => "output",
        }
    }

    /// Checks a whole body.
    fn check(self, body: &[u8]) -> Result<(), String> {
        if self.streams() {
            return self.check_stream(body);
        }
        let json: Option<Value> = serde_json::from_slice(body).ok();
        match json.as_ref().and_then(|json| json.get(self.member())) {
            Some(_) => Ok(()),
            None => Err(format!("an answer without '{}': {}", self.member(), excerpt(body))),
        }
    }

    fn check_stream(self, body: &[u8]) -> Result<(), String> {
        let lines = || body.split(|byte| *byte == b'\n');
        let error = lines().find(|line| {
            line.starts_with(b"event: error") || line.starts_with(b"data: {\"error\"")
        });
        if let Some(error) = error {
            return Err(format!("an error within the stream: {}", excerpt(error)));
        }
        if lines().any(|line| line.starts_with(self.last_event())) && body.ends_with(b"\n\n") {
            Ok(())
        } else {
            Err("a stream without its last event".to_owned())
        }
    }
}

impl Call {
    /// The same question, as a client of the backend itself would ask it.
    pub(crate) const DIRECT: Self = Self { kind: Kind::Embeddings, shape: Shape::Azure };

    /// The request to a server at `base` with this key.
    fn request(self, base: &str, key: &str) -> Result<Request<Full<Bytes>>, String> {
        let path = self.kind.path();
        let mut body = self.kind.body();
        let url = match self.shape {
            Shape::Azure if path == "responses" => {
                format!("{base}/openai/responses?api-version=2025-04-01-preview")
            }
            Shape::Azure => {
                format!("{base}/openai/deployments/{MODEL}/{path}?api-version=2024-10-21")
            }
            Shape::AzureV1 => format!("{base}/openai/v1/{path}"),
            Shape::OpenAi => format!("{base}/v1/{path}"),
        };
        if self.shape != Shape::Azure || path == "responses" {
            body["model"] = json!(MODEL);
        }
        let request = Request::post(url).header("content-type", "application/json");
        let request = match self.shape {
            Shape::OpenAi => request.header("authorization", format!("Bearer {key}")),
            Shape::Azure | Shape::AzureV1 => request.header("api-key", key),
        };
        request.body(Full::from(body.to_string())).map_err(|error| error.to_string())
    }

    /// Sends it through the gateway and reads the answer to its end.
    pub(crate) async fn send(self, http: &Http, gateway: &str, chapter: Chapter) -> Answer {
        self.send_to(http, gateway, CLIENT_KEY, chapter).await
    }

    /// Sends it to `base` with this key.
    pub(crate) async fn send_to(
        self,
        http: &Http,
        base: &str,
        key: &str,
        chapter: Chapter,
    ) -> Answer {
        let begun_at = Instant::now();
        let mut reading = Reading { begun_at, headers: HeaderMap::new(), first_byte: None };
        let exchange = self.exchange(http, base, key, &mut reading);
        let result = tokio::time::timeout(PATIENCE, exchange).await;
        let result = result.unwrap_or_else(|_| Err(format!("not answered within {PATIENCE:?}")));
        let latency = begun_at.elapsed();
        let header = |name: &str| {
            reading.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        Answer {
            kind: self.kind,
            chapter,
            ended_at: Instant::now(),
            problem: result.err(),
            served_by: header("x-served-by"),
            attempts: header("x-spillway-attempts").and_then(|value| value.parse().ok()),
            first_byte: reading.first_byte.unwrap_or(latency),
            latency,
        }
    }

    async fn exchange(
        self,
        http: &Http,
        base: &str,
        key: &str,
        reading: &mut Reading,
    ) -> Result<(), String> {
        let response = http.send(self.request(base, key)?).await?;
        let status = response.status();
        let body = reading.read(response).await?;
        if status.is_success() {
            self.kind.check(&body)
        } else {
            Err(format!("status {}: {}", status.as_u16(), excerpt(&body)))
        }
    }
}

/// What is known of a response when the reading of it may be cut short.
struct Reading {
    begun_at: Instant,
    headers: HeaderMap,
    first_byte: Option<Duration>,
}

impl Reading {
    async fn read(&mut self, response: Response<Incoming>) -> Result<Vec<u8>, String> {
        let (head, mut body) = response.into_parts();
        self.headers = head.headers;
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| with_causes(&error))?;
            if let Some(data) = frame.data_ref() {
                self.first_byte.get_or_insert_with(|| self.begun_at.elapsed());
                bytes.extend_from_slice(data);
            }
        }
        Ok(bytes)
    }
}

/// The beginning of a body, for a person to read.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_whole_only_with_its_last_event() {
        let whole = b"data: {\"id\":1}\n\ndata: [DONE]\n\n";
        assert_eq!(Kind::ChatStream.check(whole), Ok(()));
        assert!(Kind::ChatStream.check(b"data: {\"id\":1}\n\n").is_err());
        assert!(Kind::ChatStream.check(b"data: {\"id\":1}\n\ndata: [DO").is_err());
        assert!(Kind::ChatStream.check(b"data: [DONE]").is_err());
        assert!(Kind::ChatStream.check(b"").is_err());
        let whole = b"event: response.completed\ndata: {}\n\n";
        assert_eq!(Kind::ResponsesStream.check(whole), Ok(()));
        assert!(Kind::ResponsesStream.check(b"event: response.created\ndata: {}\n\n").is_err());
    }

    #[test]
    fn an_error_within_a_stream_is_no_answer() {
        let body = b"data: {\"error\":{\"code\":\"429\"}}\n\ndata: [DONE]\n\n";
        assert!(Kind::ChatStream.check(body).unwrap_err().contains("error within the stream"));
    }

    #[test]
    fn json_without_the_member_that_a_client_reads_is_no_answer() {
        assert_eq!(Kind::Embeddings.check(b"{\"data\":[]}"), Ok(()));
        assert!(Kind::Embeddings.check(b"{\"choices\":[]}").is_err());
        assert!(Kind::Chat.check(b"<html>").is_err());
    }

    #[test]
    fn each_dialect_names_the_model_in_its_own_place() {
        let path = |kind, shape| {
            let request = Call { kind, shape }.request("http://h:1", "k").unwrap();
            request.uri().path_and_query().unwrap().to_string()
        };
        let azure = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
        assert_eq!(path(Kind::Chat, Shape::Azure), azure);
        assert_eq!(path(Kind::Embeddings, Shape::OpenAi), "/v1/embeddings");
        assert_eq!(path(Kind::Responses, Shape::AzureV1), "/openai/v1/responses");
        let request = Call { kind: Kind::Chat, shape: Shape::OpenAi }.request("http://h:1", "k");
        assert_eq!(request.unwrap().headers()["authorization"], "Bearer k");
    }
}
