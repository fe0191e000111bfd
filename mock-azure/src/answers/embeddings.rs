//! Embeddings: one short vector per input, equal for equal texts.

use serde_json::{Value, json};

use super::{Answer, Question};

/// Real vectors have thousands of numbers; tests only need that there are some.
const DIMENSIONS: u32 = 8;

pub(super) fn embeddings(question: Question<'_>) -> Answer {
    let input = &question.facts.json["input"];
    let inputs = match input.as_array() {
        Some(items) if !items.iter().all(Value::is_number) => items.clone(),
        _ => vec![input.clone()],
    };
    // The official Python client asks for base64 by itself.
    let base64 = question.facts.json["encoding_format"] == "base64";
    let data = inputs.iter().enumerate().map(|(index, input)| {
        let vector = vector(input);
        let embedding = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            json!(crate::websocket::base64(&bytes))
        } else {
            json!(vector)
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    let tokens = question.facts.prompt_tokens;
    let body = json!({
        "object": "list",
        "data": data.collect::<Value>(),
        "model": question.deployment,
        "served_by": question.config.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    Answer::json(&body, tokens)
}

fn vector(input: &Value) -> Vec<f32> {
    let digest = sha1_smol::Sha1::from(input.to_string()).digest().bytes();
    let number = |byte: &u8| f32::from(*byte) / 255.0 - 0.5;
    digest.iter().take(DIMENSIONS as usize).map(number).collect()
}
