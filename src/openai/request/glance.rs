//! The model of a large JSON body, without reading all of it.
//!
//! Where only the model matters, a megabyte of prompt need not be read. SDKs write the model before or after
//! `messages`, so only the two ends of the body are read. If neither shows the model, the whole body is read.
//!
//! JSON can also be read from its end: there are no backslashes outside text, so a quote begins or ends text
//! exactly if an even number of backslashes comes before it. The end is read first, because the last of two
//! equal fields wins.

use memchr::{memchr2, memrchr};

/// How much of each end is read, in bytes.
pub const GLANCE_BYTES: usize = 4 * 1024;

/// The longest model that is accepted; for a longer one the whole body is read.
const MODEL_BYTES_MAX: usize = 256;

/// The model that the end of a JSON object names, if `tail` shows it. `tail` is the end of the body,
/// whether it begins within a value or not.
pub fn model_at_end(tail: &[u8]) -> Option<&str> {
    let mut rest = before(tail, b'}')?;
    loop {
        let value;
        (rest, value) = last_value(rest)?;
        let key;
        (rest, key) = last_text(before(rest, b':')?)?;
        match key {
            b"model" => return model(value),
            // It may be another way to write it.
            key if key.contains(&b'\\') => return None,
            _ => rest = before(rest, b',')?,
        }
    }
}

/// The model that the beginning of a JSON object names, if it does so before its first array or object.
pub fn model_at_start(head: &[u8]) -> Option<&str> {
    let mut rest = after(head, b'{')?;
    loop {
        let key;
        (key, rest) = first_text(rest)?;
        rest = after(rest, b':')?.trim_ascii_start();
        match (key, rest.first()?) {
            (b"model", b'"') => return model(value_of(rest)?),
            (b"model", _) | (_, b'{' | b'[') => return None,
            (key, _) if key.contains(&b'\\') => return None,
            (_, b'"') => (_, rest) = first_text(rest)?,
            _ => rest = rest.get(rest.iter().position(|byte| *byte == b',')?..)?,
        }
        rest = after(rest, b',')?;
    }
}

/// The text, quotes included, that `bytes` begin with.
fn value_of(bytes: &[u8]) -> Option<&[u8]> {
    let (text, _) = first_text(bytes)?;
    bytes.get(..text.len().checked_add(2)?)
}

/// A model as the body has it, if that is text without escapes.
fn model(value: &[u8]) -> Option<&str> {
    let text = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let is_plain = text.len() <= MODEL_BYTES_MAX && !text.contains(&b'\\');
    std::str::from_utf8(text).ok().filter(|_| is_plain)
}

/// The bytes before `wanted`, which is the last byte except for white space.
fn before(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    bytes.trim_ascii_end().strip_suffix(&[wanted])
}

/// The bytes after `wanted`, which is the first byte except for white space.
fn after(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    bytes.trim_ascii_start().strip_prefix(&[wanted])
}

/// The last value, and the bytes before it.
fn last_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.trim_ascii_end();
    let start = match bytes.last()? {
        b'"' => start_of_text(bytes)?,
        b'}' | b']' => start_of_nested(bytes)?,
        _ => bytes.iter().rposition(|byte| matches!(byte, b':' | b',' | b'"'))?.checked_add(1)?,
    };
    bytes.split_at_checked(start)
}

/// The last value without its quotes, if it is text, and the bytes before it.
fn last_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.trim_ascii_end();
    let (rest, text) = bytes.split_at_checked(start_of_text(bytes)?)?;
    Some((rest, text.strip_prefix(b"\"")?.strip_suffix(b"\"")?))
}

/// The text without its quotes that `bytes` begin with, and the bytes after it.
fn first_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = after(bytes, b'"')?;
    let mut at = 0_usize;
    loop {
        at = at.checked_add(memchr2(b'"', b'\\', bytes.get(at..)?)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some((bytes.get(..at)?, bytes.get(at.checked_add(1)?..)?));
        }
        at = at.checked_add(2)?;
    }
}

/// Where the text begins that `bytes` end with; its quotes belong to it.
fn start_of_text(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.strip_suffix(b"\"")?;
    loop {
        let quote = memrchr(b'"', rest)?;
        rest = rest.get(..quote)?;
        let backslashes = rest.iter().rev().take_while(|byte| **byte == b'\\').count();
        // There may be more backslashes beyond the edge.
        if backslashes == rest.len() {
            return None;
        }
        if backslashes.is_multiple_of(2) {
            return Some(quote);
        }
    }
}

/// Where the array or object begins that `bytes` end with.
fn start_of_nested(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let mut depth = 0_usize;
    loop {
        let last =
            rest.iter().rposition(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'))?;
        let found = rest.get(..=last)?;
        rest = rest.get(..last)?;
        match found.last()? {
            b'"' => rest = rest.get(..start_of_text(found)?)?,
            b'}' | b']' => depth = depth.checked_add(1)?,
            _ => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(last);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::random::Random;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const TAILS: [(&str, Option<&str>); 14] = [
        (r#"ndled \"quote\""}],"model":"gpt-4o","max_tokens":256,"stream":false}"#, Some("gpt-4o")),
        (r#"x"}], "model" : "gpt-4o" , "stop" : ["\\", "}]{[\""] } "#, Some("gpt-4o")),
        (r#"x"}],"model":"a","tools":[{"f":{"model":"b"}},"]"],"n":-1.5e3,"user":""}"#, Some("a")),
        (r#"x","model":"first","model":"last","stream":true}"#, Some("last")),
        (r#"x","metadata":{"model":"nested"}}"#, None),
        (r#"not here: \"model\":\"quoted\"","n":1}"#, None),
        (r#"x","model":null}"#, None),
        (r#"x","model":"es\u0063aped"}"#, None),
        (r#"x","mod\u0065l":"escaped key"}"#, None),
        (r#"x","model":"unfinished"#, None),
        (r#"\\\\","model":"a"}"#, Some("a")),
        (r#"\","model":"a"}"#, Some("a")),
        (r#"{"n":1}"#, None),
        ("", None),
    ];

    #[test]
    fn the_end_of_a_body_shows_its_model() {
        for (tail, model) in TAILS {
            assert_eq!(model_at_end(tail.as_bytes()), model, "{tail}");
        }
    }

    #[test]
    fn text_that_may_begin_before_the_end_shows_nothing() {
        // All of it may be text: the quote is escaped if one more backslash comes before it.
        assert_eq!(model_at_end(br#"\\"}"#), None);
        assert_eq!(model_at_end(br#"model":"a"}"#), None);
    }

    #[test]
    fn the_beginning_of_a_body_shows_its_model() {
        for (head, model) in [
            (r#"{"model":"gpt-4o","messages":[{"role""#, Some("gpt-4o")),
            (r#" { "stream" : true , "user":"a \"b\\","model" : "gpt-4o""#, Some("gpt-4o")),
            (r#"{"messages":[{"model":"nested"}]"#, None),
            (r#"{"metadata":{"model":"nested"}}"#, None),
            (r#"{"model":"unfini"#, None),
            (r#"{"model":{"name":"a"}}"#, None),
            (r#"{"model":"es\u0063aped"}"#, None),
            (r#"{"mod\u0065l":1,"model":"a"}"#, None),
            (r#"["model"]"#, None),
            ("", None),
        ] {
            assert_eq!(model_at_start(head.as_bytes()), model, "{head}");
        }
    }

    #[test]
    fn whatever_the_edge_cuts_off_the_model_is_the_same_or_unknown() {
        let body = r#"{"model":"first","messages":[{"content":"a \\\" b \\ \"model\":\"c\""}],"model":"last","tools":[{"a":["}"]}],"n":1}"#;
        for at in 0..body.len() {
            let at_end = model_at_end(&body.as_bytes()[at..]);
            assert!(at_end.is_none_or(|model| model == "last"), "{at}");
            let at_start = model_at_start(&body.as_bytes()[..at]);
            assert!(at_start.is_none_or(|model| model == "first"), "{at}");
        }
        assert_eq!(model_at_end(body.as_bytes()), Some("last"));
    }

    #[test]
    fn what_is_found_is_what_a_parser_finds() {
        const KEYS: [&str; 4] = ["model", "messages", "a\\\"b", "\\\\"];
        const VALUES: [&str; 9] = [
            r#""gpt-4o""#,
            r#""mo\\\"del""#,
            r#""\\""#,
            r#"[{"model":"x","b":["]\\",{}]}]"#,
            r#"{"model":{"model":"y"}}"#,
            "[]",
            "-1.5e3",
            "null",
            r#""other""#,
        ];
        let mut random = Random::new(7);
        let mut found = 0;
        for _ in 0..2_000 {
            let mut member = || {
                let key = KEYS[random.below(KEYS.len())];
                format!(r#"{}"{key}" : {}"#, " ".repeat(random.below(2)), VALUES[random.below(9)])
            };
            let members: Vec<String> = (0..5).map(|_| member()).collect();
            let body = format!("{{{}}}\n", members.join(","));
            let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
            let tail = body.as_bytes().get(random.below(body.len())..).unwrap();
            if let Some(model) = model_at_end(tail) {
                assert_eq!(parsed["model"], model, "{body}");
                found += 1;
            }
        }
        assert!(found > 50, "{found}");
    }
}
