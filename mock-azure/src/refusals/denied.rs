//! 401 and 403: the key may not do this for this request, though it may do everything else.

use super::Refusal;

pub(super) const ALL: &[Refusal] = &[
    Refusal::front_end(
        "key-azure",
        401,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide \
         a valid key for an active subscription and use a correct regional API endpoint.",
    ),
    Refusal::model(
        "key-openai",
        401,
        None,
        Some("invalid_api_key"),
        "Incorrect API key provided. You can find your API key at your account page.",
    ),
    Refusal::model(
        "organization",
        401,
        None,
        Some("invalid_organization"),
        "No such organization: org-unknown.",
    )
    .with(&[("www-authenticate", "Bearer")]),
    Refusal::model(
        "organization-mismatched",
        401,
        None,
        Some("mismatched_organization"),
        "OpenAI-Organization header should match organization for API key",
    ),
    Refusal::model(
        "project-mismatched",
        401,
        None,
        Some("mismatched_project"),
        "OpenAI-Project header should match project for API key",
    ),
    Refusal::model(
        "scope-401",
        401,
        None,
        Some("missing_scope"),
        "You have insufficient permissions for this operation. Missing scopes: api.responses.write.",
    ),
    Refusal::model(
        "scope-403",
        403,
        None,
        None,
        "You have insufficient permissions for this operation. Missing scopes: model.request.",
    ),
    Refusal::front_end(
        "data-action-401",
        401,
        "PermissionDenied",
        "The principal lacks the required data action \
         Microsoft.CognitiveServices/accounts/OpenAI/responses/write to perform POST \
         /openai/responses operation.",
    ),
    Refusal::front_end(
        "data-action-403",
        403,
        "PermissionDenied",
        "Principal does not have access to API/Operation.",
    ),
    Refusal::front_end(
        "audience",
        401,
        "Unauthorized",
        "Access token is missing, invalid, audience is incorrect, or have expired.",
    ),
    Refusal::kind(
        "project-403",
        403,
        "invalid_request_error",
        None,
        Some("model_not_found"),
        "Project `proj_x` does not have access to model `gpt-4o`",
    ),
    Refusal::kind(
        "must-be-verified",
        403,
        "invalid_request_error",
        Some("stream"),
        Some("unsupported_value"),
        "Your organization must be verified to stream this model.",
    ),
    Refusal::kind(
        "country",
        403,
        "request_forbidden",
        None,
        Some("unsupported_country_region_territory"),
        "Country, region, or territory not supported",
    ),
    Refusal::front_end(
        "network",
        403,
        "AccessDenied",
        "Access denied due to Virtual Network/Firewall rules.",
    ),
    Refusal::front_end(
        "private-endpoint",
        403,
        "403",
        "Public access is disabled. Please configure private endpoint.",
    ),
    Refusal::front_end(
        "abuse",
        403,
        "403",
        "Your resource has been temporarily blocked because we detected behavior that may violate \
         our content policy.",
    ),
    Refusal::model(
        "vector-store-of-others",
        403,
        None,
        None,
        "Vector store 'vs_other' belongs to a different project.",
    ),
    Refusal::text(
        "firewall-html",
        403,
        "text/html",
        "<html><head><title>403 Forbidden</title></head><body><h1>403 Forbidden</h1></body></html>",
    ),
    Refusal::text("denied-empty", 403, "", ""),
    Refusal::text("unauthorized-empty", 401, "", ""),
    Refusal::text(
        "unauthorized-apim",
        401,
        "application/json",
        r#"{ "statusCode": 401, "message": "Unauthorized. Access token is missing." }"#,
    ),
];
