//! What a client sends, and what it gets.

use crate::host::{HeaderList, header};

/// The credential of every client; it must never reach a backend.
pub(crate) const CLIENT_SECRET: &str = "client-secret";

/// A client's request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) headers: HeaderList,
    /// Empty: the head ends the stream.
    pub(crate) chunks: Vec<Vec<u8>>,
    /// What follows the body; empty: the body ends the stream.
    pub(crate) trailers: HeaderList,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let headers = [
            (":method", method),
            (":path", path),
            (":authority", "gateway.example"),
            ("api-key", CLIENT_SECRET),
        ];
        let owned =
            |(name, value): (&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        Self { headers: headers.map(owned).to_vec(), chunks: Vec::new(), trailers: Vec::new() }
    }

    /// A chat completion, as the Azure flavour of the SDKs sends it.
    pub(crate) fn chat() -> Self {
        Self::new("POST", "/openai/deployments/gpt/chat/completions?api-version=2024-10-21")
            .body(r#"{"messages":[{"role":"user","content":"hi"}]}"#)
    }

    /// The same in the OpenAI flavour: the body names the model.
    pub(crate) fn chat_v1() -> Self {
        Self::new("POST", "/v1/chat/completions")
            .body(r#"{"model":"gpt","messages":[{"role":"user","content":"hi"}]}"#)
    }

    pub(crate) fn body(self, body: &str) -> Self {
        self.chunked(&[body])
    }

    pub(crate) fn chunked(mut self, chunks: &[&str]) -> Self {
        self.chunks = chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect();
        let length: usize = self.chunks.iter().map(Vec::len).sum();
        self.header("content-type", "application/json")
            .header("content-length", &length.to_string())
    }

    /// Sets a header.
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        self.without(name).raw_header(name.as_bytes(), value.as_bytes())
    }

    /// Adds a header of arbitrary bytes.
    pub(crate) fn raw_header(mut self, name: &[u8], value: &[u8]) -> Self {
        self.headers.push((name.to_vec(), value.to_vec()));
        self
    }

    /// Adds a trailer.
    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| key != name.as_bytes());
        self
    }

    /// Whether `content-length` is correct; tests make absurd ones themselves.
    pub(crate) fn has_honest_length(&self) -> bool {
        let length: usize = self.chunks.iter().map(Vec::len).sum();
        header(&self.headers, "content-length") == Some(length.to_string().as_bytes())
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// It is still on its way.
    #[default]
    Open,
    Complete,
    /// It broke in the middle.
    Reset,
    /// The client went away.
    Cancelled,
}

/// What the client got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    pub(crate) headers: HeaderList,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderList,
    pub(crate) end: End,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.header(":status").and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.headers, name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub(crate) fn served_by(&self) -> String {
        self.header("x-served-by").unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
