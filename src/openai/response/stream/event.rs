//! What a single event means for the decision between forwarding and failing over.
//!
//! Azure and OpenAI state errors in several forms (flat, nested, inside a failed response), with
//! codes that are words or numbers. A rate limit is recognised first, then a fault of the backend, then
//! one of the caller; an error without a reason is the backend's.

use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It decides nothing.
    Preamble,
    /// It is a part of a response, or an error that is the caller's fault.
    Real,
    /// A rate limit.
    Refused,
    /// Another fault of the backend.
    Failed,
    /// No complete JSON.
    Unreadable,
}

/// The members of an event that decide.
#[derive(Deserialize)]
struct Event {
    r#type: Option<String>,
    error: Option<IgnoredAny>,
    choices: Option<Vec<IgnoredAny>>,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Response {
    error: Option<IgnoredAny>,
}

const ERROR: &str = "error";
const RESPONSE_FAILED: &str = "response.failed";

/// Events that only announce a response.
const PREAMBLE: [&str; 5] =
    ["response.created", "response.queued", "response.in_progress", "keepalive", "ping"];

/// What the event of this name with this data means; when `is_cut`, the data is only its beginning.
pub(super) fn judge(name: &[u8], data: &[u8], is_cut: bool) -> Verdict {
    if PREAMBLE.iter().any(|preamble| preamble.as_bytes() == name) {
        return Verdict::Preamble;
    }
    if is_cut {
        return judge_beginning(name, data);
    }
    let data = data.trim_ascii();
    if name == ERROR.as_bytes() {
        return judge_error(data);
    }
    if data.is_empty() {
        return Verdict::Preamble;
    }
    if !data.starts_with(b"{") {
        // `[DONE]`, or something unknown.
        return Verdict::Real;
    }
    let event: Event = match serde_json::from_slice(data) {
        Ok(event) => event,
        Err(error) if error.is_data() => return Verdict::Real,
        Err(_) => return Verdict::Unreadable,
    };
    let kind = event.r#type.as_deref().unwrap_or_default();
    if event.error.is_some() || kind == ERROR {
        return judge_error(data);
    }
    if kind == RESPONSE_FAILED || name == RESPONSE_FAILED.as_bytes() {
        return match event.response {
            Some(Response { error: Some(_) }) => judge_error(data),
            // The reason follows in a separate event, if at all.
            _ => Verdict::Preamble,
        };
    }
    if PREAMBLE.contains(&kind) || event.choices.is_some_and(|choices| choices.is_empty()) {
        return Verdict::Preamble;
    }
    Verdict::Real
}

/// `name`, if it names an error event; otherwise nothing.
pub(super) fn error_name(name: &[u8]) -> &'static [u8] {
    [ERROR, RESPONSE_FAILED]
        .into_iter()
        .find(|error| error.as_bytes() == name)
        .unwrap_or_default()
        .as_bytes()
}

/// Whether the first member of `data`, which may be cut, shows an error.
pub(super) fn begins_like_error(data: &[u8]) -> bool {
    match first_member(data) {
        Some((b"error", value)) => !value.starts_with(b"n"),
        Some((b"type", value)) => [ERROR, RESPONSE_FAILED].iter().any(|kind| is_text(value, kind)),
        _ => false,
    }
}

/// Whether the event is the end of a response that failed.
pub(super) fn is_failed_response(name: &[u8], data: &[u8]) -> bool {
    name == RESPONSE_FAILED.as_bytes()
        || matches!(first_member(data), Some((b"type", value)) if is_text(value, RESPONSE_FAILED))
}

/// What an event means if only its beginning is known.
fn judge_beginning(name: &[u8], data: &[u8]) -> Verdict {
    if is_failed_response(name, data) || name == ERROR.as_bytes() || begins_like_error(data) {
        // A quote in a text is escaped, so this is a member and not text.
        return match memmem::find(data, b"\"error\":{").and_then(|at| data.get(at..)) {
            Some(rest) => first_value(rest.strip_prefix(b"\"error\":").unwrap_or_default())
                .map_or(Verdict::Failed, |error| judge_fields(&error)),
            None => Verdict::Failed,
        };
    }
    match first_member(data) {
        Some((b"type", value)) if PREAMBLE.iter().any(|kind| is_text(value, kind)) => {
            Verdict::Preamble
        }
        _ => Verdict::Real,
    }
}

/// What an error event means, wherever the error is in it.
fn judge_error(data: &[u8]) -> Verdict {
    let Ok(event) = serde_json::from_slice::<Value>(data) else { return Verdict::Failed };
    let places = [event.get("error"), event.get("response").and_then(|it| it.get("error"))];
    let error = places.into_iter().flatten().find(|error| !error.is_null());
    judge_fields(error.unwrap_or(&event))
}

/// What the fields of an error mean.
fn judge_fields(error: &Value) -> Verdict {
    let mut words: Vec<String> = ["code", "type", "status", "status_code"]
        .into_iter()
        .filter_map(|name| match error.get(name)? {
            Value::String(word) if !word.is_empty() && word != ERROR => {
                Some(word.to_ascii_lowercase())
            }
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .collect();
    if words.is_empty() {
        // Only the message is left to decide.
        let message = error.get("message").unwrap_or(error).as_str().unwrap_or_default();
        words.push(message.to_ascii_lowercase().replace(' ', "_"));
    }
    let any = |is_one: fn(&str) -> bool| words.iter().any(|word| is_one(word));
    if any(is_rate_limit) {
        Verdict::Refused
    } else if any(is_backends_fault) || !any(is_callers_fault) {
        Verdict::Failed
    } else {
        Verdict::Real
    }
}

fn is_rate_limit(word: &str) -> bool {
    word == "429"
        || ["rate_limit", "ratelimit", "too_many_requests", "toomanyrequests", "throttl", "quota"]
            .iter()
            .any(|part| word.contains(part))
}

/// Errors that look like the caller's fault, but are about what the gateway chose.
fn is_backends_fault(word: &str) -> bool {
    let is_status = word.len() == 3 && (word.starts_with('5') || word == "408" || word == "424");
    let is_credential_or_deployment = matches!(
        word,
        "401" | "403" | "404" | "invalid_api_key" | "model_not_found" | "deploymentnotfound"
    );
    is_status || is_credential_or_deployment || word.contains("server_error")
}

/// Errors about what the request contains or refers to, or what its tools do. OpenAI has very many of these
/// codes, so they are recognised by their parts.
fn is_callers_fault(word: &str) -> bool {
    const BEGINNINGS: [&str; 9] = [
        "computer_use_",
        "http_",
        "integer_",
        "invalid_",
        "mcp_",
        "missing_",
        "string_",
        "tool_",
        "unsupported_",
    ];
    const PARTS: [&str; 14] = [
        "_max_",
        "_too_large",
        "_too_long",
        "_too_small",
        "_policy",
        "container",
        "content_filter",
        "context_length",
        "image",
        "max_output_tokens",
        "moderation",
        "responsibleai",
        "unknown_parameter",
        "vector_store",
    ];
    matches!(word, "400" | "409" | "413" | "415" | "422" | "user_error")
        || BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
        || PARTS.iter().any(|part| word.contains(part))
}

/// The first member of an object: its key without escapes, and what follows the colon.
fn first_member(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let object = data.trim_ascii_start().strip_prefix(b"{")?;
    let key = object.trim_ascii_start().strip_prefix(b"\"")?;
    let len = memchr::memchr(b'"', key)?;
    let (key, rest) = key.split_at_checked(len)?;
    let value = rest.strip_prefix(b"\"")?.trim_ascii_start().strip_prefix(b":")?;
    Some((key, value.trim_ascii_start()))
}

/// Whether `value` begins with `text` in quotes.
fn is_text(value: &[u8], text: &str) -> bool {
    value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_prefix(text.as_bytes()))
        .is_some_and(|rest| rest.starts_with(b"\""))
}

/// The JSON value at the start of `bytes`.
fn first_value(bytes: &[u8]) -> Option<Value> {
    serde_json::Deserializer::from_slice(bytes).into_iter().next()?.ok()
}
