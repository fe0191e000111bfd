//! The error answers of Azure OpenAI, in both of their shapes.
//!
//! Azure's front end writes two fields, and its code is a string even when it is a number; the models write
//! four. Which of the two a client meets depends on who refused it, so both must be tested.

use serde_json::{Value, json};

/// A response that refuses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: Vec<(String, String)>,
}

/// Which limit a request ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Tokens,
    Requests,
    Provisioned,
}

impl Problem {
    /// The shape of the front end.
    fn front_end(status: u16, code: &str, message: impl Into<String>) -> Self {
        let body = json!({ "error": { "code": code, "message": message.into() } });
        Self { status, body, headers: Vec::new() }
    }

    /// The shape of the models: the caller's fault.
    pub(crate) fn model(param: Option<&str>, code: Option<&str>, message: &str) -> Self {
        let error = json!({
            "message": message, "type": "invalid_request_error", "param": param, "code": code,
        });
        Self { status: 400, body: json!({ "error": error }), headers: Vec::new() }
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "Access denied due to invalid subscription key or wrong API endpoint. Make \
            sure to provide a valid key for an active subscription and use a correct regional API \
            endpoint for your resource.";
        Self::front_end(401, "401", message)
    }

    pub(crate) fn resource_not_found() -> Self {
        Self::front_end(404, "404", "Resource not found")
    }

    pub(crate) fn deployment_not_found() -> Self {
        let message = "The API deployment for this resource does not exist. If you created the \
            deployment within the last 5 minutes, please wait a moment and try again.";
        Self::front_end(404, "DeploymentNotFound", message)
    }

    pub(crate) fn response_not_found(id: &str) -> Self {
        let problem = Self::model(None, None, &format!("Response with id '{id}' not found."));
        Self { status: 404, ..problem }
    }

    pub(crate) fn previous_response_not_found(id: &str) -> Self {
        let message = format!("Previous response with id '{id}' not found.");
        Self::model(Some("previous_response_id"), Some("previous_response_not_found"), &message)
    }

    pub(crate) fn malformed_json() -> Self {
        let message = "We could not parse the JSON body of your request. (HINT: This likely means \
            you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, \
            but what was sent was not valid JSON.)";
        Self::model(None, None, message)
    }

    pub(crate) fn missing(param: &str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self::model(Some(param), Some("missing_required_parameter"), &message)
    }

    pub(crate) fn content_filter() -> Self {
        let fine = json!({ "filtered": false, "severity": "safe" });
        let error = json!({
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's \
                content management policy. Please modify your prompt and retry.",
            "type": null, "param": "prompt", "code": "content_filter", "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {
                    "hate": fine, "self_harm": fine, "violence": fine,
                    "sexual": { "filtered": true, "severity": "high" },
                },
            },
        });
        Self { status: 400, body: json!({ "error": error }), headers: Vec::new() }
    }

    pub(crate) fn context_length() -> Self {
        let message = "This model's maximum context length is 128000 tokens. However, your \
            messages resulted in 131072 tokens. Please reduce the length of the messages.";
        Self::model(Some("messages"), Some("context_length_exceeded"), message)
    }

    /// A refusal of the rate limit, with both headers when a delay is given.
    pub(crate) fn throttled(exceeded: Exceeded, retry_after_ms: Option<u64>) -> Self {
        let what = match exceeded {
            Exceeded::Tokens => "the token rate limit of your current OpenAI S0 pricing tier",
            Exceeded::Requests => "the call rate limit of your current OpenAI S0 pricing tier",
            Exceeded::Provisioned => "the provisioned throughput of this deployment",
        };
        let wait = retry_after_ms.map(|delay_ms| {
            let delay_s = delay_ms.div_ceil(1000);
            format!(" Please retry after {delay_s} seconds.")
        });
        let wait = wait.unwrap_or_default();
        let message = format!("Requests to the Azure OpenAI API have exceeded {what}.{wait}");
        let headers = retry_after_ms.map(retry_headers).unwrap_or_default();
        Self { headers, ..Self::front_end(429, "429", message) }
    }

    /// The body that Azure sends with a status when nothing else is known.
    pub(crate) fn plain(status: u16) -> Self {
        match status {
            401 => Self::unauthorized(),
            404 => Self::resource_not_found(),
            429 => Self::throttled(Exceeded::Tokens, None),
            500 => {
                Self::front_end(500, "InternalServerError", "The server had an error. Try again.")
            }
            503 => {
                let message = "The service is temporarily unable to process your request. Please \
                    try again later.";
                Self::front_end(503, "ServiceUnavailable", message)
            }
            _ => Self::front_end(status, &status.to_string(), format!("Mock status {status}.")),
        }
    }
}

/// Azure's two headers: exact milliseconds, and whole seconds rounded up.
pub(crate) fn retry_headers(delay_ms: u64) -> Vec<(String, String)> {
    vec![
        ("retry-after".to_owned(), delay_ms.div_ceil(1000).to_string()),
        ("retry-after-ms".to_owned(), delay_ms.to_string()),
    ]
}
