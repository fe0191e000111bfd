//! However a stream is cut, the tokens are the same, the client sees the same, and what was
//! reserved is settled once.

use crate::envoy::{End, Envoy, Request, Script, worker};
use crate::host::Process;
use crate::random::Random;
use spillway::openai::call::recognise;
use spillway::openai::request::scan::JsonScanner;
use spillway::policy::keys::Keys;
use spillway::policy::time::Timestamp;
use spillway::policy::tokens::budget::{self, BudgetSettings};
use spillway::policy::tokens::consumer::{self, ConsumerSettings};
use spillway::policy::tokens::estimate::{Estimate, Estimator, RequestSize};
use std::num::NonZeroU32;

const LIMIT: u32 = 1_000_000_000;

/// `a` and `b` have more tokens than the tests use; breakers and gates never act.
const SETTINGS: &str = r#"{"pools": [{"name": "gpt", "backends": [
    {"name": "a", "host": "a.example", "priority": 1, "limits": {"tokens_per_minute": 1000000000}},
    {"name": "b", "host": "b.example", "priority": 2, "limits": {"tokens_per_minute": 1000000000}}],
    "circuit_breaker": {"rules": []},
    "failover": {"retry_budget": {"percent": 100, "min_per_second": 10000}}}],
    "consumers": {"header": "x-consumer", "by_name": {"alice": {"tokens_per_minute": 1000000000}}}}"#;

const CHAT: &str = concat!(
    "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
    ": a comment\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Grüße \"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":9}\"}}]}\r\n\r\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
);
const CHAT_USAGE: &str = concat!(
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":321,\"completion_tokens\":45,\"total_tokens\":366,",
    "\"prompt_tokens_details\":{\"cached_tokens\":20}}}\n\n",
);
const DONE: &str = "data: [DONE]\n\n";

const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"usage\":null}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"He\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"llo\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",",
    "\"usage\":{\"input_tokens\":321,\"output_tokens\":45,\"total_tokens\":366}}}\n\n",
);

/// What the two streams state.
const STATED: u64 = 366;

/// The estimate of a request before anything is learned.
pub(crate) fn first_estimate(request: &Request) -> Estimate {
    let mut scanner = JsonScanner::new();
    request.chunks.iter().for_each(|chunk| scanner.push(chunk));
    let facts = scanner.finish().unwrap();
    Estimator::default().estimate(&RequestSize {
        text_bytes: facts.prompt_text_bytes,
        images: facts.images.into(),
        max_output_tokens: facts.max_output_tokens,
        choices: facts.choices,
    })
}

/// The tokens that are reserved or used at a backend.
pub(crate) fn used(process: &Process, backend: &str, limit: u32) -> u64 {
    let record = process.shared().read(&Keys::new(None).budget(backend)).map(|(record, _)| record);
    let settings =
        BudgetSettings { tokens_per_minute: NonZeroU32::new(limit), ..BudgetSettings::default() };
    let now = Timestamp::from_ms(process.wall_ms());
    u64::from(limit) - budget::remaining_tokens(record.as_deref(), &settings, now).unwrap()
}

/// The tokens that alice reserved or used. What a backend counts is never less than was reserved.
fn used_by_alice(process: &Process) -> u64 {
    let record =
        process.shared().read(&Keys::new(None).consumer("alice")).map(|(record, _)| record);
    let tokens_per_minute = NonZeroU32::new(LIMIT);
    let settings = ConsumerSettings { tokens_per_minute, ..ConsumerSettings::default() };
    let now = Timestamp::from_ms(process.wall_ms());
    let left = consumer::remaining(record.as_deref(), &settings, now);
    u64::from(LIMIT) - left.tokens_per_minute.unwrap()
}

/// It names maxima and has images, so that the filter learns nothing from one request for the
/// next.
fn chat() -> Request {
    const BODY: &str = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],
        "max_tokens":500,"stream":true}"#;
    Request::new("POST", "/openai/deployments/gpt/chat/completions?api-version=2024-10-21")
        .body(BODY)
        .header("x-consumer", "alice")
}

fn responses() -> Request {
    const BODY: &str = r#"{"model":"gpt","input":[{"role":"user","content":[{"type":"input_text",
        "text":"hi"},{"type":"input_image","image_url":"data:image/png;base64,AAAA"}]}],
        "max_output_tokens":500,"stream":true}"#;
    assert!(recognise(b"POST", b"/openai/v1/responses").is_some());
    Request::new("POST", "/openai/v1/responses").body(BODY).header("x-consumer", "alice")
}

/// A stream, the request for it, and what its client is shown.
fn streams() -> [(&'static str, Request, String, String); 2] {
    let (whole, shown) = (format!("{CHAT}{CHAT_USAGE}{DONE}"), format!("{CHAT}{DONE}"));
    [("chat", chat(), whole, shown), ("responses", responses(), RESPONSES.into(), RESPONSES.into())]
}

fn script(chunks: &[&[u8]]) -> Script {
    chunks.iter().fold(Script::events(&[]), |script, chunk| script.chunk(chunk))
}

/// How many events with content are whole, and how many began.
fn content_events(part: &[u8]) -> (u64, u64) {
    let count = |text: &str| {
        let events =
            text.split_inclusive("\n\n").flat_map(|event| event.split_inclusive("\r\n\r\n"));
        let is_content = |event: &&str| {
            let content =
                event.split_once("\"content\":\"").or_else(|| event.split_once("\"delta\":\""));
            content.is_some_and(|(_, content)| !content.is_empty() && !content.starts_with('"'))
        };
        let all: Vec<&str> = events.filter(is_content).collect();
        let whole =
            all.iter().filter(|event| event.ends_with("\n\n") || event.ends_with("\r\n\r\n"));
        (whole.count() as u64, all.len() as u64)
    };
    count(&String::from_utf8_lossy(part))
}

/// Whether what a cut stream settled is what it should: the usage where that is whole, otherwise the
/// estimated prompt and the events with content.
fn is_right(part: &[u8], prompt: u64, settled: u64) -> bool {
    let text = String::from_utf8_lossy(part);
    let (whole, begun) = content_events(part);
    let guess = prompt + whole..=prompt + begun;
    match text.find("\"usage\":{\"").map(|at| &text[at..]) {
        None => guess.contains(&settled),
        Some(usage) if usage.contains("}}") => settled == STATED,
        // Half a usage may count or not; it states less than the whole.
        Some(_) => guess.contains(&settled) || settled <= STATED,
    }
}

/// Sends a part of a stream and ends it; returns how many tokens it took if something of it flowed.
fn cut_off(
    process: &Process,
    envoy: &mut Envoy,
    request: &Request,
    part: &[u8],
    is_reset: bool,
) -> Option<u64> {
    let before = used(process, "a", LIMIT);
    let before_of_alice = used_by_alice(process);
    let estimate = first_estimate(request).total();
    let head = part.len() / 2;
    let script = script(&[&part[..head], &part[head..]]);
    process.script("a", [if is_reset { script.then_reset() } else { script.then_stall() }]);
    let id = envoy.send(request.clone());
    assert_eq!(used(process, "a", LIMIT) - before, estimate, "reserved");
    envoy.pass(0);
    let flows = envoy.response(id).status() == 200 && (is_reset || envoy.is_open(id));
    envoy.cancel(id);
    envoy.pass(0);
    let response = envoy.take(id);
    assert_ne!(response.end, End::Open);
    let is_served_by_a = flows && response.served_by() == "a";
    let settled = is_served_by_a.then(|| used_by_alice(process) - before_of_alice);
    let kept = settled.unwrap_or(0).max(estimate);
    assert_eq!(used(process, "a", LIMIT) - before, kept, "{}: {settled:?}", process.scenario);
    settled
}

#[test]
fn a_stream_that_ends_at_any_byte_is_settled_once() {
    for (name, request, whole, _) in streams() {
        let prompt = first_estimate(&request).prompt_tokens;
        for is_reset in [false, true] {
            let process = Process::new(&format!("{name} cut, by the backend: {is_reset}"));
            worker(&process, SETTINGS, |envoy| {
                let mut flowed = 0;
                for cut in 0..=whole.len() {
                    let part = &whole.as_bytes()[..cut];
                    let scenario = format!("{}, {cut} of {} bytes", process.scenario, whole.len());
                    if let Some(settled) = cut_off(&process, envoy, &request, part, is_reset) {
                        flowed += 1;
                        assert!(is_right(part, prompt, settled), "{scenario}: {settled} tokens");
                    }
                }
                assert!(flowed > whole.len() / 2, "{flowed} of {}", whole.len());
                envoy.pass(61_000);
                assert_eq!((used(&process, "a", LIMIT), used(&process, "b", LIMIT)), (0, 0));
            });
            assert_eq!(process.metric("lost_updates") + process.metric("unbudgeted"), 0);
        }
    }
}

/// A plain answer with this content type and body, and how many tokens it took.
fn settled(name: &str, content_type: Option<&str>, body: &str) -> (u64, Estimate) {
    let request = || chat().body(r#"{"messages":[{"role":"user","content":"hi"}]}"#);
    let process = Process::new(name);
    let script = Script::status(200).body(body);
    let script = content_type.iter().fold(script, |it, value| it.header("content-type", value));
    process.script("a", [script]);
    let took = worker(&process, SETTINGS, |envoy| {
        assert_eq!(envoy.ask(request()).served_by(), "a", "{name}");
        let (took, before) = (used_by_alice(&process), used(&process, "a", LIMIT));
        // The filter learned nothing from it if the next request has the same estimate.
        process.script("a", [Script::silence()]);
        let id = envoy.send(request());
        let next = used(&process, "a", LIMIT) - before;
        let is_learned = next != first_estimate(&request()).total();
        assert_eq!(is_learned, took == STATED, "{name}: {next}");
        envoy.cancel(id);
        took
    });
    (took, first_estimate(&request()))
}

const JSON_USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":321,"completion_tokens":45,"total_tokens":366}}"#;

#[test]
fn a_response_whose_content_type_says_nothing_is_json_when_it_looks_so() {
    let names = ["application/json", "text/json", "application/problem+json", "text/plain"];
    for content_type in names.into_iter().map(Some).chain([None]) {
        let (took, _) = settled("usage", content_type, JSON_USAGE);
        assert_eq!(took, STATED, "{content_type:?}");
    }
    for other in ["", "data: {\"usage\":{\"prompt_tokens\":1}}\n\n", "\u{1}\u{2}", "[1]", "<html>"]
    {
        for content_type in [None, Some("text/plain")] {
            let (took, estimate) = settled(other, content_type, other);
            assert_eq!(took, estimate.total(), "{other}");
        }
    }
    let (took, estimate) = settled("text", Some("text/html"), JSON_USAGE);
    assert_eq!(took, estimate.total(), "it says that it is something else");
}

#[test]
fn a_usage_that_cannot_be_true_is_charged_by_the_estimate_and_teaches_nothing() {
    for number in ["1e30", "4000000000", "16777217", "99999999999999999999999"] {
        let body = JSON_USAGE.replace("321", number);
        let (took, estimate) = settled(number, Some("application/json"), &body);
        assert_eq!(took, estimate.total(), "{number}");
    }
}

/// One write reserves and one settles, however a request ends.
#[test]
fn every_attempt_writes_its_budget_twice() {
    let process = Process::new("two writes");
    let writes = std::sync::Arc::new(std::sync::Mutex::new(0));
    let counted = writes.clone();
    process.shared().watch = Some(Box::new(move |key, _, _| {
        *counted.lock().unwrap() += u32::from(key == "spillway/budget/a");
    }));
    let first = &CHAT.as_bytes()[..200];
    worker(&process, SETTINGS, |envoy| {
        for script in [
            Script::ok(),
            Script::throttled(0),
            Script::status(500),
            Script::status(400),
            Script::connect_failure(),
            Script::silence(),
            script(&[first]).then_reset(),
            script(&[first]).then_stall(),
            script(&[b"data: {"]).then_stall(),
        ] {
            let scenario = format!("{script:?}");
            process.script("a", [script]);
            *writes.lock().unwrap() = 0;
            let id = envoy.send(chat());
            envoy.pass(0);
            envoy.cancel(id);
            envoy.pass(1_000);
            assert_eq!(*writes.lock().unwrap(), 2, "{scenario}");
        }
    });
}

/// Sends a stream in these chunks; returns what the client got and what was settled.
fn chunked(
    process: &Process,
    envoy: &mut Envoy,
    request: &Request,
    chunks: &[&[u8]],
) -> (Vec<u8>, u64) {
    let before = used_by_alice(process);
    process.script("a", [script(chunks)]);
    let id = envoy.send(request.clone());
    envoy.pass(0);
    let response = envoy.take(id);
    assert_eq!((response.status(), response.end), (200, End::Complete), "{}", process.scenario);
    (response.body, used_by_alice(process) - before)
}

#[test]
fn any_chunking_of_a_stream_gives_the_same_bytes_and_the_same_usage() {
    let asking = chat();
    let body = String::from_utf8(asking.chunks.concat()).unwrap();
    let asking =
        asking.body(&body.replace(
            "\"stream\":true",
            "\"stream\":true,\"stream_options\":{\"include_usage\":true}",
        ));
    let whole = format!("{CHAT}{CHAT_USAGE}{DONE}");
    let mut all = streams().to_vec();
    let unix = whole.replace("\r\n", "\n");
    all.push(("chat of a client that asks", asking, whole.clone(), whole.clone()));
    all.push((
        "chat with CRLF",
        chat(),
        unix.replace('\n', "\r\n"),
        unix.replace(CHAT_USAGE, "").replace('\n', "\r\n"),
    ));
    all.push((
        "chat with CR",
        chat(),
        unix.replace('\n', "\r"),
        unix.replace(CHAT_USAGE, "").replace('\n', "\r"),
    ));
    all.push(("the usage last", chat(), format!("{CHAT}{CHAT_USAGE}"), CHAT.to_owned()));
    all.push((
        "the usage without its end",
        chat(),
        format!("{CHAT}{}", CHAT_USAGE.trim_end()),
        format!("{CHAT}{}", CHAT_USAGE.trim_end()),
    ));
    for (name, request, whole, shown) in all {
        let process = Process::new(name);
        worker(&process, SETTINGS, |envoy| {
            let bytes = whole.as_bytes();
            let mut check = |chunks: &[&[u8]], what: &str| {
                let (got, settled) = chunked(&process, envoy, &request, chunks);
                assert_eq!(String::from_utf8_lossy(&got), shown, "{name}, {what}");
                assert_eq!(settled, STATED, "{name}, {what}");
            };
            check(&[bytes], "whole");
            check(&bytes.chunks(1).collect::<Vec<_>>(), "byte by byte");
            for cut in 0..=bytes.len() {
                check(&[&bytes[..cut], &bytes[cut..]], &format!("cut at {cut}"));
            }
            for seed in 0..300 {
                let mut random = Random::new(seed);
                let (mut rest, mut chunks) = (bytes, Vec::new());
                while !rest.is_empty() {
                    let longest = random.pick(&[1, 4, 40, 400]) + 1;
                    let (chunk, after) = rest.split_at(random.below(longest).min(rest.len()));
                    chunks.push(chunk);
                    rest = after;
                }
                check(&chunks, &format!("seed {seed}"));
            }
        });
    }
}

#[test]
fn any_chunking_of_a_whole_response_gives_the_same_usage() {
    const BODY: &str = r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],
        "usage":{"prompt_tokens":321,"completion_tokens":45,"total_tokens":366}}"#;
    let process = Process::new("a whole answer");
    worker(&process, SETTINGS, |envoy| {
        for cut in 0..=BODY.len() {
            let before = used_by_alice(&process);
            let (head, tail) = BODY.as_bytes().split_at(cut);
            process.script("a", [Script::ok().no_body().chunk(head).chunk(tail)]);
            assert_eq!(envoy.ask(chat()).text(), BODY);
            assert_eq!(used_by_alice(&process) - before, STATED, "cut at {cut}");
        }
    });
}

/// The length that the backend stated is that of the stream with the usage in it.
#[test]
fn a_stream_that_is_shortened_does_not_state_its_length() {
    let process = Process::new("the length of a stream");
    let whole = format!("{CHAT}{CHAT_USAGE}{DONE}");
    process.script(
        "a",
        [script(&[whole.as_bytes()]).header("content-length", &whole.len().to_string())],
    );
    worker(&process, SETTINGS, |envoy| {
        let response = envoy.ask(chat());
        assert_eq!(response.text(), format!("{CHAT}{DONE}"));
        assert_eq!(response.header("content-length"), None);
    });
}

#[test]
fn an_attempt_that_must_not_go_out_keeps_nothing() {
    let process = Process::new("a confused route");
    worker(&process, SETTINGS, |envoy| {
        envoy.clusters.insert("a".to_owned(), "b".to_owned());
        assert_eq!(envoy.ask(chat()).status(), 503);
        assert_eq!(used(&process, "a", LIMIT), 0);
    });
}

/// The same when a time limit of Envoy ends it: the gateway learns of it first, and no flag says
/// that the client went away.
#[test]
fn a_request_that_envoy_ends_costs_nothing_and_was_counted_by_its_backend() {
    let process = Process::new("ended by envoy");
    let estimate = first_estimate(&chat()).total();
    worker(&process, SETTINGS, |envoy| {
        let mut counted = 0;
        for script in [Script::silence(), script(&[b"data: {"]).then_stall()] {
            process.script("a", [script]);
            let id = envoy.send(chat());
            envoy.pass(0);
            envoy.end(id);
            counted += estimate;
            let left = ["a", "b"].map(|backend| used(&process, backend, LIMIT));
            assert_eq!(left, [counted, 0]);
            assert_eq!(used_by_alice(&process), 0);
        }
    });
    assert_eq!(process.metric("outcome.fault"), 0, "it is not the backend's fault");
}
