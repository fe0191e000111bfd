//! JSON as a tree that keeps what `serde_json::Value` drops: a key that is given twice.
//!
//! Which of two equal keys wins depends on the parser, so a configuration that has them is refused. For
//! that the tree must keep both. Numbers are doubles, because a `Struct` has only doubles: `5` and `5.0`
//! mean the same.

use super::error::ConfigError;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    /// Members in the order of the text, equal keys included.
    Object(Vec<(String, Self)>),
}

impl Json {
    /// Reads one value that fills `text`. A byte order mark before it is skipped, as RFC 8259 §8.1
    /// permits. Nesting deeper than 128 is an error.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        if text.trim_ascii().is_empty() {
            return Err(not_json("it is empty"));
        }
        serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let message = error.to_string();
            let place = format!(" at line {line} column {column}");
            let cause = message.strip_suffix(&place).unwrap_or(&message);
            not_json(&format!("line {line}, column {column}: {cause}"))
        })
    }
}

fn not_json(cause: &str) -> ConfigError {
    ConfigError { path: String::new(), problem: format!("not valid JSON: {cause}") }
}

/// The value as an error shows it after "found": its type is visible, a long text is cut.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::List(items) => write!(f, "a list of {}", items.len()),
            Self::Object(_) => f.write_str("an object"),
        }
    }
}

/// `text` in quotes, escaped, with at most [`QUOTED_CHARS_MAX`] of its characters.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// Enough to recognise a value, and short enough for an error of one line.
const QUOTED_CHARS_MAX: usize = 40;

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn problem(text: &[u8]) -> String {
        Json::parse(text).unwrap_err().problem
    }

    #[test]
    fn a_key_given_twice_is_kept_twice() {
        let Ok(Json::Object(members)) = Json::parse(br#"{"a": 1, "a": 2}"#) else {
            panic!("not an object")
        };
        assert_eq!(members.len(), 2);
    }

    #[test]
    fn a_syntax_error_says_line_and_column() {
        assert_eq!(
            problem(b"{\n  \"a\": 1,\n}"),
            "not valid JSON: line 3, column 1: trailing comma"
        );
    }

    #[test]
    fn bytes_that_are_no_text_and_deep_nesting_are_errors() {
        assert!(problem(b"{\"a\": \"\xff\"}").starts_with("not valid JSON: line 1"));
        assert!(problem(&[b'['; 100_000]).contains("recursion limit exceeded"));
        assert_eq!(problem(b" \n"), "not valid JSON: it is empty");
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(Json::parse(b"\xef\xbb\xbf5"), Ok(Json::Number(5.0)));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(quoted(&"é".repeat(41)), format!("\"{}\"…", "é".repeat(40)));
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
    }
}
