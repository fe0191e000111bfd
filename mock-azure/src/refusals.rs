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
mod denied;
mod invalid;
mod missing;
mod poison;
mod throttles;

use std::time::Duration;

use hyper::http::request::Parts;
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

/// The names of all refusals that do not keep their client waiting (`silence` and `stall` do), each
/// of which a request can ask for by [`REFUSAL_MARKER`].
pub fn refusal_names() -> impl Iterator<Item = &'static str> {
    QUICK.into_iter().flatten().map(|refusal| refusal.name)
}

/// A refusal as it goes over the wire, for tests that play the backend themselves.
#[derive(Debug, Clone)]
pub struct RefusalAnswer {
    /// Its name in the catalogue.
    pub name: &'static str,
    /// The status; 0 means that the connection ends without an answer.
    pub status: u16,
    /// Names and values, `content-type` included.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// All refusals of [`refusal_names`].
pub fn refusal_answers() -> impl Iterator<Item = RefusalAnswer> {
    QUICK.into_iter().flatten().map(Refusal::over_the_wire)
}

/// One refusal in one shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    name: &'static str,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: Body,
}

/// What a refusal answers.
#[derive(Debug, Clone, Copy)]
enum Body {
    /// Azure's front end: two fields.
    FrontEnd { code: &'static str, message: &'static str },
    /// Azure's models and OpenAI: four fields.
    Model {
        kind: &'static str,
        param: Option<&'static str>,
        code: Option<&'static str>,
        message: &'static str,
    },
    /// Whatever else.
    Text { content_type: &'static str, text: &'static str },
    /// A stream of these events.
    Stream(&'static str),
    /// An answer that begins and falls silent.
    Stall(&'static str),
    /// These bytes in place of HTTP's own framing.
    Bytes(&'static [u8]),
    /// No answer: the connection ends.
    Hangup { reset: bool },
    /// No answer, and no end.
    Silence,
}

impl Refusal {
    const fn front_end(
        name: &'static str,
        status: u16,
        code: &'static str,
        message: &'static str,
    ) -> Self {
        Self { name, status, headers: &[], body: Body::FrontEnd { code, message } }
    }

    /// The most frequent shape of a model: an `invalid_request_error`.
    const fn model(
        name: &'static str,
        status: u16,
        param: Option<&'static str>,
        code: Option<&'static str>,
        message: &'static str,
    ) -> Self {
        Self::kind(name, status, "invalid_request_error", param, code, message)
    }

    const fn kind(
        name: &'static str,
        status: u16,
        kind: &'static str,
        param: Option<&'static str>,
        code: Option<&'static str>,
        message: &'static str,
    ) -> Self {
        Self { name, status, headers: &[], body: Body::Model { kind, param, code, message } }
    }

    const fn text(
        name: &'static str,
        status: u16,
        content_type: &'static str,
        text: &'static str,
    ) -> Self {
        Self { name, status, headers: &[], body: Body::Text { content_type, text } }
    }

    const fn other(name: &'static str, status: u16, body: Body) -> Self {
        Self { name, status, headers: &[], body }
    }

    const fn with(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    fn over_the_wire(&self) -> RefusalAnswer {
        let Effect::Answer(answer) = self.effect() else {
            return RefusalAnswer {
                name: self.name,
                status: 0,
                headers: Vec::new(),
                body: Vec::new(),
            };
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
        RefusalAnswer { name: self.name, status: self.status, headers, body }
    }

    pub(crate) fn effect(&self) -> Effect {
        let mut answer = match self.body {
            Body::FrontEnd { code, message } => {
                Answer::json(&json!({ "error": { "code": code, "message": message } }), 0)
            }
            Body::Model { kind, param, code, message } => {
                Answer::json(&model_error(kind, param, code, message), 0)
            }
            Body::Text { content_type, text } => Answer::bytes(content_type, text, 0),
            Body::Stream(events) => Answer::stream(Script::whole(events), 0),
            Body::Stall(start) => {
                Answer::stream(Script(vec![Step::Chunk(start.into()), Step::Stall]), 0)
            }
            Body::Bytes(bytes) => return Effect::Bytes(bytes),
            Body::Hangup { reset } => return Effect::Hangup { reset },
            Body::Silence => return Effect::Later(FOREVER),
        };
        answer.status = self.status;
        let headers = self.headers.iter();
        answer.headers.extend(headers.map(|(name, value)| ((*name).into(), (*value).into())));
        Effect::Answer(answer)
    }
}

fn model_error(kind: &str, param: Option<&str>, code: Option<&str>, message: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
}

/// Those that do not keep their client waiting.
const QUICK: [&[Refusal]; 5] =
    [invalid::ALL, denied::ALL, missing::ALL, throttles::ALL, poison::ALL];

fn catalogue() -> impl Iterator<Item = &'static Refusal> {
    QUICK.into_iter().chain([poison::SLOW]).flatten()
}

fn named(name: &str) -> Option<&'static Refusal> {
    catalogue().find(|refusal| refusal.name == name)
}

/// The entry that the request names: in the body, else in the path, else in a header.
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
    fn no_refusal_is_an_answer_that_a_client_wants() {
        for refusal in catalogue() {
            if let Effect::Answer(answer) = refusal.effect() {
                let fine = answer.status == 200 && !answer.streams;
                assert!(!fine || answer.content_type != "application/json", "{}", refusal.name);
            }
        }
    }
}
