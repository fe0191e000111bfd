//! How good the estimates for real texts are, once a worker saw requests of their kind.

use crate::envoy::{Request, Script, worker};
use crate::host::Process;
use crate::usage::used;
use serde_json::{Value, json};
use spillway::openai::request::scan::JsonScanner;
use spillway::policy::tokens::estimate::{Estimator, RequestSize, UsedTokens};
use std::path::Path;

const LIMIT: u32 = 1_000_000_000;
const KINDS: [&str; 5] = ["chinese", "code", "english", "json", "russian"];
/// The tokens of a chat with one message in addition to its text (OpenAI's cookbook).
const TOKENS_OF_CHAT: u64 = 7;
const COMPLETION_TOKENS: u64 = 1;

const SETTINGS: &str = r#"{"pools": [{"name": "gpt", "backends": [
    {"name": "a", "host": "a.example", "limits": {"tokens_per_minute": 1000000000}}]}]}"#;

/// The chat bodies of a kind, and the tokens that a tokenizer counted in each.
fn chats(kind: &str) -> Vec<(String, u64)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/texts");
    let counts = std::fs::read(folder.join("counts.json")).unwrap();
    let counts: Value = serde_json::from_slice(&counts).unwrap();
    let rows = counts["prompts"][kind].as_array().unwrap();
    let chat = |row: &Value| {
        let number = |column: usize| usize::try_from(row[column].as_u64().unwrap()).unwrap();
        let text = std::fs::read_to_string(folder.join(row[0].as_str().unwrap())).unwrap();
        let part = text.get(number(1)..number(1) + number(2)).unwrap();
        let message = json!({"role": "user", "content": part});
        let body = json!({"messages": [message], "max_tokens": COMPLETION_TOKENS});
        (body.to_string(), row[3].as_u64().unwrap() + TOKENS_OF_CHAT)
    };
    rows.iter().map(chat).collect()
}

/// How much the filter reserves for each of the chats, one after the other.
fn reserved_by_the_filter(kind: &str, chats: &[(String, u64)]) -> Vec<u64> {
    let process = Process::new(kind);
    let mut reserved = Vec::new();
    worker(&process, SETTINGS, |envoy| {
        for (body, tokens) in chats {
            let usage = json!({"usage": {"prompt_tokens": tokens, "completion_tokens": 1}});
            process.script("a", [Script::ok().body(&usage.to_string()).after_ms(1)]);
            let before = used(&process, "a", LIMIT);
            let request = Request::new(
                "POST",
                "/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
            );
            let id = envoy.send(request.body(body));
            reserved.push(used(&process, "a", LIMIT) - before - COMPLETION_TOKENS);
            envoy.run();
            let settled = used(&process, "a", LIMIT) - before;
            let counted = reserved.last().unwrap().max(tokens) + COMPLETION_TOKENS;
            assert_eq!((envoy.take(id).status(), settled), (200, counted));
        }
    });
    reserved
}

/// What the core estimates for each of the chats, one after the other.
fn expected_by_the_core(chats: &[(String, u64)]) -> Vec<u64> {
    let mut estimator = Estimator::default();
    let mut expected = Vec::new();
    for (body, tokens) in chats {
        let mut scanner = JsonScanner::new();
        scanner.push(body.as_bytes());
        let facts = scanner.finish().unwrap();
        let size = RequestSize {
            text_bytes: facts.prompt_text_bytes,
            max_output_tokens: facts.max_output_tokens,
            ..RequestSize::default()
        };
        expected.push(estimator.estimate(&size).prompt_tokens);
        let used = UsedTokens { prompt_tokens: *tokens, completion_tokens: 1, cached_tokens: 0 };
        estimator.learn(&size, &used);
    }
    expected
}

/// The median deviation from what a tokenizer counted, in percent.
fn median_error_percent(expected: &[u64], chats: &[(String, u64)]) -> f64 {
    let error = |(expected, (_, tokens)): (&u64, &(String, u64))| {
        expected.abs_diff(*tokens) as f64 * 100.0 / *tokens as f64
    };
    let mut errors: Vec<f64> = expected.iter().zip(chats).map(error).collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

#[test]
fn after_some_requests_of_one_kind_the_estimate_is_within_five_percent() {
    for kind in KINDS {
        let chats = chats(kind);
        // All of them once to learn, and then half of them again.
        let chats = [&chats[..], &chats[..chats.len() / 2]].concat();
        let reserved = reserved_by_the_filter(kind, &chats);
        assert_eq!(reserved, expected_by_the_core(&chats), "{kind}: filter and core differ");
        let first = median_error_percent(&reserved[..10], &chats[..10]);
        let within = median_error_percent(&reserved[100..200], &chats[100..200]);
        let after = median_error_percent(&reserved[200..], &chats[200..]);
        println!(
            "{kind}: median error {after:.2} % after 200 requests, {within:.2} % after 100, {first:.1} % of the first 10"
        );
        assert!(after < 5.0 && within < 5.0, "{kind}: {after:.2} %, {within:.2} %");
    }
}
