//! Images and audio: just enough content to see that the right operation was reached.

use serde_json::json;

use super::{Answer, Question};
use crate::{ids, websocket};

/// A transparent image of one pixel.
const PIXEL_PNG: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, 0x49, 0x48, 0x44, 0x52, 0, 0, 0,
    1, 0, 0, 0, 1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 0x0a, 0x49, 0x44, 0x41, 0x54,
    0x78, 0x9c, 0x63, 0, 1, 0, 0, 5, 0, 1, 0x0d, 0x0a, 0x2d, 0xb4, 0, 0, 0, 0, 0x49, 0x45, 0x4e,
    0x44, 0xae, 0x42, 0x60, 0x82,
];

pub(super) fn images(question: Question<'_>) -> Answer {
    let image = json!({
        "b64_json": websocket::base64(PIXEL_PNG),
        "revised_prompt": format!("{} paints", question.config.name),
    });
    Answer::json(&json!({ "created": ids::since_epoch().as_secs(), "data": [image] }), 0)
}

pub(super) fn audio_text(question: Question<'_>) -> Answer {
    let Question { config, deployment, .. } = question;
    Answer::json(&json!({ "text": format!("{} heard it as {deployment}", config.name) }), 0)
}

/// Bytes that no text decoder accepts, with the name in between.
pub(super) fn speech(question: Question<'_>) -> Answer {
    let mut bytes = vec![0xff, 0xfb, 0x90, 0x00];
    bytes.extend_from_slice(question.config.name.as_bytes());
    bytes.extend_from_slice(&[0x00, 0xff, 0xfe, 0x80].repeat(256));
    Answer::bytes("audio/mpeg", bytes, question.facts.prompt_tokens)
}
