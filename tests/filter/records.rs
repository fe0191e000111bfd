//! Shared records that were damaged, or written by another version.

use crate::envoy::{Request, Script, worker};
use crate::failover::{TWO_TIERS, two_tiers};
use crate::host::Process;

const POOL: &str = "spillway/pool/gpt";

/// What may have happened to a record.
fn damages(record: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(), vec![0], vec![0xff; record.len()], vec![0; record.len() * 3]];
    all.extend((0..record.len()).step_by(7).map(|length| record[..length].to_vec()));
    let foreign = [&[99], record.get(1..).unwrap_or_default()].concat();
    let longer = [record, &[1, 2, 3]].concat();
    all.extend([foreign, longer]);
    all
}

#[test]
fn damaged_records_read_as_fresh_and_requests_are_served() {
    let process = Process::new("damaged records");
    worker(&process, TWO_TIERS, |envoy| {
        process.script("a", [Script::throttled(60_000), Script::status(500)]);
        envoy.ask(Request::chat());
        let keys = process.shared().keys();
        assert!(keys.iter().any(|key| key == POOL), "{keys:?}");
        for key in keys {
            let (whole, _) = process.shared().read(&key).unwrap();
            for damage in damages(&whole) {
                process.corrupt(&key, &damage);
                let response = envoy.ask(Request::chat());
                assert_eq!(response.status(), 200, "{key} {damage:?}: {response:?}");
            }
            process.corrupt(&key, &whole);
        }
    });
}

/// No one else would repair it before the next configuration, and without a record no gate closes.
#[test]
fn a_damaged_record_is_mended_by_the_next_429() {
    let process = Process::new("mended");
    worker(&process, TWO_TIERS, |envoy| {
        process.corrupt(POOL, b"\x01garbage");
        process.script("a", [Script::throttled(1_000)]);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "the gate is closed");
        assert_eq!(process.take_clusters(), ["a", "b", "b"]);
    });
}

/// What shared data holds under every key.
fn contents(process: &Process) -> Vec<(String, Vec<u8>)> {
    let keys = process.shared().keys();
    keys.into_iter().map(|key| (key.clone(), process.shared().read(&key).unwrap().0)).collect()
}

/// As when two modules share a VM id while the listeners of the older one drain.
#[test]
fn records_of_a_newer_version_are_never_written() {
    let process = Process::new("newer records");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "30s"}}]}"#,
    );
    worker(&process, &settings, |envoy| {
        for (key, _) in contents(&process) {
            let (record, _) = process.shared().read(&key).unwrap();
            process.corrupt(&key, &[&[200], record.get(1..).unwrap_or_default()].concat());
        }
        let before = contents(&process);
        process.script("a", [Script::throttled(60_000), Script::status(500), Script::reset()]);
        for _ in 0..6 {
            assert_eq!(envoy.ask(Request::chat()).status(), 200);
        }
        assert_eq!(contents(&process), before);
        assert!(process.metric("lost_updates") >= 3, "{}", process.metric("lost_updates"));
    });
}

/// As after a downgrade: the older module neither reads nor writes the newer one's record, and still has
/// gates and breakers.
#[test]
fn a_module_that_is_older_than_the_records_keeps_its_own() {
    let process = Process::new("downgraded");
    worker(&process, TWO_TIERS, |envoy| drop(envoy.ask(Request::chat())));
    for (key, _) in contents(&process) {
        process.corrupt(&key, &[200, 1, 2, 3]);
    }
    let before = contents(&process);
    worker(&process, TWO_TIERS, |envoy| {
        process.script("a", [Script::throttled(60_000)]);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "the gate is closed");
        // And so it is after a new configuration, and for other workers.
        assert!(envoy.configure(TWO_TIERS));
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
    });
    worker(&process, TWO_TIERS, |envoy| {
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
    });
    for (key, record) in before {
        assert_eq!(process.shared().read(&key).unwrap().0, record, "{key}");
    }
    assert_eq!(process.metric("lost_updates"), 0);
}

#[test]
fn a_lost_race_is_run_again_and_eight_in_a_row_are_counted() {
    let process = Process::new("lost races");
    worker(&process, TWO_TIERS, |envoy| {
        // The first write of a failover is that of its gate.
        process.shared().conflicts = 3;
        process.script("a", [Script::throttled(500)]);
        envoy.ask(Request::chat());
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b", "the gate is closed");
        assert_eq!(process.metric("lost_updates"), 0);
        envoy.pass(500);
        process.shared().conflicts = 8;
        process.script("a", [Script::throttled(500)]);
        assert_eq!(envoy.ask(Request::chat()).served_by(), "b");
        assert_eq!(process.metric("lost_updates"), 1);
    });
}
