//! Results that arrive after the circuit breaker changed its state, in difficult orders.

use crate::envoy::{Envoy, Request, Script, worker};
use crate::failover::two_tiers;
use crate::host::Process;

fn settings(condition: &str) -> String {
    two_tiers(&format!(
        r#""circuit_breaker": {{"rules": [{{"failure_condition": {condition}, "trip_duration": "1s"}}],
             "probe_timeout": "1s", "ramp_duration": "0s"}},
           "failover": {{"max_attempts": 4, "retry_budget": {{"percent": 100, "min_per_second": 1000}}}}"#
    ))
}

fn fail(process: &Process, envoy: &mut Envoy, times: usize) {
    for _ in 0..times {
        process.script("a", [Script::status(500)]);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
    }
}

#[test]
fn a_backend_that_is_slower_than_the_lease_closes_its_breaker() {
    let process = Process::new("slow probes");
    worker(&process, &settings(r#"{"count": 1, "interval": "30s"}"#), |envoy| {
        fail(&process, envoy, 1);
        envoy.pass(1_000);
        // Each response takes three leases, and requests keep coming.
        process.respond(|seen| {
            if seen.cluster == "a" { Script::ok().after_ms(3_000) } else { Script::ok() }
        });
        let probe = envoy.send(Request::chat());
        for _ in 0..10 {
            envoy.pass(299);
            envoy.send(Request::chat());
        }
        envoy.pass(11);
        assert_eq!(envoy.take(probe).served_by(), "a");
        process.respond(|_| Script::ok());
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a", "it is closed");
        assert_eq!(process.metric("breaker_open_until_ms.pool.gpt.backend.a"), 0);
    });
}

/// The attempts began before the trip, and fail after the recovery.
#[test]
fn results_from_before_the_trip_leave_the_present_counts_alone() {
    let process = Process::new("late results");
    worker(&process, &settings(r#"{"count": 3, "interval": "10m"}"#), |envoy| {
        process.script("a", [Script::status(500).after_ms(5_000)]);
        let late = envoy.send(Request::chat());
        fail(&process, envoy, 3);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "it is open");
        envoy.pass(1_000);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a", "the probe closes it");
        fail(&process, envoy, 2);
        envoy.pass(10_000);
        assert_eq!(envoy.take(late).served_by(), "b");
        fail(&process, envoy, 1);
        assert_eq!(
            envoy.ask(Request::chat()).served_by(),
            "b",
            "the third of the present ones opens"
        );
    });
}

/// As when a record was made again: the counts that are left are of an epoch that never comes.
#[test]
fn counts_that_an_earlier_breaker_left_do_not_keep_a_new_one_from_opening() {
    let process = Process::new("a pool's record is lost");
    worker(&process, &settings(r#"{"count": 2, "interval": "10m"}"#), |envoy| {
        fail(&process, envoy, 2);
        envoy.pass(1_000);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "a", "the probe closes it");
        fail(&process, envoy, 1);
        process.corrupt("spillway/pool/gpt", b"\x01");
        fail(&process, envoy, 2);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "it is open");
    });
}

#[test]
fn a_success_that_began_before_the_first_fault_ends_the_run() {
    for others in [false, true] {
        let process = Process::new(&format!("faults in a row, seen by others: {others}"));
        let settings = settings(r#"{"consecutive": 3}"#);
        worker(&process, &settings, |envoy| {
            process.script("a", [Script::ok().after_ms(5_000)]);
            let early = envoy.send(Request::chat());
            if others {
                worker(&process, &settings, |other| fail(&process, other, 2));
            } else {
                fail(&process, envoy, 2);
            }
            envoy.pass(10_000);
            assert_eq!(envoy.take(early).served_by(), "a");
            fail(&process, envoy, 2);
            assert_eq!(envoy.ask(Request::chat()).served_by(), "a", "two in a row are not three");
            fail(&process, envoy, 3);
            assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "three are");
        });
    }
}

#[test]
fn a_success_without_a_run_writes_nothing() {
    let process = Process::new("successes are cheap");
    worker(&process, &settings(r#"{"consecutive": 3}"#), |envoy| {
        envoy.ask(Request::chat());
        let writes = process.shared().writes;
        for _ in 0..20 {
            envoy.ask(Request::chat());
        }
        assert_eq!(process.shared().writes, writes);
    });
}

#[test]
fn a_retry_after_of_zero_does_not_reopen_the_way_at_once() {
    let process = Process::new("retry-after: 0");
    worker(&process, &settings(r#"{"count": 1, "interval": "30s"}"#), |envoy| {
        process.script("a", [Script::status(503).header("retry-after", "0")]);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
        envoy.pass(900);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "it is open");
    });
}

#[test]
fn workers_do_not_all_begin_with_the_same_backend() {
    let process = Process::new("where rotations begin");
    let equal = r#"{"pools": [{"name": "gpt", "backends": [
        {"name": "a", "host": "a.example"}, {"name": "b", "host": "b.example"}]}]}"#;
    let firsts =
        (0..40).map(|_| worker(&process, equal, |envoy| envoy.ask(Request::chat()).served_by()));
    let on_a = firsts.filter(|first| first == "a").count();
    // By chance: 20, give or take more than five standard deviations.
    assert!((3..=37).contains(&on_a), "{on_a} of 40 workers began with a");
}
