//! What an answer means for the backend that gave it, and for the request.
//!
//! Three questions are kept apart. *Is the backend out for a time that it named?* A throttle: its
//! gate closes, nothing is counted. *Is the backend broken?* A fault: the circuit breaker counts
//! it. *Would another backend answer differently?* Then the request goes elsewhere.
//!
//! The status decides wherever it can, because a proxy on the way may answer HTML or nothing. Two
//! kinds of answer need a look at the body: an event stream with status 200, whose first event may
//! be an error, and a 400 that only this backend gives (provisioned capacity takes shorter prompts
//! than the model; an object that lives at one resource is unknown at the others). A refusal by
//! the content filter is the caller's affair, wherever it is asked.
//!
//! Who chose the credential and the deployment decides who is to blame for 401, 403 and 404: the
//! gateway's own choice is a fault of that backend, the client's is the client's. A 404 for a path
//! of which the client chose a part says in its body what is missing: a client must not be able to
//! open the breakers of a pool with an operation or an `api-version` that does not exist.

use super::headers::Headers;
use super::retry_after;
use super::time::{Millis, Timestamp};
use memchr::memmem;

/// What the gateway chose for an attempt, and what the request refers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptTraits {
    /// The gateway sent a credential of its own, not the client's.
    pub owns_credential: bool,
    /// The gateway named the deployment, not the client.
    pub owns_deployment: bool,
    /// Every resource has the rest of the path: operation and `api-version` are not the client's.
    pub owns_path: bool,
    /// The backend is provisioned capacity.
    pub provisioned: bool,
    /// The request names an object that lives at one resource: a stored response, a file.
    pub names_stored_object: bool,
}

/// What went wrong at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection could not be made.
    Connect,
    /// The connection was not made in time.
    ConnectTimeout,
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

/// Why there is no way to a backend. Each is a mistake in Envoy's configuration, or a name that does
/// not resolve: no request will get there before that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misroute {
    /// The route names a cluster that does not exist.
    NoCluster,
    /// The cluster has no host: its name does not resolve, or its endpoints are empty.
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
    /// The credential or the deployment that the gateway chose is wrong: nothing will succeed here.
    Misconfigured {
        /// What it answered.
        status: u16,
    },
    /// There is no way to the backend, so nothing was sent to it.
    Misrouted(Misroute),
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
        /// What it answered.
        status: u16,
    },
    /// Nothing yet: the first event of the stream decides.
    FirstEvent,
}

/// Judges a response by its status and headers.
pub fn head(
    status: u16,
    headers: &(impl Headers + ?Sized),
    traits: AttemptTraits,
    now: Timestamp,
) -> Head {
    let throttled = || Outcome::Throttled { delay: retry_after::delay(headers, now) };
    let outcome = match status {
        200..=299 if is_event_stream(headers) => {
            if !names_a_retry(headers) {
                return Head::FirstEvent;
            }
            throttled()
        }
        100..=399 => Outcome::Success,
        429 => throttled(),
        400 if traits.provisioned || traits.names_stored_object => {
            return Head::ErrorBody { status };
        }
        // Some front ends call a prompt too large that another deployment would take.
        413 if traits.provisioned => return Head::ErrorBody { status },
        401 | 403 if traits.owns_credential => Outcome::Misconfigured { status },
        404 if traits.names_stored_object => Outcome::Elsewhere { status },
        404 if traits.owns_deployment && traits.owns_path => Outcome::Misconfigured { status },
        404 if traits.owns_deployment => return Head::ErrorBody { status },
        424 if is_model_error(headers) => fault(status, headers, now),
        408 | 500..=599 => fault(status, headers, now),
        _ => Outcome::ClientError,
    };
    Head::Decided(outcome)
}

/// Judges a response of which [`head`] said [`Head::ErrorBody`], by the first bytes of its body.
///
/// The bytes are searched, not parsed: the prefix may end anywhere, and need not be JSON.
pub fn error_body(status: u16, body_prefix: &[u8], traits: AttemptTraits) -> Outcome {
    const REFUSALS: [&str; 3] =
        ["content_filter", "ResponsibleAIPolicyViolation", "content_policy_violation"];
    const TOO_LONG: [&str; 1] = ["context_length_exceeded"];
    const TOO_LONG_PHRASES: [&str; 3] = ["context length", "context window", "long context"];
    const UNKNOWN_DEPLOYMENT: [&str; 2] = ["DeploymentNotFound", "model_not_found"];
    const UNKNOWN_OBJECT: [&str; 3] =
        ["previous_response_not_found", "invalid_encrypted_content", "not_found"];
    const UNKNOWN_OBJECT_PHRASES: [&str; 2] = ["not found", "No such"];

    let any_code = |codes: &[&str]| codes.iter().any(|code| has_code(body_prefix, code));
    let any_phrase = |phrases: &[&str]| {
        phrases.iter().any(|phrase| memmem::find(body_prefix, phrase.as_bytes()).is_some())
    };
    if any_code(&REFUSALS) {
        return Outcome::ClientError;
    }
    if status == 404 && any_code(&UNKNOWN_DEPLOYMENT) {
        return Outcome::Misconfigured { status };
    }
    let too_long = traits.provisioned && (any_code(&TOO_LONG) || any_phrase(&TOO_LONG_PHRASES));
    let unknown_object = traits.names_stored_object
        && (any_code(&UNKNOWN_OBJECT) || any_phrase(&UNKNOWN_OBJECT_PHRASES));
    if too_long || unknown_object { Outcome::Elsewhere { status } } else { Outcome::ClientError }
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

fn names_a_retry(headers: &(impl Headers + ?Sized)) -> bool {
    ["retry-after", "retry-after-ms", "x-ms-retry-after-ms"]
        .iter()
        .any(|name| headers.get(name).is_some())
}

/// Azure passes the errors of hosted partner models on as 424 with these headers.
fn is_model_error(headers: &(impl Headers + ?Sized)) -> bool {
    ["ms-azureml-model-error-reason", "ms-azureml-model-error-statuscode"]
        .iter()
        .any(|name| headers.get(name).is_some())
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
mod tests {
    use super::*;
    use crate::policy::fixtures::{at, ms};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOTHING: AttemptTraits = AttemptTraits {
        owns_credential: false,
        owns_deployment: false,
        owns_path: false,
        provisioned: false,
        names_stored_object: false,
    };
    const OWNED: AttemptTraits =
        AttemptTraits { owns_credential: true, owns_deployment: true, owns_path: true, ..NOTHING };
    const PROVISIONED: AttemptTraits = AttemptTraits { provisioned: true, ..OWNED };
    const STORED: AttemptTraits = AttemptTraits { names_stored_object: true, ..OWNED };

    fn by_status(status: u16, traits: AttemptTraits) -> Head {
        head(status, &[] as &[(&str, &str)], traits, at(0))
    }

    fn by_headers(status: u16, headers: &[(&str, &str)]) -> Head {
        head(status, headers, OWNED, at(0))
    }

    #[test]
    fn a_404_for_a_path_that_the_client_chose_says_whether_the_deployment_is_missing() {
        let traits = AttemptTraits { owns_path: false, ..OWNED };
        assert_eq!(by_status(404, traits), Head::ErrorBody { status: 404 });
        let judged = |body: &str| error_body(404, body.as_bytes(), traits);
        for code in ["DeploymentNotFound", "model_not_found"] {
            let body = format!(r#"{{"error":{{"code":"{code}","message":"no"}}}}"#);
            assert_eq!(judged(&body), Outcome::Misconfigured { status: 404 }, "{code}");
        }
        for body in ["", "<html>", r#"{"error":{"code":"404","message":"Resource not found"}}"#] {
            assert_eq!(judged(body), Outcome::ClientError, "{body}");
        }
        let theirs = AttemptTraits { owns_deployment: false, ..traits };
        assert_eq!(by_status(404, theirs), Head::Decided(Outcome::ClientError));
    }

    #[test]
    fn success_is_a_matter_of_the_status_unless_it_streams() {
        for status in [101, 200, 201, 204, 206, 301, 304] {
            assert_eq!(by_status(status, OWNED), Head::Decided(Outcome::Success), "{status}");
        }
        let json = [("content-type", "application/json"), ("retry-after", "4")];
        assert_eq!(by_headers(200, &json), Head::Decided(Outcome::Success));
        for stream in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
            assert_eq!(by_headers(200, &[("content-type", stream)]), Head::FirstEvent, "{stream}");
        }
    }

    #[test]
    fn a_429_and_a_200_stream_with_a_retry_time_are_throttles() {
        let stream = ("content-type", "text/event-stream");
        let refused = |name, value| by_headers(200, &[stream, (name, value)]);
        let throttled = |delay| Head::Decided(Outcome::Throttled { delay });
        assert_eq!(refused("retry-after", "4"), throttled(Some(ms(4_000))));
        assert_eq!(refused("retry-after-ms", "312"), throttled(Some(ms(312))));
        assert_eq!(refused("x-ms-retry-after-ms", "7"), throttled(Some(ms(7))));
        assert_eq!(refused("retry-after", "soon"), throttled(None));
        assert_eq!(refused("x-ratelimit-reset-tokens", "64"), Head::FirstEvent);
        assert_eq!(
            by_headers(429, &[("x-ratelimit-reset-tokens", "64")]),
            throttled(Some(ms(64_000)))
        );
        assert_eq!(by_status(429, NOTHING), throttled(None));
    }

    #[test]
    fn the_backend_is_to_blame_for_5xx_and_408_and_model_errors() {
        for status in [408, 500, 502, 503, 504, 599] {
            let expected = Outcome::Fault { fault: Fault::Status(status), retry_after: None };
            assert_eq!(by_status(status, NOTHING), Head::Decided(expected), "{status}");
        }
        let model_error = by_headers(424, &[("ms-azureml-model-error-statuscode", "500")]);
        let expected = Outcome::Fault { fault: Fault::Status(424), retry_after: None };
        assert_eq!(model_error, Head::Decided(expected));
        assert_eq!(by_status(424, OWNED), Head::Decided(Outcome::ClientError));
    }

    #[test]
    fn a_fault_names_its_time_only_by_retry_after() {
        let headers = [("retry-after", "3"), ("x-ratelimit-reset-tokens", "64")];
        let after = |headers: &[(&str, &str)]| match by_headers(503, headers) {
            Head::Decided(Outcome::Fault { retry_after, .. }) => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(&headers), Some(ms(3_000)));
        assert_eq!(after(&headers[1..]), None);
    }

    #[test]
    fn who_chose_the_credential_answers_for_it() {
        for status in [401, 403] {
            assert_eq!(by_status(status, OWNED), Head::Decided(Outcome::Misconfigured { status }));
            assert_eq!(by_status(status, NOTHING), Head::Decided(Outcome::ClientError));
        }
    }

    #[test]
    fn a_404_is_the_deployment_the_object_or_the_client() {
        assert_eq!(by_status(404, OWNED), Head::Decided(Outcome::Misconfigured { status: 404 }));
        assert_eq!(by_status(404, STORED), Head::Decided(Outcome::Elsewhere { status: 404 }));
        assert_eq!(by_status(404, NOTHING), Head::Decided(Outcome::ClientError));
    }

    #[test]
    fn only_a_400_that_others_may_not_give_needs_its_body() {
        assert_eq!(by_status(400, OWNED), Head::Decided(Outcome::ClientError));
        assert_eq!(by_status(400, PROVISIONED), Head::ErrorBody { status: 400 });
        assert_eq!(by_status(413, PROVISIONED), Head::ErrorBody { status: 413 });
        assert_eq!(by_status(400, STORED), Head::ErrorBody { status: 400 });
        for status in [402, 405, 409, 413, 415, 422, 499] {
            assert_eq!(by_status(status, OWNED), Head::Decided(Outcome::ClientError), "{status}");
        }
    }

    #[test]
    fn a_prompt_too_long_for_provisioned_capacity_goes_elsewhere() {
        let body =
            br#"{"error":{"message":"m","param":"messages","code" : "context_length_exceeded"}}"#;
        assert_eq!(error_body(400, body, PROVISIONED), Outcome::Elsewhere { status: 400 });
        assert_eq!(error_body(400, body, STORED), Outcome::ClientError);
        let message = br#"{"error":{"code":"400","message":"exceeds the maximum context length"}}"#;
        assert_eq!(error_body(400, message, PROVISIONED), Outcome::Elsewhere { status: 400 });
    }

    #[test]
    fn an_object_that_lives_elsewhere_is_looked_for_elsewhere() {
        for body in [
            r#"{"error":{"code":"previous_response_not_found","message":"m"}}"#,
            r#"{"error":{"message":"Previous response with id 'resp_1' not found."}}"#,
            r#"{"error":{"code": "invalid_encrypted_content"}}"#,
        ] {
            let outcome = error_body(400, body.as_bytes(), STORED);
            assert_eq!(outcome, Outcome::Elsewhere { status: 400 }, "{body}");
            assert_eq!(
                error_body(400, body.as_bytes(), PROVISIONED),
                Outcome::ClientError,
                "{body}"
            );
        }
    }

    #[test]
    fn a_refusal_by_the_content_filter_is_never_taken_elsewhere() {
        let both = AttemptTraits { provisioned: true, ..STORED };
        for body in [
            "{\"error\":{\"message\":\"context length not found\",\"code\":\n \"content_filter\"}}",
            r#"{"error":{"message":"context length","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            r#"{"error":{"code":"content_policy_violation","message":"long context"}}"#,
        ] {
            assert_eq!(error_body(400, body.as_bytes(), both), Outcome::ClientError, "{body}");
        }
    }

    #[test]
    fn a_quoted_prompt_is_no_code_and_other_bodies_are_the_clients() {
        let quoted =
            br#"{"error":{"message":"bad: {\"code\":\"context_length_exceeded\"}","code":"x"}}"#;
        assert_eq!(error_body(400, quoted, PROVISIONED), Outcome::ClientError);
        for body in ["", "<html>", "{\"code\"", "{\"code\":", "{\"code\":\"context_length_exceeded"]
        {
            assert_eq!(
                error_body(400, body.as_bytes(), PROVISIONED),
                Outcome::ClientError,
                "{body}"
            );
        }
    }
}
