//! What the backend sends when nothing is wrong: one module per family of operations.
//!
//! Answers have the real shape down to the fields that clients read, and every text begins with the name of
//! the mock, so that whoever reads it knows who served.

mod chat;
mod embeddings;
mod media;
mod models;
mod responses;

use serde_json::{Value, json};

use crate::config::MockConfig;
use crate::facts::Facts;
use crate::problems::Problem;
use crate::route::Operation;
use crate::script::Script;

pub(crate) use responses::StoredResponses;
pub(crate) use responses::{created_event, error_event, failed_event};

/// A response, not yet played.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) script: Script,
    /// An event stream has no content-length.
    pub(crate) streams: bool,
    /// What the request really cost, for the correction of provisioned utilisation.
    pub(crate) tokens_used: u64,
}

/// A request that was admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) operation: &'a Operation,
    pub(crate) deletes: bool,
    pub(crate) facts: &'a Facts,
    pub(crate) deployment: &'a str,
    pub(crate) config: &'a MockConfig,
}

impl Answer {
    pub(crate) fn json(value: &Value, tokens_used: u64) -> Self {
        Self::bytes("application/json", value.to_string(), tokens_used)
    }

    pub(crate) fn bytes(
        content_type: &'static str,
        body: impl Into<bytes::Bytes>,
        tokens_used: u64,
    ) -> Self {
        let script = Script::whole(body);
        let headers = Vec::new();
        Self { status: 200, content_type, headers, script, streams: false, tokens_used }
    }

    pub(crate) fn stream(script: Script, tokens_used: u64) -> Self {
        let content_type = "text/event-stream; charset=utf-8";
        let headers = Vec::new();
        Self { status: 200, content_type, headers, script, streams: true, tokens_used }
    }

    pub(crate) fn problem(problem: Problem) -> Self {
        let Problem { status, body, headers } = problem;
        Self { status, headers, ..Self::json(&body, 0) }
    }
}

/// Answers a request.
pub(crate) fn answer(question: Question<'_>, stored: &mut StoredResponses) -> Answer {
    let outcome = match question.operation {
        Operation::Chat => Ok(chat::chat(question)),
        Operation::Completions => Ok(chat::completions(question)),
        Operation::Embeddings => Ok(embeddings::embeddings(question)),
        Operation::Responses => responses::create(question, stored),
        Operation::StoredResponse { id } => stored.serve(id, question.deletes),
        Operation::Images => Ok(media::images(question)),
        Operation::AudioText => Ok(media::audio_text(question)),
        Operation::Speech => Ok(media::speech(question)),
        Operation::Models => Ok(models::list(question)),
        Operation::Model { id } => models::one(question, id),
        Operation::Files => Ok(models::files()),
        Operation::Realtime => Err(Problem::plain(426)),
    };
    outcome.unwrap_or_else(Answer::problem)
}

/// The generated text of a response, a token at a time.
struct Text {
    tokens: Vec<String>,
    /// The caller's maximum cut it short.
    cut_short: bool,
}

impl Text {
    fn of(question: Question<'_>) -> Self {
        let wanted = question.config.completion_tokens.max(1);
        let allowed = question.facts.completion_tokens_max.unwrap_or(u64::MAX);
        let start = [question.config.name.clone(), " answers as ".to_owned()];
        let start = start.into_iter().chain([question.deployment.to_owned(), ":".to_owned()]);
        let rest = (1_u64..).map(|number| format!(" {number}"));
        let count = usize::try_from(wanted.min(allowed)).unwrap_or(usize::MAX);
        Self { tokens: start.chain(rest).take(count).collect(), cut_short: allowed < wanted }
    }

    fn whole(&self) -> String {
        self.tokens.concat()
    }

    fn count(&self) -> u64 {
        self.tokens.len() as u64
    }

    fn finish_reason(&self) -> &'static str {
        if self.cut_short { "length" } else { "stop" }
    }
}

/// One event without a name: chat and completions.
pub(crate) fn data_event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// One named event: responses.
pub(crate) fn named_event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// The verdict of the content filter over a harmless text.
fn content_filter_results() -> Value {
    let fine = json!({ "filtered": false, "severity": "safe" });
    json!({ "hate": fine, "self_harm": fine, "sexual": fine, "violence": fine })
}
