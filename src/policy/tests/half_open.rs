//! Probes of an open breaker, their leases, and what follows them.

use super::bench::{Bench, FAST, FAULT, START, opened};
use crate::policy::backend::breaker::{Observed, Passage, State, Ticket, Transition};
use crate::policy::fixtures::{at, ms};
use crate::policy::pool::Threshold;
use crate::policy::time::Millis;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn half_open_admits_one_and_sends_the_others_elsewhere() {
    let mut bench = Bench::tripped();
    bench.now += 30_000;
    assert!(bench.probe().is_some());
    assert_eq!(bench.probe(), None);
    assert_eq!(bench.passage(), Passage::Open { until: at(bench.now + 30_000) });
}

#[test]
fn a_successful_probe_closes_and_clears_the_counts() {
    let mut bench = Bench::with(Threshold::Count(3));
    // So long that only closing the breaker can have cleared it.
    bench.settings.rules[0].interval = Millis::from_secs(3_600);
    bench.see_times(FAULT, 2);
    assert!(bench.see(FAULT).is_some());
    bench.now += 30_000;
    let ticket = bench.probe().unwrap();
    let closed = bench.report(ticket, Observed::Success, FAST, None);
    assert_eq!(closed, Some(Transition::Closed));
    bench.see_times(FAULT, 2);
    assert!(bench.see(FAULT).is_some());
}

#[test]
fn traffic_grows_in_three_steps_after_closing() {
    let mut bench = Bench::tripped();
    bench.now += 30_000;
    let ticket = bench.probe().unwrap();
    bench.report(ticket, Observed::Success, FAST, None).unwrap();
    let closed = bench.now;
    for (after, percent) in
        [(0, 10), (2_999, 10), (3_000, 25), (5_999, 25), (6_000, 50), (8_999, 50)]
    {
        bench.now = closed + after;
        assert_eq!(bench.passage(), Passage::Ramp { percent }, "after {after} ms");
    }
    bench.now = closed + 9_000;
    assert_eq!(bench.passage(), Passage::Closed);
    bench.now = closed - 1;
    assert_eq!(bench.passage(), Passage::Closed, "a ramp that began in the future is over");
}

#[test]
fn without_a_ramp_duration_all_traffic_returns_at_once() {
    let mut bench = Bench::tripped();
    bench.settings.ramp_duration = Millis::ZERO;
    bench.now += 30_000;
    let ticket = bench.probe().unwrap();
    bench.report(ticket, Observed::Success, FAST, None).unwrap();
    assert_eq!(bench.passage(), Passage::Closed);
}

#[test]
fn failed_probes_double_the_open_time_up_to_the_cap_and_recovery_resets_it() {
    let mut bench = Bench::tripped();
    let mut open_ms = 30_000;
    for expected in [60_000, 120_000, 240_000, 300_000, 300_000] {
        bench.now += open_ms;
        open_ms = bench.fail_probe();
        assert_eq!(open_ms, expected);
    }
    bench.now += open_ms;
    let ticket = bench.probe().unwrap();
    assert_eq!(bench.report(ticket, Observed::Success, FAST, None), Some(Transition::Closed));
    assert_eq!(bench.see(FAULT), opened(bench.now + 30_000));
    bench.now += 30_000;
    assert_eq!(bench.fail_probe(), 60_000);
}

#[test]
fn the_jitter_of_a_doubled_time_is_upwards_and_at_most_a_tenth() {
    let times = (0..1_000).map(|roll| {
        let mut bench = Bench::tripped();
        bench.now += 30_000;
        bench.roll = roll;
        bench.fail_probe()
    });
    let times: Vec<u64> = times.collect();
    assert_eq!(times.iter().min(), Some(&60_000));
    assert_eq!(times.iter().max(), Some(&66_000));
}

#[test]
fn the_jitter_does_not_vanish_at_the_cap_and_does_not_exceed_it() {
    for (longest, named) in [(300_000, 0), (300_000, 86_400_000), (62_000, 0), (30_000, 1)] {
        let times = (0..1_000).map(|roll| {
            let mut bench = Bench::tripped();
            bench.settings.max_trip_duration = ms(longest);
            bench.breaker.state = State::Open { until: at(START), failed_probes: 20 };
            bench.roll = roll;
            let ticket = bench.probe().unwrap();
            match bench.report(ticket, FAULT, FAST, Some(ms(named))) {
                Some(Transition::Reopened { until, .. }) => until.as_ms() - START,
                other => panic!("{other:?}"),
            }
        });
        let times: Vec<u64> = times.collect();
        assert_eq!(times.iter().max(), Some(&longest));
        assert_eq!(times.iter().min(), Some(&(longest / 10 * 9)));
    }
}

#[test]
fn jitter_downwards_keeps_to_what_the_backend_named() {
    for roll in 0..1_000 {
        let mut bench = Bench::tripped();
        bench.now += 30_000;
        bench.roll = roll;
        let ticket = bench.probe().unwrap();
        let reopened = bench.report(ticket, FAULT, FAST, Some(ms(290_000)));
        let Some(Transition::Reopened { until, .. }) = reopened else { panic!("{reopened:?}") };
        assert!((290_000..=300_000).contains(&(until.as_ms() - bench.now)), "{until:?}");
    }
}

#[test]
fn a_failed_probe_may_be_told_to_stay_out_longer_but_not_shorter() {
    for (named, expected) in [(1_000, 60_000), (90_000, 90_000), (86_400_000, 300_000)] {
        let mut bench = Bench::tripped();
        bench.now += 30_000;
        let ticket = bench.probe().unwrap();
        let until = at(bench.now + expected);
        let reopened = bench.report(ticket, FAULT, FAST, Some(ms(named)));
        assert_eq!(reopened, Some(Transition::Reopened { until, failed_probes: 1 }));
    }
}

#[test]
fn a_probe_that_never_returns_frees_itself() {
    let mut bench = Bench::tripped();
    bench.now += 30_000;
    bench.probe().unwrap();
    for _ in 0..3 {
        bench.now += 29_999;
        assert_eq!(bench.probe(), None);
        bench.now += 1;
        assert_eq!(bench.passage(), Passage::Probe);
        let next = bench.probe().unwrap();
        assert_eq!(bench.passage(), Passage::Open { until: at(bench.now + 30_000) });
        assert!(next.is_probe());
    }
    let next = Ticket { epoch: bench.breaker.epoch, lease: Some(at(bench.now + 30_000)) };
    assert_eq!(bench.report(next, Observed::Success, FAST, None), Some(Transition::Closed));
}

#[test]
fn a_backend_that_is_slower_than_the_lease_closes_the_breaker() {
    for leases in [2, 3, 5] {
        let mut bench = Bench::tripped();
        bench.now += 30_000;
        let slow = bench.probe().unwrap();
        for _ in 1..leases {
            bench.now += 30_000;
            bench.probe().unwrap();
        }
        bench.now += 10_000;
        let closed = bench.report(slow, Observed::Success, ms(40_000), None);
        assert_eq!(closed, Some(Transition::Closed), "{leases} leases");
    }
}

#[test]
fn the_failure_of_a_probe_whose_lease_another_one_has_reopens_nothing() {
    let mut bench = Bench::tripped();
    bench.now += 30_000;
    let slow = bench.probe().unwrap();
    bench.now += 30_000;
    let present = bench.probe().unwrap();
    let half_open = bench.breaker;
    for outcome in [FAULT, Observed::Misconfigured, Observed::Ignored] {
        assert_eq!(bench.report(slow, outcome, FAST, None), None);
        assert_eq!(bench.breaker, half_open, "{outcome:?}: the lease stays");
    }
    let reopened = bench.report(present, FAULT, FAST, None);
    assert!(matches!(reopened, Some(Transition::Reopened { failed_probes: 1, .. })));
    assert_eq!(
        bench.report(slow, Observed::Success, FAST, None),
        None,
        "it belongs to an earlier half-open state"
    );
}

#[test]
fn the_failure_of_a_probe_whose_lease_expired_unrenewed_reopens() {
    let mut bench = Bench::tripped();
    bench.now += 30_000;
    let slow = bench.probe().unwrap();
    bench.now += 45_000;
    let reopened = bench.report(slow, FAULT, FAST, None);
    assert!(matches!(reopened, Some(Transition::Reopened { failed_probes: 1, .. })));
}

#[test]
fn a_probe_that_proves_nothing_gives_its_lease_back() {
    let mut bench = Bench::tripped();
    bench.now += 30_000;
    let slow = bench.probe().unwrap();
    bench.now += 30_000;
    let left = bench.probe().unwrap();
    assert_eq!(bench.report(left, Observed::Ignored, FAST, None), None);
    assert_eq!(bench.passage(), Passage::Probe);
    assert_eq!(bench.report(left, FAULT, FAST, None), None, "reported twice");
    assert!(bench.probe().is_some());
    assert_eq!(bench.report(slow, Observed::Success, FAST, None), Some(Transition::Closed));
}
