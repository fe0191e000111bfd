//! No client can take a pool down: whatever one client sends, the first tier serves all others.
//!
//! Requests come from seeds; the mocks respond to them as Azure and OpenAI respond to wrong requests. A seed that
//! failed runs alone with `SPILLWAY_HOSTILE_SEED=<seed> SPILLWAY_HOSTILE_REQUESTS=1`.

mod bodies;
mod gateways;
#[path = "../filter/random.rs"]
mod random;
mod request;
mod watch;

use gateways::Gateways;
use request::request;
use std::collections::VecDeque;
use std::env;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;
use watch::{Findings, check_backends, check_state};

/// How many seeds run in `make test`.
const REQUESTS: u64 = 2_000;

/// How many requests before the first finding are shown, because it may have several causes.
const RECENT: usize = 10;

/// Clients of each kind that work at the same time.
const CLIENTS: usize = 16;

/// Hostile requests of the concurrent kind, for each gateway.
const CONCURRENT_REQUESTS: u64 = 800;

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn seeds(default: u64) -> Range<u64> {
    let first = number("SPILLWAY_HOSTILE_SEED", 1);
    first..first + number("SPILLWAY_HOSTILE_REQUESTS", default)
}

/// Each gateway gets its share of the seeds; a single seed goes to each gateway.
fn share(seeds: &Range<u64>, gateway: u64, gateways: u64) -> Vec<u64> {
    let alone = seeds.end - seeds.start == 1;
    seeds.clone().filter(|seed| alone || seed % gateways == gateway).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_hostile_request_every_pool_is_served_by_its_first_tier() {
    let started = Instant::now();
    let seeds = seeds(REQUESTS);
    let mut running = JoinSet::new();
    for (number, gateways) in
        [Gateways::azure().await, Gateways::mixed().await].into_iter().enumerate()
    {
        let seeds = share(&seeds, number as u64, 2);
        running.spawn(one_after_the_other(gateways, seeds));
    }
    let (mut findings, mut sent) = (Findings::default(), 0);
    while let Some(done) = running.join_next().await {
        let (found, count) = done.unwrap();
        findings.merge(found);
        sent += count;
    }
    println!("{sent} hostile requests in {:?}", started.elapsed());
    findings.assert_none(sent);
}

async fn one_after_the_other(gateways: Gateways, seeds: Vec<u64>) -> (Findings, usize) {
    let (mut findings, mut sent) = (Findings::default(), 0);
    gateways.serve_the_innocent(&request(0), &mut findings).await;
    let mut recent = VecDeque::new();
    for seed in seeds {
        let hostile = request(seed);
        recent.push_back(hostile.brief());
        if recent.len() > RECENT {
            recent.pop_front();
        }
        let is_first = findings.is_empty();
        if let Some(wrong) = gateways.suffer(&hostile).await {
            findings
                .add("a hostile client's own answer", || format!("{wrong}\n{}", hostile.shown()));
        }
        sent += hostile.times;
        gateways.serve_the_innocent(&hostile, &mut findings).await;
        check_backends(&gateways, &hostile, &mut findings);
        if is_first && !findings.is_empty() {
            println!("{}: what led to the first finding:\n{recent:#?}", gateways.name);
        }
    }
    check_state(&gateways, &mut findings).await;
    (findings, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_hostile_clients_cost_sixteen_innocent_ones_nothing() {
    for gateways in [Gateways::azure().await, Gateways::mixed().await] {
        let gateways = Arc::new(gateways);
        let seeds: Vec<u64> = seeds(CONCURRENT_REQUESTS).collect();
        let left = Arc::new(AtomicUsize::new(CLIENTS));
        let (mut hostile, mut innocent) = (JoinSet::new(), JoinSet::new());
        for client in 0..CLIENTS {
            let seeds: Vec<u64> = seeds.iter().copied().skip(client).step_by(CLIENTS).collect();
            let (gateways, left) = (Arc::clone(&gateways), Arc::clone(&left));
            hostile.spawn(async move {
                for seed in seeds {
                    gateways.suffer(&request(seed)).await;
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for _ in 0..CLIENTS {
            let (gateways, left) = (Arc::clone(&gateways), Arc::clone(&left));
            innocent.spawn(async move {
                let mut findings = Findings::default();
                let goes_on = || left.load(Ordering::SeqCst) > 0;
                let asked = gateways.serve_while(goes_on, &mut findings).await;
                (findings, asked)
            });
        }
        hostile.join_all().await;
        let (mut findings, mut asked) = (Findings::default(), 0);
        for (found, count) in innocent.join_all().await {
            findings.merge(found);
            asked += count;
        }
        assert!(asked > CLIENTS, "innocent clients asked {asked} times only");
        println!(
            "{}: {asked} innocent requests beside {} hostile ones",
            gateways.name,
            seeds.len()
        );
        check_state(&gateways, &mut findings).await;
        findings.assert_none(seeds.len());
    }
}
