//! Who is admitted when a record of tokens is damaged, contended or full, and what the record holds afterwards.

use crate::budgets::SETTINGS;
use crate::envoy::{Envoy, Request, Script, worker};
use crate::host::Process;
use spillway::policy::keys::Keys;

const CHAT: &str = "/openai/deployments/gpt/chat/completions?api-version=2024-10-21";

/// What may have happened to a record.
fn damages(record: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![vec![0], vec![0; record.len()], vec![0; record.len() * 3]];
    all.extend((1..record.len()).step_by(13).map(|length| record[..length].to_vec()));
    all.push([&[0], &record[1..]].concat());
    all
}

#[test]
fn a_damaged_record_admits_is_counted_and_mended() {
    let process = Process::new("damaged budgets");
    worker(&process, SETTINGS, |envoy| {
        let ask = |envoy: &mut Envoy| {
            envoy.ask(Request::new("POST", CHAT).body("{}").header("x-consumer", "minute"))
        };
        ask(envoy);
        for key in [Keys::new(None).budget("a"), Keys::new(None).consumer("minute")] {
            let whole = process.shared().read(&key).unwrap().0;
            for damage in damages(&whole) {
                let before = process.metric("unbudgeted_total");
                process.corrupt(&key, &damage);
                assert_eq!(ask(envoy).served_by(), "a", "{key} {damage:?}");
                assert_eq!(process.metric("unbudgeted_total") - before, 1, "{key} {damage:?}");
                ask(envoy);
                assert_eq!(process.metric("unbudgeted_total") - before, 1, "it is mended");
            }
        }
    });
}

/// A newer module may run at the same time, or may return: this module must not drop its counts.
#[test]
fn a_record_of_a_newer_version_admits_is_counted_and_stays_as_it_is() {
    let process = Process::new("newer budgets");
    worker(&process, SETTINGS, |envoy| {
        let ask = |envoy: &mut Envoy| {
            envoy.ask(Request::new("POST", CHAT).body("{}").header("x-consumer", "minute"))
        };
        ask(envoy);
        for key in [Keys::new(None).budget("a"), Keys::new(None).consumer("minute")] {
            let (whole, _) = process.shared().read(&key).unwrap();
            for version in [whole[0] + 1, 99, u8::MAX] {
                for newer in [[&[version], &whole[1..]].concat(), vec![version]] {
                    process.corrupt(&key, &newer);
                    let before = process.metric("unbudgeted_total");
                    assert_eq!(ask(envoy).served_by(), "a", "{key}");
                    assert_eq!(process.metric("unbudgeted_total") - before, 1, "{key}");
                    assert_eq!(process.shared().read(&key).unwrap().0, newer, "{key}");
                }
            }
            process.corrupt(&key, &whole);
        }
    });
}

/// The first write of a request is its consumer's, and that of one without a consumer its backend's.
#[test]
fn races_lost_beyond_the_bound_admit_and_are_counted() {
    const BOUND: u32 = 64;
    let without =
        SETTINGS.replace(r#""default": {"tokens_per_minute": 60000}"#, r#""default": {}"#);
    for (name, settings) in [("consumer", SETTINGS), ("backend", &without)] {
        for (conflicts, counted) in [(BOUND - 1, 0), (BOUND, 1)] {
            let process = Process::new(&format!("{conflicts} races lost, {name}"));
            worker(&process, settings, |envoy| {
                process.shared().conflicts = conflicts;
                let response = envoy.ask(Request::new("POST", CHAT).body("{}"));
                assert_eq!((response.status(), response.served_by()), (200, "a".to_owned()));
            });
            assert_eq!(process.metric("unbudgeted_total"), counted, "{}", process.scenario);
        }
    }
}

#[test]
fn a_consumer_that_is_denied_makes_no_attempt() {
    let process = Process::new("denied");
    let settings = SETTINGS.replace(
        r#""quota": {"quota": {"tokens": 1000000000000"#,
        r#""quota": {"quota": {"tokens": 1000"#,
    );
    worker(&process, &settings, |envoy| {
        for (name, status) in [("minute", 429), ("quota", 403)] {
            let large = Request::new("POST", CHAT).header("x-consumer", name);
            let large = large.body(r#"{"messages":[],"max_tokens":60000}"#);
            process.script("a", [Script::ok()]);
            assert_eq!(envoy.ask(large.clone()).status(), 200, "an empty minute takes anything");
            process.take_clusters();
            let response = envoy.ask(large);
            assert_eq!(response.status(), status, "{response:?}");
            assert_eq!(response.header("x-served-by"), None);
        }
    });
    assert!(process.take_clusters().is_empty());
}

#[test]
fn names_of_consumers_do_not_make_shared_data_grow() {
    let process = Process::new("many names");
    worker(&process, SETTINGS, |envoy| {
        process.respond(|_| Script::status(400));
        let before = process.shared().keys().len();
        for number in 0..10_000 {
            let name = format!("consumer-{number}");
            let request = Request::new("POST", CHAT).header("x-consumer", &name);
            envoy.ask(request);
            if number % 1_000 == 0 {
                process.forget();
            }
        }
        assert_eq!(process.shared().keys().len(), before);
        println!("{before} keys before and after 10 000 names");
    });
}

/// A consumer that knew the hash of names could otherwise use up the tokens of another.
#[test]
fn unlisted_consumers_share_slots_by_a_secret_that_all_workers_know_and_that_lasts() {
    let mut secrets = std::collections::BTreeSet::new();
    for process in (0..3).map(|number| Process::new(&format!("slots, process {number}"))) {
        let key = Keys::new(None).slot_secret();
        let secret = worker(&process, SETTINGS, |envoy| {
            let (secret, _) = process.shared().read(&key).unwrap();
            assert!(envoy.configure(SETTINGS));
            secret
        });
        worker(&process, SETTINGS, |_| ());
        assert_eq!(process.shared().read(&key).unwrap().0, secret, "it lasts");
        secrets.insert(secret);
    }
    assert_eq!(secrets.len(), 3, "it is another one in each process");
}

/// The quota of a month is kept when a newer module finds the records of an older one.
#[test]
fn the_quota_in_a_record_of_an_older_version_still_counts() {
    let process = Process::new("an older record of a quota");
    let settings = SETTINGS.replace(
        r#""by_name": {"#,
        r#""by_name": {"monthly": {"quota": {"tokens": 1000, "period": "month"}}, "#,
    );
    let key = Keys::new(None).consumer("monthly");
    let ask = |envoy: &mut Envoy| {
        envoy.ask(Request::new("POST", CHAT).body("{}").header("x-consumer", "monthly"))
    };
    worker(&process, &settings, |envoy| {
        for _ in 0..1_000 {
            if ask(envoy).status() == 403 {
                break;
            }
        }
        assert_eq!(ask(envoy).status(), 403);
    });
    let (record, _) = process.shared().read(&key).unwrap();
    // Version 2: no sum of the minute, and the quota last.
    let older = [&[2], &record[1..17], &record[49..], &record[25..49]].concat();
    process.corrupt(&key, &older);
    worker(&process, &settings, |envoy| assert_eq!(ask(envoy).status(), 403));
}
