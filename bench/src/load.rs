//! Clients that each send a request, wait for the whole response, and send the next one.

use crate::gateway::Gateway;
use crate::peers::CLIENT_KEY;
use crate::upstream::EVENTS;
use crate::wire::{PATIENCE, Reader};
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Which SDK asks.
#[derive(Clone, Copy)]
pub(crate) enum Flavour {
    /// OpenAI's: the body names the model, after the messages.
    OpenAi,
    /// Azure's: the path names the deployment as well.
    Azure,
}

impl Flavour {
    fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/chat/completions",
            Self::Azure => "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        }
    }
}

/// What every client asks for.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) flavour: Flavour,
    /// The size of the request's body.
    pub(crate) body_bytes: usize,
    /// How many events the response has; `None`: it is a document.
    pub(crate) events: Option<u32>,
}

/// What the clients saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) answers: u64,
    /// The reads that brought the responses' bodies: with a pace, one for each event.
    pub(crate) reads: u64,
    pub(crate) elapsed: Duration,
    /// The time to each response's first byte.
    pub(crate) latencies: Vec<Duration>,
}

/// When the clients stop.
#[derive(Clone, Copy)]
pub(crate) enum Stop {
    After(Duration),
    AfterRequests(usize),
}

/// What the clients share: the requests, sent in this order and again from the first one on, and how many were.
struct Plan {
    port: u16,
    requests: Vec<Vec<u8>>,
    begun_at: Instant,
    stop: Stop,
    begun: AtomicUsize,
}

impl Plan {
    /// The next request to send; `None`: that was all.
    fn next(&self, now: Instant) -> Option<&[u8]> {
        let number = self.begun.fetch_add(1, Relaxed);
        let stops = match self.stop {
            Stop::After(length) => now >= self.begun_at + length,
            Stop::AfterRequests(count) => number >= count,
        };
        let request = self.requests.get(number.checked_rem(self.requests.len())?)?;
        (!stops).then_some(request)
    }
}

/// Sends the requests in turn over `connections` connections, and waits for each last response.
///
/// # Errors
/// When a response is not 200, or there is none.
pub(crate) async fn ask(
    gateway: &Gateway,
    questions: &[Question],
    connections: usize,
    stop: Stop,
) -> io::Result<Seen> {
    let plan = Arc::new(Plan {
        port: gateway.port,
        requests: questions.iter().map(|question| request(*question, &gateway.headers)).collect(),
        begun_at: Instant::now(),
        stop,
        begun: AtomicUsize::new(0),
    });
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(client(Arc::clone(&plan)));
    }
    let mut seen = Seen::default();
    while let Some(one) = clients.join_next().await {
        let one = one.map_err(io::Error::other)??;
        seen.answers += one.answers;
        seen.reads += one.reads;
        seen.latencies.extend(one.latencies);
    }
    seen.elapsed = plan.begun_at.elapsed();
    Ok(seen)
}

async fn client(plan: Arc<Plan>) -> io::Result<Seen> {
    let mut stream = TcpStream::connect(("127.0.0.1", plan.port)).await?;
    stream.set_nodelay(true)?;
    let mut reader = Reader::new();
    let mut seen = Seen::default();
    loop {
        let begun_at = Instant::now();
        let Some(request) = plan.next(begun_at) else { return Ok(seen) };
        let answered = async {
            stream.write_all(request).await?;
            reader.message(&mut stream).await
        };
        let Some(response) = tokio::time::timeout(PATIENCE, answered).await?? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if response.status() != 200 {
            return Err(io::Error::other(response.head));
        }
        seen.answers += 1;
        seen.reads += u64::from(response.reads);
        seen.latencies.push(response.first_byte_at - begun_at);
    }
}

/// A request as the official Python SDK sends it.
fn request(question: Question, more_headers: &str) -> Vec<u8> {
    let stream = question.events.is_some();
    let frame = format!(
        r#"{{"messages":[{{"role":"system","content":"You are a helpful assistant."}},{{"role":"user","content":"PROMPT"}}],"model":"gpt-4o","max_tokens":256,"stream":{stream},"temperature":0.2}}"#
    );
    let missing = question.body_bytes.saturating_sub(frame.len()).max(1);
    let words = "The overflow goes safely downstream; \\\"nobody\\\" notices.\\n";
    let mut prompt = words.repeat(missing / words.len());
    prompt.extend(std::iter::repeat_n('.', missing - prompt.len()));
    let body = frame.replace("PROMPT", &prompt);
    let path = question.flavour.path();
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: llm.example.com\r\naccept: application/json\r\n\
         accept-encoding: gzip, deflate\r\ncontent-type: application/json\r\nuser-agent: OpenAI/Python 2.6.1\r\n\
         x-stainless-lang: python\r\nx-stainless-package-version: 2.6.1\r\nx-stainless-os: Linux\r\n\
         x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.12.3\r\n\
         x-stainless-async: false\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n\
         authorization: Bearer {CLIENT_KEY}\r\nx-consumer: team-a\r\n{more_headers}content-length: {}\r\n",
        body.len()
    );
    if let Some(events) = question.events {
        let _ = write!(head, "{EVENTS}: {events}\r\n"); // writing to a String cannot fail
    }
    format!("{head}\r\n{body}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_round_until_there_were_enough() {
        let plan = Plan {
            port: 0,
            requests: vec![b"one".to_vec(), b"two".to_vec()],
            begun_at: Instant::now(),
            stop: Stop::AfterRequests(3),
            begun: AtomicUsize::new(0),
        };
        let sent: Vec<&[u8]> = std::iter::from_fn(|| plan.next(plan.begun_at)).collect();
        assert_eq!(sent, [&b"one"[..], b"two", b"one"]);
    }

    #[test]
    fn a_request_has_a_body_of_the_size_asked_for() {
        for body_bytes in [1024, 100 * 1024] {
            let question = Question { flavour: Flavour::OpenAi, body_bytes, events: Some(3) };
            let request = String::from_utf8(request(question, "x-more: yes\r\n")).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(body.len().abs_diff(body_bytes) < 10, "{}", body.len());
            assert!(head.contains("\r\nx-more: yes\r\n"));
            assert!(head.contains(&format!("content-length: {}", body.len())));
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["stream"], true);
        }
    }
}
