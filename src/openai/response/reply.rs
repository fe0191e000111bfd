//! The gateway's own responses, in the formats that OpenAI's clients read.
//!
//! An error has all four fields (`message`, `type`, `param`, `code`), which typed clients require.
//! When every backend is out, the stated delay is bounded on both sides: above 60 s some SDKs ignore it or
//! never retry, and at zero some retry at once. It has upward jitter, so that clients do not all return at
//! the same moment, and never before the backend.

use serde::Serialize;

/// A response of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
    /// When to try again, in milliseconds; see [`retry_after_headers`].
    pub retry_after_ms: Option<u64>,
}

/// The shortest delay that is stated to a client.
const DELAY_MS_MIN: u64 = 1_000;

/// The longest delay that is stated to a client: older Python and Node SDKs ignore longer ones.
const DELAY_MS_MAX: u64 = 60_000;

/// The type of an error that is the caller's fault.
const INVALID_REQUEST: &str = "invalid_request_error";

/// How much of a client's own text an error repeats.
const ECHO_CHARS_MAX: usize = 100;

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> Model<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, object: "model", created: 0, owned_by: "spillway" }
    }
}

/// 404: no pool has this model.
pub fn unknown_model(model: &str) -> Reply {
    let model: String = model.chars().take(ECHO_CHARS_MAX).collect();
    let message = format!("The model `{model}` does not exist or you do not have access to it.");
    bad_request(404, &message, Some("model"), "model_not_found")
}

/// 400: the body is needed and cannot be read; `problem` is a part of a sentence, `at` an offset.
pub fn malformed_body(problem: &str, at: u64) -> Reply {
    let message = format!("The request body could not be read: {problem} (at byte {at}).");
    bad_request(400, &message, None, "malformed_body")
}

/// 400: the body is needed and names no model.
pub fn missing_model() -> Reply {
    let message = "You must provide a `model` parameter.";
    bad_request(400, message, Some("model"), "missing_required_parameter")
}

/// 400: the body names its model in a way that servers read differently.
pub fn ambiguous_model() -> Reply {
    let message = "The request body must name its `model` once, and in lower case.";
    bad_request(400, message, Some("model"), "ambiguous_model")
}

/// 400: the model in the body must be read or written, and the body has no format in which it can be.
pub fn unreadable_body() -> Reply {
    let message = "The gateway must read the `model` in the request body, which it can in JSON and in \
                   multipart/form-data with one boundary, both in UTF-8. Check the content-type.";
    bad_request(400, message, None, "unreadable_body")
}

/// 415: the model in the body must be read or written, and the body is compressed.
pub fn encoded_body() -> Reply {
    let message = "The gateway must read the `model` in the request body. Send it without a \
                   content-encoding.";
    bad_request(415, message, None, "unsupported_content_encoding")
}

/// 404: the path is not one of the API, or not with this method.
pub fn unknown_path() -> Reply {
    bad_request(404, "Resource not found: the gateway does not know this operation.", None, "404")
}

/// 404: the operation called `name` in the configuration is not among those that clients may use.
pub fn operation_not_allowed(name: &str) -> Reply {
    let message = format!(
        "The gateway does not allow this operation. Its operator can allow it with \
         \"allow_operations\": [\"{name}\"]."
    );
    bad_request(404, &message, None, "operation_not_allowed")
}

/// 404: no backend of the request's pool takes the operation called `name` in the configuration.
pub fn operation_not_served(name: &str) -> Reply {
    let message = format!("No backend of this model takes the operation `{name}`.");
    bad_request(404, &message, None, "operation_not_served")
}

/// 400: by its estimated length the prompt is longer than any backend of the pool takes. The code is OpenAI's, at
/// which clients shorten their prompts; a retry would not help.
pub fn prompt_too_long(tokens: u64, limit: u64) -> Reply {
    let message = format!(
        "The backends of this model take at most {limit} tokens, and the prompt has about {tokens}. \
         Shorten it."
    );
    bad_request(400, &message, None, "context_length_exceeded")
}

/// 426: the pool takes responses over HTTP only. A client that gets this at once falls back to HTTP.
pub fn no_websocket() -> Reply {
    let message = "Responses over a WebSocket are not allowed here. Use POST over HTTP.";
    bad_request(426, message, None, "websocket_not_allowed")
}

/// 400: the operation has no such upgrade.
pub fn no_such_upgrade() -> Reply {
    let message = "This operation cannot be upgraded to another protocol.";
    bad_request(400, message, None, "unsupported_upgrade")
}

/// A refusal by Envoy or one of its filters, with the `status` that it chose.
pub fn refused(status: u16) -> Reply {
    let code = status.to_string();
    let (message, r#type, code) = match status {
        401 => ("The request is not authenticated.", "authentication_error", &*code),
        403 => ("The request is not permitted.", "permission_error", &*code),
        408 => ("The request was not received in time.", INVALID_REQUEST, &*code),
        413 => ("The request body is larger than the gateway accepts.", INVALID_REQUEST, &*code),
        429 => {
            ("The gateway's rate limit is exceeded.", "rate_limit_exceeded", "rate_limit_exceeded")
        }
        431 => {
            ("The request headers are larger than the gateway accepts.", INVALID_REQUEST, &*code)
        }
        _ => ("The request was refused.", INVALID_REQUEST, &*code),
    };
    error(status, message, r#type, None, code)
}

/// The problem when the two roles do not find each other.
pub const APART: &str = "The gateway's filter and the backends' filters run in different VMs: give them the same vm_config \
     (vm_id, code, environment) and load both again.";

/// The problem when a body arrives and Envoy never shows it to the filter.
pub const HIDDEN_BODY: &str = "Envoy does not show request bodies to the gateway's filter: its configuration lacks \
     allow_on_headers_stop_iteration: true.";

/// 503: the filter waits for a body that Envoy does not show.
pub fn hidden_body() -> Reply {
    error(503, HIDDEN_BODY, "service_unavailable", None, "503")
}

/// 503: the roles run in different VMs.
pub fn apart() -> Reply {
    let reply = error(503, APART, "service_unavailable", None, "503");
    Reply { retry_after_ms: Some(DELAY_MS_MIN), ..reply }
}

/// 502: a call that must not be made twice broke off after it was sent.
pub fn may_be_done() -> Reply {
    let message = "The backend did not respond, but it may have carried out the request. \
                   Check whether it did before you repeat it.";
    error(502, message, "server_error", None, "outcome_unknown")
}

/// 503: the gateway chose a backend that Envoy cannot reach. The next request gets another one, so the client may
/// retry at once.
pub fn unreachable() -> Reply {
    /// Above zero, which SDKs ignore.
    const DELAY_MS: u64 = 100;
    let message = "The gateway could not reach the backend that it chose, and now leaves it alone. Try again. \
                   Its log says what is wrong in Envoy's configuration.";
    let reply = error(503, message, "service_unavailable", None, "503");
    Reply { retry_after_ms: Some(DELAY_MS), ..reply }
}

/// 502: the backends' responses cannot be passed to a client. `status` distinguishes a redirect from another
/// protocol.
pub fn unusable(status: u16) -> Reply {
    let what = match status {
        300..=399 => "a redirect, which the gateway does not pass on",
        _ => "another protocol than the requested one",
    };
    let message = format!("The backend answered with {what}.");
    error(502, &message, "server_error", None, "bad_gateway")
}

/// 429 when every backend is `throttled` (or over budget), otherwise 503; either with a delay.
pub fn exhausted(throttled: bool, retry_after_ms: u64) -> Reply {
    let seconds = retry_after_ms.div_ceil(1_000);
    let (status, state, r#type, code) = if throttled {
        (429, "throttled", "rate_limit_exceeded", "429")
    } else {
        (503, "unavailable", "service_unavailable", "503")
    };
    let unit = if seconds == 1 { "second" } else { "seconds" };
    let message = format!("All backends are {state}. Retry after {seconds} {unit}.");
    Reply { retry_after_ms: Some(retry_after_ms), ..error(status, &message, r#type, None, code) }
}

/// 429: the request does not fit into the consumer's remaining tokens per minute. There is room again after
/// `wait_ms`; the stated delay is at most the longest that SDKs obey.
pub fn consumer_over_limit(wait_ms: u64) -> Reply {
    let wait_ms = wait_ms.min(DELAY_MS_MAX);
    let seconds = wait_ms.div_ceil(1_000);
    let message = format!(
        "This request does not fit into the consumer's remaining tokens per minute. Retry after {seconds} s."
    );
    let code = "rate_limit_exceeded";
    let reply = error(429, &message, "tokens", None, code);
    Reply { retry_after_ms: Some(wait_ms.max(1)), ..reply }
}

/// 403: the consumer used up its quota; the next period begins after `wait_ms`.
pub fn consumer_over_quota(wait_ms: u64) -> Reply {
    let message = "The token quota of this consumer is used up for this period.";
    let reply = error(403, message, "insufficient_quota", None, "quota_exceeded");
    Reply { retry_after_ms: Some(wait_ms.max(1)), ..reply }
}

/// 503: a request reached a backend's filter without passing the gateway's.
pub fn unrouted() -> Reply {
    let message = "The request did not pass the gateway.";
    error(503, message, "service_unavailable", None, "503")
}

/// 503: the gateway cannot serve, for an internal reason.
pub fn internal() -> Reply {
    let message = "The gateway could not process the request.";
    error(503, message, "service_unavailable", None, "503")
}

/// 200: the models that can be asked for.
pub fn models_list<'a>(names: impl IntoIterator<Item = &'a str>) -> Reply {
    let data = names.into_iter().map(Model::new).collect();
    json(200, &ModelList { object: "list", data })
}

/// 200: one model.
pub fn one_model(name: &str) -> Reply {
    json(200, &Model::new(name))
}

/// `retry-after` in whole seconds, rounded up, and `retry-after-ms`, exactly.
pub fn retry_after_headers(ms: u64) -> [(&'static str, String); 2] {
    [("retry-after", ms.div_ceil(1_000).to_string()), ("retry-after-ms", ms.to_string())]
}

/// The delay to state to a client, in milliseconds, given the soonest recovery of a backend (`None`:
/// no backend has a known time) and a random number.
///
/// From 1 s to 60 s, and at most 10 % more than the recovery takes.
pub fn exhausted_delay_ms(soonest_ms_from_now: Option<u64>, roll: u64) -> u64 {
    let delay_ms = soonest_ms_from_now.unwrap_or(0).clamp(DELAY_MS_MIN, DELAY_MS_MAX);
    let jitter_ms_max = delay_ms.div_euclid(10);
    let jitter_ms = roll.checked_rem(jitter_ms_max.saturating_add(1)).unwrap_or(0);
    delay_ms.saturating_add(jitter_ms).min(DELAY_MS_MAX)
}

/// An error that is the caller's fault.
fn bad_request(status: u16, message: &str, param: Option<&str>, code: &str) -> Reply {
    error(status, message, INVALID_REQUEST, param, code)
}

fn error(status: u16, message: &str, r#type: &str, param: Option<&str>, code: &str) -> Reply {
    let fields = ErrorFields { message, r#type, param, code: Some(code) };
    json(status, &ErrorBody { error: fields })
}

fn json(status: u16, value: &impl Serialize) -> Reply {
    Reply {
        status,
        content_type: "application/json",
        body: serde_json::to_string(value).unwrap_or_default(),
        retry_after_ms: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn parsed(reply: &Reply) -> serde_json::Value {
        assert_eq!(reply.content_type, "application/json");
        serde_json::from_str(&reply.body).unwrap()
    }

    #[test]
    fn every_error_has_all_four_fields() {
        for (reply, status, code) in [
            (unknown_model("a\"b\n"), 404, "model_not_found"),
            (malformed_body("a comma is expected", 7), 400, "malformed_body"),
            (missing_model(), 400, "missing_required_parameter"),
            (unknown_path(), 404, "404"),
            (ambiguous_model(), 400, "ambiguous_model"),
            (unreadable_body(), 400, "unreadable_body"),
            (encoded_body(), 415, "unsupported_content_encoding"),
            (operation_not_allowed("files"), 404, "operation_not_allowed"),
            (operation_not_served("embeddings"), 404, "operation_not_served"),
            (no_websocket(), 426, "websocket_not_allowed"),
            (may_be_done(), 502, "outcome_unknown"),
            (unusable(302), 502, "bad_gateway"),
            (unusable(101), 502, "bad_gateway"),
            (unreachable(), 503, "503"),
            (no_such_upgrade(), 400, "unsupported_upgrade"),
            (refused(413), 413, "413"),
            (refused(400), 400, "400"),
            (refused(401), 401, "401"),
            (refused(429), 429, "rate_limit_exceeded"),
            (apart(), 503, "503"),
            (hidden_body(), 503, "503"),
            (consumer_over_limit(1_500), 429, "rate_limit_exceeded"),
            (consumer_over_quota(1_000), 403, "quota_exceeded"),
            (exhausted(true, 1_000), 429, "429"),
            (exhausted(false, 1_000), 503, "503"),
            (unrouted(), 503, "503"),
            (internal(), 503, "503"),
        ] {
            assert_eq!(reply.status, status);
            let error = parsed(&reply)["error"].clone();
            let fields = error.as_object().unwrap();
            assert_eq!(fields.len(), 4);
            assert!(fields["message"].is_string() && fields["type"].is_string());
            assert!(fields.contains_key("param"));
            assert_eq!(fields["code"], code);
        }
    }

    #[test]
    fn exhaustion_tells_the_seconds_rounded_up_and_the_exact_milliseconds() {
        let reply = exhausted(true, 1_234);
        assert_eq!(reply.retry_after_ms, Some(1_234));
        let error = parsed(&reply)["error"].clone();
        assert_eq!(error["message"], "All backends are throttled. Retry after 2 seconds.");
        assert_eq!(error["type"], "rate_limit_exceeded");
        assert_eq!(error["param"], serde_json::Value::Null);
        assert_eq!(
            retry_after_headers(1_234),
            [("retry-after", "2".to_owned()), ("retry-after-ms", "1234".to_owned())]
        );
        assert_eq!(retry_after_headers(u64::MAX)[0].1, "18446744073709552");
    }

    #[test]
    fn a_delay_is_bounded_and_never_shorter_than_the_recovery() {
        for roll in [0, 1, 7, 99, 12_345, u64::MAX] {
            for soonest in [0, 1, 999, 1_000, 4_000, 54_545, 59_999, 60_000] {
                let delay = exhausted_delay_ms(Some(soonest), roll);
                let base = soonest.max(1_000);
                assert!(delay >= base && delay <= 60_000, "{soonest} {roll}: {delay}");
                assert!(delay * 10 <= base * 11, "{soonest} {roll}: {delay}");
            }
            assert_eq!(exhausted_delay_ms(Some(86_400_000), roll), 60_000);
            assert!((1_000..=1_100).contains(&exhausted_delay_ms(None, roll)));
        }
        assert_ne!(exhausted_delay_ms(Some(10_000), 1), exhausted_delay_ms(Some(10_000), 2));
    }

    #[test]
    fn models_are_listed_as_the_api_does() {
        let list = parsed(&models_list(["gpt-4o", "o3"]));
        assert_eq!(list["object"], "list");
        assert_eq!(list["data"][1], parsed(&one_model("o3")));
        assert_eq!(list["data"][0]["id"], "gpt-4o");
        assert_eq!(list["data"][0]["object"], "model");
    }

    #[test]
    fn a_long_model_is_not_repeated_at_length() {
        assert!(unknown_model(&"é".repeat(1_000)).body.len() < 400);
    }
}
