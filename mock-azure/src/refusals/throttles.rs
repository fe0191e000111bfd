//! 429s that speak of this request only: its size, its tier, its kind. The deployment serves all others.

use super::{Body, Refusal};

pub(super) const ALL: &[Refusal] = &[
    Refusal::kind(
        "too-large-openai",
        429,
        "tokens",
        None,
        Some("rate_limit_exceeded"),
        "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, \
         Requested 39025. The input or output tokens must be reduced in order to run successfully.",
    )
    .with(&[
        ("x-ratelimit-limit-tokens", "30000"),
        ("x-ratelimit-remaining-tokens", "29990"),
        ("x-ratelimit-reset-tokens", "20ms"),
    ]),
    Refusal::kind(
        "too-large-with-delay",
        429,
        "tokens",
        None,
        Some("rate_limit_exceeded"),
        "Request too large for gpt-4o-mini (for limit gpt-4o-mini) on tokens per min (TPM): Limit \
         200000, Requested 262144. The input or output tokens must be reduced in order to run \
         successfully.",
    )
    .with(&[("retry-after", "37"), ("retry-after-ms", "36600"), ("x-should-retry", "false")]),
    Refusal::front_end(
        "too-large-azure",
        429,
        "429",
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version \
         2024-10-21 have exceeded token rate limit of your current OpenAI S0 pricing tier. Please \
         retry after 86400 seconds.",
    )
    .with(&[("retry-after", "86400"), ("retry-after-ms", "86400000")]),
    Refusal::front_end(
        "too-large-azure-seconds",
        429,
        "RateLimitReached",
        "Your requests have exceeded the token rate limit for your current AIServices S0 pricing \
         tier. Please retry after 86400 seconds.",
    )
    .with(&[("retry-after", "86400")]),
    Refusal::front_end(
        "peak-load",
        429,
        "too_many_requests",
        "Your request exceeds the maximum usage size allowed during peak load. For assured \
         capacity, consider switching to Provisioned Throughput.",
    )
    .with(&[("retry-after", "60")]),
    Refusal::front_end(
        "peak-load-no-delay",
        429,
        "429",
        "Your request exceeds the maximum usage size allowed during peak load.",
    ),
    Refusal::other(
        "too-large-in-band",
        200,
        Body::Stream(
            "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\
             \"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"in_progress\"}}\n\n\
             event: error\ndata: {\"type\":\"error\",\"sequence_number\":1,\"error\":{\"type\":\
             \"tokens\",\"code\":\"rate_limit_exceeded\",\"message\":\"Request too large for \
             gpt-4o on tokens per min (TPM): Limit 30000, Requested 39025. The input or output \
             tokens must be reduced in order to run successfully.\",\"param\":null}}\n\n",
        ),
    ),
];

/// Flex capacity is out; the deployment is fine. The tier has to be in the request.
pub(super) const FLEX: &[Refusal] = &[
    Refusal::kind(
        "flex-openai",
        429,
        "requests",
        None,
        Some("resource_unavailable"),
        "There are insufficient resources available to process your flex request. Please try again \
         later or use service_tier=default.",
    ),
    Refusal::front_end(
        "flex-azure",
        429,
        "too_many_requests",
        "Flex capacity is currently unavailable for this model. Please retry later, or use the \
         default service tier.",
    )
    .with(&[("retry-after", "45"), ("retry-after-ms", "45000")]),
    Refusal::front_end("flex-plain", 429, "429", "Resource Unavailable"),
];

/// The same for priority processing.
pub(super) const PRIORITY: &[Refusal] = &[
    Refusal::front_end(
        "priority-azure",
        429,
        "429",
        "The rate limit for priority processing of this deployment was exceeded.",
    )
    .with(&[("retry-after", "30")]),
    Refusal::kind(
        "priority-openai",
        429,
        "tokens",
        None,
        Some("rate_limit_exceeded"),
        "Priority processing ramp rate limit exceeded.",
    )
    .with(&[("x-ratelimit-reset-tokens", "31s")]),
];

/// Of operations that no model does: polling, files, batches. Their limit is the resource's.
pub(super) const OF_OBJECTS: &[Refusal] = &[
    Refusal::front_end(
        "objects-azure",
        429,
        "429",
        "Requests to this operation have exceeded the call rate limit of your resource. Please \
         retry after 30 seconds.",
    )
    .with(&[("retry-after", "30"), ("retry-after-ms", "30000")]),
    Refusal::kind(
        "objects-openai",
        429,
        "requests",
        None,
        Some("rate_limit_exceeded"),
        "Rate limit reached for requests.",
    )
    .with(&[("x-ratelimit-reset-requests", "42s"), ("retry-after", "42")]),
    Refusal::text("objects-html", 429, "text/html", "<html><body>Too many requests</body></html>")
        .with(&[("retry-after", "30")]),
    Refusal::text("objects-empty", 429, "", ""),
];

/// The standard deployment behind Azure's own spillover is full, which the client asked for by a header.
pub(super) const SPILLED: &[Refusal] = &[Refusal::front_end(
    "spilled",
    429,
    "429",
    "Requests have exceeded the token rate limit of the spillover deployment.",
)
.with(&[
    ("x-ms-spillover-from-deployment", "gpt-4o-ptu"),
    ("x-ms-spillover-error", "429"),
    ("retry-after", "60"),
])];

/// What the request depends on has no room, or refuses; the deployment is fine. The dependency has to be in the
/// request.
pub(super) const OF_DEPENDENCIES: &[Refusal] = &[
    Refusal::front_end(
        "tool-busy",
        429,
        "too_many_requests",
        "Rate limit is exceeded. Try again in 30 seconds.",
    )
    .with(&[("retry-after", "30"), ("retry-after-ms", "30000")]),
    Refusal::model(
        "search-busy",
        429,
        None,
        Some("429"),
        "Server responded with status 429. Error message: the search service is throttled.",
    ),
    Refusal::other(
        "tool-busy-in-band",
        200,
        Body::Stream(
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"sequence_number\":1,\
             \"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"failed\",\
             \"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"Slow down.\"}}}\n\n",
        ),
    ),
    Refusal::front_end("search-401", 401, "401", "The search service refused the key."),
    Refusal::front_end("search-403", 403, "403", "The search service refused the identity."),
    Refusal::front_end(
        "embedding-not-found",
        404,
        "DeploymentNotFound",
        "The API deployment for this resource does not exist.",
    ),
];
