//! Early probes: when a request that nobody else can serve may probe an open breaker.

use crate::policy::backend::breaker::{
    Breaker, EARLY_PATIENCE, EARLY_PAUSE, Lease, Observation, Observed, Passage, RulesMet, State,
    Ticket, Transition,
};
use crate::policy::fixtures::{at, breaker, ms, rule};
use crate::policy::pool::{BreakerSettings, Threshold};
use crate::policy::response::classify::Fault;
use crate::policy::time::Millis;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const FAULT: Observed = Observed::Fault(Fault::Status(503));
/// When a probe is due.
const DUE: u64 = 30_000;

fn settings() -> BreakerSettings {
    breaker(vec![rule(Threshold::Count(1))])
}

fn tripped() -> Breaker {
    Breaker { state: State::Open { until: at(DUE), failed_probes: 2 }, ..Breaker::default() }
}

fn early(breaker: &mut Breaker, now: u64) -> Option<Ticket> {
    let admits = breaker.admits_early(at(now));
    let ticket = breaker.lease_probe(Lease::Early, &settings(), at(now));
    assert_eq!(admits, ticket.is_some(), "at {now}");
    ticket
}

fn end(breaker: &mut Breaker, ticket: Ticket, observed: Observed, now: u64) -> Option<Transition> {
    let observation = Observation { ticket, observed, elapsed: Millis::ZERO, retry_after: None };
    breaker.conclude(&observation, RulesMet::default(), &settings(), at(now), 0)
}

#[test]
fn one_early_probe_goes_at_a_time_and_one_a_second() {
    let mut breaker = tripped();
    let first = early(&mut breaker, 1_000).unwrap();
    assert_eq!(early(&mut breaker, 3_999), None, "one probe is running");
    assert_eq!(end(&mut breaker, first, FAULT, 1_100), None);
    assert_eq!(early(&mut breaker, 1_000 + EARLY_PAUSE.as_ms() - 1), None);
    assert!(early(&mut breaker, 1_000 + EARLY_PAUSE.as_ms()).is_some());
}

#[test]
fn an_early_probe_that_fails_leaves_the_open_time_as_it_was() {
    let mut breaker = tripped();
    for now in [1_000, 2_000, 3_000] {
        let ticket = early(&mut breaker, now).unwrap();
        assert_eq!(end(&mut breaker, ticket, FAULT, now + 1), None);
        assert_eq!(breaker.state, State::Open { until: at(DUE), failed_probes: 2 });
    }
    assert_eq!(breaker.passage(&settings(), at(DUE)), Passage::Probe);
    assert!(breaker.lease_probe(Lease::Due, &settings(), at(DUE - 1)).is_none());
}

#[test]
fn an_early_probe_that_works_closes_the_breaker() {
    let mut breaker = tripped();
    let ticket = early(&mut breaker, 1_000).unwrap();
    assert_eq!(end(&mut breaker, ticket, Observed::Success, 1_200), Some(Transition::Closed));
    assert!(!breaker.admits_early(at(5_000)));
}

#[test]
fn after_an_early_probe_that_proved_nothing_the_next_one_goes_at_once() {
    let mut breaker = tripped();
    let ticket = early(&mut breaker, 1_000).unwrap();
    assert_eq!(end(&mut breaker, ticket, Observed::Ignored, 1_001), None);
    assert_eq!(breaker.state, State::Open { until: at(DUE), failed_probes: 2 });
    assert!(early(&mut breaker, 1_001).is_some());
}

#[test]
fn an_early_probe_that_never_returns_frees_itself() {
    let mut breaker = tripped();
    let lost = early(&mut breaker, 1_000).unwrap();
    let lease_end = 1_000 + settings().probe_timeout.as_ms();
    assert_eq!(breaker.lease_probe(Lease::Due, &settings(), at(lease_end - 1)), None);
    let next = breaker.lease_probe(Lease::Due, &settings(), at(lease_end)).unwrap();
    assert_eq!(end(&mut breaker, lost, FAULT, lease_end + 1), None, "the next one decides");
    let reopened = end(&mut breaker, next, FAULT, lease_end + 1);
    assert!(matches!(reopened, Some(Transition::Reopened { failed_probes: 3, .. })), "it was due");
}

#[test]
fn a_probe_that_takes_long_keeps_nobody_out_who_has_no_other_backend() {
    let mut breaker = tripped();
    let long = breaker.lease_probe(Lease::Due, &settings(), at(DUE)).unwrap();
    let patience = (EARLY_PAUSE.plus(EARLY_PATIENCE)).as_ms();
    assert_eq!(early(&mut breaker, DUE + patience - 1), None);
    let short = early(&mut breaker, DUE + patience).unwrap();
    assert_eq!(early(&mut breaker, DUE + patience + 1), None, "one at a time");
    assert_eq!(end(&mut breaker, long, FAULT, DUE + patience + 2), None, "the next one decides");
    let closed = end(&mut breaker, short, Observed::Success, DUE + patience + 3);
    assert_eq!(closed, Some(Transition::Closed));
    // The long one may be the one that shows it.
    let mut breaker = tripped();
    let long = breaker.lease_probe(Lease::Due, &settings(), at(DUE)).unwrap();
    early(&mut breaker, DUE + patience).unwrap();
    assert_eq!(end(&mut breaker, long, Observed::Success, DUE + 9_000), Some(Transition::Closed));
}

#[test]
fn an_early_probe_that_ends_after_one_was_due_counts_like_a_due_one() {
    let mut breaker = tripped();
    let ticket = early(&mut breaker, DUE - 1_000).unwrap();
    let reopened = end(&mut breaker, ticket, FAULT, DUE);
    assert!(matches!(reopened, Some(Transition::Reopened { failed_probes: 3, .. })));
    assert!(!breaker.admits_early(at(DUE + 999)));
    assert!(breaker.admits_early(at(DUE + 1_000)));
}

#[test]
fn a_clock_that_was_set_back_does_not_stop_early_probes() {
    let mut breaker = tripped();
    breaker.state = State::Open { until: at(3_600_000), failed_probes: 0 };
    let ticket = early(&mut breaker, 3_590_000).unwrap();
    assert_eq!(end(&mut breaker, ticket, FAULT, 3_590_001), None);
    assert!(breaker.admits_early(at(1_000)));
    assert_eq!(ms(1_000), EARLY_PAUSE);
}

#[test]
fn a_breaker_that_is_not_open_takes_no_early_probe() {
    let mut breaker = Breaker::default();
    assert_eq!(early(&mut breaker, 1_000), None);
    breaker = tripped();
    assert!(breaker.lease_probe(Lease::Due, &settings(), at(DUE)).is_some());
    assert_eq!(early(&mut breaker, DUE + 1), None);
}
