//! A `google.protobuf.Struct` in its protobuf encoding, brought to JSON text.
//!
//! This is all of protobuf that Spillway reads. A general decoder with its message types would be
//! several times as large, in the memory of every worker.

use std::fmt::Write;

/// Deeper than any configuration, and shallow for a stack.
const DEPTH_MAX: u32 = 100;

/// The JSON of an encoded `Struct`; `None` when `encoded` is none, or one without a field.
///
/// Members are sorted by their names, since the encoding has them in any order. A number that JSON
/// does not know is `null`.
pub(super) fn struct_to_json(encoded: &[u8]) -> Option<String> {
    let mut json = String::new();
    write_struct(encoded, DEPTH_MAX, &mut json)?;
    (json != "{}").then_some(json)
}

/// `message Struct { map<string, Value> fields = 1; }`
fn write_struct(encoded: &[u8], depth_left: u32, json: &mut String) -> Option<()> {
    let mut members: Vec<(&str, &[u8])> = Vec::new();
    for_each_field(encoded, &mut |number, payload| match (number, payload) {
        (1, Payload::Bytes(entry)) => insert(&mut members, member(entry)?),
        (1, _) => None,
        _ => Some(()),
    })?;
    json.push('{');
    for (position, (name, value)) in members.into_iter().enumerate() {
        if position > 0 {
            json.push(',');
        }
        write_text(name, json)?;
        json.push(':');
        write_value(value, depth_left, json)?;
    }
    json.push('}');
    Some(())
}

/// A name and its encoded `Value`: an entry of a map is a message of the fields 1 and 2.
fn member(entry: &[u8]) -> Option<(&str, &[u8])> {
    let (mut name, mut value): (&[u8], &[u8]) = (&[], &[]);
    for_each_field(entry, &mut |number, payload| {
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => name = bytes,
            (2, Payload::Bytes(bytes)) => value = bytes,
            (1 | 2, _) => return None,
            _ => {}
        }
        Some(())
    })?;
    Some((std::str::from_utf8(name).ok()?, value))
}

/// Keeps `members` sorted. Of members with the same name the last counts, as in every map of protobuf.
fn insert<'e>(members: &mut Vec<(&'e str, &'e [u8])>, member: (&'e str, &'e [u8])) -> Option<()> {
    match members.binary_search_by_key(&member.0, |(name, _)| name) {
        Ok(at) => *members.get_mut(at)? = member,
        Err(at) => members.insert(at, member),
    }
    Some(())
}

/// `message Value`, a choice of six kinds, of which the last counts.
fn write_value(encoded: &[u8], depth_left: u32, json: &mut String) -> Option<()> {
    let mut kind = None;
    for_each_field(encoded, &mut |number, payload| {
        if let 1..=6 = number {
            kind = Some((number, payload));
        }
        Some(())
    })?;
    let depth_left = depth_left.checked_sub(1)?;
    match kind {
        Some((2, Payload::Fixed64(bits))) => write_number(f64::from_bits(bits), json),
        Some((3, Payload::Bytes(text))) => write_text(std::str::from_utf8(text).ok()?, json),
        Some((4, Payload::Varint(flag))) => write!(json, "{}", flag != 0).ok(),
        Some((5, Payload::Bytes(fields))) => write_struct(fields, depth_left, json),
        Some((6, Payload::Bytes(list))) => write_list(list, depth_left, json),
        None | Some((1, Payload::Varint(_))) => write!(json, "null").ok(),
        Some(_) => None,
    }
}

/// `message ListValue { repeated Value values = 1; }`
fn write_list(encoded: &[u8], depth_left: u32, json: &mut String) -> Option<()> {
    let mut separator = "[";
    for_each_field(encoded, &mut |number, payload| match (number, payload) {
        (1, Payload::Bytes(value)) => {
            json.push_str(separator);
            separator = ",";
            write_value(value, depth_left, json)
        }
        (1, _) => None,
        _ => Some(()),
    })?;
    json.push_str(if separator == "[" { "[]" } else { "]" });
    Some(())
}

/// The shortest notation that reads as the same double.
fn write_number(number: f64, json: &mut String) -> Option<()> {
    if !number.is_finite() {
        return write!(json, "null").ok();
    }
    write!(json, "{number:?}").ok()
}

fn write_text(text: &str, json: &mut String) -> Option<()> {
    json.push_str(&serde_json::to_string(text).ok()?);
    Some(())
}

/// What a field holds, by the three of protobuf's wire types that a `Struct` is made of.
#[derive(Clone, Copy)]
enum Payload<'e> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'e [u8]),
}

/// Hands each field's number and payload to `visit`, until that returns `None` or a field is no field.
fn for_each_field<'e>(
    mut message: &'e [u8],
    visit: &mut dyn FnMut(u32, Payload<'e>) -> Option<()>,
) -> Option<()> {
    while !message.is_empty() {
        let key = u32::try_from(varint(&mut message)?).ok()?;
        let payload = match key & 7 {
            0 => Payload::Varint(varint(&mut message)?),
            1 => {
                let (bits, rest) = message.split_first_chunk()?;
                message = rest;
                Payload::Fixed64(u64::from_le_bytes(*bits))
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                Payload::Bytes(message.split_off(..length)?)
            }
            _ => return None,
        };
        match key >> 3 {
            0 => return None,
            number => visit(number, payload)?,
        }
    }
    Some(())
}

/// A number of seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct, Value};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn of(members: &[(&str, Kind)]) -> Struct {
        let value = |kind: &Kind| Value { kind: Some(kind.clone()) };
        Struct {
            fields: members.iter().map(|(name, kind)| ((*name).to_owned(), value(kind))).collect(),
        }
    }

    fn json(members: &[(&str, Kind)]) -> Option<String> {
        struct_to_json(&of(members).encode_to_vec())
    }

    fn every_kind() -> Struct {
        let items = [Kind::NumberValue(-1.5), Kind::ListValue(ListValue::default())];
        let values = items.map(|kind| Value { kind: Some(kind) }).to_vec();
        of(&[
            ("a", Kind::NullValue(0)),
            ("b", Kind::BoolValue(true)),
            ("c", Kind::BoolValue(false)),
            ("d", Kind::NumberValue(30.0)),
            ("e", Kind::StringValue("\"é\n".to_owned())),
            ("f", Kind::ListValue(ListValue { values })),
            ("g", Kind::StructValue(of(&[("", Kind::StructValue(Struct::default()))]))),
        ])
    }

    #[test]
    fn every_kind_of_value_becomes_its_json() {
        assert_eq!(
            struct_to_json(&every_kind().encode_to_vec()).unwrap(),
            r#"{"a":null,"b":true,"c":false,"d":30.0,"e":"\"é\n","f":[-1.5,[]],"g":{"":{}}}"#
        );
    }

    #[test]
    fn a_number_reads_as_the_same_double() {
        for number in [0.1, -0.0, 1e300, 5e-324, 9_007_199_254_740_993.0, 123_456_789.0] {
            let json = json(&[("a", Kind::NumberValue(number))]).unwrap();
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(read["a"].as_f64().map(f64::to_bits), Some(number.to_bits()), "{json}");
        }
        let infinite = json(&[("a", Kind::NumberValue(f64::INFINITY))]);
        assert_eq!(infinite.unwrap(), r#"{"a":null}"#);
    }

    #[test]
    fn members_are_sorted_and_the_last_of_a_name_counts() {
        let parts = [
            of(&[("b", Kind::BoolValue(true))]),
            of(&[("a", Kind::BoolValue(true))]),
            of(&[("b", Kind::BoolValue(false))]),
        ];
        let encoded = parts.map(|part| part.encode_to_vec()).concat();
        assert_eq!(struct_to_json(&encoded).unwrap(), r#"{"a":true,"b":false}"#);
    }

    #[test]
    fn nesting_without_end_is_no_struct() {
        let mut nested = of(&[("a", Kind::BoolValue(true))]);
        for _ in 0..20 {
            nested = of(&[("a", Kind::StructValue(nested))]);
        }
        assert!(struct_to_json(&nested.encode_to_vec()).is_some());
        for _ in 0..100 {
            nested = of(&[("a", Kind::StructValue(nested))]);
        }
        assert_eq!(struct_to_json(&nested.encode_to_vec()), None);
    }

    #[test]
    fn what_is_cut_off_is_a_struct_only_where_a_general_decoder_takes_it() {
        let encoded = every_kind().encode_to_vec();
        for end in 0..encoded.len() {
            let cut = &encoded[..end];
            let is_struct = Struct::decode(cut).is_ok_and(|decoded| !decoded.fields.is_empty());
            assert_eq!(struct_to_json(cut).is_some(), is_struct, "{end} bytes");
        }
    }

    #[test]
    fn what_is_damaged_is_valid_json_or_no_struct() {
        let encoded = every_kind().encode_to_vec();
        for at in 0..encoded.len() {
            for flip in 1..=u8::MAX {
                let mut damaged = encoded.clone();
                damaged[at] ^= flip;
                if let Some(json) = struct_to_json(&damaged) {
                    let read = serde_json::from_str::<serde_json::Value>(&json);
                    assert!(read.is_ok(), "byte {at} changed by {flip}: {json}");
                }
            }
        }
    }
}
