//! A client that shows exactly what came back.

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// An HTTP/1.1 client of one server on this machine, with a pool of connections. Its clones share the pool.
#[derive(Clone, Debug)]
pub struct Client {
    pooled: Pooled<HttpConnector, BoxBody<Bytes, Infallible>>,
    port: u16,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// As much of the body as came.
    pub body: Bytes,
    /// Whether the body came to its end.
    pub complete: bool,
    /// From sending to the first byte of the body; to the end when there is none.
    pub first_byte: Duration,
    /// From sending to the end.
    pub took: Duration,
}

/// One event of an event stream.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Its `event` field.
    pub name: Option<String>,
    /// Its `data` fields, one after the other.
    pub data: String,
}

/// A body that does not say how long it is.
struct Parts(VecDeque<Bytes>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }
}

impl Client {
    /// A client of the server on this port, without connections yet.
    pub fn new(port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pooled =
            Pooled::builder(TokioExecutor::new()).http1_max_headers(1_000).build(connector);
        Self { pooled, port }
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send(Method::GET, path, headers, Bytes::new()).await.unwrap()
    }

    /// Sends a GET request without headers of its own.
    pub async fn try_get(&self, path: &str) -> Result<Response, String> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Sends JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.post_with(path, &[], body).await
    }

    /// Sends JSON with further headers.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Response {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(Method::POST, path, &all, Bytes::from(body.to_string())).await.unwrap()
    }

    /// Sends a request and reads the response to its end.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response, String> {
        let begun_at = Instant::now();
        let response = self.open(method, path, headers, body).await?;
        Ok(Response::read(response, begun_at).await)
    }

    /// Sends a JSON body in parts, so that its length is not known before its end.
    pub async fn send_in_parts(&self, path: &str, parts: Vec<Bytes>) -> Response {
        let begun_at = Instant::now();
        let headers = [("content-type", "application/json")];
        let body = Parts(parts.into()).boxed();
        let response = self.request(Method::POST, path, &headers, body).await.unwrap();
        Response::read(response, begun_at).await
    }

    /// Sends a request and returns when the response's headers are there.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<hyper::Response<Incoming>, String> {
        self.request(method, path, headers, Full::new(body).boxed()).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: BoxBody<Bytes, Infallible>,
    ) -> Result<hyper::Response<Incoming>, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        self.pooled.request(request).await.map_err(|error| format!("{error:?}"))
    }
}

impl Response {
    async fn read(response: hyper::Response<Incoming>, begun_at: Instant) -> Self {
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut complete, mut first_byte) = (Vec::new(), true, None);
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else {
                complete = false;
                break;
            };
            first_byte.get_or_insert_with(|| begun_at.elapsed());
            body.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        let took = begun_at.elapsed();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.into(),
            complete,
            first_byte: first_byte.unwrap_or(took),
            took,
        }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// Who served it, by the gateway's header.
    pub fn served_by(&self) -> &str {
        self.header("x-served-by").unwrap_or("")
    }

    /// The events of an event stream.
    pub fn events(&self) -> Vec<Event> {
        let text = self.text();
        let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
        let events = blocks.map(|block| Event {
            name: block.lines().find_map(|line| line.strip_prefix("event: ")).map(str::to_owned),
            data: block.lines().filter_map(|line| line.strip_prefix("data: ")).collect(),
        });
        events.collect()
    }
}
