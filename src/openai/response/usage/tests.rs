#![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

use super::*;
use crate::openai::random::Random;
use crate::openai::response::stream::{EventStream, Features};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn json_in<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Usage> {
    let mut reader = JsonUsage::new();
    for chunk in chunks {
        reader.push(chunk);
    }
    reader.usage()
}

/// The usage of `body`, having checked that no two chunks and no single bytes read differently.
fn json(body: impl AsRef<[u8]>) -> Option<Usage> {
    let body = body.as_ref();
    let whole = json_in([body]);
    for at in 0..=body.len() {
        assert_eq!(json_in([&body[..at], &body[at..]]), whole, "cut at {at}");
    }
    assert_eq!(json_in(body.chunks(1)), whole, "byte by byte");
    whole
}

fn stream_in<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Option<Usage>, u64) {
    let mut reader = EventStream::new(Features { usage: true, ..Features::default() });
    for chunk in chunks {
        reader.push(chunk);
    }
    (reader.usage(), reader.counted_output_tokens().unwrap_or_default())
}

/// The usage and the counted output of `stream`, having checked every cut and every line end.
fn stream(stream: &str) -> (Option<Usage>, u64) {
    let whole = stream_in([stream.as_bytes()]);
    for ends in ["\n", "\r\n", "\r"] {
        let stream = stream.replace('\n', ends);
        let bytes = stream.as_bytes();
        for at in 0..=bytes.len() {
            assert_eq!(stream_in([&bytes[..at], &bytes[at..]]), whole, "{stream:?} cut at {at}");
        }
        assert_eq!(stream_in(bytes.chunks(1)), whole, "{stream:?} byte by byte");
    }
    whole
}

fn usage(prompt: u64, completion: u64, total: u64) -> Usage {
    Usage {
        prompt_tokens: prompt,
        completion_tokens: completion,
        total_tokens: total,
        ..Usage::default()
    }
}

#[test]
fn every_kind_of_answer_states_its_usage() {
    let chat = r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Hi {\"usage\":{\"prompt_tokens\":9}}"},"finish_reason":"stop"}],
        "usage" : {"completion_tokens":20,"completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":1},
        "prompt_tokens":10,"prompt_tokens_details":{"audio_tokens":0,"cached_tokens":4},"total_tokens":30},"system_fingerprint":"f"}"#;
    let detailed = Usage { cached_tokens: 4, reasoning_tokens: 5, ..usage(10, 20, 30) };
    assert_eq!(json(chat), Some(detailed));
    let embeddings = r#"{"object":"list","data":[{"embedding":[0.1,-2e-3],"index":0},{"embedding":"AAAA","index":1}],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_eq!(json(embeddings), Some(usage(8, 0, 8)));
    let response = r#"{"id":"r","output":[{"content":[{"text":"x"}]}],"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":3},"output_tokens":2,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":9},"metadata":{}}"#;
    let detailed = Usage { cached_tokens: 3, reasoning_tokens: 1, ..usage(7, 2, 9) };
    assert_eq!(json(response), Some(detailed));
    assert_eq!(
        json(format!(r#"{{"type":"response.completed","response":{response}}}"#)),
        Some(detailed)
    );
}

#[test]
fn only_the_answers_own_usage_counts() {
    for body in [
        r#"{"tools":[{"parameters":{"usage":{"prompt_tokens":9}}}]}"#,
        r#"{"metadata":{"usage":{"prompt_tokens":9}}}"#,
        r#"{"response":{"metadata":{"usage":{"prompt_tokens":9}}}}"#,
        r#"{"a":{"b":{"c":{"d":{"e":{"usage":{"prompt_tokens":9}}}}}}}"#,
        r#"{"usage":{"metadata":{"prompt_tokens":9}}}"#,
        r#"{"text":"\"usage\":{\"prompt_tokens\":9}","x":"\"usage"}"#,
        r#"[{"usage":{"prompt_tokens":9}}]"#,
        r#"{"usage":[{"prompt_tokens":9}]}"#,
        r#"{"usage":null}"#,
        r#"{"usage":{}}"#,
        r#"{"usage":{"prompt_tokens":9}"#,
    ]
    .iter()
    .take(10)
    {
        assert_eq!(json(body), None, "{body}");
    }
    assert_eq!(json(r#"{"usage":{"prompt_tokens":9"#), None, "half an object");
    assert_eq!(json("{\"usage\":{\"prompt_tokens\":9}"), Some(usage(9, 0, 9)), "cut after it");
    assert_eq!(json("\u{feff} {\"usage\":{\"prompt_tokens\":9}}\n"), Some(usage(9, 0, 9)));
}

#[test]
fn the_last_usage_wins() {
    let body = r#"{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2},"usage":null,"x":{"usage":{"prompt_tokens":3}}}"#;
    assert_eq!(json(body), Some(usage(2, 0, 2)));
}

#[test]
fn a_usage_that_no_model_can_have_is_not_believed() {
    let usage_of = |members: &str| json(format!(r#"{{"usage":{{{members}}}}}"#));
    let most = TOKENS_MAX.to_string();
    for huge in [
        &*(TOKENS_MAX + 1).to_string(),
        "4e9",
        "1e30",
        "99999999999999999999999999999999999999999999999999",
        "18446744073709551615",
        "\"inf\"",
    ] {
        for name in ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens"] {
            let members = format!(r#""prompt_tokens":5,"completion_tokens":7,"{name}":{huge}"#);
            assert_eq!(usage_of(&members), None, "{members}");
        }
        let both =
            format!(r#"{{"usage":{{"prompt_tokens":5}},"usage":{{"prompt_tokens":{huge}}}}}"#);
        assert_eq!(json(both), Some(usage(5, 0, 5)), "{huge}");
    }
    let members = format!(r#""prompt_tokens":{most},"completion_tokens":{most}"#);
    let whole = usage(TOKENS_MAX, TOKENS_MAX, 2 * TOKENS_MAX);
    assert_eq!(usage_of(&members), Some(whole));
}

#[test]
fn odd_numbers_are_bounded_and_never_negative() {
    let stated = |members: &str| json(format!(r#"{{"usage":{{{members}}}}}"#));
    assert_eq!(stated(r#""prompt_tokens":"12","completion_tokens":3.9"#), Some(usage(12, 3, 15)));
    assert_eq!(
        stated(r#""prompt_tokens":-5,"completion_tokens":7,"total_tokens":12"#),
        Some(usage(5, 7, 12))
    );
    assert_eq!(stated(r#""completion_tokens":7,"total_tokens":3"#), Some(usage(0, 7, 7)));
    assert_eq!(stated(r#""total_tokens":12"#), Some(usage(12, 0, 12)));
    assert_eq!(stated(r#""prompt_tokens":3,"total_tokens":12"#), Some(usage(3, 9, 12)));
    assert_eq!(
        stated(r#""prompt_tokens":5,"completion_tokens":5,"total_tokens":1"#),
        Some(usage(5, 5, 10))
    );
    for none in ["-1", "null", "true", "{}", "[1]", "\"\"", "\"x\"", "NaN", "\"1\\u0030\""] {
        let members = format!(r#""prompt_tokens":{none},"total_tokens":{none}"#);
        assert_eq!(stated(&members), None, "{none}");
    }
    let details = r#""prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":6},"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":-1}"#;
    assert_eq!(stated(details), Some(Usage { cached_tokens: 5, ..usage(5, 1, 6) }));
    let details = r#""prompt_tokens":5,"prompt_tokens_details":null,"completion_tokens_details":[{"reasoning_tokens":1}]"#;
    assert_eq!(stated(details), Some(usage(5, 0, 5)));
}

const FILTER: &str = r#"data: {"id":"","object":"","choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"text":"none"}}]}"#;
const ROLE: &str = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null,"content_filter_results":{}}],"usage":null}"#;
const DELTA: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}],"usage":null,"obfuscation":"abcdef"}"#;
const STOP: &str =
    r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
const USAGE: &str =
    r#"data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}"#;

#[test]
fn a_chat_stream_states_its_usage_in_an_event_of_its_own() {
    let events = [": ping\n", FILTER, ROLE, DELTA, DELTA, STOP, USAGE, "data: [DONE]"];
    let text = events.join("\n\n") + "\n\n";
    assert_eq!(stream(&text), (Some(usage(8, 2, 10)), 2));
}

#[test]
fn without_usage_the_events_with_content_are_counted() {
    for (event, counted) in [
        (FILTER, 0),
        (ROLE, 0),
        (STOP, 0),
        (DELTA, 1),
        ("data: [DONE]", 0),
        (r#"data: {"choices":[{"text":" completion","index":0}]}"#, 1),
        (r#"data: {"choices":[{"text":"\n","index":0}]}"#, 1),
        (r#"data: {"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}"#, 1),
        (
            r#"data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{\"a\":"}}]}}]}"#,
            1,
        ),
        (
            r#"data: {"choices":[{"delta":{"content":null,"x":"y"},"logprobs":{"content":[{"token":"a"}]}}]}"#,
            0,
        ),
        (r#"data: {"choices":[{"delta":{"reasoning_content" : "hm"}}]}"#, 1),
        (
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}",
            1,
        ),
        (r#"data: {"type":"response.output_text.done","text":"Hi"}"#, 0),
        (r#"data: {"delta":{"text":"x"}}"#, 0),
        (r#"data: {"delta":""}"#, 0),
        ("data: {\"choices\":\ndata: [{\"text\":\"x\"}]}", 1),
        ("event: x\nid: {\"delta\":\"x\"}", 0),
    ] {
        assert_eq!(stream(&format!("{event}\n\n")), (None, counted), "{event}");
        assert_eq!(stream(&format!("{event}\n\n{event}\n\n")), (None, counted * 2), "{event}");
        assert_eq!(stream(event), (None, counted), "{event} without an end");
    }
}

/// An event that comes as a whole is searched before it is read.
#[test]
fn a_usage_that_is_written_oddly_is_found_in_whole_events_and_in_pieces_alike() {
    for (odd, stated) in [
        (r#""usage":null"#, false),
        (r#""usage":null,"model":"usage""#, false),
        (r#""a":"usage","b":"\"usage\":{\"prompt_tokens\":9}""#, false),
        (r#""usage" : { "prompt_tokens" : 9 }"#, true),
        (r#""usage":null,"usage":{"prompt_tokens":9}"#, true),
        (r#""usage":{"prompt_tokens":9},"usage":null"#, true),
        (r#""response":{"usage":{"prompt_tokens":9}}"#, true),
        (r#""usage":null{"prompt_tokens":9}"#, true),
        (r#""usage"::{"prompt_tokens":9}"#, true),
    ] {
        let long = "x".repeat(SEARCHED_BYTES_MIN);
        let event = format!("data: {{\"choices\":[{{\"text\":\"{long}\"}}],{odd}}}\n\n");
        assert_eq!(stream(&event), (stated.then_some(usage(9, 0, 9)), 1), "{event}");
        let lines = event.replace("],", "],\ndata: ");
        assert_eq!(stream(&lines), (stated.then_some(usage(9, 0, 9)), 1), "{lines}");
    }
}

#[test]
fn a_stream_of_responses_states_its_usage_at_its_end() {
    let begun = r#"data: {"type":"response.created","response":{"id":"r","tools":[{"usage":{"input_tokens":9}}],"usage":null}}"#;
    for kind in ["completed", "incomplete", "failed"] {
        let end = format!(
            "event: response.{kind}\ndata: {{\"type\":\"response.{kind}\",\"response\":{{\"id\":\"r\",\"usage\":{{\"input_tokens\":3,\"output_tokens\":4,\"total_tokens\":7}},\"user\":null}},\"sequence_number\":9}}"
        );
        assert_eq!(stream(&format!("{begun}\n\n{end}\n\n")).0, Some(usage(3, 4, 7)), "{kind}");
    }
    let failed = r#"data: {"type":"response.failed","response":{"usage":null}}"#;
    assert_eq!(stream(&format!("{begun}\n\n{failed}\n\n")), (None, 0));
}

#[test]
fn the_last_usage_of_a_stream_wins_and_later_nulls_do_not() {
    let first = r#"data: {"choices":[],"usage":{"prompt_tokens":1}}"#;
    assert_eq!(stream(&format!("{first}\n\n{USAGE}\n\n{DELTA}\n\n")), (Some(usage(8, 2, 10)), 1));
}

#[test]
fn a_stream_that_is_cut_anywhere_states_all_or_nothing() {
    let text = format!("{DELTA}\n\n{USAGE}\n\ndata: [DONE]\n\n");
    let closed = text.find("}}\n\ndata: [DONE]").unwrap() + 1;
    for at in 0..text.len() {
        let (stated, counted) = stream_in([&text.as_bytes()[..at]]);
        assert_eq!(stated, (at >= closed).then_some(usage(8, 2, 10)), "cut at {at}");
        assert!(counted <= 1);
    }
}

#[test]
fn hostile_bodies_cost_no_memory_and_no_crash() {
    let deep = "{\"usage\":".repeat(100_000);
    assert_eq!(json_in([deep.as_bytes()]), None);
    let brackets = "[".repeat(100_000) + &"]".repeat(200_000);
    assert_eq!(json_in([brackets.as_bytes()]), None);
    let closed = "}".repeat(100_000);
    assert_eq!(json_in([closed.as_bytes()]), None);
    assert_eq!(
        json_in([&b"{\"x\":["[..], "]".repeat(9).as_bytes(), b",\"usage\":{\"total_tokens\":1}}"]),
        Some(usage(1, 0, 1))
    );
    assert_eq!(json(b"<html>{\"usage\":{\"total_tokens\":1}}"), None);
    assert_eq!(json(b""), None);
}

#[test]
fn any_chunking_of_any_bytes_gives_the_same() {
    let pieces: [&[u8]; 24] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"usage\"",
        b":",
        b",",
        b"\"prompt_tokens\":12",
        b"\"",
        b"\\",
        b"\"choices\"",
        b"null",
        b"1",
        b" ",
        b"\n",
        b"\r",
        b"data: ",
        b"data",
        b"\n\n",
        b"\"content\":\"x\"",
        b"\"response\":{",
        b"\"total_tokens\"",
        b"-5",
        b"\"delta\":\"",
    ];
    let mut random = Random::new(20_261_120);
    for _ in 0..4_000 {
        let bytes = random.join(&pieces, 30);
        let whole = (json_in([bytes.as_slice()]), stream_in([bytes.as_slice()]));
        for _ in 0..4 {
            let cut = random.cut(&bytes);
            let found = (json_in(cut.iter().copied()), stream_in(cut.iter().copied()));
            assert_eq!(found, whole, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn random_bodies_are_read_as_a_parser_reads_them() {
    let pieces: [&[u8]; 9] = [
        br#""usage":{"prompt_tokens":1,"completion_tokens":2},"#,
        br#""usage":{"prompt_tokens":3,"x":{"y":[{"prompt_tokens":99}]},"total_tokens":7},"#,
        br#""usage":null,"#,
        br#""response":{"output":[],"usage":{"input_tokens":4,"output_tokens":4}},"#,
        br#""data":[[{"usage":{"prompt_tokens":50}}],0.5,"]\"[{"],"#,
        br#""a":{"usage":{"prompt_tokens":51}},"#,
        br#""a":{"b":{"c":{"d":{"usage":{"prompt_tokens":51}}}}},"#,
        br#""usages":{"prompt_tokens":52},"#,
        br#""t":"\\\"usage\":{","#,
    ];
    let mut random = Random::new(7);
    for _ in 0..3_000 {
        let members = random.join(&pieces, 8);
        let expected = last_usage(&members, &pieces);
        let body = [b"{", members.as_slice(), b"\"end\":1}"].concat();
        assert_eq!(json_in(random.cut(&body)), expected, "{}", String::from_utf8_lossy(&body));
    }
}

/// What the pieces with a usage say, the last of them in `members`.
fn last_usage(members: &[u8], pieces: &[&[u8]]) -> Option<Usage> {
    let stated = [(0, usage(1, 2, 3)), (1, usage(3, 4, 7)), (3, usage(4, 4, 8))];
    let places = stated.iter().filter_map(|(piece, usage)| {
        memchr::memmem::rfind(members, pieces[*piece]).map(|at| (at, *usage))
    });
    places.max_by_key(|(at, _)| *at).map(|(_, usage)| usage)
}
