//! What a response means for the backend that gave it, and for the request.
//!
//! Three questions are kept apart. *Is the backend out for a time that it named?* A throttle: its
//! gate closes, nothing is counted. *Is the backend broken?* A fault: the circuit breaker counts
//! it. *Would another backend answer differently?* Then the request goes elsewhere.
//!
//! The status decides wherever it can, because a proxy on the way may answer HTML or nothing. These
//! need a look at the body: an event stream with status 200, whose first event may be an error; a 400
//! that only this backend gives (provisioned capacity takes shorter prompts than the model, and an
//! object that lives at one resource is unknown at the others); a 404, which may say that the
//! deployment is missing; a 429, which may be about this request alone (see [`super::refusal`]). A
//! refusal by the content filter is the caller's affair, wherever it is asked.
//!
//! # What the gateway chose
//! Clients choose most of what a backend is asked: the operation, the `api-version`, the objects that
//! a body refers to. A 403 or 404 is about any of these, and then another backend may answer, but no
//! backend is to blame. Only two things are the gateway's own choice:
//!
//! - *The deployment.* A 404 says that it is missing, by its code.
//! - *The credential.* A 401, or a 403 of an operation of a model.
//!
//! Even these may be the client's doing: a deployment can lack an operation that others have, and a
//! key can lack a right. A backend that was seen to serve, but never this operation, is not to blame.
//! Whether the others are is decided by contrast (see [`crate::policy::failover::blame`]).
//!
//! # What is no response
//! A client that follows a redirect leaves the gateway and takes its key along, so no redirect is an
//! answer. Nor is another protocol that nobody asked for. Both come from something in
//! front of the API, such as a login page or a moved host. They are judged like a refused credential.
//!
//! # Statuses that little is known about
//! Only some 4xx are about what the request contains, so that each backend would give them. Any other
//! one may be about the backend: its bill, its place, its network. Another backend is asked.

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
    /// The client can name further deployments in the request, such as one for images.
    pub may_name_deployments: bool,
    /// The request names things that it does not contain, such as files, data sources and tools. What is
    /// said of them is said of no deployment.
    pub has_dependencies: bool,
    /// The backend answers by the key, and that is the client's: nothing that it refuses concerns others.
    pub is_clients_account: bool,
    /// The request asks for a service tier other than the default.
    pub asks_for_tier: bool,
    /// What the backend was seen to serve.
    pub seen: Seen,
    /// The tokens that the request takes at most, as far as it states them.
    pub tokens: u64,
    /// The tokens per minute that the backend is configured to have.
    pub token_limit: Option<u64>,
}

/// What a backend was seen to serve.
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

/// What went wrong at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection could not be made.
    Connect,
    /// The connection was not made in time.
    ConnectTimeout,
    /// It said that all is well, and nothing else.
    Empty,
    /// It was asked for a WebSocket and answered with something else, which was no error.
    NoUpgrade,
    /// It closed the connection with a 408, before it had received the request. Front ends do so with idle
    /// connections, and a request may be on its way on one.
    NotReceived,
    /// The connection broke, before or after the first byte.
    Reset,
    /// It answered with this status.
    Status(u16),
    /// The event stream carried an error.
    StreamError,
    /// The first byte did not come in time.
    Timeout,
    /// The connection was made, but TLS could not be agreed on: a certificate, a name, a version.
    Tls,
}

/// Why there is no way to a backend. All but one are mistakes in Envoy's configuration, or a name that does
/// not resolve: no request will get there before that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misroute {
    /// The cluster has no host but the dead endpoint that it keeps for this case. That costs a refused
    /// connection and nothing else, and a name may resolve at any moment: no circuit breaker opens.
    DeadEndpoint,
    /// Envoy has as many requests or connections on their way to the backend as its cluster's
    /// `circuit_breakers` allow. It never retries then. Others are served, so no circuit breaker opens.
    Full,
    /// The route names a cluster that does not exist.
    NoCluster,
    /// The cluster lacks the attempt filter, so the request went out as it was: with the headers that were
    /// made for another backend, if there was one before.
    NoFilter,
    /// The cluster has no host: its name does not resolve, or its endpoints are empty. Envoy answers
    /// the request by itself.
    NoHost,
    /// The route's matcher has no entry for the backend.
    NoRoute,
    /// The route leads to another backend's cluster.
    WrongCluster,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client went away.
    Cancelled,
    /// The client's affair: passed on, counted nowhere.
    ClientError,
    /// The credential that the gateway chose was refused, or may have been: by a redirect, say.
    Denied {
        /// What it answered.
        status: u16,
    },
    /// Another backend may answer differently; nothing is wrong with this one.
    Elsewhere {
        /// What it answered.
        status: u16,
    },
    /// The backend is broken.
    Fault {
        /// How.
        fault: Fault,
        /// The time that it named.
        retry_after: Option<Millis>,
    },
    /// The deployment that the gateway chose does not exist: nothing will succeed here.
    Misconfigured {
        /// What it answered.
        status: u16,
    },
    /// There is no way to the backend, so nothing was sent to it.
    Misrouted(Misroute),
    /// Another deployment of the backend's resource served the request.
    Spilled {
        /// The status with which the backend itself had refused it; 0: not known.
        error: u16,
    },
    /// It serves.
    Success,
    /// The backend is full.
    Throttled {
        /// The time that it named.
        delay: Option<Millis>,
    },
}

/// What the head of a response decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Everything.
    Decided(Outcome),
    /// Nothing yet: [`error_body`] decides.
    ErrorBody {
        /// What it is unless the body says something else.
        otherwise: Outcome,
    },
    /// Nothing yet: the first event of the stream decides.
    FirstEvent,
}

impl AttemptTraits {
    /// Of an attempt that nothing is known about.
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

    /// Whether the request is larger than the whole limit of tokens per minute: the configured one, or
    /// the one that the response `stated`, if it is one.
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
        // What a client has of an object that is kept may still be good.
        304 if !traits.is_model_operation => Outcome::Success,
        ..400 => turned_away(status, traits),
        429 => match refusal::outcome(status, headers, &traits, now) {
            otherwise @ Outcome::Throttled { .. } => return Head::ErrorBody { otherwise },
            decided => decided,
        },
        400 if traits.provisioned || traits.names_stored_object => {
            return Head::ErrorBody { otherwise: Outcome::ClientError };
        }
        // Some front ends call a prompt too large that another deployment would take.
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

/// Judges a response whose head is all of it, given what the head decided. No model's answer is empty.
pub fn without_body(outcome: Outcome, traits: AttemptTraits) -> Outcome {
    match outcome {
        Outcome::Success if traits.is_model_operation && !traits.asks_for_upgrade => {
            Outcome::Fault { fault: Fault::Empty, retry_after: None }
        }
        outcome => outcome,
    }
}

/// Judges a response by the first bytes of its body. Its [`head`] was [`Head::ErrorBody`].
/// `deployment` is what the gateway asked for.
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

/// Whether each backend would give this 4xx, because it is about what the request contains. A refused
/// credential is among them: where it matters, it is the client's own.
fn is_about_content(status: u16) -> bool {
    matches!(status, 400 | 401 | 403 | 406 | 409 | 411..=417 | 422 | 428 | 431)
}

/// What a response means that turns the request away before a model saw it: a refused credential, a
/// redirect, another protocol.
fn turned_away(status: u16, traits: AttemptTraits) -> Outcome {
    let is_about_request = status == 403 && !traits.is_model_operation;
    let is_about_request = is_about_request || traits.has_dependencies;
    if !traits.owns_credential || is_about_request || traits.seen == Seen::Others {
        Outcome::Elsewhere { status }
    } else {
        Outcome::Denied { status }
    }
}

/// What a 404 means that may be about the deployment; `None`: it is about something else.
fn missing(status: u16, body: &[u8], traits: AttemptTraits, deployment: &str) -> Option<Outcome> {
    const CODES: [&str; 2] = ["DeploymentNotFound", "model_not_found"];
    /// What comes before the name of a model in a message.
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

/// What a 400 or 413 means that another backend may not give; `None`: all would give it.
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

/// What a 424 means. Azure passes the errors of hosted partner models on as one, and states in a header
/// which status the model itself answered with.
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

/// Whether `name` stands in the body by itself and not as a part of a longer name.
fn has_word(body: &[u8], name: &str) -> bool {
    let is_of_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    !name.is_empty()
        && memmem::find_iter(body, name.as_bytes()).any(|at| {
            let before = at.checked_sub(1).and_then(|at| body.get(at));
            let after = body.get(at.saturating_add(name.len())..).unwrap_or_default();
            // A full stop ends a sentence more often than it belongs to a name.
            let after = after.strip_prefix(b".").unwrap_or(after).first();
            !before.is_some_and(is_of_name) && !after.is_some_and(is_of_name)
        })
}

/// Whether there is a member `"code"` of this value, at any depth and with any spacing.
///
/// Looking for the member keeps prompts that a message quotes from being taken for codes: quotes
/// within a JSON string are escaped.
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
