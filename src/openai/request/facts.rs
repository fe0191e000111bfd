//! What the gateway must know of a request body, whatever its format.
//!
//! Facts are read once, in slices, in memory that does not grow with the body. A fact that the body
//! does not state is `None` or zero. A fact of a wrong type counts as not stated, because the backend
//! itself refuses such a body, with a better message. When a field is given twice the last one wins, as in
//! the parsers of Python and JavaScript. For the model that is not enough: the model that chooses the pool
//! must be the one that the backend reads, whichever parser it has.

use std::borrow::Cow;

/// A run of bytes of the body, counted from its first byte (a byte order mark included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub at: u64,
    /// How many bytes it has.
    pub len: u64,
}

/// A text value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The value without escapes. Beyond [`VALUE_BYTES_MAX`] it is cut and ends in `…`.
    pub value: String,
    /// The bytes of the raw value, in JSON with its quotes.
    pub span: Span,
}

/// How to insert a model into a body that names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insertion {
    /// Where.
    pub at: u64,
    /// How many bytes it replaces; not zero when `model` is there but is not text.
    pub remove: u64,
    /// What comes before the encoded model.
    pub prefix: Cow<'static, [u8]>,
    /// What comes after it.
    pub suffix: Cow<'static, [u8]>,
}

/// The body's `stream_options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// The bytes of the raw value.
    pub span: Span,
    /// Whether it asks for the usage chunk.
    pub include_usage: bool,
    /// Whether it is `null`.
    pub is_null: bool,
    /// Whether it is an object without members.
    pub is_empty: bool,
    /// The bytes of the raw value of its `include_usage`.
    pub include_usage_span: Option<Span>,
}

/// The facts of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyFacts {
    /// The model that the body names.
    pub model: Option<Field>,
    /// Whether servers could find another model in the body, or one although `model` is `None`: the field is
    /// given twice or in another spelling, or the form can be split in two ways.
    pub is_model_ambiguous: bool,
    /// How to name one when it names none.
    pub model_insertion: Option<Insertion>,
    /// Whether the response is to be an event stream.
    pub stream: bool,
    /// The `stream_options`, unless they are something other than `null` or a small object.
    pub stream_options: Option<StreamOptions>,
    /// Where to insert `stream_options` into an object that has none: before its first member.
    pub stream_options_at: Option<u64>,
    /// The largest of `max_tokens`, `max_completion_tokens` and `max_output_tokens`, at most
    /// [`COUNT_MAX`](crate::openai::bytes::COUNT_MAX).
    pub max_output_tokens: Option<u64>,
    /// The larger of `n` and `best_of`, at most [`COUNT_MAX`](crate::openai::bytes::COUNT_MAX).
    pub choices: Option<u64>,
    /// UTF-8 bytes of the text values without escapes. Keys, `data:` URLs and encoded audio do not
    /// count; a number in an array counts as [`TOKEN_BYTES`], since prompts may be given as tokens.
    pub prompt_text_bytes: u64,
    /// How many images are part of the prompt.
    pub images: u32,
    /// The `service_tier` that the body asks for.
    pub service_tier: Option<Field>,
    /// Whether servers could find another tier, because the field is given twice.
    pub is_tier_ambiguous: bool,
    /// A hash of `prompt_cache_key`.
    pub prompt_cache_key: Option<u64>,
    /// A hash of `user`.
    pub user: Option<u64>,
    /// Whether the body refers to something that only one resource has or can decrypt: a previous response,
    /// a conversation, a stored item, encrypted reasoning.
    pub previous_response: bool,
    /// Whether the response depends on something that the body names and does not contain (a file, a data source,
    /// a template, a tool that does not run at the client), or on several prompts. The gateway cannot know
    /// what that costs, or whether it exists.
    pub has_dependencies: bool,
    /// The length of the body in bytes.
    pub size: u64,
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The offset of the first wrong byte.
    pub at: u64,
    /// What is wrong, as a part of a sentence.
    pub problem: &'static str,
}

/// The longest text value that is kept. No deployment or model has a longer name.
pub const VALUE_BYTES_MAX: usize = 256;

/// How many bytes one token of a prompt in tokens counts as: by rule of thumb, four.
pub const TOKEN_BYTES: u64 = 4;

/// A captured value as text: lossy, and marked when it was cut.
pub(super) fn text(captured: &[u8], is_cut: bool) -> String {
    let mut value = String::from_utf8_lossy(captured).into_owned();
    if is_cut {
        value.push('…');
    }
    value
}

/// A stable hash of a value that keeps requests together; `None` when it is empty.
///
/// FNV-1a with a finaliser: short keys that differ in one digit end up far apart.
pub(super) fn affinity_hash(captured: &[u8], len: u64) -> Option<u64> {
    if len == 0 {
        return None;
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ len;
    for &byte in captured {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    Some(hash ^ hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn keys_that_differ_in_one_digit_hash_far_apart() {
        let one = affinity_hash(b"user-1", 6).unwrap();
        let two = affinity_hash(b"user-2", 6).unwrap();
        assert!((one ^ two).count_ones() > 8);
        assert_eq!(affinity_hash(b"", 0), None);
    }
}
