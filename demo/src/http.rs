//! Plain HTTP to everything on the stage: the gateway, Envoy's admin interface, the mocks' controls.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// How long anything but a measured request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client with a pool of connections.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Http {
    /// A client with an empty pool.
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PATIENCE));
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Sends a request and returns when the response's headers are here.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        self.client.request(request).await.map_err(|error| with_causes(&error))
    }

    /// The body of a 2xx answer to a request with this JSON.
    pub(crate) async fn ask(
        &self,
        method: Method,
        url: &str,
        json: Option<&Value>,
    ) -> Result<Bytes, String> {
        let body = json.map(Value::to_string).unwrap_or_default();
        let request = Request::builder().method(method).uri(url);
        let request = request.header("content-type", "application/json").body(Full::from(body));
        let request = request.map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.send(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| with_causes(&error))?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(format!("{url} answered {status}")) }
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        answer.unwrap_or_else(|_| Err(format!("no answer from {url} within {PATIENCE:?}")))
    }

    /// The same for a GET.
    pub(crate) async fn get(&self, url: &str) -> Result<Bytes, String> {
        self.ask(Method::GET, url, None).await
    }
}

/// An error and what caused it, since hyper's own message names only the outermost layer.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
