//! Turns the plugin configuration that Envoy passes into JSON.
//!
//! A `google.protobuf.StringValue` arrives as its text. A `google.protobuf.Struct` (native YAML)
//! arrives as its protobuf encoding, with every number a double. The two cannot be told apart by
//! their first bytes, so JSON is tried first: no encoded `Struct` with a field is valid JSON.

use prost::Message;
use prost_types::{Struct, Value as ProtobufValue, value::Kind};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;

/// The role that a plugin configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The downstream filter: the rest of the configuration is for it.
    Gateway,
    /// The upstream filter of a cluster: its configuration has nothing else.
    Attempt,
}

/// The plugin configuration as JSON text, which need not be valid JSON.
pub fn to_json(bytes: &[u8]) -> Cow<'_, [u8]> {
    if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        return Cow::Borrowed(bytes);
    }
    match Struct::decode(bytes) {
        Ok(decoded) if !decoded.fields.is_empty() => {
            Cow::Owned(Value::Object(object(decoded)).to_string().into_bytes())
        }
        _ => Cow::Borrowed(bytes),
    }
}

/// The role that `json` asks for. Invalid JSON counts as the gateway's, which reports it.
///
/// # Errors
/// When the role is neither `gateway` nor `attempt`, or an attempt's configuration has other keys.
pub fn role(json: &[u8]) -> Result<Role, &'static str> {
    let Ok(Value::Object(object)) = serde_json::from_slice(json) else { return Ok(Role::Gateway) };
    match object.get("role") {
        None => Ok(Role::Gateway),
        Some(Value::String(role)) if role == "gateway" => Ok(Role::Gateway),
        Some(Value::String(role)) if role == "attempt" && object.len() == 1 => Ok(Role::Attempt),
        Some(Value::String(role)) if role == "attempt" => {
            Err("role: an attempt filter takes no other key; the configuration is the gateway's")
        }
        Some(_) => Err("role: allowed are \"gateway\" and \"attempt\""),
    }
}

fn object(decoded: Struct) -> Map<String, Value> {
    // To collect them would sort them, with another copy of the standard library's sort in the module.
    let mut object = Map::new();
    for (key, value) in decoded.fields {
        object.insert(key, json(value));
    }
    object
}

fn json(value: ProtobufValue) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => {
            Number::from_f64(number).map_or(Value::Null, Value::Number)
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(truth)) => Value::Bool(truth),
        Some(Kind::StructValue(decoded)) => Value::Object(object(decoded)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(json).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn value(kind: Kind) -> ProtobufValue {
        ProtobufValue { kind: Some(kind) }
    }

    #[test]
    fn a_struct_becomes_the_json_that_was_written_as_yaml() {
        let inner = Struct {
            fields: [("weight".to_owned(), value(Kind::NumberValue(3.0)))].into_iter().collect(),
        };
        let outer = Struct {
            fields: [
                ("name".to_owned(), value(Kind::StringValue("a".to_owned()))),
                ("on".to_owned(), value(Kind::BoolValue(true))),
                (
                    "list".to_owned(),
                    value(Kind::ListValue(prost_types::ListValue {
                        values: vec![value(Kind::StructValue(inner))],
                    })),
                ),
            ]
            .into_iter()
            .collect(),
        };
        let bytes = outer.encode_to_vec();
        let decoded: Value = serde_json::from_slice(&to_json(&bytes)).unwrap();
        let written = serde_json::json!({"list": [{"weight": 3.0}], "name": "a", "on": true});
        assert_eq!(decoded, written);
    }

    #[test]
    fn text_stays_as_it_is_even_when_it_is_no_json() {
        for text in ["\n{\"pools\": []}", "{\"pools\": ", "", "\n\n\n"] {
            assert_eq!(to_json(text.as_bytes()).as_ref(), text.as_bytes());
        }
    }

    #[test]
    fn the_role_defaults_to_the_gateway() {
        assert_eq!(role(br#"{"pools": []}"#), Ok(Role::Gateway));
        assert_eq!(role(br#"{"role": "gateway"}"#), Ok(Role::Gateway));
        assert_eq!(role(br#"{"role": "attempt"}"#), Ok(Role::Attempt));
        assert_eq!(role(b"not json"), Ok(Role::Gateway));
    }

    #[test]
    fn an_attempt_with_more_than_its_role_is_refused() {
        assert!(role(br#"{"role": "attempt", "pools": []}"#).is_err());
        assert!(role(br#"{"role": "upstream"}"#).is_err());
        assert!(role(br#"{"role": 1}"#).is_err());
    }
}
