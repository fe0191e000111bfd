//! Recognises what a client calls, in any of the three API shapes, and renders it in another.
//!
//! Clients choose a shape by their base URL and keep to it; backends have one each. The two are
//! independent, so a call is taken apart once (shape, operation, the path below the base, the
//! deployment, the query) and put together again for every attempt.
//!
//! Rules that decide when two could apply:
//! - A deployment in the path wins over a `model` in the body: the Azure SDKs copy the model into
//!   the path and leave it in the body.
//! - Only the segment after `/deployments/` is a deployment, so one may be called `chat`.
//! - A path with `.` or `..` segments, escaped or not, is no API path: a backend must never resolve
//!   it to something else than what was recognised here.

use super::api::{Api, Operation};
use super::multipart;
use super::percent;

#[cfg(test)]
mod tests;

/// What a client calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The shape that the client used.
    pub api: Api,
    /// What it asks for.
    pub operation: Operation,
    /// How.
    pub method: Method,
    /// The path below the base, without a leading slash, still percent-encoded.
    pub suffix: String,
    /// The deployment in the path, or in a realtime query, percent-decoded.
    pub deployment: Option<String>,
    /// The client's `api-version`.
    pub api_version: Option<String>,
    /// The rest of the query, still percent-encoded.
    pub query: String,
}

/// The request method, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`, and `HEAD`, which is read the same way.
    Get,
    /// `POST`.
    Post,
    /// `DELETE`.
    Delete,
    /// Any other.
    Other,
}

/// How the facts of a body are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There is no body to speak of.
    None,
    /// A JSON object.
    Json,
    /// `multipart/form-data`.
    Multipart {
        /// What separates its parts.
        boundary: Vec<u8>,
    },
    /// Something that is passed through unread.
    Opaque,
}

/// The backend that a call is rendered for.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its shape.
    pub api: Api,
    /// What the path begins with for [`Api::OpenAi`], such as `/v1`.
    pub base_path: &'a str,
    /// The deployment or model that it is asked for.
    pub deployment: &'a str,
    /// The `api-version` that it is to be sent, when it has its own.
    pub api_version: Option<&'a str>,
}

/// The newest generally available version of the classic API (Azure, data plane reference).
pub const API_VERSION: &str = "2024-10-21";

/// The first version with responses, image edits and all of realtime and speech; none that is
/// generally available has them.
pub const API_VERSION_PREVIEW: &str = "2025-04-01-preview";

/// Recognises a call by its `:method` and `:path`; `None` when the path is not one of the API.
pub fn recognise(method: &[u8], path: &[u8]) -> Option<Call> {
    let method = match method {
        b"GET" | b"HEAD" => Method::Get,
        b"POST" => Method::Post,
        b"DELETE" => Method::Delete,
        _ => Method::Other,
    };
    let mut halves = path.splitn(2, |&byte| byte == b'?');
    let path = halves.next().unwrap_or_default();
    let query = halves.next().unwrap_or_default();

    let raw: Vec<&[u8]> =
        path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()).collect();
    let decoded: Vec<String> = raw.iter().map(|segment| percent::decode(segment)).collect();
    if decoded.iter().any(|segment| matches!(segment.as_str(), "." | "..")) {
        return None;
    }
    let names: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let (api, deployment, base_len) = match *names.as_slice() {
        ["openai", "deployments", deployment, _, ..] => (Api::Azure, Some(deployment), 3),
        ["openai", "v1", _, ..] => (Api::AzureV1, None, 2),
        ["openai", second, ..] if second != "v1" => (Api::Azure, None, 1),
        ["v1", _, ..] => (Api::OpenAi, None, 1),
        _ => return None,
    };
    let below = names.get(base_len..).unwrap_or_default();
    let operation = operation(method, below);
    let query = Query::parse(query, operation == Operation::Realtime);
    let suffix: Vec<String> =
        raw.iter().skip(base_len).map(|segment| percent::sanitise(segment)).collect();
    Some(Call {
        api,
        operation,
        method,
        suffix: suffix.join("/"),
        deployment: deployment.map(str::to_owned).or(query.deployment),
        api_version: query.api_version,
        query: query.rest,
    })
}

impl Call {
    /// How the facts of the body are read, given the request's `content-type`.
    ///
    /// Operations that take JSON are read as JSON under any content type but multipart, for curl
    /// labels its data as a form unless told otherwise.
    pub fn body_kind(&self, content_type: Option<&[u8]>) -> BodyKind {
        if matches!(self.method, Method::Get | Method::Delete) {
            return BodyKind::None;
        }
        let content_type = content_type.unwrap_or_default();
        if is_multipart(content_type) {
            return match multipart::boundary(content_type) {
                Some(boundary) if self.is_model_operation() => BodyKind::Multipart { boundary },
                _ => BodyKind::Opaque,
            };
        }
        let expects_form = matches!(
            self.operation,
            Operation::ImagesEdits | Operation::AudioTranscriptions | Operation::AudioTranslations
        );
        if is_json(content_type) || (self.is_model_operation() && !expects_form) {
            BodyKind::Json
        } else {
            BodyKind::Opaque
        }
    }

    /// Whether the call is about something that one resource keeps: a response, a file, a thread.
    ///
    /// Such a call cannot go to any backend but the one that created the object.
    pub fn names_stored_object(&self) -> bool {
        let mut segments = self.suffix.split('/');
        let first = segments.next().unwrap_or_default();
        let rest: Vec<&str> = segments.collect();
        match first {
            "responses" => self.operation != Operation::Responses && !rest.is_empty(),
            "chat" => self.operation != Operation::ChatCompletions,
            "realtime" => matches!(rest.as_slice(), ["calls", _, ..]),
            "assistants" | "batches" | "containers" | "conversations" | "evals" | "files"
            | "fine_tuning" | "threads" | "uploads" | "vector_stores" | "video" | "videos" => true,
            _ => false,
        }
    }

    /// Whether the pool of this call comes from the body's `model`.
    pub fn needs_model(&self) -> bool {
        self.is_model_operation() && self.deployment.is_none()
    }

    /// Whether every resource has this path, so that only the deployment can be missing.
    ///
    /// The same operations go by a few paths that Azure lacks (variations of images) or that not
    /// every version has (the token count of a response).
    pub fn is_common_path(&self) -> bool {
        match self.operation {
            Operation::Realtime => self.suffix == "realtime",
            Operation::Responses => self.suffix == "responses",
            Operation::ImagesEdits => self.suffix == "images/edits",
            _ => self.is_model_operation(),
        }
    }

    /// Whether a model does the work, named in the path or in the body.
    fn is_model_operation(&self) -> bool {
        !matches!(self.operation, Operation::Realtime | Operation::Models | Operation::Other)
    }

    /// Whether the classic API has this operation below a deployment, whose name stands in the path.
    pub fn is_below_deployment(&self) -> bool {
        match self.operation {
            Operation::Responses | Operation::Realtime | Operation::Models => false,
            Operation::Other => self.deployment.is_some(),
            _ => true,
        }
    }
}

/// The `:path` of `call` at the backend.
pub fn render(call: &Call, endpoint: &Endpoint<'_>) -> String {
    let deployment = percent::encode(endpoint.deployment);
    let mut path = match endpoint.api {
        Api::Azure if call.is_below_deployment() => {
            format!("/openai/deployments/{deployment}/{}", call.suffix)
        }
        Api::Azure => format!("/openai/{}", call.suffix),
        Api::AzureV1 => format!("/openai/v1/{}", call.suffix),
        Api::OpenAi => format!("{}/{}", endpoint.base_path.trim_end_matches('/'), call.suffix),
    };
    let mut separator = '?';
    let mut push = |name: &str, value: &str| {
        path.push(separator);
        path.push_str(name);
        path.push_str(value);
        separator = '&';
    };
    if let Some(version) = api_version(call, endpoint) {
        push("api-version=", &percent::encode(version));
    }
    // The WebSocket has no body that could name the model; what goes with it may name one here.
    let names_deployment = call.suffix == "realtime" || call.deployment.is_some();
    if call.operation == Operation::Realtime && names_deployment {
        let name = if endpoint.api == Api::Azure { "deployment=" } else { "model=" };
        push(name, &deployment);
    }
    if !call.query.is_empty() {
        push("", &call.query);
    }
    path
}

/// Whether the backend reads the model of this call from the body, so that it has to be set there.
pub fn model_in_body(call: &Call, endpoint: &Endpoint<'_>) -> bool {
    call.is_model_operation() && !(endpoint.api == Api::Azure && call.is_below_deployment())
}

/// Whether the backend knows `stream_options`; the classic API refuses them with 400 in versions before
/// `2024-09-01-preview` (Azure, API version lifecycle).
pub fn takes_stream_options(call: &Call, endpoint: &Endpoint<'_>) -> bool {
    const FIRST_DATE: &str = "2024-09-01";
    let date = api_version(call, endpoint).and_then(|version| version.get(..FIRST_DATE.len()));
    endpoint.api != Api::Azure || date.is_some_and(|date| date >= FIRST_DATE)
}

/// The `api-version` to send: the backend's own, else the client's if it means something there,
/// else one that has the operation.
fn api_version<'a>(call: &'a Call, endpoint: &Endpoint<'a>) -> Option<&'a str> {
    let client = call.api_version.as_deref();
    // The classic API is versioned by date, `v1` by the word `preview` (and `latest`), if at all.
    let is_date = |version: &&str| version.starts_with(|first: char| first.is_ascii_digit());
    match endpoint.api {
        Api::OpenAi => None,
        Api::AzureV1 => endpoint.api_version.or_else(|| client.filter(|it| !is_date(it))),
        Api::Azure => Some(endpoint.api_version.or_else(|| client.filter(is_date)).unwrap_or(
            match call.operation {
                Operation::ChatCompletions
                | Operation::Completions
                | Operation::Embeddings
                | Operation::AudioTranscriptions
                | Operation::AudioTranslations
                | Operation::Models => API_VERSION,
                _ => API_VERSION_PREVIEW,
            },
        )),
    }
}

/// The operation of the path `below` the base, in decoded segments.
fn operation(method: Method, below: &[&str]) -> Operation {
    match (method, below) {
        (_, ["realtime" | "realtimeapi", ..]) => Operation::Realtime,
        (Method::Get, ["models"] | ["models", _]) => Operation::Models,
        (Method::Post, ["chat", "completions"]) => Operation::ChatCompletions,
        (Method::Post, ["completions"]) => Operation::Completions,
        (Method::Post, ["embeddings"]) => Operation::Embeddings,
        // Compacting and counting take the same body and keep nothing.
        (Method::Post, ["responses"] | ["responses", "compact" | "input_tokens"]) => {
            Operation::Responses
        }
        (Method::Post, ["images", "generations"]) => Operation::ImagesGenerations,
        // A variation is an edit without a prompt; the suffix keeps them apart.
        (Method::Post, ["images", "edits" | "variations"]) => Operation::ImagesEdits,
        (Method::Post, ["audio", "transcriptions"]) => Operation::AudioTranscriptions,
        (Method::Post, ["audio", "translations"]) => Operation::AudioTranslations,
        (Method::Post, ["audio", "speech"]) => Operation::AudioSpeech,
        _ => Operation::Other,
    }
}

/// A query taken apart: what the gateway sets itself, and the rest.
#[derive(Default)]
struct Query {
    api_version: Option<String>,
    deployment: Option<String>,
    rest: String,
}

impl Query {
    fn parse(raw: &[u8], is_realtime: bool) -> Self {
        let mut query = Self::default();
        for parameter in raw.split(|&byte| byte == b'&').filter(|it| !it.is_empty()) {
            let mut halves = parameter.splitn(2, |&byte| byte == b'=');
            let name = percent::decode(halves.next().unwrap_or_default());
            let value = halves.next().unwrap_or_default();
            let slot = match name.as_str() {
                "api-version" => &mut query.api_version,
                "deployment" | "model" if is_realtime => &mut query.deployment,
                _ => {
                    if !query.rest.is_empty() {
                        query.rest.push('&');
                    }
                    query.rest.push_str(&percent::sanitise(parameter));
                    continue;
                }
            };
            if slot.is_none() && !value.is_empty() {
                *slot = Some(percent::decode(value));
            }
        }
        query
    }
}

/// The media type of a `content-type`, without its parameters.
fn media_type(content_type: &[u8]) -> &[u8] {
    content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

fn is_multipart(content_type: &[u8]) -> bool {
    media_type(content_type).eq_ignore_ascii_case(b"multipart/form-data")
}

fn is_json(content_type: &[u8]) -> bool {
    let media_type = media_type(content_type).to_ascii_lowercase();
    media_type == b"application/json" || media_type.ends_with(b"+json")
}
