//! Chat completions and legacy completions, whole and streamed.
//!
//! Azure's stream differs from OpenAI's at its start: the first event has no choices, empty ids and the
//! content filter's verdict over the prompt, so the first event is not the first token.

use serde_json::{Value, json};

use super::{Answer, Question, Text, content_filter_results, data_event};
use crate::ids;
use crate::script::Script;

pub(super) fn chat(question: Question<'_>) -> Answer {
    let shape =
        Shape { prefix: "chatcmpl", whole: "chat.completion", part: "chat.completion.chunk" };
    complete(question, &shape, |text, streams| match (text, streams) {
        (Piece::Start, true) => json!({ "delta": { "role": "assistant", "content": "" } }),
        (Piece::Token(text), true) => json!({ "delta": { "content": text } }),
        (Piece::End, true) => json!({ "delta": {} }),
        (Piece::Token(text), false) => {
            json!({ "message": { "role": "assistant", "content": text, "refusal": null } })
        }
        (_, false) => json!({}),
    })
}

pub(super) fn completions(question: Question<'_>) -> Answer {
    let shape = Shape { prefix: "cmpl", whole: "text_completion", part: "text_completion" };
    complete(question, &shape, |text, _| match text {
        Piece::Token(text) => json!({ "text": text }),
        Piece::Start | Piece::End => json!({ "text": "" }),
    })
}

struct Shape {
    prefix: &'static str,
    whole: &'static str,
    part: &'static str,
}

enum Piece<'a> {
    Start,
    Token(&'a str),
    End,
}

fn complete(
    question: Question<'_>,
    shape: &Shape,
    choice: impl Fn(Piece<'_>, bool) -> Value,
) -> Answer {
    let facts = question.facts;
    let text = Text::of(question);
    let completion_tokens = text.count() * facts.choices;
    let total_tokens = facts.prompt_tokens + completion_tokens;
    let usage = json!({
        "prompt_tokens": facts.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": total_tokens,
        "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
        "completion_tokens_details": { "reasoning_tokens": 0, "audio_tokens": 0 },
    });
    let base = json!({
        "id": format!("{}-{:016x}", shape.prefix, ids::number()),
        "created": ids::since_epoch().as_secs(),
        "model": question.deployment,
        "system_fingerprint": "fp_mock",
    });
    let choices = |piece: fn(&str) -> Piece<'_>, text: &str, streams, finish: Option<&str>| {
        let one = |index| {
            let mut one = choice(piece(text), streams);
            one["index"] = json!(index);
            one["finish_reason"] = json!(finish);
            one["logprobs"] = Value::Null;
            one["content_filter_results"] = content_filter_results();
            one
        };
        (0..facts.choices).map(one).collect::<Value>()
    };
    if !facts.stream {
        let mut whole = base;
        whole["object"] = json!(shape.whole);
        whole["choices"] =
            choices(|text| Piece::Token(text), &text.whole(), false, Some(text.finish_reason()));
        whole["prompt_filter_results"] = prompt_filter_results();
        whole["usage"] = usage;
        return Answer::json(&whole, total_tokens);
    }
    let chunk = |choices: Value| {
        let mut chunk = base.clone();
        chunk["object"] = json!(shape.part);
        chunk["choices"] = choices;
        if facts.include_usage {
            chunk["usage"] = Value::Null;
        }
        data_event(&chunk)
    };
    let mut events = vec![first_event(facts.include_usage)];
    events.push(chunk(choices(|_| Piece::Start, "", true, None)));
    let tokens = text.tokens.iter();
    events.extend(tokens.map(|token| chunk(choices(|text| Piece::Token(text), token, true, None))));
    events.push(chunk(choices(|_| Piece::End, "", true, Some(text.finish_reason()))));
    if facts.include_usage {
        let mut last = base.clone();
        last["object"] = json!(shape.part);
        last["choices"] = json!([]);
        last["usage"] = usage;
        events.push(data_event(&last));
    }
    events.push("data: [DONE]\n\n".to_owned());
    Answer::stream(Script::stream(events, question.config.latency.per_chunk), total_tokens)
}

fn first_event(include_usage: bool) -> String {
    let mut event = json!({
        "id": "", "object": "", "created": 0, "model": "", "choices": [],
        "prompt_filter_results": prompt_filter_results(),
    });
    if include_usage {
        event["usage"] = Value::Null;
    }
    data_event(&event)
}

fn prompt_filter_results() -> Value {
    json!([{ "prompt_index": 0, "content_filter_results": content_filter_results() }])
}
