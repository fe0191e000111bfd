//! Edits exactly the bytes of a body that change.
//!
//! A body passes in other chunks than those in which its facts were read, and it is sent again to
//! several backends. So an edit is a value (offset, removed length, new bytes) that is
//! applied to any chunk given its offset. An edit belongs to the chunk with its first byte: an
//! insertion at the border of two chunks happens in the second one only.

use super::facts::BodyFacts;
use super::kind::BodyKind;
use crate::openai::call::Call;
use crate::openai::call::api::Operation;

/// One edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// The offset of the first removed byte; for an insertion, of the byte after it.
    /// It is less than the length of the body.
    pub at: u64,
    /// How many bytes are removed.
    pub remove: u64,
    /// The new bytes.
    pub insert: Vec<u8>,
}

/// Edits of one body, by ascending offset. They do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splices {
    edits: Vec<Splice>,
}

/// The edit that makes the body name `model`; `None` when it does already, or cannot.
pub fn model(facts: &BodyFacts, model: &str, kind: &BodyKind) -> Option<Splice> {
    let encoded = match kind {
        BodyKind::Json => json_text(model)?,
        // A field's value ends at a line end and a boundary; no name has a line end in it.
        BodyKind::Multipart { .. } => {
            model.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect()
        }
        BodyKind::None | BodyKind::Opaque => return None,
    };
    if let Some(field) = &facts.model {
        let edit = Splice { at: field.span.at, remove: field.span.len, insert: encoded };
        return (field.value != model).then_some(edit);
    }
    let insertion = facts.model_insertion.as_ref()?;
    Some(Splice {
        at: insertion.at,
        remove: insertion.remove,
        insert: [&*insertion.prefix, &encoded, &insertion.suffix].concat(),
    })
}

/// `text` in quotes, with the escapes that it needs; the name of a model needs none.
fn json_text(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        return serde_json::to_vec(text).ok();
    }
    Some([b"\"", text.as_bytes(), b"\""].concat())
}

/// Whether the response of `call` is a stream that states its usage only on request, and the client did
/// not request it. Exactly then [`include_usage`] requests it, and the resulting chunk is removed again
/// ([`crate::openai::response::stream`]).
pub fn wants_usage(call: &Call, facts: &BodyFacts) -> bool {
    // The end of a stream of responses states the usage anyway, and other operations know no such
    // option.
    matches!(call.operation, Operation::ChatCompletions | Operation::Completions)
        && include_usage(facts, &BodyKind::Json).is_some()
}

/// The edit that makes the body request the usage of its stream; `None` when it does already, requests
/// no stream, or has `stream_options` that cannot be understood. Other options stay.
pub fn include_usage(facts: &BodyFacts, kind: &BodyKind) -> Option<Splice> {
    if *kind != BodyKind::Json || !facts.stream {
        return None;
    }
    let Some(options) = &facts.stream_options else {
        // There is a member after it: `stream`.
        let insert = b"\"stream_options\":{\"include_usage\":true},".to_vec();
        return Some(Splice { at: facts.stream_options_at?, remove: 0, insert });
    };
    if options.include_usage {
        return None;
    }
    let (span, text) = match options.include_usage_span {
        _ if options.is_null => (options.span, "{\"include_usage\":true}"),
        Some(span) => (span, "true"),
        None => {
            let comma = if options.is_empty { "" } else { "," };
            let insert = format!("\"include_usage\":true{comma}").into_bytes();
            let at = options.span.at.saturating_add(1);
            return Some(Splice { at, remove: 0, insert });
        }
    };
    Some(Splice { at: span.at, remove: span.len, insert: text.as_bytes().to_vec() })
}

/// The edit that makes the body request the default service tier; `None` when it names no tier.
pub fn default_tier(facts: &BodyFacts, kind: &BodyKind) -> Option<Splice> {
    let span = facts.service_tier.as_ref().filter(|_| *kind == BodyKind::Json)?.span;
    Some(Splice { at: span.at, remove: span.len, insert: b"\"default\"".to_vec() })
}

impl Splices {
    /// The edits in order. One that overlaps an earlier one is dropped.
    pub fn new(edits: impl IntoIterator<Item = Splice>) -> Self {
        // There are three at most, and a sort of the standard library is 3 kB of module.
        let mut ordered: Vec<Splice> = Vec::new();
        for edit in edits {
            let place = |other: &Splice| (other.at, other.remove) <= (edit.at, edit.remove);
            ordered.insert(ordered.partition_point(place), edit);
        }
        let mut end = 0;
        ordered.retain(|edit| {
            let is_apart = edit.at >= end;
            if is_apart {
                end = edit.end();
            }
            is_apart
        });
        Self { edits: ordered }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// How many bytes the body grows by, for `content-length`.
    pub fn delta(&self) -> i64 {
        self.edits.iter().fold(0, |delta: i64, edit| {
            let inserted = i64::try_from(edit.insert.len()).unwrap_or(i64::MAX);
            let removed = i64::try_from(edit.remove).unwrap_or(i64::MAX);
            delta.saturating_add(inserted).saturating_sub(removed)
        })
    }

    /// How many bytes are inserted into the body.
    fn inserted(&self) -> usize {
        self.edits.iter().fold(0, |inserted, edit| edit.insert.len().saturating_add(inserted))
    }

    /// The offset at which the first edit begins: chunks that end there or earlier do not change.
    pub fn first_byte(&self) -> u64 {
        self.edits.first().map_or(0, |edit| edit.at)
    }

    /// The offset at which the last edit ends: chunks that begin there or later do not change.
    pub fn last_byte(&self) -> u64 {
        // An insertion takes effect with the byte that it comes before.
        self.edits.last().map_or(0, |edit| edit.end().max(edit.at.saturating_add(1)))
    }

    /// The edited bytes of the chunk that begins at `offset` in the body as the client sent it;
    /// `None` when the chunk stays as it is.
    ///
    /// The results of any chunking, put together, are the edited body.
    pub fn apply(&self, offset: u64, chunk: &[u8]) -> Option<Vec<u8>> {
        let chunk_end = offset.saturating_add(u64::try_from(chunk.len()).ok()?);
        let is_touched = |edit: &&Splice| {
            edit.begins_in(offset, chunk_end) || (edit.at < chunk_end && edit.end() > offset)
        };
        let mut edits = self.edits.iter().filter(is_touched).peekable();
        edits.peek()?;
        let mut edited = Vec::with_capacity(chunk.len().saturating_add(self.inserted()));
        let mut kept_to = offset;
        for edit in edits {
            edited.extend_from_slice(part(chunk, offset, kept_to, edit.at));
            if edit.begins_in(offset, chunk_end) {
                edited.extend_from_slice(&edit.insert);
            }
            kept_to = kept_to.max(edit.end());
        }
        edited.extend_from_slice(part(chunk, offset, kept_to, chunk_end));
        Some(edited)
    }
}

impl Splice {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.remove)
    }

    fn begins_in(&self, offset: u64, chunk_end: u64) -> bool {
        (offset..chunk_end).contains(&self.at)
    }
}

/// The bytes from `from` to `to`, both offsets in the body, of the chunk at `offset`.
fn part(chunk: &[u8], offset: u64, from: u64, to: u64) -> &[u8] {
    let index = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
    chunk.get(index(from)..index(to).min(chunk.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

    use super::super::multipart::MultipartScanner;
    use super::super::scan::JsonScanner;
    use super::*;
    use crate::openai::call::recognise;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn splice(at: u64, remove: u64, insert: &str) -> Splice {
        Splice { at, remove, insert: insert.as_bytes().to_vec() }
    }

    fn apply_in<'a>(splices: &Splices, chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut offset = 0;
        let mut edited = Vec::new();
        for chunk in chunks {
            edited.extend(splices.apply(offset, chunk).unwrap_or_else(|| chunk.to_vec()));
            let end = offset + chunk.len() as u64;
            if end <= splices.first_byte() || offset >= splices.last_byte() {
                assert_eq!(splices.apply(offset, chunk), None);
            }
            offset = end;
        }
        String::from_utf8(edited).unwrap()
    }

    /// The edited body, having checked every chunking into three, and bytewise.
    fn apply(splices: &Splices, body: &str) -> String {
        let body = body.as_bytes();
        let whole = apply_in(splices, [body]);
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let chunks = [&body[..first], &body[first..second], &body[second..]];
                assert_eq!(apply_in(splices, chunks), whole, "cut at {first} and {second}");
            }
        }
        assert_eq!(apply_in(splices, body.chunks(1)), whole);
        assert_eq!(whole.len() as i64, body.len() as i64 + splices.delta());
        whole
    }

    fn facts(body: &str) -> BodyFacts {
        let mut scanner = JsonScanner::new();
        scanner.push(body.as_bytes());
        scanner.finish().unwrap()
    }

    fn with_model(body: &str, name: &str) -> String {
        apply(&Splices::new(model(&facts(body), name, &BodyKind::Json)), body)
    }

    #[test]
    fn any_chunking_gives_the_edited_body() {
        for (edits, expected) in [
            (vec![], "0123456789"),
            (vec![splice(3, 2, "ab")], "012ab56789"),
            (vec![splice(3, 2, "")], "01256789"),
            (vec![splice(3, 0, "ab")], "012ab3456789"),
            (vec![splice(0, 0, "ab")], "ab0123456789"),
            (vec![splice(0, 10, "x")], "x"),
            (vec![splice(9, 1, "xyz")], "012345678xyz"),
            (vec![splice(9, 0, "x"), splice(0, 1, "y"), splice(4, 3, "")], "y12378x9"),
            (vec![splice(2, 2, "x"), splice(4, 2, "y")], "01xy6789"),
            (vec![splice(2, 0, "x"), splice(2, 2, "y")], "01xy456789"),
            (vec![splice(2, 3, "x"), splice(4, 3, "dropped")], "01x56789"),
        ] {
            assert_eq!(apply(&Splices::new(edits), "0123456789"), expected);
        }
    }

    #[test]
    fn the_model_changes_and_all_else_stays() {
        let before = r#"{ "a": "gpt-4o" ,"model" : "gpt-4o","b":[1.0, "gpt-4o", {"model":"gpt-4o"}],"é":1e2 }"#;
        assert_eq!(
            with_model(before, "ptu"),
            r#"{ "a": "gpt-4o" ,"model" : "ptu","b":[1.0, "gpt-4o", {"model":"gpt-4o"}],"é":1e2 }"#
        );
    }

    #[test]
    fn the_parsed_body_has_the_new_model_and_all_else_equal() {
        for body in [
            r#"{}"#,
            r#" { } "#,
            r#"{"model":"x"}"#,
            r#"{"a":[{}],"model":null,"b":1}"#,
            r#"{"model":{"a":["}"]},"b":"\""}"#,
            r#"{"b":"\u0000","mod\u0065l":"\ud83d\ude00"}"#,
            r#"{"model":1,"z":{"model":2}}"#,
        ] {
            for name in ["ptu", "a\"b\\c\n", "日本 😀", ""] {
                let mut expected: serde_json::Value = serde_json::from_str(body).unwrap();
                expected["model"] = name.into();
                let edited = with_model(body, name);
                let parsed: serde_json::Value = serde_json::from_str(&edited).unwrap();
                assert_eq!(parsed, expected, "{body} {name}");
            }
        }
    }

    #[test]
    fn a_model_that_is_right_already_is_left_alone() {
        for body in [r#"{"model":"gpt-4o"}"#, r#"{"model":"gpt\u002d4o"}"#] {
            assert_eq!(model(&facts(body), "gpt-4o", &BodyKind::Json), None);
        }
        assert_eq!(model(&facts("{}"), "gpt-4o", &BodyKind::Opaque), None);
        assert!(Splices::new(None).is_empty());
    }

    #[test]
    fn the_usage_is_asked_for_and_other_options_stay() {
        for (body, expected) in [
            (r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
            (
                r#"{"stream":true,"stream_options":null}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{ }}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true }}"#,
            ),
            (
                r#"{"stream_options":{"include_obfuscation":false},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"include_obfuscation":false},"stream":true}"#,
            ),
            (
                r#"{"stream":true,"stream_options": {"a":1, "include_usage" : false,"b":"é"}}"#,
                r#"{"stream":true,"stream_options": {"a":1, "include_usage" : true,"b":"é"}}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
        ] {
            let edit = include_usage(&facts(body), &BodyKind::Json);
            assert_eq!(apply(&Splices::new(edit), body), expected);
            assert!(facts(expected).stream_options.unwrap().include_usage, "{expected}");
        }
    }

    #[test]
    fn the_usage_is_not_asked_for_twice_nor_where_it_cannot() {
        let long = format!(r#"{{"stream":true,"stream_options":{{"x":"{}"}}}}"#, "x".repeat(300));
        for body in [
            "{}",
            r#"{"stream":false}"#,
            r#"{"stream":"true"}"#,
            r#"{"stream":false,"stream_options":{}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":"x"}"#,
            r#"{"stream":true,"stream_options":[]}"#,
            r#"{"stream":true,"stream_options":{},"stream_options":7}"#,
            &long,
        ] {
            assert_eq!(include_usage(&facts(body), &BodyKind::Json), None, "{body}");
        }
        let form = BodyKind::Multipart { boundary: b"b".to_vec() };
        assert_eq!(include_usage(&facts(r#"{"stream":true}"#), &form), None);
    }

    #[test]
    fn the_model_and_the_usage_can_be_edited_together_wherever_they_stand() {
        let models = ["", r#""model":"x","#, r#""model":null,"#];
        let options = [
            "",
            r#""stream_options":null,"#,
            r#""stream_options":{},"#,
            r#""stream_options":{"include_usage":false},"#,
            r#""stream_options":{"include_obfuscation":true},"#,
        ];
        for (first, second) in models.iter().flat_map(|m| options.iter().map(move |o| (*m, *o))) {
            for members in [format!("{first}{second}"), format!("{second}{first}")] {
                let body = format!("{{{members}\"stream\":true}}");
                let facts = facts(&body);
                let edits =
                    [model(&facts, "ptu", &BodyKind::Json), include_usage(&facts, &BodyKind::Json)];
                let mut expected: serde_json::Value = serde_json::from_str(&body).unwrap();
                expected["model"] = "ptu".into();
                expected["stream_options"]["include_usage"] = true.into();
                for edits in
                    [edits.clone(), edits.into_iter().rev().collect::<Vec<_>>().try_into().unwrap()]
                {
                    let edited = apply(&Splices::new(edits.into_iter().flatten()), &body);
                    let parsed: serde_json::Value = serde_json::from_str(&edited).unwrap();
                    assert_eq!(parsed, expected, "{body}");
                    assert_eq!(edited.matches("stream_options").count(), 1, "{edited}");
                }
            }
        }
    }

    #[test]
    fn only_chat_and_completions_are_asked_for_their_usage() {
        let streamed = facts(r#"{"stream":true}"#);
        for (path, wants) in [
            ("/v1/chat/completions", true),
            ("/openai/deployments/d/completions?api-version=2024-10-21", true),
            ("/openai/v1/responses", false),
            ("/v1/audio/speech", false),
            ("/v1/embeddings", false),
        ] {
            let call = recognise(b"POST", path.as_bytes()).unwrap();
            assert_eq!(wants_usage(&call, &streamed), wants, "{path}");
            assert!(!wants_usage(&call, &facts("{}")), "{path}");
            let asked = facts(r#"{"stream":true,"stream_options":{"include_usage":true}}"#);
            assert!(!wants_usage(&call, &asked), "{path}");
        }
    }

    #[test]
    fn a_form_gets_its_model_without_quotes() {
        let kind = BodyKind::Multipart { boundary: b"b".to_vec() };
        let field = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n";
        let file = "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n\r\nwhisper\r\n";
        for (body, expected) in [
            (
                format!("{file}{field}--b--"),
                format!("{file}{field}--b--").replacen(
                    "\r\n\r\nwhisper\r\n--b--",
                    "\r\n\r\nptu\r\n--b--",
                    1,
                ),
            ),
            (format!("{file}--b--"), format!("{}{file}--b--", field.replace("whisper", "ptu"))),
        ] {
            let mut scanner = MultipartScanner::new(b"b");
            scanner.push(body.as_bytes());
            let facts = scanner.finish().unwrap();
            let splices = Splices::new(model(&facts, "pt\r\nu", &kind));
            assert_eq!(apply(&splices, &body), expected);
        }
    }
}
