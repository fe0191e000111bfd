//! A client that shows exactly what came over the wire: statuses, chunks, cuts and resets.

#![allow(
    dead_code,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test file uses its part, and tests fail by panicking"
)]

use std::io;
use std::time::Duration;

use mock_azure::Mock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A path of the classic form for this operation.
pub(crate) fn classic(operation: &str) -> String {
    format!("/openai/deployments/gpt/{operation}?api-version=2024-10-21")
}

pub(crate) const CHAT: &str =
    r#"{"model":"gpt","messages":[{"role":"user","content":"Hi there"}]}"#;
pub(crate) const CHAT_STREAM: &str =
    r#"{"model":"gpt","stream":true,"messages":[{"role":"user","content":"Hi there"}]}"#;
pub(crate) const RESPONSES_STREAM: &str = r#"{"model":"gpt","stream":true,"input":"Hi there"}"#;

/// Everything that came back on one connection.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) raw: Vec<u8>,
    /// The head without its last blank line, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The body came to the end that its framing announces.
    pub(crate) whole: bool,
    /// How reading ended, when not in order.
    pub(crate) error: Option<io::ErrorKind>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap_or(0))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The data of each event; `[DONE]` as a string.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.split("\n\n").filter_map(|event| event.rsplit_once("data: "));
        data.map(|(_, data)| serde_json::from_str(data).unwrap_or_else(|_| data.into())).collect()
    }
}

pub(crate) async fn post(mock: &Mock, path: &str, body: &str) -> Reply {
    send(mock, "POST", path, "content-type: application/json\r\n", body.as_bytes()).await
}

pub(crate) async fn get(mock: &Mock, path: &str) -> Reply {
    send(mock, "GET", path, "", b"").await
}

/// Sends one request on a connection of its own and reads until the end, whatever it is.
pub(crate) async fn send(
    mock: &Mock,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Reply {
    let mut stream = TcpStream::connect(mock.address()).await.unwrap();
    stream.write_all(&request(method, path, headers, body)).await.unwrap();
    read_reply(&mut stream).await
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n{headers}\
        content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub(crate) async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut raw = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut raw));
    let error = reading.await.expect("the reply ends").err().map(|error| error.kind());
    let split = raw.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, rest) = split.map_or((&raw[..0], &raw[..]), |at| (&raw[..at], &raw[at + 4..]));
    let head = String::from_utf8_lossy(head).to_lowercase();
    let mut reply = Reply { head, body: Vec::new(), whole: false, error, raw: Vec::new() };
    if reply.header("transfer-encoding") == Some("chunked") {
        (reply.body, reply.whole) = unchunked(rest);
    } else {
        let length = reply.header("content-length").and_then(|length| length.parse().ok());
        (reply.body, reply.whole) = (rest.to_vec(), length == Some(rest.len()));
    }
    reply.raw = raw;
    reply
}

fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[line + 2..];
        if size == 0 {
            return (body, true);
        }
        let taken = size.min(rest.len());
        body.extend_from_slice(&rest[..taken]);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
    (body, false)
}
