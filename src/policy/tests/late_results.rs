//! Results, configurations and clocks that change while a breaker is not closed.

use super::bench::{Bench, FAST, FAULT, START};
use crate::policy::backend::breaker::{Observed, Passage, RuleWindows, State, Transition};
use crate::policy::backend::gate::Gate;
use crate::policy::backend::records::{BackendRecord, PoolRecord};
use crate::policy::fixtures::{at, ms, pool, throttle};
use crate::policy::pool::Threshold;
use crate::policy::time::Millis;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn results_of_attempts_from_before_the_trip_do_not_count_after_it() {
    let mut bench = Bench::with(Threshold::Count(2));
    let early = bench.breaker.ticket();
    bench.see_times(FAULT, 1);
    bench.see(FAULT).unwrap();
    let open = bench.breaker;
    for late in [FAULT, Observed::Success, Observed::Misconfigured] {
        assert_eq!(bench.report(early, late, FAST, None), None);
        assert_eq!(bench.breaker, open);
    }
    bench.now += 30_000;
    let probe = bench.probe().unwrap();
    let half_open = bench.breaker;
    assert_eq!(bench.report(early, Observed::Success, FAST, None), None);
    assert_eq!(bench.breaker, half_open, "it does not close");
    assert_eq!(bench.report(early, FAULT, FAST, None), None);
    assert_eq!(bench.breaker, half_open, "it does not reopen");
    assert_eq!(bench.report(probe, Observed::Success, FAST, None), Some(Transition::Closed));
}

#[test]
fn results_that_arrive_after_closing_change_nothing() {
    let mut bench = Bench::with(Threshold::Count(2));
    let early = bench.breaker.ticket();
    bench.see_times(FAULT, 1);
    bench.see(FAULT).unwrap();
    bench.now += 30_000;
    let probe = bench.probe().unwrap();
    bench.report(probe, Observed::Success, FAST, None).unwrap();
    let closed = (bench.breaker, bench.windows);
    for ticket in [early, probe] {
        for _ in 0..5 {
            assert_eq!(bench.report(ticket, FAULT, FAST, None), None);
        }
    }
    assert_eq!((bench.breaker, bench.windows), closed);
}

#[test]
fn a_reload_keeps_an_open_breaker_and_a_closed_gate() {
    let policy = pool(&[(1, 1)]);
    let mut record = BackendRecord::default();
    record.gate.until = at(START + 500);
    record.breaker.state = State::Open { until: at(START + 9), failed_probes: 2 };
    let bytes = PoolRecord::reseat(None, &policy, at(0)).bytes;
    let (bytes, ()) = PoolRecord::update(Some(&bytes), 1, |stored| *stored = record).unwrap();
    let reloaded = PoolRecord::reseat(Some(&bytes), &policy, at(0)).bytes;
    assert_eq!(PoolRecord::decode(&reloaded, &policy), [record]);
}

#[test]
fn a_reload_that_takes_the_tripping_rule_away_leaves_a_usable_breaker() {
    let mut bench = Bench::tripped();
    bench.settings.rules.clear();
    bench.now += 30_000;
    assert_eq!(bench.fail_probe(), 2_000);
}

#[test]
fn a_clock_set_back_does_not_wedge_the_breaker() {
    let mut bench = Bench::tripped();
    bench.now = START - 600_000;
    assert_eq!(bench.passage(), Passage::Probe, "no open time is that long");
    bench.probe().unwrap();
    bench.now -= 600_000;
    assert_eq!(bench.passage(), Passage::Probe, "no lease is that long");
    let mut bench = Bench::tripped();
    bench.now = START - 1_000;
    assert_eq!(bench.passage(), Passage::Open { until: at(START + 30_000) });
}

#[test]
fn a_clock_set_ahead_ends_what_it_passes() {
    let mut bench = Bench::tripped();
    bench.now = u64::MAX;
    assert_eq!(bench.passage(), Passage::Probe);
    let mut gate = Gate::default();
    gate.close(at(START), None, 0, &throttle());
    assert_eq!(gate.closed_until(at(u64::MAX), &throttle()), None);
}

#[test]
fn no_duration_overflows() {
    let mut bench = Bench::tripped();
    bench.settings.max_trip_duration = ms(u64::MAX);
    bench.settings.rules[0].trip_duration = Some(ms(u64::MAX / 4));
    bench.roll = u64::MAX;
    for _ in 0..600 {
        bench.breaker.state = match bench.breaker.state {
            State::Open { failed_probes, .. } => State::Open { until: at(0), failed_probes },
            state => state,
        };
        bench.fail_probe();
    }
    assert!(matches!(bench.breaker.state, State::Open { failed_probes: u8::MAX, .. }));
    bench.breaker.epoch = u32::MAX;
    bench.breaker.state = State::default();
    assert!(bench.see(Observed::Misconfigured).is_some());
    assert_eq!(bench.breaker.epoch, 0);
}

#[test]
fn results_from_before_the_trip_leave_the_present_counts_alone() {
    for wrap in [0, u32::MAX - 1] {
        let mut bench = Bench::with(Threshold::Count(3));
        bench.settings.rules[0].interval = Millis::from_secs(3_600);
        bench.breaker.epoch = wrap;
        bench.windows.restart(wrap);
        let early = bench.breaker.ticket();
        bench.see_times(FAULT, 2);
        bench.see(FAULT).unwrap();
        bench.now += 30_000;
        let probe = bench.probe().unwrap();
        bench.report(probe, Observed::Success, FAST, None).unwrap();
        bench.see_times(FAULT, 2);
        // A worker that read the breaker before it opened counts by what it read.
        let counted = bench.windows;
        let late = bench.windows.count(&bench.settings, early.epoch, FAULT, FAST, at(bench.now));
        assert_eq!((late, bench.windows), (None, counted));
        assert!(bench.see(FAULT).is_some(), "the third of the present epoch");
    }
}

#[test]
fn backends_are_isolated() {
    let policy = pool(&[(1, 1), (1, 1)]);
    let bytes = PoolRecord::reseat(None, &policy, at(0)).bytes;
    let (bytes, ()) = PoolRecord::update(Some(&bytes), 1, |record| {
        record.gate.close(at(START), None, 0, &policy.throttle);
        let ticket = record.breaker.ticket();
        let mut windows = RuleWindows::default();
        for _ in 0..3 {
            let settings = &policy.breaker;
            record.breaker.observe(&mut windows, ticket, FAULT, FAST, None, settings, at(START), 0);
        }
    })
    .unwrap();
    let records = PoolRecord::decode(&bytes, &policy);
    assert!(matches!(records[0].breaker.state, State::Open { .. }));
    assert_eq!(records[1], BackendRecord::default());
}
