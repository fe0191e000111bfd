//! What the mock reads out of a request body, and what it estimates the request to cost.
//!
//! Azure admits by an estimate made from characters before the model runs: a quarter of the
//! prompt's characters, plus the caller's own maximum of output tokens or 16, times `n` or `best_of`.

use hyper::HeaderMap;
use serde_json::Value;

use crate::problems::Problem;
use crate::route::Operation;

/// The output that Azure reckons with when the caller names no maximum.
const ASSUMED_COMPLETION_TOKENS: u64 = 16;

/// The body of one request, understood.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The parsed body; null for multipart and for requests without a body.
    pub(crate) json: Value,
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// The caller's own maximum of output tokens.
    pub(crate) completion_tokens_max: Option<u64>,
    /// `n` or `best_of`, whichever is larger.
    pub(crate) choices: u64,
    pub(crate) prompt_tokens: u64,
}

impl Facts {
    /// Reads a body as its operation needs it.
    pub(crate) fn read(
        operation: &Operation,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, Problem> {
        let multipart = content_type(headers).starts_with("multipart/form-data");
        match operation {
            Operation::AudioText | Operation::Images if multipart => {
                let model = multipart_field(body, "model");
                Ok(Self { model, choices: 1, ..Self::default() })
            }
            Operation::AudioText => {
                Err(Problem::model(None, None, "Expected multipart/form-data."))
            }
            Operation::Chat
            | Operation::Completions
            | Operation::Embeddings
            | Operation::Responses
            | Operation::Images
            | Operation::Speech => Self::from_json(operation, body),
            _ => Ok(Self { choices: 1, ..Self::default() }),
        }
    }

    /// The tokens that admission charges for this request.
    pub(crate) fn estimate(&self, operation: &Operation) -> u64 {
        let completion = match operation {
            Operation::Chat | Operation::Completions | Operation::Responses => {
                let tokens = self.completion_tokens_max.unwrap_or(ASSUMED_COMPLETION_TOKENS);
                tokens.saturating_mul(self.choices)
            }
            _ => 0,
        };
        self.prompt_tokens.saturating_add(completion)
    }

    fn from_json(operation: &Operation, body: &[u8]) -> Result<Self, Problem> {
        let json: Value = serde_json::from_slice(body).map_err(|_| Problem::malformed_json())?;
        if !json.is_object() {
            return Err(Problem::malformed_json());
        }
        require_fields(operation, &json)?;
        let stream = json["stream"].as_bool().unwrap_or(false);
        if !stream && json["stream_options"].is_object() {
            let message =
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
            return Err(Problem::model(Some("stream_options"), None, message));
        }
        let maxima = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        let choices = ["n", "best_of"].iter().filter_map(|name| json[name].as_u64()).max();
        let prompts = ["messages", "input", "prompt", "instructions"];
        Ok(Self {
            model: json["model"].as_str().map(str::to_owned),
            stream,
            include_usage: json["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            completion_tokens_max: maxima.iter().filter_map(|name| json[name].as_u64()).max(),
            choices: choices.unwrap_or(1).clamp(1, 128),
            prompt_tokens: prompts.iter().map(|name| prompt_tokens(&json[name])).sum(),
            json,
        })
    }
}

fn require_fields(operation: &Operation, json: &Value) -> Result<(), Problem> {
    let present = |name: &str| json.get(name).is_some_and(|value| !value.is_null());
    let needed = match operation {
        Operation::Chat => "messages",
        Operation::Completions | Operation::Images => "prompt",
        Operation::Embeddings | Operation::Speech => "input",
        // A response may continue an earlier one without new input.
        Operation::Responses if !present("previous_response_id") => "input",
        _ => return Ok(()),
    };
    if !present(needed) {
        return Err(Problem::missing(needed));
    }
    if *operation == Operation::Chat && !json["messages"].is_array() {
        let message = "Invalid type for 'messages': expected an array of objects.";
        return Err(Problem::model(Some("messages"), Some("invalid_type"), message));
    }
    Ok(())
}

/// A quarter of the characters, rounded up for each text. Inline images are not text.
fn prompt_tokens(value: &Value) -> u64 {
    match value {
        Value::String(text) if text.starts_with("data:") => 0,
        Value::String(text) => (text.chars().count() as u64).div_ceil(4),
        Value::Array(items) if items.iter().all(Value::is_number) => items.len() as u64,
        Value::Array(items) => items.iter().map(prompt_tokens).sum(),
        Value::Object(fields) => {
            let texts = fields.iter().filter(|(key, _)| !matches!(key.as_str(), "role" | "type"));
            texts.map(|(_, value)| prompt_tokens(value)).sum()
        }
        _ => 0,
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(hyper::header::CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The value of a form field: what stands between the blank line after its name and the next line end.
fn multipart_field(body: &[u8], name: &str) -> Option<String> {
    let marker = format!("form-data; name=\"{name}\"");
    let start = find(body, marker.as_bytes())?;
    let part = body.get(start..)?;
    let value = part.get(find(part, b"\r\n\r\n")? + 4..)?;
    let value = value.get(..find(value, b"\r\n")?)?;
    String::from_utf8(value.to_vec()).ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(operation: &Operation, json: &str) -> Result<Facts, Problem> {
        Facts::read(operation, &HeaderMap::new(), json.as_bytes())
    }

    #[test]
    fn the_estimate_is_a_quarter_of_the_characters_and_the_callers_maximum() {
        let body = r#"{"messages":[{"role":"user","content":"12345678"}],"max_tokens":25,"n":2}"#;
        let facts = read(&Operation::Chat, body).unwrap();
        assert_eq!(facts.estimate(&Operation::Chat), 2 + 50);
    }

    #[test]
    fn without_a_maximum_the_estimate_reckons_with_sixteen() {
        let facts = read(&Operation::Chat, r#"{"messages":[{"content":"1234"}]}"#).unwrap();
        assert_eq!(facts.estimate(&Operation::Chat), 1 + 16);
    }

    #[test]
    fn embeddings_cost_the_sum_of_their_rounded_inputs() {
        let facts = read(&Operation::Embeddings, r#"{"input":["12345","1"]}"#).unwrap();
        assert_eq!(facts.estimate(&Operation::Embeddings), 2 + 1);
    }

    #[test]
    fn an_inline_image_costs_nothing() {
        let body = r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#;
        assert_eq!(read(&Operation::Chat, body).unwrap().prompt_tokens, 0);
    }

    #[test]
    fn stream_options_without_stream_are_refused() {
        let body = r#"{"messages":[],"stream_options":{"include_usage":true}}"#;
        assert_eq!(read(&Operation::Chat, body).unwrap_err().status, 400);
    }

    #[test]
    fn a_missing_prompt_and_broken_json_are_the_callers_fault() {
        assert_eq!(read(&Operation::Chat, "{}").unwrap_err().body["error"]["param"], "messages");
        assert_eq!(read(&Operation::Chat, r#"{"messages":7}"#).unwrap_err().status, 400);
        assert_eq!(read(&Operation::Chat, "{").unwrap_err().status, 400);
        assert_eq!(read(&Operation::Chat, "[]").unwrap_err().status, 400);
    }

    #[test]
    fn the_model_of_a_form_is_found_among_its_fields() {
        let body = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nZZ\r\n\
            --x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x--\r\n";
        assert_eq!(multipart_field(body.as_bytes(), "model").as_deref(), Some("whisper"));
    }
}
