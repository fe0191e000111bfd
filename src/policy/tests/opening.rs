//! What opens a breaker, and for how long.

use super::bench::{Bench, FAST, FAULT, START, opened};
use crate::policy::backend::breaker::{Breaker, Observed, Passage, Transition, TripReason};
use crate::policy::fixtures::{at, breaker, ms, rule};
use crate::policy::pool::Threshold;
use crate::policy::response::classify::{AttemptTraits, Fault, Head, Outcome, error_body, head};
use crate::policy::time::Millis;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn it_opens_exactly_at_the_threshold() {
    let mut bench = Bench::with(Threshold::Count(5));
    bench.see_times(FAULT, 4);
    assert_eq!(bench.passage(), Passage::Closed);
    assert_eq!(bench.see(FAULT), opened(START + 30_000));
    assert_eq!(bench.passage(), Passage::Open { until: at(START + 30_000) });
}

#[test]
fn a_percentage_waits_for_the_minimum_of_requests() {
    let mut bench = Bench::with(Threshold::Percentage { percent: 50, min_requests: 10 });
    bench.see_times(FAULT, 9);
    assert_eq!(bench.see(FAULT), opened(START + 30_000));
}

#[test]
fn faults_older_than_the_interval_do_not_count() {
    let mut bench = Bench::with(Threshold::Count(3));
    bench.see_times(FAULT, 2);
    bench.now = START + 30_000;
    bench.see_times(FAULT, 2);
    bench.now += 29_999 - 3_000;
    assert!(bench.see(FAULT).is_some());
    for idle in [30_000, 300_000, 86_400_000] {
        let mut bench = Bench::with(Threshold::Count(3));
        bench.see_times(FAULT, 2);
        bench.now = START + idle;
        bench.see_times(FAULT, 2);
    }
}

#[test]
fn a_percentage_is_exact_and_met_by_equality() {
    let third = Threshold::Percentage { percent: 34, min_requests: 3 };
    let mut bench = Bench::with(third);
    bench.see_times(Observed::Success, 2);
    assert_eq!(bench.see(FAULT), None, "33.3 % is less than 34 %");
    assert!(bench.see(FAULT).is_some());
    let mut bench = Bench::with(Threshold::Percentage { percent: 50, min_requests: 4 });
    bench.see_times(Observed::Success, 2);
    bench.see_times(FAULT, 1);
    assert!(bench.see(FAULT).is_some(), "50 % is enough");
}

#[test]
fn a_success_never_opens_although_it_completes_the_minimum() {
    let mut bench = Bench::with(Threshold::Percentage { percent: 10, min_requests: 3 });
    bench.see_times(FAULT, 2);
    assert_eq!(bench.see(Observed::Success), None);
    assert!(bench.see(FAULT).is_some());
}

#[test]
fn a_success_between_faults_resets_faults_in_a_row() {
    let mut bench = Bench::with(Threshold::Consecutive(3));
    bench.see_times(FAULT, 2);
    bench.see_times(Observed::Success, 1);
    bench.see_times(FAULT, 2);
    bench.now += 86_400_000;
    assert!(bench.see(FAULT).is_some(), "over any time");
}

#[test]
fn ignored_outcomes_change_nothing() {
    let settings = breaker(vec![rule(Threshold::Count(1))]);
    let client = AttemptTraits::NONE;
    let none: &[(&str, &str)] = &[];
    let mut bench = Bench::with(Threshold::Count(1));
    let filtered = br#"{"error":{"code":"content_filter"}}"#;
    let mut outcomes = vec![
        Outcome::Cancelled,
        Outcome::Elsewhere { status: 400 },
        Outcome::Throttled { delay: Some(ms(300)) },
        error_body(
            400,
            filtered,
            Outcome::ClientError,
            AttemptTraits { provisioned: true, ..client },
            "gpt-4o",
        ),
    ];
    for status in [400, 401, 403, 404, 409, 422, 429] {
        let Head::Decided(outcome) = head(status, none, client, at(0)) else { panic!("{status}") };
        outcomes.push(outcome);
    }
    for outcome in outcomes {
        let observed = Observed::of(&outcome, &settings);
        assert_eq!(observed, Observed::Ignored, "{outcome:?}");
        let before = (bench.breaker, bench.windows);
        assert_eq!(bench.see(observed), None);
        assert_eq!((bench.breaker, bench.windows), before);
    }
}

#[test]
fn a_fault_of_a_kind_that_no_rule_names_changes_nothing() {
    let mut only_timeouts = rule(Threshold::Count(1));
    only_timeouts.statuses = Default::default();
    only_timeouts.reasons.reset = false;
    let mut bench = Bench::new(vec![only_timeouts]);
    bench.see_times(Observed::Fault(Fault::Reset), 5);
    bench.see_times(FAULT, 5);
    assert!(bench.see(Observed::Fault(Fault::Timeout)).is_some());
}

#[test]
fn a_429_counts_only_for_a_rule_that_names_it() {
    let throttled = Outcome::Throttled { delay: None };
    let mut settings = breaker(vec![rule(Threshold::Count(1))]);
    assert_eq!(Observed::of(&throttled, &settings), Observed::Ignored);
    settings.rules[0].statuses = crate::policy::pool::StatusSet::new(vec![(429, 429)]);
    assert_eq!(Observed::of(&throttled, &settings), Observed::Fault(Fault::Status(429)));
}

#[test]
fn slow_calls_are_faults_of_a_rule_that_says_so() {
    let mut slow = rule(Threshold::Count(2));
    slow.reasons.slow = Some(ms(5_000));
    let mut bench = Bench::new(vec![slow]);
    let see = |bench: &mut Bench, elapsed| {
        bench.report(bench.breaker.ticket(), Observed::Success, ms(elapsed), None)
    };
    assert_eq!(see(&mut bench, 5_001), None);
    assert_eq!(see(&mut bench, 5_000), None, "the limit itself is not slow");
    assert_eq!(see(&mut bench, 5_001), opened(START + 30_000));
    bench.now += 30_000;
    let ticket = bench.probe().unwrap();
    let slow_probe = bench.report(ticket, Observed::Success, ms(5_001), None);
    assert!(matches!(slow_probe, Some(Transition::Reopened { .. })));
}

#[test]
fn it_is_open_until_its_deadline_and_not_a_millisecond_longer() {
    let mut bench = Bench::tripped();
    bench.now = START + 29_999;
    assert_eq!(bench.passage(), Passage::Open { until: at(START + 30_000) });
    assert_eq!(bench.probe(), None);
    bench.now = START + 30_000;
    assert_eq!(bench.passage(), Passage::Probe);
}

#[test]
fn retry_after_replaces_the_trip_duration_where_accepted() {
    let trip = |named: Option<u64>, accepted| {
        let mut bench = Bench::with(Threshold::Count(1));
        bench.settings.rules[0].accept_retry_after = accepted;
        match bench.report(bench.breaker.ticket(), FAULT, FAST, named.map(ms)) {
            Some(Transition::Opened { until, .. }) => until.as_ms() - START,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(trip(Some(2_500), true), 2_500);
    assert_eq!(trip(Some(45_000), true), 45_000);
    assert_eq!(trip(Some(86_400_000), true), 300_000);
    assert_eq!(trip(Some(0), true), 30_000, "it names no time");
    assert_eq!(trip(Some(1), true), 100, "a shorter time is no pause");
    assert_eq!(trip(Some(2_500), false), 30_000);
    assert_eq!(trip(None, true), 30_000);
}

#[test]
fn a_wrong_credential_trips_at_once_even_without_rules() {
    for rules in [vec![], vec![rule(Threshold::Count(100))]] {
        let mut bench = Bench::new(rules);
        let expected =
            Transition::Opened { until: at(START + 30_000), reason: TripReason::Misconfigured };
        assert_eq!(bench.see(Observed::Misconfigured), Some(expected));
    }
}

#[test]
fn of_two_rules_reached_at_once_the_longer_open_time_wins() {
    let mut longer = rule(Threshold::Consecutive(2));
    longer.trip_duration = Some(Millis::from_secs(40));
    let mut bench = Bench::new(vec![rule(Threshold::Count(2)), longer]);
    bench.see_times(FAULT, 1);
    let expected = Transition::Opened { until: at(START + 40_000), reason: TripReason::Rule(1) };
    assert_eq!(bench.see(FAULT), Some(expected));
}

#[test]
fn a_success_costs_nothing_where_only_faults_are_counted() {
    let calm = |threshold| {
        let settings = breaker(vec![rule(threshold)]);
        Breaker::default().needs_window(&settings, Observed::Success, FAST)
    };
    assert!(!calm(Threshold::Count(5)));
    assert!(!calm(Threshold::Consecutive(5)));
    assert!(calm(Threshold::Percentage { percent: 50, min_requests: 5 }));
    let mut bench = Bench::with(Threshold::Consecutive(5));
    bench.see_times(FAULT, 1);
    assert!(bench.breaker.needs_window(&bench.settings, Observed::Success, FAST));
}
