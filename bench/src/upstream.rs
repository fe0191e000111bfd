//! The fastest possible backend: it reads a request and writes a response that was made before.
//!
//! Its headers are those of Azure OpenAI. A request header states whether it responds with a document or
//! with a stream of this many events. Events go out one at a time, with a pause, because a gateway that
//! gets ten at once has the work of one.

use crate::wire::Reader;
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;

/// The request header with the number of events to answer with.
pub(crate) const EVENTS: &str = "x-bench-events";

/// The time between two events of a stream.
const PACE: Duration = Duration::from_millis(4);

const HEADERS: &str = "apim-request-id: 6c6a1b1e-7d5c-4d5e-9e0a-0f7d1f6f5a11\r\n\
    x-request-id: 0a7a1d0e-3b0e-4c7e-8f1e-6e6f2f0d7c22\r\n\
    x-ms-region: Sweden Central\r\n\
    x-ratelimit-remaining-requests: 9999\r\n\
    x-ratelimit-remaining-tokens: 999900\r\n\
    strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n\
    x-content-type-options: nosniff\r\n";

const DOCUMENT: &str = r#"{"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012","object":"chat.completion","created":1763600000,"model":"gpt-4o-2024-11-20","choices":[{"index":0,"message":{"role":"assistant","content":"A spillway is the part of a dam that lets the overflow go safely downstream.","refusal":null},"logprobs":null,"finish_reason":"stop","content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"}}}],"usage":{"prompt_tokens":220,"completion_tokens":18,"total_tokens":238},"system_fingerprint":"fp_b705f0c291"}"#;

const EVENT: &str = "data: {\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012\",\"object\":\"chat.completion.chunk\",\"created\":1763600000,\"model\":\"gpt-4o-2024-11-20\",\"system_fingerprint\":\"fp_b705f0c291\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" downstream\"},\"logprobs\":null,\"finish_reason\":null,\"content_filter_results\":{}}]}\n\n";

/// The last event of a stream, which states its usage.
const USAGE: &str = "data: {\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012\",\"object\":\"chat.completion.chunk\",\"created\":1763600000,\"model\":\"gpt-4o-2024-11-20\",\"choices\":[],\"usage\":{\"prompt_tokens\":220,\"completion_tokens\":18,\"total_tokens\":238}}\n\n";

const REFUSAL: &str = r#"{"error":{"code":"503","message":"The service is unavailable."}}"#;

/// What a port answers.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// With what was asked for.
    Serves,
    /// With 503, always.
    Fails,
}

/// Answers every connection of `listener`, forever.
pub(crate) async fn serve(listener: TcpListener, manner: Manner) {
    while let Ok((stream, _)) = listener.accept().await {
        // A connection that breaks is Envoy's end of it.
        tokio::spawn(async move { answer(stream, manner).await });
    }
}

async fn answer(mut stream: TcpStream, manner: Manner) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let document = document("200 OK", DOCUMENT);
    let refusal = document_of_refusal();
    let mut reader = Reader::new();
    while let Some(request) = reader.message(&mut stream).await? {
        let events = request.header(EVENTS).and_then(|events| events.parse().ok());
        match (manner, events) {
            (Manner::Fails, _) => stream.write_all(refusal.as_bytes()).await?,
            (Manner::Serves, None) => stream.write_all(document.as_bytes()).await?,
            (Manner::Serves, Some(events)) => send_events(&mut stream, events).await?,
        }
    }
    Ok(())
}

fn document(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{HEADERS}\r\n{body}"
    )
}

fn document_of_refusal() -> String {
    document("503 Service Unavailable", REFUSAL)
}

async fn send_events(stream: &mut TcpStream, count: u32) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{HEADERS}\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..count {
        pace.tick().await;
        stream.write_all(chunk.as_bytes()).await?;
    }
    pace.tick().await;
    let usage = format!("{:x}\r\n{USAGE}\r\n", USAGE.len());
    stream.write_all(usage.as_bytes()).await?;
    stream.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await
}
