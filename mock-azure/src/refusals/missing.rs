//! 404 and its like: what the request names does not exist here.

use super::{Body, Refusal};

const HTML: &str = "<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>\
    <center><h1>404 Not Found</h1></center><hr><center>Microsoft-Azure-Application-Gateway/v2\
    </center></body></html>";

pub(super) const ALL: &[Refusal] = &[
    Refusal::model(
        "vector-store-openai",
        404,
        None,
        None,
        "Vector store with id ['vs_unknown'] not found.",
    ),
    Refusal::model(
        "vector-store-azure",
        404,
        Some("tools"),
        Some("not_found"),
        "Vector store with id 'vs_unknown' not found.",
    ),
    Refusal::front_end("vector-store-front-end", 404, "NotFound", "Vector store not found."),
    Refusal::model(
        "vector-store-as-400",
        400,
        Some("tools[0].vector_store_ids"),
        Some("invalid_value"),
        "Invalid vector store id.",
    ),
    Refusal::model(
        "file-openai",
        404,
        Some("file_id"),
        Some("not_found_error"),
        "No such File object: file-unknown",
    ),
    Refusal::model("file-null-code", 404, None, None, "File with ID 'file-unknown' was not found."),
    Refusal::front_end("file-azure", 404, "404", "File with id file-unknown not found"),
    Refusal::model(
        "prompt",
        404,
        None,
        Some("prompt_not_found"),
        "Prompt with id 'pmpt_unknown' not found.",
    ),
    Refusal::model("prompt-null-code", 404, None, None, "Prompt with id 'pmpt_unknown' not found."),
    Refusal::model("container", 404, None, None, "Container with id 'cntr_unknown' not found."),
    Refusal::model("container-expired", 400, None, None, "Container is expired."),
    Refusal::model(
        "previous-response-400",
        400,
        Some("previous_response_id"),
        Some("previous_response_not_found"),
        "Previous response with id 'resp_unknown' not found.",
    ),
    Refusal::model(
        "previous-response-404",
        404,
        Some("previous_response_id"),
        Some("previous_response_not_found"),
        "Previous response with id 'resp_unknown' not found.",
    ),
    Refusal::model("response", 404, None, None, "Response with id 'resp_unknown' not found."),
    Refusal::front_end("response-azure", 404, "NotFound", "Response not found"),
    Refusal::model(
        "conversation",
        404,
        None,
        None,
        "Conversation with id 'conv_unknown' not found.",
    ),
    Refusal::model(
        "item",
        404,
        Some("input"),
        None,
        "Item with id 'rs_unknown' not found. Items are not persisted when `store` is false.",
    ),
    Refusal::model("assistant", 404, None, None, "No assistant found with id 'asst_unknown'."),
    Refusal::model("thread", 404, None, None, "No thread found with id 'thread_unknown'."),
    Refusal::model(
        "fine-tuned-model",
        404,
        Some("model"),
        Some("model_not_found"),
        "The model `ft:gpt-4o:contoso::unknown` does not exist or you do not have access to it.",
    ),
    Refusal::model(
        "not-a-chat-model",
        404,
        Some("model"),
        None,
        "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did \
         you mean to use v1/completions?",
    ),
    Refusal::model(
        "is-a-chat-model",
        404,
        Some("model"),
        None,
        "This is a chat model and not supported in the v1/completions endpoint. Did you mean to \
         use v1/chat/completions?",
    ),
    Refusal::model(
        "only-in-responses",
        404,
        Some("model"),
        None,
        "This model is only supported in v1/responses and not in v1/chat/completions.",
    ),
    Refusal::model("invalid-url", 404, None, None, "Invalid URL (POST /v1/unknown)"),
    Refusal::front_end("resource-not-found", 404, "404", "Resource not found"),
    Refusal::front_end(
        "deployment-not-found",
        404,
        "DeploymentNotFound",
        "The API deployment for this resource does not exist. If you created the deployment within \
         the last 5 minutes, please wait a moment and try again.",
    ),
    Refusal::front_end(
        "operation-not-found",
        404,
        "OperationNotFound",
        "The requested operation does not exist for this model.",
    ),
    Refusal::text("missing-html", 404, "text/html", HTML),
    Refusal::text("missing-plain", 404, "text/plain", "404 page not found\n"),
    Refusal::text("missing-empty", 404, "", ""),
    Refusal::text("missing-detail", 404, "application/json", r#"{"detail":"Not Found"}"#),
    Refusal::text(
        "missing-apim",
        404,
        "application/json",
        r#"{ "statusCode": 404, "message": "Resource not found" }"#,
    ),
    Refusal::text("missing-half-json", 404, "application/json", r#"{"error":{"code":"Deployment"#),
    Refusal::other(
        "missing-as-event",
        404,
        Body::Stream(
            "event: error\ndata: {\"type\":\"error\",\"code\":\"not_found\",\"message\":\"Not found\"}\n\n",
        ),
    ),
    Refusal::model("gone", 410, None, None, "This version of the API was retired."),
    Refusal::model(
        "model-retired",
        410,
        Some("model"),
        Some("model_not_found"),
        "The model has been deprecated.",
    ),
];
