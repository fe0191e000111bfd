//! Recognises a client's call in any of the three API shapes, and renders it in another.
//!
//! A client's base URL sets its shape; each backend has one of its own. The two are independent, so a call
//! is split once (shape, operation, the path below the base, the deployment, the query) and rendered
//! for every attempt.
//!
//! Rules for doubtful cases:
//! - A deployment in the path wins over a `model` in the body: the Azure SDKs copy the model into
//!   the path and leave it in the body.
//! - Only the segment after `/deployments/` is a deployment, so one may be called `chat`.
//! - A path that is not of the API is refused, so that the gateway's key opens nothing unexpected. A recognised
//!   path is written again, so a backend never resolves it to something else.

pub mod api;
pub mod credentials;
pub mod models;
pub mod percent;

use api::{Api, Operation};
use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// A client's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The shape that the client used.
    pub api: Api,
    /// The operation.
    pub operation: Operation,
    /// The method.
    pub method: Method,
    /// The path below the base, without a leading slash. It has no character that needs an escape.
    pub suffix: String,
    /// The deployment in the path, or in a realtime query, percent-decoded.
    pub deployment: Option<String>,
    /// The client's `api-version`.
    pub api_version: Option<String>,
    /// The rest of the query without credentials, still percent-encoded.
    pub query: String,
    /// The parameter of the query with the client's key, still percent-encoded.
    pub key_parameter: Option<String>,
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

/// The backend that a call is rendered for.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its shape.
    pub api: Api,
    /// The beginning of the path for [`Api::OpenAi`], such as `/v1`.
    pub base_path: &'a str,
    /// The deployment or model in its requests.
    pub deployment: &'a str,
    /// The `api-version` of its requests, if it has its own.
    pub api_version: Option<&'a str>,
    /// Whether it gets the client's own credentials.
    pub passthrough: bool,
}

/// The newest generally available version of the classic API (Azure, data plane reference).
pub const API_VERSION: &str = "2024-10-21";

/// The first version with responses, image edits and all of realtime and speech; none that is
/// generally available has them.
pub const API_VERSION_PREVIEW: &str = "2025-04-01-preview";

/// Room for nearly every path, so that it is allocated once.
const PATH_BYTES: usize = 128;

/// How many segments decide what a path is: those of the longest base, those of the longest operation that is
/// recognised by more than its first segment, and the one after it.
const NAMES: usize = 8;

/// Recognises a call by its `:method` and `:path`; `None` when it is not an operation of the API.
pub fn recognise(method: &[u8], path: &[u8]) -> Option<Call> {
    let method = match method {
        b"GET" | b"HEAD" => Method::Get,
        b"POST" => Method::Post,
        b"DELETE" => Method::Delete,
        _ => return None,
    };
    let (path, query) = split_at_byte(path, b'?');
    let segments = || path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty());
    // Hardly any path has an escape.
    let has_escape = memchr::memchr(b'%', path).is_some();
    let decoded: Vec<Cow<'_, [u8]>> =
        if has_escape { segments().map(percent::decode_bytes).collect() } else { Vec::new() };
    // No segment is empty, so an empty name means that there is none.
    let mut names: [&[u8]; NAMES] = Default::default();
    if has_escape {
        names.iter_mut().zip(&decoded).for_each(|(slot, segment)| *slot = segment);
    } else {
        names.iter_mut().zip(segments()).for_each(|(slot, segment)| *slot = segment);
    }
    let (api, deployment, base_len) = match names {
        [b"openai", b"deployments", deployment, next, ..] if !next.is_empty() => {
            (Api::Azure, Some(String::from_utf8_lossy(deployment).into_owned()), 3)
        }
        [b"openai", b"v1", next, ..] if !next.is_empty() => (Api::AzureV1, None, 2),
        [b"openai", second, ..] if !second.is_empty() && second != b"v1" => (Api::Azure, None, 1),
        [b"v1", next, ..] if !next.is_empty() => (Api::OpenAi, None, 1),
        _ => return None,
    };
    let operation = operation(method, names.get(base_len..).unwrap_or_default())?;
    let query = Query::parse(query, operation);
    let mut suffix = String::with_capacity(path.len());
    for segment in segments().skip(base_len) {
        if !suffix.is_empty() {
            suffix.push('/');
        }
        // The name of a model may have any character: it reaches no backend.
        if operation == Operation::Models {
            percent::push_sanitised(&mut suffix, segment);
        } else {
            push_plain(&mut suffix, segment)?;
        }
    }
    Some(Call {
        api,
        operation,
        method,
        suffix,
        deployment: deployment.or(query.deployment),
        api_version: query.api_version,
        query: query.rest,
        key_parameter: query.key,
    })
}

/// Which bytes a segment may have: those that ids are made of.
const IS_PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut plain: &[u8] =
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:@+=,";
    while let [first, rest @ ..] = plain {
        #[allow(clippy::indexing_slicing, reason = "no byte is out of the table's bounds")]
        {
            table[*first as usize] = true;
        }
        plain = rest;
    }
    table
};

/// Appends a segment without its escapes; `None` when servers could read it in different ways.
///
/// Only the characters of ids are allowed. So nothing is left that could be decoded a second time, end the
/// segment, begin parameters, or be a relative path.
fn push_plain(path: &mut String, segment: &[u8]) -> Option<()> {
    let name = percent::decode_bytes(segment);
    let is_plain = |byte: &u8| IS_PLAIN.get(usize::from(*byte)) == Some(&true);
    if !name.iter().all(is_plain) || name.iter().all(|byte| *byte == b'.') {
        return None;
    }
    path.push_str(std::str::from_utf8(&name).ok()?);
    Some(())
}

impl Call {
    /// Whether a model does the work, with a request in JSON. Only such a request can name a service tier.
    pub fn expects_json(&self) -> bool {
        let expects_form = matches!(
            self.operation,
            Operation::ImagesEdits | Operation::AudioTranscriptions | Operation::AudioTranslations
        );
        self.is_model_operation() && !expects_form
    }

    /// Whether the call is about an object that one resource stores: a response, a file, a thread.
    ///
    /// Only the backend that created the object can serve such a call.
    pub fn names_stored_object(&self) -> bool {
        match self.operation {
            Operation::Realtime
            | Operation::ResponsesSession
            | Operation::Models
            | Operation::Moderations => false,
            Operation::RealtimeCalls => self.suffix.starts_with("realtime/calls/"),
            _ => !self.is_model_operation(),
        }
    }

    /// Whether the pool of this call comes from the body's `model`.
    pub fn needs_model(&self) -> bool {
        self.is_model_operation() && self.deployment.is_none()
    }

    /// Whether a model does the work, named in the path or in the body.
    pub fn is_model_operation(&self) -> bool {
        matches!(
            self.operation,
            Operation::ChatCompletions
                | Operation::Completions
                | Operation::Embeddings
                | Operation::Responses
                | Operation::ImagesGenerations
                | Operation::ImagesEdits
                | Operation::AudioTranscriptions
                | Operation::AudioTranslations
                | Operation::AudioSpeech
        )
    }

    /// Whether the call makes a model work, so that it uses a budget. Reading stored objects does not, and
    /// neither does counting the tokens of a request.
    pub fn is_charged(&self) -> bool {
        match self.operation {
            Operation::Realtime | Operation::ResponsesSession => true,
            Operation::Responses => self.suffix != "responses/input_tokens",
            _ => self.is_model_operation(),
        }
    }

    /// Whether the call may be repeated when it is unknown whether the first one was carried out.
    ///
    /// A repeated upload, batch or fine-tuning job would exist twice and cost twice. A model's response that
    /// is lost only costs tokens, and serving the client is worth more.
    pub fn is_repeatable(&self) -> bool {
        self.method != Method::Post
            || self.is_model_operation()
            || matches!(self.operation, Operation::StoredResponses | Operation::Moderations)
    }

    /// Whether the body may be a file of any length, of which the gateway needs nothing.
    pub fn is_upload(&self) -> bool {
        self.method == Method::Post
            && matches!(
                self.operation,
                Operation::Containers | Operation::Files | Operation::Uploads | Operation::Videos
            )
    }

    /// Whether the classic API has this operation below a deployment, so that the path names it.
    pub fn is_below_deployment(&self) -> bool {
        match self.operation {
            Operation::Responses
            | Operation::StoredResponses
            | Operation::ResponsesSession
            | Operation::Realtime
            | Operation::RealtimeCalls
            | Operation::Models => false,
            _ => self.is_model_operation() || self.deployment.is_some(),
        }
    }
}

/// The `:path` of `call` at the backend.
pub fn render(call: &Call, endpoint: &Endpoint<'_>) -> String {
    let deployment = percent::encode(endpoint.deployment);
    let version = api_version(call, endpoint).map(percent::encode);
    // The WebSocket has no body that could name the model, so the query names it.
    let names_deployment = match call.operation {
        Operation::Realtime => true,
        Operation::RealtimeCalls => call.deployment.is_some(),
        _ => false,
    };
    let base = match endpoint.api {
        // The classic API has no such session, but every resource offers both APIs.
        Api::Azure if call.operation == Operation::ResponsesSession => ["/openai/v1", ""],
        Api::Azure if call.is_below_deployment() => ["/openai/deployments/", &deployment],
        Api::Azure => ["/openai", ""],
        Api::AzureV1 => ["/openai/v1", ""],
        Api::OpenAi => [endpoint.base_path.trim_end_matches('/'), ""],
    };
    let parameters = [
        ("api-version=", version.as_deref()),
        (
            if endpoint.api == Api::Azure { "deployment=" } else { "model=" },
            names_deployment.then_some(&*deployment),
        ),
        ("", call.key_parameter.as_deref().filter(|_| endpoint.passthrough)),
        ("", Some(call.query.as_str()).filter(|query| !query.is_empty())),
    ];
    let mut path = String::with_capacity(PATH_BYTES);
    for part in base.into_iter().chain(["/", &call.suffix]) {
        path.push_str(part);
    }
    let mut separator = "?";
    for (name, value) in parameters {
        if let Some(value) = value {
            for part in [separator, name, value] {
                path.push_str(part);
            }
            separator = "&";
        }
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

/// The `api-version` to send: the backend's own, or the client's if it is valid there, or one that has the
/// operation.
fn api_version<'a>(call: &'a Call, endpoint: &Endpoint<'a>) -> Option<&'a str> {
    let client = call.api_version.as_deref();
    // The classic API is versioned by date, `v1` by the word `preview` (and `latest`), if at all.
    let is_date = |version: &&str| version.starts_with(|first: char| first.is_ascii_digit());
    match endpoint.api {
        Api::OpenAi => None,
        Api::Azure if call.operation == Operation::ResponsesSession => None,
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

/// The operation of the path whose first segments below the base are these, decoded.
fn operation(method: Method, below: &[&[u8]]) -> Option<Operation> {
    let name = |at: usize| below.get(at).copied().unwrap_or_default();
    Some(match (method, [name(0), name(1), name(2), name(3), name(4)]) {
        (Method::Post, [b"chat", b"completions", b"", ..]) => Operation::ChatCompletions,
        (Method::Post, [b"completions", b"", ..]) => Operation::Completions,
        (Method::Post, [b"embeddings", b"", ..]) => Operation::Embeddings,
        // Compacting and counting take the same body and keep nothing.
        (Method::Post, [b"responses", b"" | b"compact" | b"input_tokens", b"", ..]) => {
            Operation::Responses
        }
        (Method::Post, [b"images", b"generations", b"", ..]) => Operation::ImagesGenerations,
        // A variation is an edit without a prompt; the suffix keeps them apart.
        (Method::Post, [b"images", b"edits" | b"variations", b"", ..]) => Operation::ImagesEdits,
        (Method::Post, [b"audio", b"transcriptions", b"", ..]) => Operation::AudioTranscriptions,
        (Method::Post, [b"audio", b"translations", b"", ..]) => Operation::AudioTranslations,
        (Method::Post, [b"audio", b"speech", b"", ..]) => Operation::AudioSpeech,
        (Method::Get, [b"models", ..]) => Operation::Models,
        (Method::Get, [b"realtime", b"", ..]) => Operation::Realtime,
        (Method::Get, [b"responses", b"", ..]) => Operation::ResponsesSession,
        // These are verbs and no ids.
        (_, [b"responses", b"compact" | b"input_tokens", ..]) => return None,
        (Method::Get | Method::Delete, [b"responses", _, b"", ..])
        | (Method::Get, [b"responses", _, b"input_items", b"", _])
        | (Method::Post, [b"responses", _, b"cancel", b"", _]) => Operation::StoredResponses,
        // A list would show the objects of all clients. Only clients that got an id know it.
        (_, [b"chat", b"completions", id, b"", _]) if !id.is_empty() => Operation::StoredResponses,
        (Method::Get, [b"chat", b"completions", id, b"messages", b""]) if !id.is_empty() => {
            Operation::StoredResponses
        }
        (_, [first, ..]) => Operation::of_family(first)?,
    })
}

/// The parts of a query: what the gateway sets itself, the client's key, and the rest.
#[derive(Default)]
struct Query {
    api_version: Option<String>,
    deployment: Option<String>,
    key: Option<String>,
    rest: String,
}

impl Query {
    fn parse(raw: &[u8], operation: Operation) -> Self {
        let mut query = Self::default();
        let chooses_model = matches!(
            operation,
            Operation::Realtime | Operation::RealtimeCalls | Operation::ResponsesSession
        );
        for parameter in raw.split(|&byte| byte == b'&').filter(|it| !it.is_empty()) {
            let (name, value) = split_at_byte(parameter, b'=');
            let slot = match &*percent::decode_bytes(name) {
                b"api-version" => &mut query.api_version,
                b"deployment" | b"model" if chooses_model => &mut query.deployment,
                // It would name a deployment other than the chosen one.
                _ if names_deployment(parameter) => continue,
                _ if credentials::is_parameter(parameter) => {
                    if name == b"api-key" && query.key.is_none() {
                        let mut key = String::with_capacity(parameter.len());
                        percent::push_sanitised(&mut key, parameter);
                        query.key = Some(key);
                    }
                    continue;
                }
                _ => {
                    if !query.rest.is_empty() {
                        query.rest.push('&');
                    }
                    percent::push_sanitised(&mut query.rest, parameter);
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

/// Whether a server could read a parameter as the name of a deployment or a model.
fn names_deployment(parameter: &[u8]) -> bool {
    credentials::names(parameter).any(|mut name| {
        name.retain(u8::is_ascii_alphanumeric);
        matches!(&*name, b"deployment" | b"deploymentid" | b"deploymentname" | b"engine" | b"model")
    })
}

/// The parts before and after the first `byte`.
fn split_at_byte(bytes: &[u8], byte: u8) -> (&[u8], &[u8]) {
    let mut halves = bytes.splitn(2, |&it| it == byte);
    (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
}
