//! How long the core's steps take natively: `cargo bench --package micro --features criterion`.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spillway::config::{Config, Pool};
use spillway::openai::operation::{Call, recognise};
use spillway::openai::scan::{BodyFacts, JsonScanner};
use spillway::openai::splice::{self, Splices};
use spillway::openai::sse::{ErrorWatch, HeadProbe};
use spillway::openai::usage::StreamUsage;
use spillway::openai::usage_chunk::UsageStripper;
use spillway::policy::breaker::{Breaker, Observation, Observed, RulesMet};
use spillway::policy::budget::{self, Ending, Verdict};
use spillway::policy::estimate::{Estimate, Usage};
use spillway::policy::gate::Gate;
use spillway::policy::pool::{BackendSet, OperationSet};
use spillway::policy::records::{PoolRecord, Snapshot};
use spillway::policy::rotation::{Rotation, Turn};
use spillway::policy::select::{Denials, Needs, Request, select};
use spillway::policy::time::{Millis, Timestamp};
use std::hint::black_box;

const NOW: Timestamp = Timestamp::from_ms(1_763_600_000_000);

const EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-AbCdEfGh\",\"object\":\"chat.completion.chunk\",\"created\":1763600000,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" downstream\"},\"finish_reason\":null}],\"usage\":null}\n\n";

fn pool(backends: usize) -> Pool {
    let backends: Vec<String> = (0..backends)
        .map(|index| {
            format!(r#"{{"name": "backend-{index}", "host": "b{index}.example", "limits": {{"tokens_per_minute": 1000000, "requests_per_minute": 6000}}}}"#)
        })
        .collect();
    let json = format!(r#"{{"pools": [{{"name": "gpt", "backends": [{}]}}]}}"#, backends.join(","));
    Config::parse(json.as_bytes(), &|_| None).unwrap().pools.remove(0)
}

fn policy(criterion: &mut Criterion) {
    for size in [3, 16, 64] {
        let pool = pool(size);
        let record = PoolRecord::reseat(None, &pool.policy);
        let mut rotation = Rotation::new(&pool.policy);
        let needs = Needs { operation: OperationSet(1), prompt_tokens: 100, affinity: None };
        let request = Request {
            needs: &needs,
            tried: BackendSet::EMPTY,
            denied: Denials::none(),
            now: NOW,
            roll: 7,
        };
        criterion.bench_function(&format!("decode the record and select of {size}"), |bencher| {
            bencher.iter(|| {
                let records = Snapshot::new(black_box(&record).clone());
                select(&pool.policy, &records, &request, &mut rotation, Turn::Take)
            });
        });
    }
    let pool = pool(3);
    let throttle = &pool.policy.throttle;
    criterion.bench_function("close and ask a gate", |bencher| {
        bencher.iter(|| {
            let mut gate = Gate::default();
            gate.close(NOW, Some(Millis::new(300)), throttle);
            black_box(gate).closed_until(NOW, throttle)
        });
    });
    let settings = &pool.policy.breaker;
    criterion.bench_function("admission and result of a closed breaker", |bencher| {
        bencher.iter(|| {
            let mut breaker = black_box(Breaker::default());
            let admission = breaker.admission(settings, NOW);
            let observation = Observation {
                ticket: breaker.ticket(),
                observed: Observed::Success,
                elapsed: Millis::new(100),
                retry_after: None,
            };
            (admission, breaker.conclude(&observation, RulesMet::default(), settings, NOW, 7))
        });
    });
    let limits = pool.backends[0].budget();
    let estimate = Estimate { prompt_tokens: 100, completion_tokens: 200 };
    criterion.bench_function("reserve and settle", |bencher| {
        let mut record = Vec::new();
        let mut now = NOW;
        bencher.iter(|| {
            now = now.plus(Millis::new(20));
            if let Verdict::Granted(reservation) =
                budget::reserve(&mut record, &limits, estimate, None, now)
            {
                let usage =
                    Usage { prompt_tokens: 100, completion_tokens: 150, ..Usage::default() };
                reservation
                    .conclude(Ending::Settled(usage), &limits, now, |change| change(&mut record));
            }
        });
    });
}

fn body(size: usize) -> Vec<u8> {
    let frame =
        r#"{"messages":[{"role":"user","content":"PROMPT"}],"model":"gpt-4o","stream":true}"#;
    let words = "The overflow goes safely downstream; \\\"nobody\\\" notices.\\n";
    frame.replace("PROMPT", &words.repeat(size / words.len())).into_bytes()
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
    group.finish();
    let body = body(1024);
    let facts = facts(&body);
    let kind = call().body_kind(Some(b"application/json"));
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
    group.throughput(Throughput::Bytes(EVENT.len() as u64));
    group.bench_function("head", |bencher| {
        bencher.iter_batched_ref(
            HeadProbe::new,
            |probe| probe.push(black_box(EVENT)),
            BatchSize::SmallInput,
        );
    });
    let mut watch = ErrorWatch::new();
    group.bench_function("watch", |bencher| bencher.iter(|| watch.push(black_box(EVENT))));
    let mut usage = StreamUsage::new();
    group.bench_function("usage", |bencher| bencher.iter(|| usage.push(black_box(EVENT))));
    let mut stripper = UsageStripper::new();
    group.bench_function("strip", |bencher| bencher.iter(|| stripper.push(black_box(EVENT))));
    group.finish();
}

criterion_group!(benches, policy, bodies, streams);
criterion_main!(benches);
