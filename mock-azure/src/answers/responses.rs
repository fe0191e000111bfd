//! The Responses API: create, whole and streamed, and what is stored of it.
//!
//! A stored response lives at the one resource that made it: another resource answers 404 for its id and 400
//! for a continuation of it. That is why the mock remembers its ids, and only its own.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::{Answer, Question, Text, named_event};
use crate::ids;
use crate::problems::Problem;
use crate::script::Script;

/// Responses remembered at most; the oldest are forgotten first.
const STORED_MAX: usize = 10_000;

/// The responses that this resource has made and not deleted.
#[derive(Debug, Default)]
pub(crate) struct StoredResponses {
    by_id: HashMap<String, Value>,
    oldest_first: VecDeque<String>,
}

impl StoredResponses {
    /// Answers `GET` or `DELETE` of one response.
    pub(super) fn serve(&mut self, id: &str, deletes: bool) -> Result<Answer, Problem> {
        let body = if deletes {
            let gone = json!({ "id": id, "object": "response.deleted", "deleted": true });
            self.by_id.remove(id).map(|_| gone)
        } else {
            self.by_id.get(id).cloned()
        };
        let body = body.ok_or_else(|| Problem::response_not_found(id))?;
        Ok(Answer::json(&body, 0))
    }

    fn store(&mut self, id: &str, response: Value) {
        self.by_id.insert(id.to_owned(), response);
        self.oldest_first.push_back(id.to_owned());
        if self.oldest_first.len() > STORED_MAX {
            let oldest = self.oldest_first.pop_front();
            oldest.and_then(|oldest| self.by_id.remove(&oldest));
        }
    }
}

pub(super) fn create(
    question: Question<'_>,
    stored: &mut StoredResponses,
) -> Result<Answer, Problem> {
    let facts = question.facts;
    let previous = facts.json["previous_response_id"].as_str();
    if let Some(id) = previous.filter(|id| !stored.by_id.contains_key(*id)) {
        return Err(Problem::previous_response_not_found(id));
    }
    let text = Text::of(question);
    let tokens_used = facts.prompt_tokens + text.count();
    let response = finished_response(question, &text);
    let id = response["id"].as_str().unwrap_or_default();
    if facts.json["store"].as_bool().unwrap_or(true) {
        stored.store(id, response.clone());
    }
    if !facts.stream {
        return Ok(Answer::json(&response, tokens_used));
    }
    let events = events(&text, &response);
    let pause = question.config.latency.per_chunk;
    Ok(Answer::stream(Script::stream(events, pause), tokens_used))
}

/// `response.created`, echoing an instruction text of this many bytes as Azure echoes the request.
pub(crate) fn created_event(deployment: &str, echoed_bytes: usize) -> String {
    let mut response = begun_response(deployment, "in_progress");
    response["instructions"] = json!("x".repeat(echoed_bytes));
    named_event(&json!({ "type": "response.created", "sequence_number": 0, "response": response }))
}

/// The error event: `nested` as Azure sends it, otherwise flat as documented.
pub(crate) fn error_event(nested: bool, code: &str, message: &str, number: u64) -> String {
    named_event(&if nested {
        let error = json!({ "type": code, "code": code, "message": message, "param": null });
        json!({ "type": "error", "sequence_number": number, "error": error })
    } else {
        json!({
            "type": "error", "sequence_number": number,
            "code": code, "message": message, "param": null,
        })
    })
}

/// `response.failed` with the error in the response.
pub(crate) fn failed_event(deployment: &str, code: &str, message: &str, number: u64) -> String {
    let mut response = begun_response(deployment, "failed");
    response["error"] = json!({ "code": code, "message": message });
    named_event(
        &json!({ "type": "response.failed", "sequence_number": number, "response": response }),
    )
}

fn begun_response(deployment: &str, status: &str) -> Value {
    json!({
        "id": format!("resp_{:016x}{:016x}", ids::number(), ids::number()),
        "object": "response",
        "created_at": ids::since_epoch().as_secs(),
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "max_output_tokens": null,
        "metadata": {},
        "model": deployment,
        "output": [],
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "temperature": 1.0,
        "text": { "format": { "type": "text" } },
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": null,
    })
}

fn finished_response(question: Question<'_>, text: &Text) -> Value {
    let facts = question.facts;
    let mut response = begun_response(question.deployment, "completed");
    response["previous_response_id"] = facts.json["previous_response_id"].clone();
    response["max_output_tokens"] = facts.json["max_output_tokens"].clone();
    response["store"] = json!(facts.json["store"].as_bool().unwrap_or(true));
    response["output"] = json!([message(&text.whole())]);
    response["usage"] = json!({
        "input_tokens": facts.prompt_tokens,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": text.count(),
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": facts.prompt_tokens + text.count(),
    });
    if text.cut_short {
        response["status"] = json!("incomplete");
        response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
    }
    response
}

fn message(text: &str) -> Value {
    json!({
        "id": format!("msg_{:016x}", ids::number()),
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [output_text(text)],
    })
}

fn output_text(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

/// The events of a served stream, in the order that the API promises.
fn events(text: &Text, finished: &Value) -> Vec<String> {
    let item = finished["output"][0].clone();
    let mut begun = finished.clone();
    begun["status"] = json!("in_progress");
    begun["incomplete_details"] = Value::Null;
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    let mut empty_item = item.clone();
    empty_item["status"] = json!("in_progress");
    empty_item["content"] = json!([]);
    let place = json!({ "item_id": item["id"], "output_index": 0, "content_index": 0 });
    let at_place = |kind: &str, key: &str, value: Value| {
        let mut event = place.clone();
        event["type"] = json!(kind);
        event[key] = value;
        event
    };
    let whole = text.whole();
    let mut events = vec![
        json!({ "type": "response.created", "response": begun }),
        json!({ "type": "response.in_progress", "response": begun }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": empty_item }),
        at_place("response.content_part.added", "part", output_text("")),
    ];
    let delta = |token: &String| {
        let mut event = at_place("response.output_text.delta", "delta", json!(token));
        event["logprobs"] = json!([]);
        event
    };
    events.extend(text.tokens.iter().map(delta));
    let mut done = at_place("response.output_text.done", "text", json!(whole));
    done["logprobs"] = json!([]);
    events.push(done);
    events.push(at_place("response.content_part.done", "part", output_text(&whole)));
    events.push(json!({ "type": "response.output_item.done", "output_index": 0, "item": item }));
    let last = if text.cut_short { "response.incomplete" } else { "response.completed" };
    events.push(json!({ "type": last, "response": finished }));
    let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
        event["sequence_number"] = json!(number);
        named_event(&event)
    });
    numbered.collect()
}
