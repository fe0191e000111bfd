//! Request bodies that are legal and odd: what clients really send by mistake, and what a curious one tries.

use super::random::Random;
use mock_azure::{REFUSAL_MARKER, refusal_names};
use std::fmt::Write as _;

/// The form in which an operation is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `messages`.
    Chat,
    /// `prompt`.
    Prompt,
    /// `input`.
    Input,
    /// `multipart/form-data`.
    Multipart,
    /// No body.
    Nothing,
}

/// A body and the `content-type` that goes with it.
pub(super) struct Body {
    pub(super) content_type: String,
    pub(super) bytes: Vec<u8>,
    /// The backend never answers, so the client has to leave.
    pub(super) is_slow: bool,
}

const BOUNDARY: &str = "----boundary7MA4YWxk";

/// Members whose value is no valid number, or a number that a backend never serves.
const LARGE: [&str; 13] = [
    "0",
    "1",
    "16",
    "4096",
    "29000",
    "40000",
    "1000000",
    "1000000000000",
    "9223372036854775807",
    "99999999999999999999999",
    "-1",
    "1.5",
    "\"many\"",
];

/// Members that refer to something that no backend has, or that ask for what none offers.
const REFERENCES: [&str; 16] = [
    r#""tools":[{"type":"file_search","vector_store_ids":["vs_unknown"]}]"#,
    r#""tools":[{"type":"code_interpreter","container":"cntr_unknown"}]"#,
    r#""tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["file-unknown"]}}]"#,
    r#""previous_response_id":"resp_unknown""#,
    r#""previous_response_id":"resp_68f0000000000000000000000000000000000000000000""#,
    r#""conversation":"conv_unknown""#,
    r#""conversation":{"id":"conv_unknown"}"#,
    r#""prompt":{"id":"pmpt_unknown","version":"2"}"#,
    r#""attachments":[{"file_id":"file-unknown"}]"#,
    r#""reasoning":{"effort":"high"},"include":["reasoning.encrypted_content"]"#,
    r#""assistant_id":"asst_unknown""#,
    r#""prediction":{"type":"content","content":[{"id":"rs_unknown"}]}"#,
    r#""messages_from":{"file_id":"file-unknown"}"#,
    r#""data_sources":[{"type":"azure_search","parameters":{"endpoint":"https://search.example"}}]"#,
    r#""tools":[{"type":"image_generation"}]"#,
    r#""prompt":["one","two"]"#,
];

/// Further members, most of them harmless.
const MEMBERS: [&str; 22] = [
    r#""temperature":0.0"#,
    r#""stream":true"#,
    r#""stream":true,"stream_options":{"include_usage":true}"#,
    r#""stream":false"#,
    r#""stream":"yes""#,
    r#""stream_options":{"include_usage":true}"#,
    r#""n":2"#,
    r#""n":128"#,
    r#""n":1000000000"#,
    r#""best_of":20"#,
    r#""user":"u-1","prompt_cache_key":"k","safety_identifier":"s""#,
    r#""store":true"#,
    r#""store":true,"background":true"#,
    r#""metadata":{"model":"gpt-4o","deep":[[[[{"model":"x"}]]]]}"#,
    r#""model":"gpt-4o-standard""#,
    r#""Model":"gpt-4o-mini-two""#,
    r#""\u006dodel":"lonely""#,
    r#""model ":"x""#,
    r#""response_format":{"type":"json_schema","json_schema":{"name":"a","schema":7}}"#,
    r#""logit_bias":{"50256":-100}"#,
    r#""tool_choice":"required","tools":[]"#,
    r#""unknown_member":null"#,
];

/// Bodies that are no JSON object with a model.
const STRANGE: [&[u8]; 14] = [
    b"",
    b" ",
    b"{}",
    b"[]",
    b"null",
    b"7",
    b"\"gpt-4o\"",
    b"{\"model\":\"gpt-4o\"",
    b"{\"model\":null,\"messages\":[]}",
    b"{\"model\":[\"gpt-4o\"],\"messages\":[]}",
    b"{\"model\":\"gpt-4o\",\"messages\":[]} {\"model\":\"lonely\"}",
    b"\xef\xbb\xbf{\"model\":\"gpt-4o\",\"messages\":[]}",
    b"\xff\xfe{\x00\"\x00m\x00o\x00d\x00e\x00l\x00\"\x00:\x00\"\x00g\x00\"\x00}\x00",
    b"model=gpt-4o&messages=hello",
];

/// A body for an operation of this form that names this model.
pub(super) fn body(random: &mut Random, form: Form, model: &str) -> Body {
    let (text, is_slow) = text(random);
    let (content_type, bytes) = match form {
        Form::Nothing => (String::new(), Vec::new()),
        Form::Multipart if random.below(8) > 0 => multipart(random, model, &text),
        _ if random.below(25) == 0 => {
            ("application/json".to_owned(), random.pick(&STRANGE).to_vec())
        }
        _ => (json_type(random), json(random, form, model, &text).into_bytes()),
    };
    Body { content_type, bytes, is_slow: is_slow && form != Form::Nothing }
}

/// A prompt, usually with a marker for the refusal that the mocks send, and whether they send nothing at all.
fn text(random: &mut Random) -> (String, bool) {
    let kind = random.below(100);
    let name = match kind {
        0 => random.pick(&["silence", "stall"]),
        1..50 => random.pick(&refusal_names().collect::<Vec<_>>()),
        _ => {
            return (
                random.pick(&["Hello.", "", "Gr\\u00fc\\u00dfe 😀", "\\\"model\\\""]).to_owned(),
                false,
            );
        }
    };
    (format!("Please {REFUSAL_MARKER}{name}."), kind == 0)
}

fn json_type(random: &mut Random) -> String {
    let types = [
        "application/json",
        "application/json",
        "application/json",
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-16",
        "APPLICATION/JSON",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/vnd.api+json",
        "multipart/form-data",
        "",
    ];
    random.pick(&types).to_owned()
}

fn json(random: &mut Random, form: Form, model: &str, text: &str) -> String {
    let text = if random.below(100) == 0 { "long ".repeat(100_000) } else { text.to_owned() };
    let mut members = vec![match form {
        Form::Chat if random.below(6) == 0 => format!(
            r#""messages":[{{"role":"user","content":[{{"type":"text","text":"{text}"}},{{"type":"file","file":{{"file_id":"file-unknown"}}}}]}}]"#
        ),
        Form::Chat => format!(r#""messages":[{{"role":"user","content":"{text}"}}]"#),
        Form::Prompt => format!(r#""prompt":"{text}""#),
        _ if random.below(6) == 0 => format!(
            r#""input":[{{"id":"rs_unknown","type":"reasoning","encrypted_content":"gAAA"}},{{"role":"user","content":"{text}"}}]"#
        ),
        _ => format!(r#""input":"{text}""#),
    }];
    if random.below(30) > 0 {
        members.push(format!(r#""model":"{model}""#));
    }
    if random.below(4) == 0 {
        let names = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        members.push(format!(r#""{}":{}"#, random.pick(&names), random.pick(&LARGE)));
    }
    if random.below(6) == 0 {
        let tiers = ["flex", "priority", "auto", "default", "FLEX", "scale"];
        let names = ["service_tier", "service_tier", r"service\u005ftier"];
        members.push(format!(r#""{}":"{}""#, random.pick(&names), random.pick(&tiers)));
    }
    if random.below(5) == 0 {
        members.push(random.pick(&REFERENCES).to_owned());
    }
    for _ in 0..random.below(4) {
        members.push(random.pick(&MEMBERS).to_owned());
    }
    for place in 0..members.len() {
        let other = random.below(members.len());
        members.swap(place, other);
    }
    let separator = random.pick(&[",", ", ", " ,\n\t"]);
    format!("{{{}}}", members.join(separator))
}

/// A form with a file. Sometimes its model is missing, given twice, or hidden after a false end.
fn multipart(random: &mut Random, model: &str, text: &str) -> (String, Vec<u8>) {
    let mut parts = vec![
        format!("name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF{text}"),
        format!("name=\"prompt\"\r\n\r\n{text}"),
    ];
    match random.below(12) {
        0 => {}
        1 => parts.extend([format!("name=\"model\"\r\n\r\n{model}"), "name=\"model\"\r\n\r\nlonely".into()]),
        2 => parts.push(format!("name=model\r\n\r\n{model}")),
        3 => parts.push(format!("name=\"Model\"\r\n\r\n{model}")),
        4 => parts.push(format!("name=\"x\"\r\n\r\n1\r\n--{BOUNDARY}X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}")),
        _ => parts.push(format!("name=\"model\"\r\n\r\n{model}")),
    }
    if random.below(3) == 0 {
        parts.push("name=\"stream\"\r\n\r\ntrue".to_owned());
    }
    let place = random.below(parts.len());
    parts.swap(0, place);
    let mut body = String::new();
    for part in parts {
        let _ = write!(body, "--{BOUNDARY}\r\nContent-Disposition: form-data; {part}\r\n");
    }
    if random.below(10) > 0 {
        let _ = write!(body, "--{BOUNDARY}--\r\n");
    }
    let types = [
        format!("multipart/form-data; boundary={BOUNDARY}"),
        format!("multipart/form-data; boundary={BOUNDARY}"),
        format!("multipart/form-data; boundary=\"{BOUNDARY}\""),
        format!("Multipart/Form-Data; charset=utf-8; Boundary={BOUNDARY}"),
        "multipart/form-data; boundary=other".to_owned(),
        "multipart/form-data".to_owned(),
        "application/json".to_owned(),
    ];
    (random.pick(&types), body.into_bytes())
}
