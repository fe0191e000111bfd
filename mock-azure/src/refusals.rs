//! What a request makes the backend refuse, at every backend alike.
//!
//! A [`Fault`](crate::Fault) is the backend's own trouble, and tests order it. A refusal is the doing of
//! whoever asks: an object that does not exist, a scope that the key lacks, a size that the deployment
//! never takes, a prompt that crashes the model. So no order is needed: the request itself says what it
//! gets, and gets the same wherever it goes. The catalogue has every refusal in each of its shapes,
//! because Azure's front end, Azure's models, OpenAI and the proxies between word the same thing differently.
//!
//! A request is refused for what is really wrong with it (`causes`), or because it names an entry of
//! the catalogue: the text `mock-answers-` and the entry's name in body, path or a header. The
//! second is for what has no visible cause. Only mocks with `refusals` on do any of this.

mod causes;

use std::sync::LazyLock;
use std::time::Duration;

use hyper::http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answers::Answer;
use crate::config::MockConfig;
use crate::faults::Effect;
use crate::script::{Script, Step};

pub(crate) use causes::{Asked, refusal_for};

/// What a request that wants an entry of the catalogue puts before its name. Anything that is no lower-case
/// letter, digit or hyphen ends the name.
pub const REFUSAL_MARKER: &str = "mock-answers-";

/// Longer than any client or gateway waits.
const FOREVER: Duration = Duration::from_secs(3600);

/// All refusals. The order within a group decides which of them a request meets.
static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    serde_json::from_str(include_str!("refusals/catalogue.json")).expect("a whole catalogue")
});

/// The refusals by what they are about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    /// 400 and the other 4xx: the request is wrong at every backend. And 3xx, which point elsewhere.
    invalid: Vec<Refusal>,
    /// 401 and 403: the key may not do this for this request, though it may do everything else.
    denied: Vec<Refusal>,
    /// 404 and the like: what the request names does not exist here.
    missing: Vec<Refusal>,
    /// 429s about the size of this request only. The deployment serves all others.
    too_large: Vec<Refusal>,
    /// Requests at which any backend fails: a prompt that crashes the model, for example.
    poison: Vec<Refusal>,
    /// Poison that costs its client a timeout. So a request gets it by its name only.
    slow: Vec<Refusal>,
    /// Flex capacity is out; the deployment works. The request has to ask for the tier.
    flex: Vec<Refusal>,
    /// The same for priority processing.
    priority: Vec<Refusal>,
    /// Of operations without a model: polling, files, batches. Their limit is the resource's.
    of_objects: Vec<Refusal>,
    /// The standard deployment behind Azure's own spillover is full, for which the client asked by a header.
    spilled: Vec<Refusal>,
    /// What the request depends on has no room, or refuses; the deployment works. The request has to name the
    /// dependency.
    of_dependencies: Vec<Refusal>,
}

/// The names of all refusals that do not keep their client waiting (`silence` and `stall` do). A request can ask for
/// each of them with [`REFUSAL_MARKER`].
pub fn refusal_names() -> impl Iterator<Item = &'static str> {
    quick().map(|refusal| &*refusal.name)
}

/// A refusal as it goes over the wire, for tests that play the backend themselves.
#[derive(Debug, Clone)]
pub struct RefusalResponse {
    /// Its name in the catalogue.
    pub name: &'static str,
    /// The status; 0 means that the connection ends without a response.
    pub status: u16,
    /// Names and values, `content-type` included.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// All refusals of [`refusal_names`].
pub fn refusal_responses() -> impl Iterator<Item = RefusalResponse> {
    quick().map(Refusal::over_the_wire)
}

/// One refusal in one shape.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    name: String,
    /// 0 when there is no response.
    #[serde(default)]
    status: u16,
    body: Body,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

/// What a refusal answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Body {
    /// Azure's front end: two fields.
    FrontEnd { code: String, message: String },
    /// Azure's models and OpenAI: four fields.
    Model {
        #[serde(rename = "type", default = "most_frequent_type")]
        kind: String,
        param: Option<String>,
        code: Option<String>,
        message: String,
    },
    /// Whatever else.
    Text { content_type: String, text: String },
    /// A stream of these events.
    Stream(String),
    /// A response that begins and falls silent.
    Stall(String),
    /// These bytes instead of HTTP's own framing.
    Bytes(Vec<u8>),
    /// No answer: the connection ends.
    Hangup { reset: bool },
    /// No answer, and no end.
    Silence,
}

fn most_frequent_type() -> String {
    "invalid_request_error".to_owned()
}

impl Refusal {
    fn over_the_wire(&'static self) -> RefusalResponse {
        let name = &*self.name;
        let Effect::Answer(answer) = self.effect() else {
            return RefusalResponse { name, status: 0, headers: Vec::new(), body: Vec::new() };
        };
        let mut headers = answer.headers;
        if !answer.content_type.is_empty() {
            headers.push(("content-type".to_owned(), answer.content_type.to_owned()));
        }
        let chunk = |step: &Step| match step {
            Step::Chunk(chunk) => chunk.to_vec(),
            _ => Vec::new(),
        };
        let body = answer.script.0.iter().flat_map(chunk).collect();
        RefusalResponse { name, status: self.status, headers, body }
    }

    pub(crate) fn effect(&'static self) -> Effect {
        let mut answer = match &self.body {
            Body::FrontEnd { code, message } => {
                Answer::json(&json!({ "error": { "code": code, "message": message } }), 0)
            }
            Body::Model { kind, param, code, message } => {
                Answer::json(&model_error(kind, param.as_deref(), code.as_deref(), message), 0)
            }
            Body::Text { content_type, text } => Answer::bytes(content_type, &**text, 0),
            Body::Stream(events) => Answer::stream(Script::whole(&**events), 0),
            Body::Stall(start) => {
                Answer::stream(Script(vec![Step::Chunk(start.as_str().into()), Step::Stall]), 0)
            }
            Body::Bytes(bytes) => return Effect::Bytes(bytes),
            Body::Hangup { reset } => return Effect::Hangup { reset: *reset },
            Body::Silence => return Effect::Later(FOREVER),
        };
        answer.status = self.status;
        answer.headers.extend(self.headers.iter().cloned());
        Effect::Answer(answer)
    }
}

fn model_error(kind: &str, param: Option<&str>, code: Option<&str>, message: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
}

/// Those that do not keep their client waiting.
fn quick() -> impl Iterator<Item = &'static Refusal> {
    let Catalogue { invalid, denied, missing, too_large, poison, .. } = &*CATALOGUE;
    [invalid, denied, missing, too_large, poison].into_iter().flatten()
}

fn catalogue() -> impl Iterator<Item = &'static Refusal> {
    quick().chain(&CATALOGUE.slow)
}

fn named(name: &str) -> Option<&'static Refusal> {
    catalogue().find(|refusal| refusal.name == name)
}

/// The entry that the request names: in the body, otherwise in the path, otherwise in a header.
fn wanted(head: &Parts, body: &[u8]) -> Option<&'static Refusal> {
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let headers = head.headers.values().map(hyper::header::HeaderValue::as_bytes);
    let places = [body, path.as_bytes()].into_iter().chain(headers);
    places.filter_map(marked).find_map(named)
}

fn marked(text: &[u8]) -> Option<&str> {
    let marker = REFUSAL_MARKER.as_bytes();
    let at = text.windows(marker.len()).position(|window| window == marker)?;
    let rest = text.get(at + marker.len()..)?;
    let is_part = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
    std::str::from_utf8(rest.get(..end)?).ok()
}

/// The refusal of a request, when there is one.
pub(crate) fn refusal(
    asked: &Asked<'_>,
    head: &Parts,
    body: &[u8],
    config: &MockConfig,
) -> Option<&'static Refusal> {
    if !config.refusals {
        return None;
    }
    // A deployment that cannot do the operation does not get as far as what the request asks for.
    causes::lacks(asked, head, body, config)
        .or_else(|| wanted(head, body))
        .or_else(|| refusal_for(asked, head, body, config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_name_of_its_own_that_a_marker_can_carry() {
        let mut names: Vec<&str> = refusal_names().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in names {
            let text = format!("Please {REFUSAL_MARKER}{name}. Thank you.");
            assert_eq!(marked(text.as_bytes()), Some(name));
            assert!(named(name).is_some());
        }
    }

    #[test]
    fn no_refusal_is_a_response_that_a_client_wants() {
        for refusal in catalogue() {
            if let Effect::Answer(answer) = refusal.effect() {
                let fine = answer.status == 200 && !answer.streams;
                assert!(!fine || answer.content_type != "application/json", "{}", refusal.name);
            }
        }
    }
}
