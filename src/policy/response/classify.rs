//! What a response means for the backend that sent it, and for the request.
//!
//! Three questions are separate. *Did the backend name a time until which it is full?* That is a throttle: its gate
//! closes, and nothing is counted. *Is the backend broken?* That is a fault: the circuit breaker counts it. *Would
//! another backend respond differently?* Then the request goes elsewhere.
//!
//! The status decides wherever it can, because a proxy on the way may send HTML or nothing. These responses need a
//! look at the body:
//! - an event stream with status 200, whose first event may be an error,
//! - a 400 that only this backend returns: provisioned capacity takes shorter prompts than the model, and an object
//!   that one resource stores is unknown at the others,
//! - a 404, which may state that the deployment is missing,
//! - a 429, which may be about this request alone (see [`super::refusal`]).
//!
//! A refusal by the content filter is the client's fault at any backend.
//!
//! # What the gateway chose
//! Clients choose most of what a backend is asked: the operation, the `api-version`, the objects that a body refers
//! to. A 403 or 404 can be about any of these. Then another backend may serve the request, but no backend is to
//! blame. Only two things are the gateway's own choice:
//!
//! - *The deployment.* A 404 states by its code that it is missing.
//! - *The credential.* A 401, or a 403 for an operation of a model.
//!
//! Even these may be caused by the client: a deployment can lack an operation that others have, and a key can lack a
//! right. A backend that has served other operations, but never this one, is not to blame. All others are judged by
//! contrast (see [`crate::policy::failover::blame`]).
//!
//! # Unusable responses
//! A client that follows a redirect leaves the gateway and takes its key along, so a redirect never serves a request.
//! Neither does a protocol that nobody asked for. Both come from something in front of the API, such as a login page
//! or a moved host. They are judged like a refused credential.
//!
//! # Other 4xx
//! Only some 4xx are about the content of the request, so that each backend would return them. Any other may be about
//! the backend: its payment, its region, its network. So another backend is asked.

use super::headers::Headers;
use super::{refusal, retry_after};
use crate::policy::time::{Millis, Timestamp};
use memchr::memmem;

/// What the gateway chose for an attempt, and what the request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTraits {
    /// The gateway sent a credential of its own, not the client's.
    pub owns_credential: bool,
    /// The gateway named the deployment, not the client.
    pub owns_deployment: bool,
    /// The backend is provisioned capacity.
    pub provisioned: bool,
    /// The request names an object that lives at one resource: a stored response, a file.
    pub names_stored_object: bool,
    /// A model does the work.
    pub is_model_operation: bool,
    /// The request asks for a WebSocket.
    pub asks_for_upgrade: bool,
    /// The client can name further deployments in the request, for example for images.
    pub may_name_deployments: bool,
    /// The request refers to things that it does not contain, such as files, data sources and tools. Errors about
    /// them are not about the deployment.
    pub has_dependencies: bool,
    /// The backend's response depends on the client's own key: nothing that it refuses concerns others.
    pub is_clients_account: bool,
    /// The request asks for a service tier other than the default.
    pub asks_for_tier: bool,
    /// What the backend has served so far.
    pub seen: Seen,
    /// An upper bound of the request's tokens, as far as it states them.
    pub tokens: u64,
    /// The backend's configured limit of tokens per minute.
    pub token_limit: Option<u64>,
}

/// What a backend has served so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Nothing yet.
    #[default]
    Nothing,
    /// The operation of the request.
    Operation,
    /// Other operations only.
    Others,
}

/// How a backend failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection failed.
    Connect,
    /// The connection was not made in time.
    ConnectTimeout,
    /// It returned a success without a body.
    Empty,
    /// It was asked for a WebSocket, and returned something else that was no error.
    NoUpgrade,
    /// It closed the connection with a 408 before it received the request. Front ends do this with idle connections,
    /// on which a request may be on its way.
    NotReceived,
    /// The connection broke, before or after the first byte.
    Reset,
    /// It returned this status.
    Status(u16),
    /// The event stream contained an error.
    StreamError,
    /// The first byte did not come in time.
    Timeout,
    /// The connection was made, but the TLS handshake failed: a certificate, a name, a version.
    Tls,
}

/// Why Envoy cannot reach a backend. All but one are mistakes in Envoy's configuration, or a name that does not
/// resolve: no request can reach it until that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misroute {
    /// The cluster has only the dead endpoint that it keeps for this case. This costs only a refused connection, and
    /// a name may resolve at any moment, so no circuit breaker opens.
    DeadEndpoint,
    /// Envoy has as many requests or connections at the backend as its cluster's `circuit_breakers` allow. Envoy
    /// never retries then. Other requests are served, so no circuit breaker opens.
    Full,
    /// The route names a cluster that does not exist.
    NoCluster,
    /// The cluster lacks the attempt filter, so the request was sent unchanged: possibly with the headers that an
    /// earlier attempt set for another backend.
    NoFilter,
    /// The cluster has no host: its name does not resolve, or it has no endpoints. Envoy itself responds.
    NoHost,
    /// The route's matcher has no entry for the backend.
    NoRoute,
    /// The route leads to another backend's cluster.
    WrongCluster,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client left.
    Cancelled,
    /// The client's own error: passed on, counted nowhere.
    ClientError,
    /// The gateway's credential was refused, or may have been, for example by a redirect.
    Denied {
        /// The status of the response.
        status: u16,
    },
    /// Another backend may respond differently; nothing is wrong with this one.
    Elsewhere {
        /// The status of the response.
        status: u16,
    },
    /// The backend is broken.
    Fault {
        /// What failed.
        fault: Fault,
        /// The delay that it named.
        retry_after: Option<Millis>,
    },
    /// The deployment that the gateway chose does not exist: no request will succeed here.
    Misconfigured {
        /// The status of the response.
        status: u16,
    },
    /// Envoy cannot reach the backend, so nothing was sent to it.
    Misrouted(Misroute),
    /// Another deployment of the backend's resource served the request.
    Spilled {
        /// The status with which the backend itself refused it; 0: unknown.
        error: u16,
    },
    /// The backend served the request.
    Success,
    /// The backend is full.
    Throttled {
        /// The delay that it named.
        delay: Option<Millis>,
    },
}

/// What response headers decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The outcome.
    Decided(Outcome),
    /// Nothing yet: [`error_body`] decides.
    ErrorBody {
        /// The outcome unless the body shows another one.
        otherwise: Outcome,
    },
    /// Nothing yet: the first event of the stream decides.
    FirstEvent,
}

impl AttemptTraits {
    /// The traits of an attempt about which nothing is known.
    pub const NONE: Self = Self {
        owns_credential: false,
        owns_deployment: false,
        provisioned: false,
        names_stored_object: false,
        is_model_operation: false,
        asks_for_upgrade: false,
        may_name_deployments: false,
        has_dependencies: false,
        is_clients_account: false,
        asks_for_tier: false,
        seen: Seen::Nothing,
        tokens: 0,
        token_limit: None,
    };

    /// Whether the request is larger than the whole limit of tokens per minute: the configured one, or the `stated`
    /// one of the response.
    pub fn is_larger_than(&self, stated: Option<i64>) -> bool {
        let stated = stated.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        stated.into_iter().chain(self.token_limit).any(|limit| self.tokens > limit)
    }
}

/// Judges a response by its status and headers.
pub fn head(
    status: u16,
    headers: &(impl Headers + ?Sized),
    traits: AttemptTraits,
    now: Timestamp,
) -> Head {
    let outcome = match status {
        200..=299 if is_event_stream(headers) => {
            if !names_a_retry(headers) {
                return Head::FirstEvent;
            }
            refusal::outcome(status, headers, &traits, now)
        }
        101 if traits.asks_for_upgrade => Outcome::Success,
        200..=299 => Outcome::Success,
        // A client's copy of a stored object may still be valid.
        304 if !traits.is_model_operation => Outcome::Success,
        ..400 => turned_away(status, traits),
        429 => match refusal::outcome(status, headers, &traits, now) {
            otherwise @ Outcome::Throttled { .. } => return Head::ErrorBody { otherwise },
            decided => decided,
        },
        400 if traits.provisioned || traits.names_stored_object => {
            return Head::ErrorBody { otherwise: Outcome::ClientError };
        }
        // Some front ends use this for a prompt that another deployment would take.
        413 if traits.provisioned => {
            return Head::ErrorBody { otherwise: Outcome::ClientError };
        }
        401 | 403 if traits.owns_credential => turned_away(status, traits),
        404 if traits.names_stored_object
            || !traits.owns_deployment
            || traits.has_dependencies
            || traits.is_clients_account =>
        {
            Outcome::Elsewhere { status }
        }
        404 => return Head::ErrorBody { otherwise: Outcome::Elsewhere { status } },
        424 => failed_dependency(headers, &traits, now),
        408 if closes(headers) => Outcome::Fault { fault: Fault::NotReceived, retry_after: None },
        408 | 500.. => fault(status, headers, now),
        _ if is_about_content(status) => Outcome::ClientError,
        _ => Outcome::Elsewhere { status },
    };
    Head::Decided(outcome)
}

/// Judges a response without a body by what its headers decided. A model's response is never empty.
pub fn without_body(outcome: Outcome, traits: AttemptTraits) -> Outcome {
    match outcome {
        Outcome::Success if traits.is_model_operation && !traits.asks_for_upgrade => {
            Outcome::Fault { fault: Fault::Empty, retry_after: None }
        }
        outcome => outcome,
    }
}

/// Judges a response by the first bytes of its body. Its [`head`] was [`Head::ErrorBody`]. `deployment` is the one
/// that the gateway asked for.
///
/// The bytes are searched, not parsed: the prefix may end anywhere, and need not be JSON.
pub fn error_body(
    status: u16,
    body_prefix: &[u8],
    otherwise: Outcome,
    traits: AttemptTraits,
    deployment: &str,
) -> Outcome {
    let decided = match status {
        404 => missing(status, body_prefix, traits, deployment),
        429 => refusal::is_of_request(body_prefix).then_some(Outcome::Elsewhere { status }),
        _ => not_here(status, body_prefix, traits),
    };
    decided.unwrap_or(otherwise)
}

/// Whether each backend would return this 4xx, because it is about the content of the request. This includes a
/// refused credential: where this function is asked, it is the client's own.
fn is_about_content(status: u16) -> bool {
    matches!(status, 400 | 401 | 403 | 406 | 409 | 411..=417 | 422 | 428 | 431)
}

/// The outcome of a response that refused the request before a model saw it: a refused credential, a redirect,
/// another protocol.
fn turned_away(status: u16, traits: AttemptTraits) -> Outcome {
    let is_about_request = status == 403 && !traits.is_model_operation;
    let is_about_request = is_about_request || traits.has_dependencies;
    if !traits.owns_credential || is_about_request || traits.seen == Seen::Others {
        Outcome::Elsewhere { status }
    } else {
        Outcome::Denied { status }
    }
}

/// The outcome of a 404 that may be about the deployment; `None`: it is about something else.
fn missing(status: u16, body: &[u8], traits: AttemptTraits, deployment: &str) -> Option<Outcome> {
    const CODES: [&str; 2] = ["DeploymentNotFound", "model_not_found"];
    /// Texts before the name of a model in a message.
    const NAMES: [&str; 3] = ["`", "model '", "deployment '"];
    if traits.seen == Seen::Others || !has_any_code(body, &CODES) {
        return None;
    }
    if has_word(body, deployment) {
        return Some(Outcome::Misconfigured { status });
    }
    let names_another = NAMES.iter().any(|mark| memmem::find(body, mark.as_bytes()).is_some());
    match traits.may_name_deployments {
        _ if names_another => None,
        true => Some(Outcome::Denied { status }),
        false => Some(Outcome::Misconfigured { status }),
    }
}

/// The outcome of a 400 or 413 that another backend may not return; `None`: all would return it.
fn not_here(status: u16, body: &[u8], traits: AttemptTraits) -> Option<Outcome> {
    const REFUSALS: [&str; 3] =
        ["content_filter", "ResponsibleAIPolicyViolation", "content_policy_violation"];
    const TOO_LONG: [&str; 1] = ["context_length_exceeded"];
    const TOO_LONG_PHRASES: [&str; 3] = ["context length", "context window", "long context"];
    const UNKNOWN_OBJECT: [&str; 3] =
        ["previous_response_not_found", "invalid_encrypted_content", "not_found"];
    const UNKNOWN_OBJECT_PHRASES: [&str; 2] = ["not found", "No such"];

    let any_phrase = |phrases: &[&str]| {
        phrases.iter().any(|phrase| memmem::find(body, phrase.as_bytes()).is_some())
    };
    if has_any_code(body, &REFUSALS) {
        return None;
    }
    let too_long =
        traits.provisioned && (has_any_code(body, &TOO_LONG) || any_phrase(&TOO_LONG_PHRASES));
    let unknown_object = traits.names_stored_object
        && (has_any_code(body, &UNKNOWN_OBJECT) || any_phrase(&UNKNOWN_OBJECT_PHRASES));
    (too_long || unknown_object).then_some(Outcome::Elsewhere { status })
}

fn fault(status: u16, headers: &(impl Headers + ?Sized), now: Timestamp) -> Outcome {
    let retry_after = retry_after::explicit(headers, now);
    Outcome::Fault { fault: Fault::Status(status), retry_after }
}

fn is_event_stream(headers: &(impl Headers + ?Sized)) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    headers.get("content-type").is_some_and(|value| {
        value
            .trim_ascii_start()
            .get(..EVENT_STREAM.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
    })
}

/// Whether the connection ends with this response.
fn closes(headers: &(impl Headers + ?Sized)) -> bool {
    headers.get("connection").is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn names_a_retry(headers: &(impl Headers + ?Sized)) -> bool {
    ["retry-after", "retry-after-ms", "x-ms-retry-after-ms"]
        .iter()
        .any(|name| headers.get(name).is_some())
}

/// The outcome of a 424. Azure uses it to pass on errors of hosted partner models, and states the model's own status
/// in a header.
fn failed_dependency(
    headers: &(impl Headers + ?Sized),
    traits: &AttemptTraits,
    now: Timestamp,
) -> Outcome {
    const STATUS: u16 = 424;
    let stated = headers.get("ms-azureml-model-error-statuscode");
    let stated = stated.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    match stated {
        Some(429) => refusal::outcome(STATUS, headers, traits, now),
        Some(stated @ (408 | 500..)) => fault(stated, headers, now),
        Some(stated) if is_about_content(stated) => Outcome::ClientError,
        Some(_) => Outcome::Elsewhere { status: STATUS },
        None if headers.get("ms-azureml-model-error-reason").is_some() => {
            fault(STATUS, headers, now)
        }
        None => Outcome::ClientError,
    }
}

fn has_any_code(body: &[u8], codes: &[&str]) -> bool {
    codes.iter().any(|code| has_code(body, code))
}

/// Whether the body contains `name` as a whole word.
fn has_word(body: &[u8], name: &str) -> bool {
    let is_of_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    !name.is_empty()
        && memmem::find_iter(body, name.as_bytes()).any(|at| {
            let before = at.checked_sub(1).and_then(|at| body.get(at));
            let after = body.get(at.saturating_add(name.len())..).unwrap_or_default();
            // A full stop usually ends a sentence and rarely belongs to a name.
            let after = after.strip_prefix(b".").unwrap_or(after).first();
            !before.is_some_and(is_of_name) && !after.is_some_and(is_of_name)
        })
}

/// Whether there is a member `"code"` with this value, at any depth and with any spacing.
///
/// Prompts that a message quotes cannot be mistaken for codes: quotes within a JSON string are escaped.
fn has_code(body: &[u8], code: &str) -> bool {
    const NAME: &[u8] = b"\"code\"";
    memmem::find_iter(body, NAME).any(|start| {
        let value = body.get(start.saturating_add(NAME.len())..).unwrap_or_default();
        value
            .trim_ascii_start()
            .strip_prefix(b":")
            .and_then(|value| value.trim_ascii_start().strip_prefix(b"\""))
            .and_then(|value| value.strip_prefix(code.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&b'"'))
    })
}

#[cfg(test)]
mod tests;
