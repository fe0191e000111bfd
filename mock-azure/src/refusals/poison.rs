//! Requests at which any backend fails: a prompt that crashes the model, or that takes for ever.

use super::{Body, Refusal};

pub(super) const ALL: &[Refusal] = &[
    Refusal::kind(
        "poison-500",
        500,
        "server_error",
        None,
        None,
        "The server had an error processing your request. Sorry about that!",
    ),
    Refusal::front_end(
        "poison-500-azure",
        500,
        "InternalServerError",
        "The server had an error processing your request.",
    )
    .with(&[("x-should-retry", "true")]),
    Refusal::text(
        "poison-500-json",
        500,
        "application/json",
        r#"{"error":{"message":"The model produced invalid content.","type":"model_error","param":null,"code":null}}"#,
    ),
    Refusal::text("poison-502-html", 502, "text/html", "<html><h1>502 Bad Gateway</h1></html>"),
    Refusal::front_end(
        "poison-503",
        503,
        "ServiceUnavailable",
        "The service is temporarily unable to process your request.",
    )
    .with(&[("retry-after", "55"), ("x-should-retry", "true")]),
    Refusal::text("poison-504-empty", 504, "", ""),
    Refusal::front_end("poison-408", 408, "Timeout", "The operation was timeout."),
    Refusal::front_end("poison-424", 424, "424", "The model failed.").with(&[
        ("ms-azureml-model-error-reason", "model_error"),
        ("ms-azureml-model-error-statuscode", "500"),
    ]),
    Refusal::other("poison-reset", 0, Body::Hangup { reset: true }),
    Refusal::other("poison-close", 0, Body::Hangup { reset: false }),
    Refusal::other("poison-not-http", 0, Body::Bytes(b"\x16\x03\x01 no HTTP \xff\r\n\r\n")),
    Refusal::other(
        "poison-first-event",
        200,
        Body::Stream(
            "event: error\ndata: {\"type\":\"error\",\"sequence_number\":0,\"error\":{\"type\":\
             \"server_error\",\"code\":\"server_error\",\"message\":\"An error occurred.\"}}\n\n",
        ),
    ),
    Refusal::other("poison-empty-stream", 200, Body::Stream("")),
    Refusal::other(
        "poison-chat-event",
        200,
        Body::Stream(
            "data: {\"error\":{\"message\":\"The server had an error.\",\"type\":\"server_error\",\
             \"param\":null,\"code\":null}}\n\n",
        ),
    ),
];

/// Poison that costs its client a timeout, and hence is asked for less often: by its name only.
pub(super) const SLOW: &[Refusal] = &[
    Refusal::other("silence", 0, Body::Silence),
    Refusal::other("stall", 200, Body::Stall("data: {\"choices\":[]}\n\n")),
];
