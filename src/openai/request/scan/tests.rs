#![allow(clippy::arithmetic_side_effects, clippy::string_slice, reason = "tests fail by panicking")]

use super::*;
use crate::openai::random::Random;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn scan_in(slices: &[&[u8]]) -> Result<BodyFacts, Malformed> {
    let mut scanner = JsonScanner::new();
    for slice in slices {
        scanner.push(slice);
    }
    scanner.finish()
}

/// The facts of `body`, having checked that no two-slice or bytewise reading differs.
fn scan(body: impl AsRef<[u8]>) -> Result<BodyFacts, Malformed> {
    let body = body.as_ref();
    let whole = scan_in(&[body]);
    for at in 0..=body.len() {
        assert_eq!(scan_in(&[&body[..at], &body[at..]]), whole, "cut at {at}");
    }
    assert_eq!(scan_in(&body.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    whole
}

fn facts(body: impl AsRef<[u8]>) -> BodyFacts {
    let body = body.as_ref();
    scan(body).unwrap_or_else(|error| panic!("{}: {error:?}", String::from_utf8_lossy(body)))
}

fn raw(body: &str, span: Span) -> &str {
    let at = usize::try_from(span.at).unwrap();
    &body[at..at + usize::try_from(span.len).unwrap()]
}

#[test]
fn a_chat_request_states_its_facts() {
    let body = r#" {"messages": [{"role":"system","content":"Hi"},
        {"role":"user","content":[{"type":"text","text":"What?"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAA"}}]}],
        "model" : "gpt-4o", "stream": true, "stream_options":{"include_usage": true},
        "max_tokens":100,"max_completion_tokens": 200 ,"n":2,"best_of":3,
        "user":"u-1","prompt_cache_key":"k-1"} "#;
    let facts = facts(body);
    let model = facts.model.unwrap();
    assert_eq!(model.value, "gpt-4o");
    assert_eq!(raw(body, model.span), "\"gpt-4o\"");
    assert_eq!(facts.model_insertion, None);
    assert!(facts.stream);
    let options = facts.stream_options.unwrap();
    assert!(options.include_usage && !options.is_null && !options.is_empty);
    assert_eq!(raw(body, options.span), r#"{"include_usage": true}"#);
    assert_eq!(facts.max_output_tokens, Some(200));
    assert_eq!(facts.choices, Some(3));
    assert_eq!(facts.images, 1);
    let text = "systemHiusertextWhat?image_url";
    assert_eq!(facts.prompt_text_bytes, text.len() as u64);
    assert!(facts.user.is_some() && facts.prompt_cache_key.is_some());
    assert_ne!(facts.user, facts.prompt_cache_key);
    assert!(!facts.previous_response);
    assert_eq!(facts.size, body.len() as u64);
}

#[test]
fn the_last_service_tier_that_is_a_text_is_stated() {
    let body = r#"{"service_tier":"auto","input":{"service_tier":"x"},"service_tier" : "flex"}"#;
    let tier = facts(body).service_tier.unwrap();
    assert_eq!((&*tier.value, raw(body, tier.span)), ("flex", r#""flex""#));
    for (body, is_ambiguous) in [
        (body, true),
        (r#"{"service_tier":"flex","input":{"service_tier":"x"}}"#, false),
        (r#"{"service_tier":"flex","service\u005ftier":null}"#, true),
        ("{}", false),
    ] {
        assert_eq!(facts(body).is_tier_ambiguous, is_ambiguous, "{body}");
    }
    for none in [r#"{"service_tier":null}"#, r#"{"service_tier":"flex","service_tier":1}"#, "{}"] {
        assert_eq!(facts(none).service_tier, None, "{none}");
    }
}

#[test]
fn a_responses_request_states_its_facts() {
    let facts = facts(
        r#"{"model":"o3","input":"Hello","max_output_tokens":7,"previous_response_id":"resp_1"}"#,
    );
    assert_eq!(facts.prompt_text_bytes, 5);
    assert_eq!(facts.max_output_tokens, Some(7));
    assert!(facts.previous_response);
}

#[test]
fn references_to_what_one_resource_keeps_are_seen() {
    for body in [
        r#"{"previous_response_id":"resp_1"}"#,
        r#"{"conversation":"conv_1"}"#,
        r#"{"conversation":{"id":"conv_1"}}"#,
        r#"{"input":[{"type":"reasoning","encrypted_content":"gAAAA"}]}"#,
        r#"{"input":[{"type":"item_reference","id":"x"}]}"#,
    ] {
        assert!(facts(body).previous_response, "{body}");
    }
    for body in [
        r#"{"previous_response_id":null}"#,
        r#"{"previous_response_id":""}"#,
        r#"{"conversation":null}"#,
        r#"{"conversation":"c","conversation":null}"#,
        r#"{"input":[{"type":"reasoning","encrypted_content":null}]}"#,
        r#"{"include":["reasoning.encrypted_content"]}"#,
        r#"{"input":[{"previous_response_id":"resp_1"}]}"#,
        r#"{"tools":[{"properties":{"encrypted_content":{"type":"string"}}}]}"#,
    ] {
        assert!(!facts(body).previous_response, "{body}");
    }
}

#[test]
fn what_a_body_names_and_does_not_contain_is_seen() {
    for body in [
        r#"{"data_sources":[{"type":"azure_search"}]}"#,
        r#"{"prompt":{"id":"pmpt_1"}}"#,
        r#"{"prompt":["one","two"]}"#,
        r#"{"input":[{"content":[{"type":"input_file","file_id":"file-1"}]}]}"#,
        r#"{"input":[{"content":[{"type":"input_file","file_data":"data:application/pdf;base64,AA"}]}]}"#,
        r#"{"tools":[{"type":"web_search_preview_2025_03_11"}]}"#,
        r#"{"tools":[{"type":"mcp"}]}"#,
        r#"{"tools":[{"type":"image_gener\u0061tion"}]}"#,
        r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]}"#,
    ] {
        assert!(facts(body).has_dependencies, "{body}");
    }
    for body in [
        r#"{"prompt":"one","messages":[{"content":"mcp server"}]}"#,
        r#"{"prompt":[1,2,3]}"#,
        r#"{"tools":[{"type":"function","function":{"name":"look_up","parameters":{"file":{}}}}]}"#,
        r#"{"data_sources":null}"#,
    ] {
        assert!(!facts(body).has_dependencies, "{body}");
    }
    assert_eq!(facts(r#"{"prompt":"one"}"#).prompt_text_bytes, 3);
}

#[test]
fn only_the_top_level_is_read_by_name() {
    let facts = facts(
        r#"{"a":{"model":"x","stream":true,"max_tokens":5,"n":9},"b":[{"user":"u"}],"c":"\"model\":\"y\""}"#,
    );
    assert_eq!(facts.model, None);
    assert_eq!((facts.stream, facts.max_output_tokens, facts.choices), (false, None, None));
    assert_eq!(facts.user, None);
}

#[test]
fn keys_and_values_may_carry_escapes() {
    let body = r#"{"\u006dodel":"gpt\u002d4\u006f\"\\\/\n\ud83d\ude00é","str\u0065am":true}"#;
    let facts = facts(body);
    let model = facts.model.unwrap();
    assert_eq!(model.value, "gpt-4o\"\\/\n😀é");
    assert!(raw(body, model.span).starts_with(r#""gpt\u002d"#));
    assert!(facts.stream);
}

#[test]
fn text_is_counted_without_escapes() {
    for value in
        ["plain", "", "é", "日本", "😀", "a\nb", "\"", "\\", "\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}"]
    {
        let escaped: String = value.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        let plain = serde_json::to_string(value).unwrap();
        for text in [plain, format!("\"{escaped}\"")] {
            let len = value.len() as u64;
            assert_eq!(facts(format!(r#"{{"input":{text}}}"#)).prompt_text_bytes, len, "{text}");
            assert_eq!(facts(format!(r#"{{"input":[{text}]}}"#)).prompt_text_bytes, len, "{text}");
        }
    }
}

#[test]
fn halves_of_surrogate_pairs_are_unknown_characters() {
    for (escaped, text) in [
        (r"\ud83d", "\u{fffd}"),
        (r"\ud83dx", "\u{fffd}x"),
        (r"\ude00", "\u{fffd}"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ud83dA", "\u{fffd}A"),
    ] {
        let facts = facts(format!(r#"{{"model":"{escaped}"}}"#));
        assert_eq!(facts.model.unwrap().value, text, "{escaped}");
    }
}

#[test]
fn truncated_escapes_are_survived() {
    let facts = facts(r#"{"model":"a\u12","stream":true}"#);
    assert_eq!(facts.model.unwrap().value, "a\u{fffd}");
    assert!(facts.stream);
    assert!(scan(r#"{"model":"a\u1\n"}"#).is_ok());
    assert!(scan(r#"{"model":"a\"#).is_err());
    assert!(scan(r#"{"model":"a\u0"#).is_err());
}

#[test]
fn of_duplicate_keys_the_last_wins() {
    let body = r#"{"model":"a","n":9,"stream":true,"model":"b","n":1,"stream":false}"#;
    let stated = facts(body);
    let model = stated.model.unwrap();
    assert_eq!(model.value, "b");
    assert_eq!(raw(body, model.span), "\"b\"");
    assert_eq!(body.find("\"b\""), usize::try_from(model.span.at).ok());
    assert_eq!(stated.choices, Some(1));
    assert!(!stated.stream);
    let stated = facts(r#"{"model":"a","model":null}"#);
    assert_eq!(stated.model, None);
    assert!(stated.model_insertion.is_some());
    assert!(facts(r#"{"model":null,"model":"a"}"#).model_insertion.is_none());
}

#[test]
fn a_byte_order_mark_is_skipped_and_still_counted() {
    let body = "\u{feff}{\"model\":\"m\"}";
    let stated = facts(body);
    assert_eq!(raw(body, stated.model.unwrap().span), "\"m\"");
    assert_eq!(stated.size, body.len() as u64);
    assert_eq!(facts("\u{feff} {}").model_insertion.unwrap().at, 5);
    for broken in [&b"\xef{}"[..], b"\xef\xbb{}", b"\xef\xbb\xbf\xef\xbb\xbf{}", b" \xef\xbb\xbf{}"]
    {
        assert!(scan(broken).is_err());
    }
}

#[test]
fn counts_are_bounded_in_every_form() {
    for (value, expected) in [
        ("100", Some(100)),
        ("\"100\"", Some(100)),
        ("1.5e2", Some(150)),
        ("1e99", Some(COUNT)),
        ("123456789012345678901234567890", Some(COUNT)),
        ("-5", None),
        ("null", None),
        ("true", None),
        ("[1]", None),
        ("{}", None),
        ("\"x\"", None),
    ] {
        for end in ["}", " }", ",\"z\":0}", "\r\n}"] {
            let body = format!("{{\"max_tokens\":{value}{end}");
            assert_eq!(facts(&body).max_output_tokens, expected, "{body}");
        }
    }
    let digits = "9".repeat(1_000);
    assert_eq!(facts(format!("{{\"n\":{digits}}}")).choices, None);
}

const COUNT: u64 = bytes::COUNT_MAX;

#[test]
fn prompts_given_as_tokens_count_by_the_token() {
    assert_eq!(facts(r#"{"input":[1212, 318,257]}"#).prompt_text_bytes, 3 * TOKEN_BYTES);
    assert_eq!(facts(r#"{"input":[[1],[2,3]]}"#).prompt_text_bytes, 3 * TOKEN_BYTES);
    assert_eq!(facts(r#"{"a":{"x":1,"y":2}}"#).prompt_text_bytes, 0);
}

#[test]
fn encoded_media_is_no_prompt_text() {
    let audio = facts(r#"{"x":[{"input_audio":{"data":"UklGRgAAAAAAAAAA","format":"wav"}}]}"#);
    assert_eq!(audio.prompt_text_bytes, 3);
    let file = facts(r#"{"x":{"file_data":"data:application/pdf;base64,AAAA"},"y":"data:x"}"#);
    assert_eq!(file.prompt_text_bytes, 0);
    assert_eq!(facts(r#"{"x":["input_image","input_image"]}"#).images, 2);
}

#[test]
fn a_very_long_model_is_cut_and_equals_no_name() {
    let name = "m".repeat(100_000);
    let body = format!("{{\"model\":\"{name}\"}}");
    let model = scan_in(&[body.as_bytes()]).unwrap().model.unwrap();
    assert!(model.value.len() < 300 && model.value.ends_with('…'));
    assert_eq!(model.span.len, 100_002);
    let exact = "m".repeat(VALUE_BYTES_MAX);
    assert_eq!(facts(format!("{{\"model\":\"{exact}\"}}")).model.unwrap().value, exact);
}

#[test]
fn stream_options_are_read_in_every_form() {
    let options = |body: &str| facts(body).stream_options;
    assert_eq!(options("{}"), None);
    let null = options(r#"{"stream_options": null}"#).unwrap();
    assert!(null.is_null && !null.include_usage && !null.is_empty);
    assert_eq!(null.span, Span { at: 19, len: 4 });
    let empty = options(r#"{"stream_options":{ }}"#).unwrap();
    assert!(empty.is_empty && !empty.is_null);
    let other = options(r#"{"stream_options":{"include_obfuscation":false,"x":["]","\""]}}"#);
    assert!(!other.unwrap().include_usage);
    let escaped = options(r#"{"stream_options":{"include\u005fusage":true}}"#);
    assert!(escaped.unwrap().include_usage);
    assert_eq!(options(r#"{"stream_options":5}"#), None);
}

#[test]
fn the_value_of_include_usage_is_found_in_every_form() {
    for (body, value) in [
        (r#"{"stream_options":{"include_usage":false}}"#, Some("false")),
        (
            r#" {"stream_options" : { "a" : [1,{"include_usage":1}] , "include_usage" : null } }"#,
            Some("null"),
        ),
        (r#"{"stream_options":{"include_usage":{"x":[]},"a":1}}"#, Some(r#"{"x":[]}"#)),
        (r#"{"stream_options":{"include_usage":1,"include\u005fusage":"no"}}"#, Some(r#""no""#)),
        (r#"{"stream_options":{"a":"include_usage"}}"#, None),
        (r#"{"stream_options":{"x":{"include_usage":false}}}"#, None),
        (r#"{"stream_options":null}"#, None),
        (r#"{"stream_options":{}}"#, None),
    ] {
        let options = facts(body).stream_options.unwrap();
        assert_eq!(options.include_usage_span.map(|span| raw(body, span)), value, "{body}");
    }
}

#[test]
fn stream_options_can_be_put_before_the_first_member_of_a_body_without_them() {
    assert_eq!(facts(r#" {"stream":true}"#).stream_options_at, Some(2));
    for body in [
        r#"{"stream_options":null}"#,
        r#"{"stream_options":7,"a":1}"#,
        r#"{"a":1,"stream\u005foptions":{"x":1}}"#,
    ] {
        assert_eq!(facts(body).stream_options_at, None, "{body}");
    }
}

#[test]
fn a_missing_model_can_be_inserted() {
    let into = |body: &str| {
        let insertion = facts(body).model_insertion.unwrap();
        let at = usize::try_from(insertion.at).unwrap();
        let end = at + usize::try_from(insertion.remove).unwrap();
        let middle = [&*insertion.prefix, b"\"m\"", &*insertion.suffix].concat();
        format!("{}{}{}", &body[..at], String::from_utf8(middle).unwrap(), &body[end..])
    };
    assert_eq!(into("{}"), r#"{"model":"m"}"#);
    assert_eq!(into(" { } "), r#" {"model":"m" } "#);
    assert_eq!(into(r#"{"a":1,"b":2}"#), r#"{"model":"m","a":1,"b":2}"#);
    assert_eq!(into(r#"{"a":1,"model": null ,"b":2}"#), r#"{"a":1,"model": "m" ,"b":2}"#);
    assert_eq!(into(r#"{"model":[{"x":"]"}]}"#), r#"{"model":"m"}"#);
    assert_eq!(into(r#"{"model":42}"#), r#"{"model":"m"}"#);
}

#[test]
fn what_is_no_object_is_malformed_with_its_offset() {
    for (body, at) in [
        ("", 0),
        ("  ", 2),
        ("[]", 0),
        ("null", 0),
        ("\"x\"", 0),
        (" x", 1),
        ("{", 1),
        ("{\"a\"", 4),
        ("{\"a\":", 5),
        ("{\"a\":1", 6),
        ("{\"a\":\"x", 7),
        ("{\"a\":[[1]", 9),
        ("{\"a\":[}", 7),
        ("{} x", 3),
        ("{}{}", 2),
        ("{a:1}", 1),
        ("{\"a\" 1}", 5),
        ("{\"a\":,}", 5),
        ("{\"a\":1 2}", 7),
        ("{\"a\":1]", 6),
        ("{\"a\":}", 5),
        ("{,}", 1),
    ] {
        assert_eq!(scan(body).map_err(|error| error.at), Err(at), "{body}");
    }
    assert!(scan(b"{\"a\":\"\xff\xfe\",\"model\":\"\xff\"}").is_ok());
}

#[test]
fn a_million_levels_are_survived() {
    let mut body = b"{\"input\":".to_vec();
    body.extend(std::iter::repeat_n(b'[', 1_000_000));
    let open = scan_in(&[&body]);
    assert_eq!(open.map_err(|error| error.at), Err(1_000_009));
    body.extend(std::iter::repeat_n(b']', 1_000_000));
    body.extend_from_slice(b",\"model\":\"m\"}");
    assert_eq!(scan_in(&[&body]).unwrap().model.unwrap().value, "m");
}

#[test]
fn any_chunking_of_random_bodies_gives_what_a_parser_reads() {
    let mut random = Random::new(42);
    for round in 0..300 {
        let body = random_body(&mut random);
        let text = if round % 2 == 0 {
            serde_json::to_string(&body).unwrap()
        } else {
            serde_json::to_string_pretty(&body).unwrap()
        };
        let whole = scan_in(&[text.as_bytes()]).unwrap();
        assert_eq!(whole.model.as_ref().map(|it| it.value.as_str()), body["model"].as_str());
        assert_eq!(whole.stream, body["stream"] == true);
        assert_eq!(whole.choices, body["n"].as_u64());
        assert_eq!(whole.prompt_text_bytes, text_bytes(&body));
        assert_eq!(scan_in(&random.cut(text.as_bytes())), Ok(whole));
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random::new(7);
    let alphabet = b"{}[]\":,\\u0dDae \n1-.t\xff\xef\xbb\xbfmodel";
    for _ in 0..20_000 {
        let len = random.below(40);
        let mut body: Vec<u8> = (0..len).map(|_| alphabet[random.below(alphabet.len())]).collect();
        body.insert(0, b'{');
        let cut = random.below(body.len());
        assert_eq!(scan_in(&[&body]), scan_in(&[&body[..cut], &body[cut..]]));
    }
}

fn random_text(random: &mut Random) -> String {
    let pieces = ["a", "\"", "\\", "é", "😀", "\n", "{", "}", ",", ":", "model", "data", " "];
    (0..random.below(8)).map(|_| pieces[random.below(pieces.len())]).collect::<String>() + "x"
}

fn random_value(random: &mut Random, depth: usize) -> serde_json::Value {
    match random.below(if depth > 4 { 4 } else { 6 }) {
        0 => serde_json::Value::Null,
        1 => true.into(),
        2 => format!("_{}", random_text(random)).into(),
        3 => (-5).into(),
        4 => (0..random.below(4)).map(|_| random_value(random, depth + 1)).collect(),
        _ => serde_json::Value::Object(
            (0..random.below(4))
                .map(|at| {
                    let key = format!("{at}{}", random_text(random));
                    (key, random_value(random, depth + 1))
                })
                .collect(),
        ),
    }
}

fn random_body(random: &mut Random) -> serde_json::Value {
    let mut body = serde_json::Map::new();
    for at in 0..random.below(4) {
        body.insert(format!("_{at}"), random_value(random, 0));
    }
    if random.below(4) > 0 {
        body.insert("model".to_owned(), random_text(random).into());
    }
    body.insert("stream".to_owned(), (random.below(2) == 1).into());
    body.insert("n".to_owned(), random.below(100).into());
    body.insert("zz".to_owned(), random_value(random, 0));
    body.into()
}

fn text_bytes(value: &serde_json::Value) -> u64 {
    match value {
        serde_json::Value::String(text) if text.starts_with('_') => text.len() as u64,
        serde_json::Value::Array(items) => items.iter().map(text_bytes).sum(),
        serde_json::Value::Object(members) => members.values().map(text_bytes).sum(),
        _ => 0,
    }
}

#[test]
fn a_model_is_sure_only_when_no_parser_finds_another_one() {
    for sure in [
        r#"{"model":"m"}"#,
        r#"{"mod\u0065l":"m"}"#,
        r#"{"n":1}"#,
        r#"{"model":"m","x":{"model":"n"},"models":1,"mode":2,"a_model":3}"#,
        r#"{"model":4}"#,
    ] {
        assert!(!facts(sure).is_model_ambiguous, "{sure}");
    }
    for unsure in [
        r#"{"model":"m","model":"m"}"#,
        r#"{"model":"m","model":"n"}"#,
        r#"{"model":"m","mod\u0065l":"n"}"#,
        r#"{"model":"m","Model":"n"}"#,
        r#"{"MODEL":"m"}"#,
        r#"{"model":"m","model":null}"#,
        r#"{"model":{},"model":"m"}"#,
        r#"{"model\u0000":"m"}"#,
        r#"{"model\u0000x":"n","model":"m"}"#,
    ] {
        assert!(facts(unsure).is_model_ambiguous, "{unsure}");
    }
}
