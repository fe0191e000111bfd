#![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

use super::*;
use crate::openai::random::Random;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const FILTER: &str = r#"data: {"id":"","object":"","model":"","choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}"#;
const DELTA: &str = r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}"#;
const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null,\"instructions\":\"error: {\\\"error\\\":{\\\"code\\\":\\\"429\\\"}}\"}}";

fn errors() -> EventStream {
    EventStream::new(Features { errors: true, ..Features::default() })
}

/// What is probed in one go, having checked that it is the same in any two pieces, bytewise, and
/// with every kind of line end.
fn probe(stream: &str) -> Probe {
    let whole = probe_in([stream.as_bytes()]);
    for ends in ["\n", "\r\n", "\r"] {
        let stream = stream.replace('\n', ends);
        let bytes = stream.as_bytes();
        for at in 0..=bytes.len() {
            assert_eq!(probe_in([&bytes[..at], &bytes[at..]]), whole, "{stream:?} cut at {at}");
        }
        assert_eq!(probe_in(bytes.chunks(1)), whole, "{stream:?} byte by byte");
    }
    whole
}

/// What is known at the end of the bytes, the stream being open.
fn probe_in<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Probe {
    let mut stream = errors();
    let mut last = Probe::More;
    for chunk in chunks {
        stream.push(chunk);
        let probe = stream.head();
        assert!(last == Probe::More || last == probe, "what is known stays");
        last = probe;
    }
    last
}

fn finish(stream: impl AsRef<[u8]>) -> Probe {
    let mut reader = errors();
    reader.push(stream.as_ref());
    reader.finish_head()
}

#[test]
fn the_preamble_decides_nothing() {
    for preamble in [
        String::new(),
        ": comment\n\n".to_owned(),
        format!("{FILTER}\n\n"),
        format!(": ok\n\n{FILTER}\n\n{FILTER}\n\n"),
        format!("{CREATED}\n\nevent: response.in_progress\ndata: {{}}\n\n"),
        "data:{\"sequence_number\":0,\"type\":\"response.queued\"}\n\n".to_owned(),
        "event: response.created\n\n\n".to_owned(),
        "retry: 5\nid: 7\ndata: {\"type\":\"keepalive\"}\n\n".to_owned(),
        "data: {\"choices\":[],\"error\":null}\n\n".to_owned(),
        "data:\n\n".to_owned(),
        "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":null}}\n\n".to_owned(),
        "data: {\"type\":\"response.failed\",\"error\":null}\n\n".to_owned(),
    ] {
        assert_eq!(probe(&preamble), Probe::More, "{preamble}");
        assert_eq!(finish(&preamble), Probe::Failed, "{preamble}");
        assert_eq!(probe(&format!("{preamble}{DELTA}\n\n")), Probe::Real, "{preamble}");
    }
}

#[test]
fn an_answer_is_real() {
    for event in [
        DELTA,
        "data: [DONE]",
        "data:[DONE]",
        "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\"}",
        "event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"error\":null}}",
        "data: {\"choices\":[{\"delta\":{\"content\":\"data: {\\\"error\\\":{\\\"code\\\":\\\"429\\\"}}\"}}]}",
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"error\":null}",
        "data: {\"choices\":\ndata: [{\"delta\":{}}]}",
        "data: {\"choices\":5}",
        "data: {\"unknown\":true}",
    ] {
        assert_eq!(probe(&format!("{event}\n\n")), Probe::Real, "{event}");
        assert_eq!(finish(event), Probe::Real, "{event}");
    }
}

#[test]
fn a_rate_limit_in_the_stream_is_a_refusal() {
    for event in [
        r#"data: {"error":{"message":"Slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
        r#"data: {"error":{"code":"429","message":"..."}}"#,
        r#"data: {"error":{"code":429,"message":"..."}}"#,
        r#"data: {"error":{"code":"RateLimitReached"}}"#,
        r#"data: {"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#,
        r#"data: {"error":{"message":"Rate limit is exceeded. Try again in 7 seconds."}}"#,
        r#"data: {"error":"too many requests"}"#,
        r#"data: {"type":"error","code":"rate_limit_exceeded","message":"m","param":null,"sequence_number":1}"#,
        r#"data: {"type":"error","error":{"type":"too_many_requests","code":"rate_limit_exceeded","headers":{"x-ms-fe-error":"true"},"message":"m","param":null},"sequence_number":2}"#,
        "event: error\ndata: {\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}",
        "event: error\ndata: {\"error\":{\ndata: \"code\":\"too_many_requests\"}}",
        "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}}",
        r#"data: {"choices":[],"error":{"type":"invalid_request_error","code":"429"}}"#,
        r#"{"error":{"code":"429","message":"no event stream at all"}}"#,
    ] {
        assert_eq!(probe(&format!("{event}\n\n")), Probe::Refused, "{event}");
        assert_eq!(
            probe(&format!("{FILTER}\n\n{CREATED}\n\n{event}\n\n")),
            Probe::Refused,
            "{event}"
        );
        assert_eq!(finish(event), Probe::Refused, "{event}");
    }
}

#[test]
fn a_failed_response_waits_for_its_reason() {
    let failed = r#"data: {"type":"response.failed","response":{"error":null},"error":null}"#;
    let reason = r#"data: {"type":"error","error":{"type":"too_many_requests","code":"rate_limit_exceeded"}}"#;
    assert_eq!(probe(&format!("{failed}\n\n{reason}\n\n")), Probe::Refused);
    assert_eq!(finish(format!("{failed}\n\n")), Probe::Failed);
}

#[test]
fn a_fault_of_the_backend_is_a_failure() {
    for event in [
        r#"data: {"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}"#,
        r#"data: {"error":{"code":"InternalServerError"}}"#,
        r#"data: {"error":{"code":"500","type":"invalid_request_error"}}"#,
        r#"data: {"error":{"message":"We are experiencing high demand"}}"#,
        r#"data: {"error":{"status":503}}"#,
        r#"data: {"error":{"code":"DeploymentNotFound"}}"#,
        r#"data: {"error":{"code":"401","message":"invalid subscription key"}}"#,
        r#"data: {"error":{}}"#,
        r#"data: {"error":true}"#,
        "event: error\ndata: overloaded",
        "event: error\ndata:",
        r#"data: {"type":"response.failed","response":{"error":{"code":"server_error","message":"m"}}}"#,
    ] {
        assert_eq!(probe(&format!("{CREATED}\n\n{event}\n\n")), Probe::Failed, "{event}");
        assert_eq!(finish(event), Probe::Failed, "{event}");
    }
}

#[test]
fn a_fault_of_the_caller_is_an_answer() {
    for event in [
        r#"data: {"error":{"message":"m","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
        r#"data: {"error":{"message":"m","type":null,"param":"prompt","code":"content_filter","status":400}}"#,
        r#"data: {"error":{"code":"400"}}"#,
        r#"data: {"type":"error","code":"invalid_prompt","message":"m"}"#,
        r#"data: {"type":"response.failed","response":{"error":{"code":"invalid_image","message":"m"}}}"#,
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":\"content_filter\"}}",
    ] {
        assert_eq!(probe(&format!("{event}\n\n")), Probe::Real, "{event}");
    }
    for code in [
        "bio_policy",
        "computer_use_error",
        "container_expired",
        "cyber_policy",
        "file_too_large",
        "http_error",
        "integer_below_min_value",
        "max_output_tokens",
        "mcp_error",
        "missing_required_parameter",
        "moderation_blocked",
        "string_above_max_length",
        "tool_user_error",
        "unknown_parameter",
        "user_error",
        "vector_store_timeout",
    ] {
        let event = format!(r#"data: {{"type":"error","code":"{code}","message":"m"}}"#);
        assert_eq!(probe(&format!("{event}\n\n")), Probe::Real, "{code}");
        assert!(!watch(&format!("{DELTA}\n\n{event}\n\n")), "{code}");
    }
}

#[test]
fn a_large_echo_of_the_request_is_preamble_with_and_without_a_name() {
    let echo = "\\\"error\\\":{\\\"code\\\":\\\"429\\\"} é".repeat(10_000);
    for name in ["event: response.created\n", ""] {
        let created = format!(
            "{name}data: {{ \"type\": \"response.created\",\"response\":{{\"instructions\":\"{echo}\"}}}}\n\n"
        );
        for len in [1, 7, 1_000, 16_384, created.len()] {
            let mut stream = errors();
            for chunk in created.as_bytes().chunks(len) {
                stream.push(chunk);
                assert_eq!(stream.head(), Probe::More);
                let kept = stream.head.as_ref().map_or(0, |head| head.kept_bytes());
                assert!(kept <= 4 * EVENT_BYTES_MAX, "{kept}");
            }
            stream.push(format!("{DELTA}\n\n").as_bytes());
            assert_eq!(stream.head(), Probe::Real);
        }
    }
    let large_failure = format!(
        "data: {{\"type\":\"response.failed\",\"response\":{{\"error\":{{\"code\":\"rate_limit_exceeded\"}},\"instructions\":\"{echo}\"}}}}\n\n"
    );
    assert_eq!(probe_in([large_failure.as_bytes()]), Probe::Refused);
    let large_delta = format!("data: {{\"choices\":[{{\"delta\":\"{echo}\"}}]}}\n\n");
    assert_eq!(probe_in([large_delta.as_bytes()]), Probe::Real);
}

#[test]
fn what_is_no_event_stream_is_forwarded() {
    for garbage in [
        &b"<html><body>502</body></html>\n"[..],
        b"\x1f\x8b\x08\0\xff\xfe\n",
        b"data\xff: x\n",
        b"{\"choices\":[1]}\n",
        b"{broken\n",
        b"data: {\"choices\":[\xff\n\n",
        b"data: plain\n\n",
        b"data: {\"a\":\"\xff\"}\n\n",
    ] {
        assert_eq!(probe_in([garbage]), Probe::Real, "{garbage:?}");
        assert_eq!(probe_in(garbage.chunks(1)), Probe::Real, "{garbage:?}");
    }
    assert_eq!(finish("<html>"), Probe::Real);
    assert_eq!(probe_in([format!("data: {}\n\n", "[".repeat(100_000)).as_bytes()]), Probe::Real);
}

#[test]
fn a_stream_without_an_event_failed() {
    for stream in [
        "",
        "\n",
        ": ping\n\n",
        "da",
        "event",
        "data: {\"choices\":[{\"del",
        "event: x\n\n",
        "data: {\"choices\":[",
        "\u{feff}",
    ] {
        assert_eq!(finish(stream), Probe::Failed, "{stream:?}");
    }
    assert_eq!(finish(format!("\u{feff}{DELTA}")), Probe::Real);
}

fn watch_in<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> usize {
    let mut stream = errors();
    chunks.into_iter().filter(|chunk| stream.push(chunk).error).count()
}

/// Whether an error is told, having checked that it is told once in any two pieces and bytewise.
fn watch(stream: &str) -> bool {
    let told = watch_in([stream.as_bytes()]);
    for ends in ["\n", "\r\n", "\r"] {
        let stream = stream.replace('\n', ends);
        let bytes = stream.as_bytes();
        for at in 0..=bytes.len() {
            assert_eq!(watch_in([&bytes[..at], &bytes[at..]]), told, "{stream:?} cut at {at}");
        }
        assert_eq!(watch_in(bytes.chunks(1)), told, "{stream:?} byte by byte");
    }
    told == 1
}

#[test]
fn an_error_in_mid_stream_is_reported_once() {
    for error in [
        r#"data: {"error":{"message":"m","type":"server_error","param":null,"code":null}}"#,
        r#"data:{ "error" : {"code":"503"}}"#,
        r#"data: {"type":"error","code":"server_error","message":"m"}"#,
        "event:error\ndata: {\"sequence_number\":4,\"type\":\"error\",\"error\":{\"code\":\"server_error\"}}",
        "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":null}}",
        r#"data: {"type":"response.failed","response":{"error":{"code":"server_error"}}}"#,
        r#"data: {"error":{"message":"broken"#,
    ] {
        assert!(watch(&format!("{DELTA}\n\n{error}\n\n{DELTA}\n\n{error}\n\n")), "{error}");
    }
}

#[test]
fn what_is_no_fault_of_the_backend_is_not_reported() {
    for event in [
        DELTA,
        CREATED,
        "data: [DONE]",
        r#"data: {"error":null,"choices":[]}"#,
        r#"data: {"choices":[{"delta":{"content":"\ndata: {\"error\":{}}\n"}}]}"#,
        r#"data: {"error":{"code":"content_filter"}}"#,
        "event: error\n\ndata: {\"choices\":[{}]}",
        "event: error\ndata: {\"code\":\"invalid_prompt\"}",
        "event: error\ndata: {\"code\":\"rate_limit_exceeded\"}",
        r#"data:{ "error" : {"code":"429"}}"#,
        ": data: {\"error\":{}}",
        "xdata: {\"error\":{}}",
    ] {
        assert!(!watch(&format!("{event}\n\n{DELTA}\n\n")), "{event}");
    }
    let long = format!("data: {{\"choices\":[{{\"delta\":\"{}\"}}]}}\n\n", "é".repeat(100_000));
    assert_eq!(watch_in(long.as_bytes().chunks(777)), 0);
}

#[test]
fn any_chunking_of_random_streams_is_probed_and_watched_alike() {
    let pieces: [&[u8]; 20] = [
        b"data: ",
        b"event: ",
        b"error",
        b"response.failed",
        b"response.created",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"{\"error\":",
        b"{\"type\":\"error\",\"code\":",
        b"\"429\"}",
        b"null}",
        b"{\"choices\":[",
        b"]}",
        b":",
        b"\xef\xbb\xbf",
        b"\xff",
        b"id: 1",
        b"[DONE]",
    ];
    let mut random = Random::new(11);
    for _ in 0..20_000 {
        let stream = random.join(&pieces, 12);
        let slices = random.cut(&stream);
        assert_eq!(probe_in(slices.iter().copied()), probe_in([&stream[..]]), "{stream:?}");
        assert_eq!(watch_in(slices.iter().copied()), watch_in([&stream[..]]), "{stream:?}");
        let mut reader = errors();
        slices.iter().for_each(|slice| _ = reader.push(slice));
        let end = reader.finish_head();
        assert_eq!(end, finish(&stream), "{stream:?}");
        assert_ne!(end, Probe::More);
    }
}

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Whole {
    passed: Vec<u8>,
    errors: usize,
    head: Probe,
    usage: Option<Usage>,
    counted: Option<u64>,
    tier: Option<ServiceTier>,
}

/// Reads a stream in these chunks. Its head is let go as soon as it shows anything, as the filter does.
fn read<'a>(features: Features, chunks: impl IntoIterator<Item = &'a [u8]>) -> Whole {
    let mut stream = EventStream::new(features);
    let (mut passed, mut errors, mut head) = (Vec::new(), 0, Probe::More);
    for chunk in chunks {
        let seen = stream.push(chunk);
        match seen.edit {
            Edit::Unchanged => passed.extend_from_slice(chunk),
            Edit::Replaced(bytes) => passed.extend(bytes),
        }
        errors += usize::from(seen.error);
        if head == Probe::More {
            head = stream.head();
        }
        if head != Probe::More {
            stream.let_head_go();
        }
    }
    if head == Probe::More {
        head = stream.finish_head();
    }
    passed.extend(stream.finish());
    let counted = stream.counted_output_tokens();
    Whole { passed, errors, head, usage: stream.usage(), counted, tier: stream.tier() }
}

/// Every combination of features.
fn all_features() -> impl Iterator<Item = Features> {
    (0..16_u8).map(|bits| Features {
        errors: bits & 1 != 0,
        usage: bits & 2 != 0,
        strips_usage: bits & 4 != 0,
        tier: bits & 8 != 0,
    })
}

#[test]
fn whatever_is_looked_for_any_split_of_a_stream_gives_what_the_whole_gives() {
    let created = format!("{CREATED}\n\n");
    let filter = format!("{FILTER}\n\n");
    // Long enough to be searched before they are read.
    let long = "y".repeat(120);
    let [plain, stated, lines] = [
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{long}\"}}}}],\"usage\":null}}\n\n"
        ),
        format!(
            "data: {{\"choices\":[{{\"text\":\"{long}\"}}],\"usage\":null,\"usage\":{{\"prompt_tokens\":8}}}}\n\n"
        ),
        format!(
            "data: {{\"choices\":[{{\"text\":\"{long}\"}}],\r\ndata: \"usage\":{{\"prompt_tokens\":9}}}}\r\n\r\n"
        ),
    ];
    let pieces: [&[u8]; 27] = [
        plain.as_bytes(),
        stated.as_bytes(),
        lines.as_bytes(),
        filter.as_bytes(),
        created.as_bytes(),
        "data: {\"choices\":[{\"delta\":{\"content\":\"Grüße, 世界 🦀\"}}],\"usage\":null}\n\n".as_bytes(),
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"service_tier\":\"flex\"}\r\n\r\n",
        b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2},\"service_tier\":\"default\"}\n\n",
        b"data:{\"choices\":[],\"usage\":{\"prompt_tokens\":6}}\r\r",
        b"data: {\"choices\":[],\r\ndata: \"usage\":{\"prompt_tokens\":7}}\r\n\r\n",
        b"event: response.output_text.delta\ndata: {\"delta\":\"x\"}\n\n",
        b"event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n",
        b"data: {\"error\":{\"code\":\"server_error\"}}\n\n",
        b"event: error\ndata: {\"code\":\"429\"}\n\n",
        b"event: response.failed\rdata: {\"response\":{\"error\":null}}\r\r",
        b"data: {\"error\":{\"code\":\"429\"}}\n\n",
        b"data: [DONE]\n\n",
        b"data: ",
        b"data",
        b"event",
        b": a comment\n",
        b"id: 7\n",
        b"\n",
        b"\r",
        b"\xef\xbb\xbf",
        b"\xff",
        b"{\"error\":{\"code\":\"429\"}}\n",
    ];
    let mut random = Random::new(20_261_121);
    for features in all_features() {
        for _ in 0..300 {
            let mut stream = random.join(&pieces[..17], 3);
            stream.extend(random.join(&pieces, 6));
            stream.extend(random.join(&pieces[..17], 2));
            let whole = read(features, [stream.as_slice()]);
            let told = || format!("{features:?} {:?}", String::from_utf8_lossy(&stream));
            for _ in 0..3 {
                assert_eq!(read(features, random.cut(&stream)), whole, "{}", told());
            }
            let at = random.below(stream.len());
            let (head, tail) = stream.split_at(at);
            assert_eq!(read(features, [head, tail]), whole, "cut at {at}: {}", told());
            assert_eq!(read(features, stream.chunks(1)), whole, "byte by byte: {}", told());
        }
    }
}

#[test]
fn what_is_looked_for_does_not_change_what_else_is_found() {
    let everything = Features { errors: true, usage: true, strips_usage: true, tier: true };
    let text = format!(
        "\u{feff}: ok\r\n{FILTER}\n\n{DELTA}\n\ndata: {{\"choices\":[{{\"delta\":{{\"content\":\"x\"}}}}],\"service_tier\":\"flex\"}}\n\n\
         data: {{\"error\":{{\"code\":\"server_error\"}}}}\n\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":8}}}}\n\ndata: [DONE]\n\n"
    );
    let all = read(everything, [text.as_bytes()]);
    assert_eq!((all.errors, all.head, all.counted), (1, Probe::Real, Some(1)));
    assert_eq!(all.usage.map(|usage| usage.prompt_tokens), Some(8));
    assert_eq!(all.tier, Some(ServiceTier::Flex));
    assert!(all.passed.len() < text.len());
    for features in all_features() {
        let some = read(features, [text.as_bytes()]);
        let Features { errors, usage, strips_usage, tier } = features;
        assert_eq!(some.errors, if errors { all.errors } else { 0 }, "{features:?}");
        assert_eq!(some.usage, all.usage.filter(|_| usage), "{features:?}");
        assert_eq!(some.counted, all.counted.filter(|_| usage), "{features:?}");
        assert_eq!(some.tier, all.tier.filter(|_| tier), "{features:?}");
        let passed = if strips_usage { all.passed.as_slice() } else { text.as_bytes() };
        assert_eq!(some.passed, passed, "{features:?}");
    }
}
