//! How long the core's steps take natively: `cargo bench --package micro --features criterion`.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spillway::config::{Config, Pool};
use spillway::openai::call::api::Api;
use spillway::openai::call::{Call, Endpoint, recognise, render};
use spillway::openai::request::kind::BodyKind;
use spillway::openai::request::scan::{BodyFacts, JsonScanner};
use spillway::openai::request::splice::{self, Splices};
use spillway::openai::response::stream::{EventStream, Features};
use spillway::openai::response::usage::JsonUsage;
use spillway::policy::backend::breaker::{Breaker, Observation, Observed, RulesMet};
use spillway::policy::backend::gate::Gate;
use spillway::policy::backend::records::{PoolRecord, Snapshot};
use spillway::policy::choice::rotation::Rotation;
use spillway::policy::choice::{Denials, Needs, Situation, select};
use spillway::policy::pool::{BackendSet, OperationSet};
use spillway::policy::response::classify::{self, AttemptTraits};
use spillway::policy::response::rate_limits::RateLimits;
use spillway::policy::time::{Millis, Timestamp};
use spillway::policy::tokens::budget::{self, Admission, Settlement, Terms};
use spillway::policy::tokens::estimate::{Estimate, UsedTokens};
use std::hint::black_box;

const NOW: Timestamp = Timestamp::from_ms(1_763_600_000_000);

/// An event of a chat, and one of a response; streams have thousands of them.
const EVENTS: [(&str, &[u8]); 2] = [
    (
        "chat",
        br#"data: {"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012","object":"chat.completion.chunk","created":1763600000,"model":"gpt-4o-2024-11-20","system_fingerprint":"fp_ee1d74bde0","choices":[{"index":0,"delta":{"content":" downstream"},"logprobs":null,"finish_reason":null,"content_filter_results":{}}],"usage":null}

"#,
    ),
    (
        "response",
        br#"event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":17,"item_id":"msg_68a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607","output_index":0,"content_index":0,"delta":" downstream","logprobs":[],"obfuscation":"aBcDeFgHiJkL"}

"#,
    ),
];

/// A line of a prompt, with an escape or two as most have.
const LINE: &str = r#"The overflow goes safely downstream; \"nobody\" notices.\n"#;

/// The headers of a response of Azure.
const HEADERS: [(&str, &str); 13] = [
    ("content-length", "1024"),
    ("content-type", "application/json"),
    ("apim-request-id", "6e0fdb1c-8d5a-4d7f-9d59-31bbf4e2a5a0"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
    ("x-content-type-options", "nosniff"),
    ("x-ms-region", "Sweden Central"),
    ("x-ratelimit-remaining-requests", "995"),
    ("x-ratelimit-limit-requests", "1000"),
    ("x-ratelimit-remaining-tokens", "993000"),
    ("x-ratelimit-limit-tokens", "1000000"),
    ("x-request-id", "c1b6a2cb-3c5a-4b57-8a6c-5fd6aa0c5b4a"),
    ("date", "Fri, 20 Nov 2026 11:42:00 GMT"),
    ("retry-after-ms", "6312"),
];

fn pool(backends: usize) -> Pool {
    let backends: Vec<String> = (0..backends)
        .map(|index| {
            format!(r#"{{"name": "backend-{index}", "host": "b{index}.example", "limits": {{"tokens_per_minute": 1000000, "requests_per_minute": 6000}}}}"#)
        })
        .collect();
    let json = format!(r#"{{"pools": [{{"name": "gpt", "backends": [{}]}}]}}"#, backends.join(","));
    Config::parse(json.as_bytes(), &|_| Some("key".to_owned())).unwrap().pools.remove(0)
}

fn policy(criterion: &mut Criterion) {
    for size in [3, 16, 64] {
        let pool = pool(size);
        let record = PoolRecord::reseat(None, &pool.policy, NOW).bytes;
        let mut rotation = Rotation::new(&pool.policy);
        let needs =
            Needs { operation: OperationSet(1), prompt_tokens: 100, tokens: 0, affinity: None };
        let situation = Situation {
            needs: &needs,
            tried: BackendSet::EMPTY,
            judged: BackendSet::EMPTY,
            throttled: BackendSet::EMPTY,
            denied: Denials::none(),
            now: NOW,
            roll: 7,
        };
        criterion.bench_function(&format!("decode the record and select of {size}"), |bencher| {
            bencher.iter(|| {
                let records = Snapshot::new(black_box(&record).clone());
                let choice = select(&pool.policy, &records, &situation, &mut rotation);
                rotation.take();
                choice
            });
        });
    }
    let pool = pool(3);
    let throttle = &pool.policy.throttle;
    criterion.bench_function("close and ask a gate", |bencher| {
        bencher.iter(|| {
            let mut gate = Gate::default();
            gate.close(black_box(NOW), Some(Millis::new(300)), throttle);
            black_box(gate).closed_until(NOW, throttle)
        });
    });
    let settings = &pool.policy.breaker;
    criterion.bench_function("admission and result of a closed breaker", |bencher| {
        bencher.iter(|| {
            let mut breaker = black_box(Breaker::default());
            let passage = breaker.passage(settings, NOW);
            let observation = Observation {
                ticket: breaker.ticket(),
                observed: Observed::Success,
                elapsed: Millis::new(100),
                retry_after: None,
            };
            (passage, breaker.conclude(&observation, RulesMet::default(), settings, NOW, 7))
        });
    });
    let limits = pool.backends[0].budget();
    let estimate = Estimate { prompt_tokens: 100, completion_tokens: 200 };
    criterion.bench_function("reserve and settle", |bencher| {
        let mut record = Vec::new();
        let mut now = NOW;
        bencher.iter(|| {
            now = now.plus(Millis::new(20));
            if let Admission::Granted(reservation) =
                budget::reserve(&mut record, &limits, estimate, Terms::default(), now)
            {
                let usage = UsedTokens {
                    prompt_tokens: 100,
                    completion_tokens: 150,
                    ..UsedTokens::default()
                };
                reservation.conclude(Settlement::Settled(usage), &limits, now, |change| {
                    change(&mut record)
                });
            }
        });
    });
}

fn body(size: usize) -> Vec<u8> {
    let frame =
        r#"{"messages":[{"role":"user","content":"PROMPT"}],"model":"gpt-4o","stream":true}"#;
    frame.replace("PROMPT", &LINE.repeat(size / LINE.len())).into_bytes()
}

/// A body that is nearly all names and brackets.
fn body_with_tools() -> Vec<u8> {
    let tool = r#"{"type":"function","function":{"name":"get_weather","description":"Get the weather","parameters":{"type":"object","properties":{"place":{"type":"string"},"unit":{"type":"string","enum":["c","f"]}},"required":["place"]},"strict":true}}"#;
    format!(r#"{{"tools":[{}],"model":"gpt-4o","messages":[]}}"#, [tool; 16].join(",")).into_bytes()
}

fn answer() -> Vec<u8> {
    let frame = r#"{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"TEXT"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":150,"total_tokens":250,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}"#;
    frame.replace("TEXT", &LINE.repeat(12)).into_bytes()
}

fn facts(body: &[u8]) -> BodyFacts {
    let mut scanner = JsonScanner::new();
    body.chunks(64 * 1024).for_each(|slice| scanner.push(slice));
    scanner.finish().unwrap()
}

fn call() -> Call {
    recognise(b"POST", b"/v1/chat/completions").unwrap()
}

fn bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body facts");
    for size in [1024, 100 * 1024, 1024 * 1024] {
        let body = body(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(size.to_string(), |bencher| bencher.iter(|| facts(black_box(&body))));
    }
    let tools = body_with_tools();
    group.throughput(Throughput::Bytes(tools.len() as u64));
    group.bench_function("tools", |bencher| bencher.iter(|| facts(black_box(&tools))));
    group.finish();
    let response = answer();
    criterion.bench_function("usage of an answer of 1 KB", |bencher| {
        bencher.iter(|| {
            let mut usage = JsonUsage::new();
            usage.push(black_box(&response));
            usage.usage()
        });
    });
    let body = body(1024);
    let facts = facts(&body);
    let kind = BodyKind::of(&call(), Some(b"application/json"));
    criterion.bench_function("splice model and usage", |bencher| {
        bencher.iter(|| {
            let model = splice::model(&facts, "my-deployment", &kind);
            let usage = splice::include_usage(&facts, &kind);
            Splices::new(model.into_iter().chain(usage)).apply(0, black_box(&body))
        });
    });
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("an event of a stream");
    for (kind, event) in EVENTS {
        group.throughput(Throughput::Bytes(event.len() as u64));
        let errors = Features { errors: true, ..Features::default() };
        group.bench_function(format!("{kind}, head"), |bencher| {
            bencher.iter_batched_ref(
                || EventStream::new(errors),
                |stream| stream.push(black_box(event)),
                BatchSize::SmallInput,
            );
        });
        let usage = Features { usage: true, ..errors };
        let all = Features { strips_usage: true, ..usage };
        for (name, features) in [("watch", errors), ("usage", usage), ("all", all)] {
            let mut stream = EventStream::new(features);
            stream.let_head_go();
            group.bench_function(format!("{kind}, {name}"), |bencher| {
                bencher.iter(|| stream.push(black_box(event)));
            });
        }
    }
    group.finish();
}

fn heads(criterion: &mut Criterion) {
    let paths = [
        "/v1/chat/completions",
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
    ];
    for path in paths {
        criterion.bench_function(&format!("recognise {path}"), |bencher| {
            bencher.iter(|| recognise(b"POST", black_box(path.as_bytes())));
        });
    }
    let (call, endpoint) = (
        call(),
        Endpoint {
            api: Api::Azure,
            base_path: "",
            deployment: "my-deployment",
            api_version: None,
            passthrough: false,
        },
    );
    criterion.bench_function("render a path", |bencher| {
        bencher.iter(|| render(black_box(&call), &endpoint));
    });
    for status in [200, 429] {
        criterion.bench_function(&format!("classify the head of a {status}"), |bencher| {
            bencher
                .iter(|| classify::head(status, black_box(&HEADERS[..]), AttemptTraits::NONE, NOW));
        });
    }
    criterion.bench_function("what an answer says of limits", |bencher| {
        bencher.iter(|| {
            let limits = RateLimits::read(black_box(&HEADERS[..]));
            (limits.left_permille(), limits.utilization_permille(), limits.token_limit())
        });
    });
}

criterion_group!(benches, policy, heads, bodies, streams);
criterion_main!(benches);
