//! 400 and the other 4xx: what is asked is wrong, wherever it is asked. And 3xx, which send elsewhere.

use super::{Body, Refusal};

pub(super) const ALL: &[Refusal] = &[
    Refusal::text(
        "content-filter",
        400,
        "application/json",
        r#"{"error":{"message":"The response was filtered.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"violence":{"filtered":true,"severity":"high"}}}}}"#,
    ),
    Refusal::model(
        "content-policy",
        400,
        None,
        Some("content_policy_violation"),
        "Your request was rejected by the safety system.",
    ),
    Refusal::kind(
        "moderation",
        400,
        "image_generation_user_error",
        None,
        Some("moderation_blocked"),
        "Your request was rejected by the safety system.",
    ),
    Refusal::model(
        "context-length",
        400,
        Some("messages"),
        Some("context_length_exceeded"),
        "This model's maximum context length is 128000 tokens. However, your messages resulted in \
         131072 tokens. Please reduce the length of the messages.",
    ),
    Refusal::model(
        "input-too-long",
        400,
        Some("input"),
        Some("context_length_exceeded"),
        "Your input exceeds the context window of this model. Please adjust your input and try \
         again.",
    ),
    Refusal::front_end(
        "operation-not-supported",
        400,
        "OperationNotSupported",
        "The chatCompletion operation does not work with the specified model, \
         text-embedding-3-large. Please choose different model and try again.",
    ),
    Refusal::model(
        "unsupported-parameter",
        400,
        Some("max_tokens"),
        Some("unsupported_parameter"),
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
         'max_completion_tokens' instead.",
    ),
    Refusal::model(
        "unsupported-value",
        400,
        Some("temperature"),
        Some("unsupported_value"),
        "Unsupported value: 'temperature' does not support 0 with this model.",
    ),
    Refusal::model(
        "unknown-parameter",
        400,
        Some("foo"),
        Some("unknown_parameter"),
        "Unknown parameter: 'foo'.",
    ),
    Refusal::model(
        "invalid-type",
        400,
        Some("messages[0].content"),
        Some("invalid_type"),
        "Invalid type for 'messages[0].content': expected a string, but got an integer instead.",
    ),
    Refusal::model("null-code", 400, None, None, "'messages' is a required property"),
    Refusal::model(
        "too-long-text",
        400,
        Some("input"),
        Some("string_above_max_length"),
        "Invalid 'input': string too long. Expected a string with maximum length 10485760.",
    ),
    Refusal::model(
        "image-parse",
        400,
        None,
        Some("invalid_image_format"),
        "You uploaded an unsupported image.",
    ),
    Refusal::model(
        "json-schema",
        400,
        Some("text.format.schema"),
        Some("invalid_json_schema"),
        "Invalid schema for response_format 'answer'.",
    ),
    Refusal::model(
        "encrypted-content",
        400,
        None,
        Some("invalid_encrypted_content"),
        "The encrypted content for item rs_1 could not be verified.",
    ),
    Refusal::model(
        "invalid-prompt",
        400,
        None,
        Some("invalid_prompt"),
        "Your prompt was flagged as potentially violating our usage policy.",
    ),
    Refusal::model(
        "invalid-tier",
        400,
        Some("service_tier"),
        Some("invalid_value"),
        "Invalid service_tier argument",
    ),
    Refusal::front_end("bad-request", 400, "BadRequest", "Bad Request"),
    Refusal::front_end(
        "bad-version",
        400,
        "UnsupportedApiVersion",
        "The API version is not supported for this operation.",
    ),
    Refusal::text("bad-html", 400, "text/html", "<html><h1>400 Bad Request</h1></html>"),
    Refusal::text("bad-empty", 400, "", ""),
    Refusal::text("billing", 402, "application/json", r#"{"error":{"message":"Pay."}}"#),
    Refusal::model("method", 405, None, Some("method_not_supported"), "Not allowed.")
        .with(&[("allow", "POST")]),
    Refusal::front_end("not-acceptable", 406, "406", "Not acceptable"),
    Refusal::model("conflict", 409, None, Some("conflict"), "Another process updates this object.")
        .with(&[("x-should-retry", "true")]),
    Refusal::front_end("length-required", 411, "411", "Length required"),
    Refusal::front_end("precondition", 412, "412", "The condition was not met."),
    Refusal::text("body-too-large", 413, "text/html", "<html>413 Entity Too Large</html>"),
    Refusal::model(
        "body-too-large-model",
        413,
        None,
        Some("context_length_exceeded"),
        "Maximum content size limit (26214400) exceeded.",
    ),
    Refusal::front_end("url-too-long", 414, "414", "URI too long"),
    Refusal::model(
        "media-type",
        415,
        None,
        Some("unsupported_content_type"),
        "Unsupported content type.",
    ),
    Refusal::text("teapot", 418, "", ""),
    Refusal::front_end("misdirected", 421, "421", "Misdirected request"),
    Refusal::text(
        "unprocessable",
        422,
        "application/json",
        r#"{"detail":[{"loc":["body","input"],"msg":"field required"}]}"#,
    ),
    Refusal::front_end("failed-dependency", 424, "424", "The prompt could not be prepared."),
    Refusal::front_end("too-early", 425, "425", "Too early"),
    Refusal::text("headers-too-large", 431, "", ""),
    Refusal::text("legal", 451, "", ""),
    Refusal::text("client-closed", 499, "", ""),
    Refusal::text("redirect", 307, "", "").with(&[("location", "https://elsewhere.example/v1")]),
    Refusal::text("moved", 301, "text/html", "<html>Moved</html>")
        .with(&[("location", "/openai/v1/files")]),
    Refusal::text("not-modified", 304, "", ""),
    // Headers by which an Envoy in front of the backend speaks to the next one.
    Refusal::model("envoy-headers", 400, None, None, "Invalid request.").with(&[
        ("x-envoy-ratelimited", "true"),
        ("x-envoy-overloaded", "true"),
        ("x-envoy-immediate-health-check-fail", "true"),
        ("x-envoy-degraded", "true"),
        ("x-envoy-upstream-service-time", "7"),
    ]),
    Refusal::model("own-headers", 400, None, None, "Invalid request.").with(&[
        ("x-spillway-retry", "1"),
        ("x-spillway-attempts", "9"),
        ("x-served-by", "somebody"),
        ("retry-after", "77"),
    ]),
    Refusal::kind(
        "rate-limit-told-as-400",
        400,
        "invalid_request_error",
        Some("max_tokens"),
        Some("rate_limit_exceeded"),
        "max_tokens is too large.",
    )
    .with(&[("retry-after", "60"), ("x-ratelimit-remaining-tokens", "0")]),
    Refusal::other(
        "filtered-first-event",
        200,
        Body::Stream(
            "event: error\ndata: {\"type\":\"error\",\"sequence_number\":0,\"error\":{\"type\":\
             \"invalid_request_error\",\"code\":\"content_filter\",\"message\":\"Filtered.\",\
             \"param\":\"prompt\"}}\n\n",
        ),
    ),
    Refusal::other(
        "failed-invalid-prompt",
        200,
        Body::Stream(
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"sequence_number\":0,\
             \"response\":{\"id\":\"resp_1\",\"status\":\"failed\",\"error\":{\"code\":\
             \"invalid_prompt\",\"message\":\"Invalid prompt.\"}}}\n\n",
        ),
    ),
];
