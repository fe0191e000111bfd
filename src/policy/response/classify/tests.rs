use super::*;
use crate::policy::fixtures::{at, ms};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOTHING: AttemptTraits = AttemptTraits { is_model_operation: true, ..AttemptTraits::NONE };
const OWNED: AttemptTraits =
    AttemptTraits { owns_credential: true, owns_deployment: true, ..NOTHING };
const PROVISIONED: AttemptTraits = AttemptTraits { provisioned: true, ..OWNED };
const STORED: AttemptTraits = AttemptTraits { names_stored_object: true, ..OWNED };

/// The deployment that the gateway asked for.
const DEPLOYMENT: &str = "gpt-4o-uk";

fn by_status(status: u16, traits: AttemptTraits) -> Head {
    head(status, &[] as &[(&str, &str)], traits, at(0))
}

fn by_headers(status: u16, headers: &[(&str, &str)]) -> Head {
    head(status, headers, OWNED, at(0))
}

fn by_body(status: u16, body: &str, traits: AttemptTraits) -> Outcome {
    let Head::ErrorBody { otherwise } = by_status(status, traits) else {
        panic!("{status} needs no body")
    };
    error_body(status, body.as_bytes(), otherwise, traits, DEPLOYMENT)
}

fn error(code: &str, message: &str) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#)
}

const ELSEWHERE: Outcome = Outcome::Elsewhere { status: 404 };
const MISSING: Outcome = Outcome::Misconfigured { status: 404 };

#[test]
fn a_404_is_about_the_deployment_only_if_its_code_says_so() {
    for code in ["DeploymentNotFound", "model_not_found"] {
        let message = "The API deployment for this resource does not exist.";
        assert_eq!(by_body(404, &error(code, message), OWNED), MISSING, "{code}");
    }
    for body in [
        String::new(),
        "<html>".to_owned(),
        error("404", "Resource not found"),
        error("not_found", "Vector store with id 'vs_1' not found."),
        r#"{"error":{"message":"This is a chat model and not supported in the v1/completions endpoint."}}"#.to_owned(),
        error("x", r#"bad: {\"code\":\"DeploymentNotFound\"}"#),
    ] {
        assert_eq!(by_body(404, &body, OWNED), ELSEWHERE, "{body}");
    }
    let theirs = AttemptTraits { owns_deployment: false, ..OWNED };
    assert_eq!(by_status(404, theirs), Head::Decided(ELSEWHERE));
    assert_eq!(by_status(404, STORED), Head::Decided(ELSEWHERE));
}

#[test]
fn a_missing_model_that_only_the_client_named_is_nobodys_fault() {
    let says =
        |name: &str| error("model_not_found", &format!("The model `{name}` does not exist."));
    let of = |name, traits| by_body(404, &says(name), traits);
    for other in ["gpt-image-9", "gpt-4o", "gpt-4o-uk-2", "my-gpt-4o-uk"] {
        assert_eq!(of(other, OWNED), ELSEWHERE, "{other}");
    }
    assert_eq!(of(DEPLOYMENT, OWNED), MISSING);
    let responses = AttemptTraits { may_name_deployments: true, ..OWNED };
    assert_eq!(of(DEPLOYMENT, responses), MISSING);
    assert_eq!(
        by_body(404, &error("DeploymentNotFound", "It does not exist."), responses),
        Outcome::Denied { status: 404 },
        "it may be the deployment for images"
    );
}

#[test]
fn an_operation_that_a_backend_lacks_is_nobodys_fault() {
    let lacks = AttemptTraits { seen: Seen::Others, ..OWNED };
    for status in [401, 403] {
        let elsewhere = Head::Decided(Outcome::Elsewhere { status });
        assert_eq!(by_status(status, lacks), elsewhere);
    }
    assert_eq!(by_body(404, &error("DeploymentNotFound", "no"), lacks), ELSEWHERE);
    let has = AttemptTraits { seen: Seen::Operation, ..OWNED };
    assert_eq!(by_status(401, has), Head::Decided(Outcome::Denied { status: 401 }));
    assert_eq!(by_body(404, &error("DeploymentNotFound", "no"), has), MISSING);
}

#[test]
fn the_status_means_success_except_for_a_stream() {
    for status in [200, 201, 204, 206] {
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
    let throttle = |delay| Outcome::Throttled { delay };
    let throttled = |delay| Head::Decided(throttle(delay));
    assert_eq!(refused("retry-after", "4"), throttled(Some(ms(4_000))));
    assert_eq!(refused("retry-after-ms", "312"), throttled(Some(ms(312))));
    assert_eq!(refused("x-ms-retry-after-ms", "7"), throttled(Some(ms(7))));
    assert_eq!(refused("retry-after", "soon"), throttled(None));
    assert_eq!(refused("retry-after", "86400"), Head::Decided(Outcome::Elsewhere { status: 200 }));
    assert_eq!(refused("x-ratelimit-reset-tokens", "64"), Head::FirstEvent);
    assert_eq!(
        by_headers(429, &[("x-ratelimit-reset-tokens", "64")]),
        Head::ErrorBody { otherwise: throttle(Some(ms(64_000))) }
    );
    assert_eq!(by_status(429, NOTHING), Head::ErrorBody { otherwise: throttle(None) });
    for body in ["", "<html>", r#"{"error":{"message":"Rate limit is exceeded."}}"#] {
        assert_eq!(by_body(429, body, NOTHING), throttle(None), "{body}");
    }
    let large = error("rate_limit_exceeded", "Request too large for gpt-4o");
    assert_eq!(by_body(429, &large, NOTHING), Outcome::Elsewhere { status: 429 });
}

#[test]
fn the_backend_is_to_blame_for_5xx_and_408() {
    for status in [408, 500, 502, 503, 504, 599] {
        let expected = Outcome::Fault { fault: Fault::Status(status), retry_after: None };
        assert_eq!(by_status(status, NOTHING), Head::Decided(expected), "{status}");
    }
    assert_eq!(by_status(424, OWNED), Head::Decided(Outcome::ClientError));
}

#[test]
fn a_408_that_closes_the_connection_was_not_received() {
    let expected = Outcome::Fault { fault: Fault::NotReceived, retry_after: None };
    for value in ["close", " Close"] {
        assert_eq!(by_headers(408, &[("connection", value)]), Head::Decided(expected));
    }
    let other = Outcome::Fault { fault: Fault::Status(408), retry_after: None };
    assert_eq!(by_headers(408, &[("connection", "keep-alive")]), Head::Decided(other));
}

#[test]
fn a_424_is_judged_by_the_status_that_it_states() {
    let stated = |status: &str| by_headers(424, &[("ms-azureml-model-error-statuscode", status)]);
    for status in ["400", "413", "422", " 422 "] {
        assert_eq!(stated(status), Head::Decided(Outcome::ClientError), "{status}");
    }
    for status in [408, 500, 503] {
        let expected = Outcome::Fault { fault: Fault::Status(status), retry_after: None };
        assert_eq!(stated(&status.to_string()), Head::Decided(expected), "{status}");
    }
    for status in ["402", "404", "302"] {
        let elsewhere = Head::Decided(Outcome::Elsewhere { status: 424 });
        assert_eq!(stated(status), elsewhere, "{status}");
    }
    let headers = [("ms-azureml-model-error-statuscode", "429"), ("retry-after", "3")];
    let throttled = Outcome::Throttled { delay: Some(ms(3_000)) };
    assert_eq!(by_headers(424, &headers), Head::Decided(throttled));
    let reason = by_headers(424, &[("ms-azureml-model-error-reason", "model_error")]);
    let expected = Outcome::Fault { fault: Fault::Status(424), retry_after: None };
    assert_eq!(reason, Head::Decided(expected));
}

#[test]
fn a_request_whose_status_is_not_about_its_content_is_sent_elsewhere() {
    for status in [402, 405, 407, 410, 418, 421, 423, 425, 426, 444, 451, 460, 499] {
        let elsewhere = Head::Decided(Outcome::Elsewhere { status });
        assert_eq!(by_status(status, OWNED), elsewhere, "{status}");
    }
    let beyond = Outcome::Fault { fault: Fault::Status(600), retry_after: None };
    assert_eq!(by_status(600, OWNED), Head::Decided(beyond));
}

#[test]
fn a_redirect_serves_nobody_and_may_be_a_refused_credential() {
    for status in [101, 300, 301, 302, 303, 304, 307, 308] {
        assert_eq!(by_status(status, OWNED), Head::Decided(Outcome::Denied { status }));
        let elsewhere = Head::Decided(Outcome::Elsewhere { status });
        assert_eq!(by_status(status, NOTHING), elsewhere, "{status}");
        let lacks = AttemptTraits { seen: Seen::Others, ..OWNED };
        assert_eq!(by_status(status, lacks), elsewhere, "{status}");
    }
    let session = AttemptTraits { asks_for_upgrade: true, ..OWNED };
    assert_eq!(by_status(101, session), Head::Decided(Outcome::Success));
    let stored = AttemptTraits { is_model_operation: false, ..OWNED };
    assert_eq!(by_status(302, stored), Head::Decided(Outcome::Denied { status: 302 }));
    assert_eq!(by_status(304, stored), Head::Decided(Outcome::Success), "nothing changed");
}

#[test]
fn a_fault_names_a_delay_only_with_retry_after() {
    let headers = [("retry-after", "3"), ("x-ratelimit-reset-tokens", "64")];
    let after = |headers: &[(&str, &str)]| match by_headers(503, headers) {
        Head::Decided(Outcome::Fault { retry_after, .. }) => retry_after,
        other => panic!("{other:?}"),
    };
    assert_eq!(after(&headers), Some(ms(3_000)));
    assert_eq!(after(&headers[1..]), None);
}

#[test]
fn a_refused_credential_counts_only_where_the_gateway_chose_it() {
    for status in [401, 403] {
        assert_eq!(by_status(status, OWNED), Head::Decided(Outcome::Denied { status }));
        assert_eq!(by_status(status, NOTHING), Head::Decided(Outcome::ClientError));
    }
    let upload = AttemptTraits { is_model_operation: false, ..OWNED };
    assert_eq!(by_status(401, upload), Head::Decided(Outcome::Denied { status: 401 }));
    assert_eq!(by_status(403, upload), Head::Decided(Outcome::Elsewhere { status: 403 }));
}

#[test]
fn only_a_400_that_others_may_not_give_needs_its_body() {
    assert_eq!(by_status(400, OWNED), Head::Decided(Outcome::ClientError));
    let unclear = Head::ErrorBody { otherwise: Outcome::ClientError };
    assert_eq!(by_status(400, PROVISIONED), unclear);
    assert_eq!(by_status(413, PROVISIONED), unclear);
    assert_eq!(by_status(400, STORED), unclear);
    for status in [406, 409, 411, 413, 414, 415, 416, 417, 422, 428, 431] {
        assert_eq!(by_status(status, OWNED), Head::Decided(Outcome::ClientError), "{status}");
    }
}

/// A 400 with this body.
fn judged(body: &[u8], traits: AttemptTraits) -> Outcome {
    error_body(400, body, Outcome::ClientError, traits, DEPLOYMENT)
}

#[test]
fn a_prompt_too_long_for_provisioned_capacity_goes_elsewhere() {
    let body =
        br#"{"error":{"message":"m","param":"messages","code" : "context_length_exceeded"}}"#;
    assert_eq!(judged(body, PROVISIONED), Outcome::Elsewhere { status: 400 });
    assert_eq!(judged(body, STORED), Outcome::ClientError);
    let message = br#"{"error":{"code":"400","message":"exceeds the maximum context length"}}"#;
    assert_eq!(judged(message, PROVISIONED), Outcome::Elsewhere { status: 400 });
}

#[test]
fn an_object_of_another_resource_is_looked_for_elsewhere() {
    for body in [
        r#"{"error":{"code":"previous_response_not_found","message":"m"}}"#,
        r#"{"error":{"message":"Previous response with id 'resp_1' not found."}}"#,
        r#"{"error":{"code": "invalid_encrypted_content"}}"#,
    ] {
        let outcome = judged(body.as_bytes(), STORED);
        assert_eq!(outcome, Outcome::Elsewhere { status: 400 }, "{body}");
        assert_eq!(judged(body.as_bytes(), PROVISIONED), Outcome::ClientError, "{body}");
    }
}

#[test]
fn a_refusal_by_the_content_filter_is_never_sent_to_another_backend() {
    let both = AttemptTraits { provisioned: true, ..STORED };
    for body in [
        "{\"error\":{\"message\":\"context length not found\",\"code\":\n \"content_filter\"}}",
        r#"{"error":{"message":"context length","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
        r#"{"error":{"code":"content_policy_violation","message":"long context"}}"#,
    ] {
        assert_eq!(judged(body.as_bytes(), both), Outcome::ClientError, "{body}");
    }
}

#[test]
fn a_quoted_prompt_is_no_code_and_other_bodies_are_client_errors() {
    let quoted =
        br#"{"error":{"message":"bad: {\"code\":\"context_length_exceeded\"}","code":"x"}}"#;
    assert_eq!(judged(quoted, PROVISIONED), Outcome::ClientError);
    for body in ["", "<html>", "{\"code\"", "{\"code\":", "{\"code\":\"context_length_exceeded"] {
        assert_eq!(judged(body.as_bytes(), PROVISIONED), Outcome::ClientError, "{body}");
    }
}

#[test]
fn a_success_without_a_body_is_a_fault_of_a_model() {
    let empty = Outcome::Fault { fault: Fault::Empty, retry_after: None };
    assert_eq!(without_body(Outcome::Success, OWNED), empty);
    let session = AttemptTraits { asks_for_upgrade: true, ..OWNED };
    assert_eq!(without_body(Outcome::Success, session), Outcome::Success);
    assert_eq!(without_body(Outcome::Success, AttemptTraits::NONE), Outcome::Success);
    assert_eq!(without_body(Outcome::ClientError, OWNED), Outcome::ClientError);
}
