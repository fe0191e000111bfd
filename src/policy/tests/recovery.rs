//! How long a breaker stays open, and how its traffic returns.

use super::bench::{Bench, FAST, FAULT, START, opened};
use crate::policy::backend::breaker::{Observed, Passage, Transition};
use crate::policy::fixtures::ms;
use crate::policy::pool::Threshold;
use crate::policy::response::classify::Fault;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn traffic_grows_with_successes_too() {
    let mut bench = Bench::tripped();
    bench.now += 30_000;
    let ticket = bench.probe().unwrap();
    bench.report(ticket, Observed::Success, FAST, None).unwrap();
    for (successes, percent) in [(2, 10), (2, 25), (4, 50)] {
        assert_eq!(bench.passage(), Passage::Ramp { percent });
        bench.see_times(Observed::Success, successes);
    }
    assert_eq!(bench.passage(), Passage::Closed);
    assert!(!bench.breaker.grows_by(Observed::Success), "no more is written");
}

/// A breaker whose rule names no open time, after a fault and this many failed probes.
fn tripped_by_kind(fault: Fault, failed_probes: u32) -> (Bench, Vec<u64>) {
    let mut bench = Bench::with(Threshold::Count(1));
    bench.settings.rules[0].trip_duration = None;
    let Some(Transition::Opened { until, .. }) = bench.see(Observed::Fault(fault)) else {
        panic!()
    };
    let mut open_for = vec![until.as_ms() - bench.now];
    for _ in 0..failed_probes {
        bench.now += open_for.last().unwrap();
        let ticket = bench.probe().unwrap();
        match bench.report(ticket, Observed::Fault(fault), FAST, None) {
            Some(Transition::Reopened { until, .. }) => open_for.push(until.as_ms() - bench.now),
            other => panic!("{other:?}"),
        }
    }
    bench.now += open_for.last().unwrap();
    (bench, open_for)
}

#[test]
fn the_kind_of_fault_decides_how_long_it_stays_open() {
    for quick in [Fault::Connect, Fault::Reset, Fault::Status(503), Fault::Status(500), Fault::Tls]
    {
        let (_, open_for) = tripped_by_kind(quick, 5);
        assert_eq!(open_for, [1_000, 2_000, 4_000, 7_000, 7_000, 7_000], "{quick:?}");
    }
    for slow in [Fault::Timeout, Fault::ConnectTimeout, Fault::Status(504), Fault::Status(408)] {
        let (_, open_for) = tripped_by_kind(slow, 4);
        assert_eq!(open_for, [10_000, 20_000, 40_000, 60_000, 60_000], "{slow:?}");
    }
}

#[test]
fn a_short_outage_leaves_out_steps_of_the_ramp() {
    for (failed_probes, percent) in [(0, 50), (1, 25), (8, 25), (9, 10)] {
        let (mut bench, _) = tripped_by_kind(Fault::Connect, failed_probes);
        let ticket = bench.probe().unwrap();
        bench.report(ticket, Observed::Success, FAST, None).unwrap();
        assert_eq!(bench.passage(), Passage::Ramp { percent }, "{failed_probes} failed probes");
    }
}

#[test]
fn a_longest_open_time_holds_for_every_kind_of_fault() {
    let mut bench = Bench::with(Threshold::Count(1));
    bench.settings.rules[0].trip_duration = None;
    bench.settings.max_trip_duration = ms(400);
    assert_eq!(bench.see(FAULT), opened(START + 400));
}
