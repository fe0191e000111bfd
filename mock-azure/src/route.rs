//! Which operation a path means, and for which deployment.
//!
//! Azure has two forms and clients of OpenAI itself a third: classic
//! `/openai/deployments/{deployment}/…?api-version=`, v1 `/openai/v1/…` and plain `/v1/…`, where the
//! deployment is the body's `model`. A classic path without a usable api-version does not exist.

use hyper::{Method, Uri};

/// What a request asks the backend to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Chat,
    Completions,
    Embeddings,
    Responses,
    StoredResponse {
        id: String,
    },
    Images,
    /// Transcription and translation: multipart in, JSON out.
    AudioText,
    Speech,
    Models,
    Model {
        id: String,
    },
    Files,
    Realtime,
}

/// A path that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) operation: Operation,
    /// The deployment, where path or query name it.
    pub(crate) deployment: Option<String>,
}

/// Reads a request line; `None` is Azure's "Resource not found".
pub(crate) fn route(method: &Method, uri: &Uri) -> Option<Route> {
    let path = uri.path().trim_end_matches('/');
    let (rest, deployment) = if let Some(rest) = path.strip_prefix("/openai/v1/") {
        (rest, None)
    } else if let Some(rest) = path.strip_prefix("/openai/") {
        if !has_api_version(uri) {
            return None;
        }
        match rest.strip_prefix("deployments/") {
            Some(rest) => {
                let (deployment, rest) = rest.split_once('/')?;
                (rest, Some(percent_decoded(deployment)))
            }
            None => (rest, None),
        }
    } else {
        (path.strip_prefix("/v1/")?, None)
    };
    let operation = operation(method, rest)?;
    let named = || query(uri, "deployment").or_else(|| query(uri, "model"));
    let deployment = match operation {
        Operation::Realtime => deployment.or_else(named),
        _ => deployment,
    };
    Some(Route { operation, deployment })
}

fn operation(method: &Method, path: &str) -> Option<Operation> {
    let (reads, writes, deletes) =
        (method == Method::GET, method == Method::POST, method == Method::DELETE);
    Some(match path {
        "chat/completions" if writes => Operation::Chat,
        "completions" if writes => Operation::Completions,
        "embeddings" if writes => Operation::Embeddings,
        "responses" if writes => Operation::Responses,
        "images/generations" | "images/edits" if writes => Operation::Images,
        "audio/transcriptions" | "audio/translations" if writes => Operation::AudioText,
        "audio/speech" if writes => Operation::Speech,
        "models" if reads => Operation::Models,
        "files" if reads || writes => Operation::Files,
        "realtime" if reads => Operation::Realtime,
        _ => match path.split_once('/')? {
            ("responses", id) if reads || deletes => {
                Operation::StoredResponse { id: one_segment(id)? }
            }
            ("models", id) if reads => Operation::Model { id: one_segment(id)? },
            _ => return None,
        },
    })
}

fn one_segment(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains('/')).then(|| percent_decoded(text))
}

/// A date with an optional suffix, or the names of the v1 preview.
fn has_api_version(uri: &Uri) -> bool {
    query(uri, "api-version").is_some_and(|version| {
        let date = version.get(..10).unwrap_or_default();
        let digits = date.chars().filter(char::is_ascii_digit).count();
        matches!(version.as_str(), "preview" | "latest")
            || (digits == 8 && date.split('-').count() == 3)
    })
}

fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| percent_decoded(value)).next()
}

/// The text with `%xx` replaced; a malformed escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = if *first == b'%' { tail.get(..2) } else { None };
        let escape = escape.and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = escape.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str) -> Option<Route> {
        route(&Method::POST, &path.parse().unwrap())
    }

    fn chat(deployment: Option<&str>) -> Option<Route> {
        Some(Route { operation: Operation::Chat, deployment: deployment.map(str::to_owned) })
    }

    #[test]
    fn all_three_shapes_reach_the_same_operation() {
        let classic = "/openai/deployments/gpt%2D4o/chat/completions?api-version=2024-10-21";
        assert_eq!(post(classic), chat(Some("gpt-4o")));
        assert_eq!(post("/openai/v1/chat/completions"), chat(None));
        assert_eq!(post("/v1/chat/completions"), chat(None));
    }

    #[test]
    fn a_classic_path_needs_an_api_version_and_v1_does_not() {
        assert_eq!(post("/openai/deployments/d/chat/completions"), None);
        assert_eq!(post("/openai/deployments/d/chat/completions?api-version="), None);
        assert_eq!(post("/openai/deployments/d/chat/completions?api-version=soon"), None);
        assert_eq!(post("/openai/responses"), None);
        assert!(post("/openai/responses?api-version=2025-04-01-preview").is_some());
        assert!(post("/openai/v1/responses").is_some());
    }

    #[test]
    fn a_deployment_may_be_called_like_an_operation() {
        let path = "/openai/deployments/chat/chat/completions?api-version=2024-10-21";
        assert_eq!(post(path), chat(Some("chat")));
    }

    #[test]
    fn a_method_or_path_that_azure_lacks_is_no_route() {
        assert_eq!(route(&Method::GET, &"/v1/chat/completions".parse().unwrap()), None);
        assert_eq!(post("/chat/completions"), None);
        assert_eq!(post("/v1/responses/a/b"), None);
        assert_eq!(post("/"), None);
    }

    #[test]
    fn realtime_names_its_deployment_in_the_query() {
        let uri = "/openai/realtime?api-version=2024-10-01-preview&deployment=rt".parse().unwrap();
        let found = route(&Method::GET, &uri).unwrap();
        assert_eq!(found.operation, Operation::Realtime);
        assert_eq!(found.deployment.as_deref(), Some("rt"));
    }
}
