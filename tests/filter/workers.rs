//! Threads as workers: shared state is the same for each of them.

use crate::envoy::{Request, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::{Process, Seen};
use crate::random::Random;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

const WORKERS: u32 = 6;

/// Runs the same on all workers at once, with the worker's number and a barrier.
fn on_all(
    process: &std::sync::Arc<Process>,
    configuration: &str,
    act: impl Fn(u32, &mut crate::envoy::Envoy, &Barrier) + Sync,
) {
    let barrier = Barrier::new(WORKERS as usize);
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let (act, barrier) = (&act, &barrier);
            scope.spawn(move || {
                worker(process, configuration, |envoy| act(number, envoy, barrier));
            });
        }
    });
}

/// A panic between two barriers would leave the other workers waiting forever, so what each sees
/// is collected and judged at the end.
fn count(process: &Process, cluster: &str) -> usize {
    process.seen().iter().filter(|seen| seen.cluster == cluster).count()
}

#[test]
fn of_all_workers_one_sends_the_probe() {
    const ROUNDS: u32 = 150;
    let process = Process::new("one probe");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"},
            "trip_duration": "1s"}]}, "failover": {"retry_budget": {"percent": 100, "min_per_second": 10000}}"#,
    );
    // `a` always fails, so after each round its breaker is open again.
    process.respond(
        |seen: &Seen| {
            if seen.cluster == "a" { Script::status(500) } else { Script::ok() }
        },
    );
    worker(&process, &settings, |envoy| envoy.ask(Request::chat()));
    let probes = AtomicU64::new(0);
    let wrong = AtomicU64::new(0);
    on_all(&process, &settings, |number, envoy, barrier| {
        for _ in 0..ROUNDS {
            if number == 0 {
                process.advance(600_000);
                process.take_clusters();
            }
            barrier.wait();
            // Sent without a response: a probe stays in flight until all have sent.
            let id = envoy.send(Request::chat());
            barrier.wait();
            if number == 0 {
                probes.fetch_add(1, Ordering::SeqCst);
                if count(&process, "a") != 1 {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
            }
            barrier.wait();
            envoy.run();
            assert_eq!(envoy.take(id).status(), 200);
            barrier.wait();
        }
    });
    assert_eq!(probes.load(Ordering::SeqCst), u64::from(ROUNDS));
    assert_eq!(wrong.load(Ordering::SeqCst), 0, "rounds without exactly one probe");
}

#[test]
fn a_gate_that_one_worker_closed_is_closed_and_reopens_for_all() {
    const ROUNDS: u32 = 100;
    let process = Process::new("gates of all workers");
    let early = AtomicU64::new(0);
    let late = AtomicU64::new(0);
    on_all(&process, TWO_TIERS, |number, envoy, barrier| {
        for round in 0..ROUNDS {
            if round % WORKERS == number {
                process.script("a", [Script::throttled(300)]);
                envoy.ask(Request::chat());
            }
            barrier.wait();
            early.fetch_add(
                u64::from(envoy.ask(Request::chat()).served_by() == "a"),
                Ordering::SeqCst,
            );
            barrier.wait();
            if number == 0 {
                process.advance(300);
            }
            barrier.wait();
            late.fetch_add(
                u64::from(envoy.ask(Request::chat()).served_by() == "a"),
                Ordering::SeqCst,
            );
            barrier.wait();
        }
    });
    assert_eq!(early.load(Ordering::SeqCst), 0, "served by a closed gate");
    assert_eq!(late.load(Ordering::SeqCst), u64::from(ROUNDS * WORKERS), "full traffic at once");
}

/// The threshold is reached exactly when every fault of every worker was counted.
#[test]
fn no_fault_is_lost_but_those_that_are_counted_as_lost() {
    const FAULTS: u32 = 40;
    for (threshold, trips) in [(FAULTS * WORKERS, true), (FAULTS * WORKERS + 1, false)] {
        let process = Process::new(&format!("threshold {threshold}"));
        let settings = two_tiers(&format!(
            r#""circuit_breaker": {{"rules": [{{"failure_condition":
                {{"count": {threshold}, "interval": "60s"}}}}]}},
               "failover": {{"retry_budget": {{"percent": 100, "min_per_second": 10000}}}}"#
        ));
        process.respond(
            |seen: &Seen| {
                if seen.cluster == "a" { Script::status(500) } else { Script::ok() }
            },
        );
        on_all(&process, &settings, |_, envoy, barrier| {
            barrier.wait();
            for _ in 0..FAULTS {
                assert_eq!(envoy.ask(Request::chat()).status(), 200);
            }
        });
        assert_eq!(count(&process, "a"), (FAULTS * WORKERS) as usize);
        let races = process.shared().lost_races;
        let lost = process.metric("lost_updates");
        println!("threshold {threshold}: {races} lost races, {lost} lost updates");
        if lost == 0 {
            assert_eq!(
                process.logged().contains("circuit breaker of backend a opened"),
                trips,
                "{}",
                process.logged()
            );
        }
    }
}

#[test]
fn thousands_of_requests_on_all_workers_end_and_are_counted_once() {
    const REQUESTS: u32 = 1_000;
    let seed = 20_261_120;
    let process = Process::new(&format!("storm, seed {seed}"));
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 20, "interval": "1s"},
            "trip_duration": "100ms"}]},
           "failover": {"max_wait": "20ms", "max_attempts": 4}"#,
    );
    let answered = AtomicU64::new(0);
    process.respond(move |seen: &Seen| {
        // It depends on the time and the backend only, so the order of the threads does not matter.
        let salt = u64::from(seen.cluster.as_bytes()[0]);
        match Random::new(seed ^ (seen.at_ms << 8) ^ salt).below(100) {
            0..70 => Script::ok(),
            70..80 => Script::events(&["data: {\"id\":1}\n\n", "data: [DONE]\n\n"]),
            80..88 => Script::throttled(5),
            88..94 => Script::status(503),
            94..97 => Script::connect_failure(),
            97..99 => Script::reset(),
            _ => Script::status(400),
        }
    });
    on_all(&process, &settings, |number, envoy, _| {
        let mut random = Random::new(seed + u64::from(number));
        for _ in 0..REQUESTS {
            let id = envoy.send(random.pick(&[Request::chat(), Request::chat_v1()]));
            envoy.pass(random.next() % 4);
            if random.below(20) == 0 {
                envoy.cancel(id);
            }
            envoy.pass(random.next() % 40);
            envoy.run();
            assert!(!envoy.is_open(id), "{}: request {id} hangs", process.scenario);
            envoy.take(id);
            answered.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert_eq!(answered.load(Ordering::SeqCst), u64::from(REQUESTS * WORKERS));
    let attempts = process.metric("spillway_attempts_total");
    let received = process.seen().len() as u64;
    let (races, lost) = (process.shared().lost_races, process.metric("lost_updates"));
    println!("{received} attempts, {races} lost races, {lost} lost updates");
    // A stream that its client left in the middle was counted when its first event came.
    assert_eq!(attempts, received, "every attempt is counted once");
    assert!(lost * 100 <= received, "{lost} lost updates in {received} attempts");
}
