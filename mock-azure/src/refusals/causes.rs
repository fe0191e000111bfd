//! What is wrong with a request, as far as a backend can see it.
//!
//! The same mistake is worded in several shapes. Which of them a request meets follows from the fingerprint
//! of its body and the end of its path: as good as random, and the same each time the same request
//! arrives.

use hyper::http::request::Parts;
use serde_json::Value;

use super::{CATALOGUE, Refusal, named};
use crate::config::MockConfig;
use crate::facts::Facts;
use crate::record::body_hash;
use crate::route::{Operation, Route};

/// The request as the mock understood it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) route: Option<&'a Route>,
    pub(crate) facts: Option<&'a Facts>,
}

// Below are the names of refusals that say the same.

const VECTOR_STORE: &[&str] = &[
    "vector-store-openai",
    "vector-store-azure",
    "vector-store-front-end",
    "vector-store-as-400",
    "missing-html",
    "missing-empty",
];
const FILE: &[&str] = &["file-openai", "file-null-code", "file-azure", "missing-plain"];
const PROMPT: &[&str] = &["prompt", "prompt-null-code", "missing-detail"];
const CONTAINER: &[&str] = &["container", "container-expired", "missing-empty"];
const CONVERSATION: &[&str] = &["conversation", "resource-not-found", "missing-html"];
const ITEM: &[&str] = &["item", "response-azure"];
const PREVIOUS: &[&str] =
    &["previous-response-400", "previous-response-404", "response", "response-azure"];
/// The deployment exists and does other things.
const OPERATION: &[&str] = &[
    "operation-not-supported",
    "resource-not-found",
    "deployment-not-found",
    "operation-not-found",
    "is-a-chat-model",
    "invalid-url",
    "missing-html",
    "missing-empty",
];
const UNKNOWN_PATH: &[&str] =
    &["resource-not-found", "invalid-url", "missing-html", "missing-detail"];
const TOO_LARGE: &[&str] = &[
    "too-large-openai",
    "too-large-with-delay",
    "too-large-azure",
    "too-large-azure-seconds",
    "peak-load",
];
const ORGANIZATION: &[&str] =
    &["organization", "organization-mismatched", "project-mismatched", "project-403"];

const INVALID: &[&str] = &["invalid-type", "unsupported-value", "null-code", "bad-request"];

/// Responses to one prompt, at most.
const CHOICES_MAX: u64 = 128;
const MAXIMA: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

/// What the members of a JSON body refer to, and how it is said that this does not exist.
const REFERENCES: [(&str, &str, &[&str]); 7] = [
    ("vector_store_ids", "", VECTOR_STORE),
    ("file_id", "", FILE),
    ("container", "", CONTAINER),
    ("conversation", "", CONVERSATION),
    ("encrypted_content", "", &["encrypted-content"]),
    ("prompt", "id", PROMPT),
    ("id", "rs_", ITEM),
];

/// The refusal of a request for an operation that the deployment does not have.
pub(crate) fn lacks(
    asked: &Asked<'_>,
    head: &Parts,
    body: &[u8],
    config: &MockConfig,
) -> Option<&'static Refusal> {
    let route = asked.route?;
    let lacks = !config.operations.is_empty() && !does(config, &route.operation);
    lacks.then(|| named(OPERATION.get(turn(head, body, OPERATION.len()))?))?
}

/// The refusal of a request with something wrong in it.
pub(crate) fn refusal_for(
    asked: &Asked<'_>,
    head: &Parts,
    body: &[u8],
    config: &MockConfig,
) -> Option<&'static Refusal> {
    let pick = |shapes: &[&str]| named(shapes.get(turn(head, body, shapes.len()))?);
    let of = |refusals: &'static [Refusal]| refusals.get(turn(head, body, refusals.len()));
    let has = |name: &str| head.headers.contains_key(name);
    if has("openai-organization") || has("openai-project") {
        return pick(ORGANIZATION);
    }
    if has("x-ms-spillover-deployment") {
        return of(&CATALOGUE.spilled);
    }
    let Some(route) = asked.route else {
        let is_busy = names_object(head.uri.path()) && turn(head, body, 3) == 0;
        return if is_busy { of(&CATALOGUE.of_objects) } else { pick(UNKNOWN_PATH) };
    };
    if matches!(route.operation, Operation::Files) || is_busy(&route.operation) {
        return of(&CATALOGUE.of_objects);
    }
    if let Some(lacking) = lacks(asked, head, body, config) {
        return Some(lacking);
    }
    let facts = asked.facts?;
    match facts.json["service_tier"].as_str() {
        Some("flex") => return of(&CATALOGUE.flex),
        Some("priority") => return of(&CATALOGUE.priority),
        _ => {}
    }
    if ["n", "best_of"].iter().any(|name| exceeds(&facts.json[name], CHOICES_MAX)) {
        return pick(INVALID);
    }
    if MAXIMA.iter().any(|name| is_no_maximum(&facts.json[name])) {
        return pick(INVALID);
    }
    if config.request_tokens_max.is_some_and(|max| facts.estimate(&route.operation) > max) {
        return pick(TOO_LARGE);
    }
    if has_busy_dependency(&facts.json) {
        return of(&CATALOGUE.of_dependencies);
    }
    let previous = facts.json["previous_response_id"].as_str();
    if previous.is_some_and(|id| id.contains("unknown")) {
        return pick(PREVIOUS);
    }
    reference(&facts.json).and_then(pick)
}

fn exceeds(value: &Value, max: u64) -> bool {
    value.as_f64().is_some_and(|number| number > max as f64)
}

/// Whether it is given, and is not a whole number of at least one. A number that no 64 bits hold is one
/// that is too large.
fn is_no_maximum(value: &Value) -> bool {
    !value.is_null() && value.as_u64().is_none_or(|number| number == 0)
}

/// Whether it names a search service or a tool that has no capacity left, or refuses the backend.
fn has_busy_dependency(body: &Value) -> bool {
    let tools = body["tools"].as_array().into_iter().flatten();
    body["data_sources"].is_array()
        || tools.into_iter().any(|tool| tool["type"] == "image_generation")
        || body["prompt"].as_array().is_some_and(|prompts| prompts.len() > 1)
}

/// A number below `bound` that follows from the body and the end of the path, which is the same in all APIs.
fn turn(head: &Parts, body: &[u8], bound: usize) -> usize {
    let name = head.uri.path().rsplit('/').next().unwrap_or_default();
    let hash = body_hash(&[name.as_bytes(), body].concat());
    let number = hash.get(..6).and_then(|digits| usize::from_str_radix(digits, 16).ok());
    number.unwrap_or_default() % bound.max(1)
}

/// Whether the path is one of what a resource keeps, whose rate limit is no model's.
fn names_object(path: &str) -> bool {
    const KEPT: [&str; 12] = [
        "files",
        "uploads",
        "batches",
        "vector_stores",
        "assistants",
        "threads",
        "fine_tuning",
        "containers",
        "conversations",
        "evals",
        "videos",
        "video",
    ];
    path.split('/').any(|segment| KEPT.contains(&segment) || segment.starts_with("resp_"))
}

/// Polled too often, which the object's name says.
fn is_busy(operation: &Operation) -> bool {
    matches!(operation, Operation::StoredResponse { id } if id.contains("busy"))
}

fn does(config: &MockConfig, operation: &Operation) -> bool {
    let name = match operation {
        Operation::Chat => "chat",
        Operation::Completions => "completions",
        Operation::Embeddings => "embeddings",
        Operation::Responses => "responses",
        Operation::Images => "images",
        Operation::AudioText => "audio",
        Operation::Speech => "speech",
        Operation::Realtime => "realtime",
        // No model is needed for the rest.
        _ => return true,
    };
    config.operations.iter().any(|operation| operation == name)
}

/// The first reference in the body to something that no mock has.
fn reference(value: &Value) -> Option<&'static [&'static str]> {
    match value {
        Value::Object(members) => members.iter().find_map(|(name, value)| {
            let known = REFERENCES.iter().find(|(member, _, _)| member == name);
            known
                .filter(|(_, hint, _)| refers(value, hint))
                .map(|(_, _, shapes)| *shapes)
                .or_else(|| reference(value))
        }),
        Value::Array(items) => items.iter().find_map(reference),
        _ => None,
    }
}

/// Whether the value names an object: a text that begins with the hint, or an object with this member.
fn refers(value: &Value, hint: &str) -> bool {
    match value {
        Value::String(text) => hint != "id" && text.starts_with(hint),
        Value::Object(members) => hint == "id" && members.contains_key("id"),
        Value::Array(items) => hint.is_empty() && !items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_shape_is_in_the_catalogue() {
        let others = [INVALID, OPERATION, UNKNOWN_PATH, TOO_LARGE, ORGANIZATION, PREVIOUS];
        let references = REFERENCES.iter().map(|(_, _, shapes)| *shapes);
        for name in references.chain(others).flatten() {
            assert!(named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_does_not_exist_is_found_wherever_a_body_names_it() {
        let tools =
            json!({"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]});
        assert_eq!(reference(&tools), Some(VECTOR_STORE));
        let file = json!({"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]});
        assert_eq!(reference(&file), Some(FILE));
        assert_eq!(reference(&json!({"prompt": {"id": "pmpt_1"}})), Some(PROMPT));
        assert_eq!(reference(&json!({"input": [{"id": "rs_1"}]})), Some(ITEM));
    }

    #[test]
    fn a_harmless_body_refers_to_nothing() {
        let chat =
            json!({"model": "gpt", "messages": [{"role": "user", "content": "rs_ file_id"}]});
        assert_eq!(reference(&chat), None);
        assert_eq!(reference(&json!({"prompt": "Once upon a time"})), None);
        assert_eq!(reference(&json!({"tools": [{"vector_store_ids": []}]})), None);
    }
}
