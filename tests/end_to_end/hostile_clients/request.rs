//! A legal but odd request from a seed: operations × API shapes × models × ids × headers × query × bodies.

use super::bodies::{Body, Form, body};
use super::random::Random;
use std::fmt::Write as _;
use std::time::Duration;

/// What clients use as their own credential, wherever one fits. No backend may see it.
pub(super) const SECRET: &str = "secret-of-the-client";

/// A request with what its client does around it.
pub(super) struct Hostile {
    /// It makes the same request again.
    pub(super) seed: u64,
    /// The bytes to send.
    pub(super) bytes: Vec<u8>,
    /// How often it is sent before any other request is served.
    pub(super) times: usize,
    /// When the client leaves without waiting for the end of the response.
    pub(super) leaves_after: Option<Duration>,
}

/// Operations that a model does, with the form of their body.
const OF_MODELS: [(&str, Form); 14] = [
    ("chat/completions", Form::Chat),
    ("chat/completions", Form::Chat),
    ("chat/completions", Form::Chat),
    ("responses", Form::Input),
    ("responses", Form::Input),
    ("responses/compact", Form::Input),
    ("responses/input_tokens", Form::Input),
    ("completions", Form::Prompt),
    ("embeddings", Form::Input),
    ("images/generations", Form::Prompt),
    ("images/edits", Form::Multipart),
    ("audio/transcriptions", Form::Multipart),
    ("audio/translations", Form::Multipart),
    ("audio/speech", Form::Input),
];

/// All others: of stored objects, of the resource, unknown ones.
const OF_OBJECTS: [&str; 46] = [
    "models",
    "models/gpt-4o",
    "responses/resp_unknown",
    "responses/resp_busy_1",
    "responses/resp_busy_2?stream=true",
    "responses/resp_unknown/input_items",
    "responses/resp_unknown/cancel",
    "responses/resp_busy_3/cancel",
    "chat/completions/chatcmpl-unknown",
    "chat/completions",
    "files",
    "files/file-unknown",
    "files/file-unknown/content",
    "uploads",
    "uploads/upload_1/parts",
    "batches",
    "batches/batch_1/cancel",
    "vector_stores",
    "vector_stores/vs_unknown/search",
    "vector_stores/vs_unknown/files",
    "assistants",
    "assistants/asst_unknown",
    "threads",
    "threads/thread_1/runs",
    "threads/runs",
    "fine_tuning/jobs",
    "fine_tuning/jobs/ftjob-1/cancel",
    "containers",
    "containers/cntr_1/files",
    "conversations",
    "conversations/conv_1/items",
    "evals",
    "evals/eval_1/runs",
    "videos",
    "video/generations/jobs",
    "images/variations",
    "moderations",
    "realtime",
    "realtime?model=gpt-4o",
    "realtime/client_secrets",
    "realtime/calls/rtc_1/hangup",
    "organization/admin_api_keys",
    "dashboard/billing/usage",
    "engines/gpt-4o/completions",
    "deployments",
    "x-unknown/1/2/3",
];

const MODELS: [&str; 16] = [
    "gpt-4o",
    "gpt-4o",
    "gpt-4o",
    "gpt-4o",
    "mini",
    "mini",
    "mini",
    "lonely",
    "lonely",
    "lonely",
    "unknown-model",
    "GPT-4O",
    "",
    "gpt-4o-ptu",
    "ft:gpt-4o:contoso::unknown",
    "../gpt-4o",
];

/// Headers that a client may send unasked. Some contain what no backend may see.
const HEADERS: [(&str, &str); 63] = [
    ("api-key", SECRET),
    ("authorization", "Bearer secret-of-the-client"),
    ("authorization", "Basic secret-of-the-client"),
    ("x-api-key", SECRET),
    ("ocp-apim-subscription-key", SECRET),
    ("proxy-authorization", "Basic secret-of-the-client"),
    ("cookie", "session=secret-of-the-client"),
    ("x-goog-api-key", SECRET),
    ("x-ms-token-aad-access-token", SECRET),
    ("x-ms-client-principal", SECRET),
    ("x-sas", SECRET),
    ("x-session-id", SECRET),
    ("x-user-pass", SECRET),
    ("x-forwarded-email", SECRET),
    ("x-xsrf", SECRET),
    ("openai-organization", "org-unknown"),
    ("openai-project", "proj_unknown"),
    ("OpenAI-Organization", "org-x"),
    ("openai-beta", "assistants=v2"),
    ("openai-beta", "responses=experimental"),
    ("aoai-evals", "preview"),
    ("x-ms-spillover-deployment", "gpt-4o-standard"),
    ("x-ms-client-request-id", "0"),
    ("x-ms-useragent", "x"),
    ("x-stainless-retry-count", "7"),
    ("x-stainless-timeout", "0"),
    ("x-spillway-retry", "1"),
    ("x-spillway-target", "standard"),
    ("x-spillway-attempts", "7"),
    ("x-served-by", "somebody"),
    ("x-envoy-max-retries", "0"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
    ("x-envoy-expected-rq-timeout-ms", "1"),
    ("x-envoy-hedge-on-per-try-timeout", "true"),
    ("x-envoy-ratelimited", "true"),
    ("x-envoy-original-path", "/v1/files"),
    ("x-envoy-decorator-operation", "x"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "elsewhere.example"),
    ("x-http-method-override", "DELETE"),
    ("x-original-url", "/v1/files"),
    ("x-rewrite-url", "/v1/files"),
    ("range", "bytes=0-1"),
    ("if-match", "\"1\""),
    ("if-none-match", "*"),
    ("expect", "100-continue"),
    ("te", "trailers"),
    ("accept", "text/event-stream"),
    ("accept", "application/xml"),
    ("accept-encoding", "gzip, br, zstd"),
    ("content-encoding", "gzip"),
    ("content-encoding", "identity"),
    ("content-language", "xx"),
    ("transfer-encoding-x", "chunked"),
    ("idempotency-key", "1"),
    ("x-request-id", "not-a-guid"),
    ("traceparent", "00-0-0-00"),
    ("baggage", "a=b"),
    ("grpc-timeout", "1n"),
    ("priority", "u=0, i"),
];

const QUERIES: [&str; 16] = [
    "api-key=secret-of-the-client",
    "api_key=secret-of-the-client",
    "subscription-key=secret-of-the-client",
    "access_token=secret-of-the-client",
    "%61pi-key=secret-of-the-client",
    "API-KEY=secret-of-the-client",
    "x=1;sid=secret-of-the-client",
    "userPwd=secret-of-the-client",
    "api-version=2023-01-01",
    "api-version=preview",
    "api-version=",
    "deployment=gpt-4o-standard",
    "model=lonely",
    "stream=true",
    "limit=100&after=x",
    "&&=&%zz",
];

/// The request of this seed.
pub(super) fn request(seed: u64) -> Hostile {
    let mut random = Random::new(seed);
    let is_of_model = random.below(4) > 0;
    let model = random.pick(&MODELS);
    let (suffix, form) = if is_of_model {
        random.pick(&OF_MODELS)
    } else {
        (
            random.pick(&OF_OBJECTS),
            random.pick(&[Form::Nothing, Form::Nothing, Form::Nothing, Form::Input]),
        )
    };
    let method = match form {
        _ if random.below(25) == 0 => {
            random.pick(&["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"])
        }
        Form::Nothing => random.pick(&["GET", "GET", "GET", "DELETE", "POST", "HEAD"]),
        _ => "POST",
    };
    let body = body(&mut random, form, model);
    let target = target(&mut random, suffix, model, is_of_model);
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nhost: gateway\r\nx-consumer: hostile\r\n");
    let upgrades = suffix.starts_with("realtime") && random.below(2) == 0 || random.below(60) == 0;
    headers(&mut random, &mut head, &body, upgrades);
    let mut bytes = framed(&mut random, head, &body.bytes);
    let stops_early = random.below(80) == 0;
    if stops_early {
        bytes.truncate(1 + random.below(bytes.len()));
    }
    let leaves =
        body.is_slow && random.below(10) > 0 || upgrades || stops_early || random.below(100) == 0;
    let leaves_after = leaves.then(|| Duration::from_millis(random.below(60) as u64));
    let times = if body.is_slow || random.below(25) > 0 { 1 } else { 6 };
    Hostile { seed, bytes, times, leaves_after }
}

/// The path and the query, in one of the three shapes of the API, at times with a trick.
fn target(random: &mut Random, suffix: &str, model: &str, is_of_model: bool) -> String {
    let (suffix, own_query) = suffix.split_once('?').unwrap_or((suffix, ""));
    let (path, version) = match random.below(5) {
        0 | 1 => (format!("/v1/{suffix}"), ""),
        2 => (format!("/openai/v1/{suffix}"), ""),
        _ if is_of_model && !suffix.starts_with("responses") => {
            let model = if model.is_empty() { "gpt-4o" } else { model };
            (format!("/openai/deployments/{model}/{suffix}"), "api-version=2024-10-21")
        }
        _ => (format!("/openai/{suffix}"), "api-version=2025-04-01-preview"),
    };
    let path = if random.below(14) == 0 { trick(random, &path) } else { path };
    let odd = if random.below(7) == 0 { random.pick(&QUERIES) } else { "" };
    let queries: Vec<&str> =
        [version, own_query, odd].into_iter().filter(|it| !it.is_empty()).collect();
    if queries.is_empty() { path } else { format!("{path}?{}", queries.join("&")) }
}

/// A path that another parser may read as another.
fn trick(random: &mut Random, path: &str) -> String {
    let (base, last) = path.rsplit_once('/').unwrap();
    match random.below(24) {
        0 => format!("/{path}"),
        1 => format!("{path}/"),
        2 => format!("{base}//{last}"),
        3 => format!("{base}/./{last}"),
        4 => format!("{base}/x/../{last}"),
        5 => format!("{base}/%2e%2e/{last}"),
        6 => format!("{base}/..%2f{last}"),
        7 => format!("{base}%2F{last}"),
        8 => format!("{base}/..%252ffiles"),
        9 => format!("{base}/{last};x=y"),
        10 => format!("{base};/files/{last}"),
        11 => format!("{base}/..\\files\\{last}"),
        12 => format!("{base}/..%5cfiles"),
        13 => path.to_uppercase(),
        14 => format!("{base}/%{:02x}{}", last.as_bytes()[0], &last[1..]),
        15 => format!("{path}%00"),
        16 => format!("{path}%0d%0ax-x:%201"),
        17 => format!("{path}%20"),
        18 => format!("{path}/..;/files"),
        19 => format!("http://elsewhere.example{path}"),
        20 => format!("{path}#files"),
        21 => format!("/v1/files/..%2f{last}"),
        22 => format!("{base}/responses/resp_1%2f..%2f..%2ffiles"),
        _ => format!("{path}/{}", "a/".repeat(200)),
    }
}

fn headers(random: &mut Random, head: &mut String, body: &Body, upgrades: bool) {
    if !body.content_type.is_empty() {
        let _ = write!(head, "content-type: {}\r\n", body.content_type);
    }
    for _ in 0..random.below(4) {
        let (name, value) = random.pick(&HEADERS);
        // Envoy and the filter may wait for a body that is held back until they ask for it.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if upgrades {
        let protocol = random.pick(&["websocket", "websocket", "websocket", "h2c", "foo"]);
        let _ = write!(
            head,
            "connection: upgrade\r\nupgrade: {protocol}\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: realtime, \
             openai-insecure-api-key.{SECRET}, openai-ephemeral-token.{SECRET}, openai-beta.realtime-v1\r\n"
        );
    } else {
        head.push_str("connection: close\r\n");
    }
}

/// The body with its length, or in chunks with trailers.
fn framed(random: &mut Random, mut head: String, body: &[u8]) -> Vec<u8> {
    if body.is_empty() && random.below(4) > 0 {
        head.push_str("\r\n");
        return head.into_bytes();
    }
    if random.below(6) > 0 {
        let _ = write!(head, "content-length: {}\r\n\r\n", body.len());
        return [head.as_bytes(), body].concat();
    }
    head.push_str("transfer-encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    for part in body.chunks(1 + random.below(40_000)) {
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    let end =
        random.pick(&["0\r\n\r\n", "0\r\nx-trailer: 1\r\napi-key: secret-of-the-client\r\n\r\n"]);
    bytes.extend_from_slice(end.as_bytes());
    bytes
}

impl Hostile {
    /// The request in a line.
    pub(super) fn brief(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let line = text.lines().next().unwrap_or_default();
        let marker = text.split("mock-answers-").nth(1).unwrap_or_default();
        let marker: String = marker.chars().take(24).collect();
        let (seed, times, left) = (self.seed, self.times, self.leaves_after);
        format!("{seed}: {times} × {line} … {marker} {left:?}")
    }

    /// The request as a person reads it.
    pub(super) fn shown(&self) -> String {
        const SHOWN_BYTES: usize = 1_500;
        let text = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(SHOWN_BYTES)]);
        let (times, left) = (self.times, self.leaves_after);
        format!("seed {}, {times} times, leaves after {left:?}:\n{text}", self.seed)
    }
}
