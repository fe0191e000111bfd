//! One backend's breaker and gate.

use crate::policy::backend::breaker::{
    Breaker, Lease, Observed, Passage, RuleWindows, State, Ticket, Transition, TripReason,
};
use crate::policy::backend::gate::Gate;
use crate::policy::backend::records::{BackendRecord, PoolRecord};
use crate::policy::fixtures::{at, breaker, ms, pool, rule, throttle};
use crate::policy::pool::{BreakerSettings, Rule, Threshold};
use crate::policy::response::classify::{AttemptTraits, Fault, Head, Outcome, error_body, head};
use crate::policy::response::retry_after;
use crate::policy::time::{Millis, Timestamp};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

pub(super) const FAULT: Observed = Observed::Fault(Fault::Status(503));
pub(super) const FAST: Millis = Millis::new(20);
/// The time of the trip in most tests.
pub(super) const START: u64 = 10_000_000;

/// A breaker with its counts, settings and a clock that the test sets.
pub(super) struct Bench {
    pub(super) breaker: Breaker,
    windows: RuleWindows,
    pub(super) settings: BreakerSettings,
    pub(super) now: u64,
    roll: u64,
}

impl Bench {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        let (breaker, windows) = <(Breaker, RuleWindows)>::default();
        Self { breaker, windows, settings: self::breaker(rules), now: START, roll: 0 }
    }

    pub(super) fn with(threshold: Threshold) -> Self {
        Self::new(vec![rule(threshold)])
    }

    pub(super) fn tripped() -> Self {
        let mut bench = Self::with(Threshold::Count(1));
        bench.see(FAULT).unwrap();
        bench
    }

    pub(super) fn report(
        &mut self,
        ticket: Ticket,
        observed: Observed,
        elapsed: Millis,
        retry_after: Option<Millis>,
    ) -> Option<Transition> {
        let (settings, now) = (self.settings.clone(), at(self.now));
        let before = (self.breaker, self.windows);
        let result = self.breaker.observe(
            &mut self.windows,
            ticket,
            observed,
            elapsed,
            retry_after,
            &settings,
            now,
            self.roll,
        );
        if !before.0.needs_window(&settings, observed, elapsed) {
            assert_eq!((self.breaker, self.windows), before, "changed although not needed");
        }
        result
    }

    pub(super) fn see(&mut self, observed: Observed) -> Option<Transition> {
        self.report(self.breaker.ticket(), observed, FAST, None)
    }

    pub(super) fn see_times(&mut self, observed: Observed, times: u32) {
        for time in 0..times {
            assert_eq!(self.see(observed), None, "result {time}");
        }
    }

    pub(super) fn passage(&self) -> Passage {
        self.breaker.passage(&self.settings, at(self.now))
    }

    pub(super) fn probe(&mut self) -> Option<Ticket> {
        self.breaker.lease_probe(Lease::Due, &self.settings, at(self.now))
    }

    pub(super) fn fail_probe(&mut self) -> u64 {
        let ticket = self.probe().unwrap();
        match self.report(ticket, FAULT, FAST, None) {
            Some(Transition::Reopened { until, .. }) => until.as_ms() - self.now,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn opened(until: u64) -> Option<Transition> {
    Some(Transition::Opened { until: at(until), reason: TripReason::Rule(0) })
}

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
fn a_percentage_is_exact_and_reached_by_equality() {
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
    assert!(bench.see(FAULT).is_some(), "however long it takes");
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
    assert_eq!(see(&mut bench, 5_000), None, "exactly the limit is not slow");
    assert_eq!(see(&mut bench, 5_001), opened(START + 30_000));
    bench.now += 30_000;
    let ticket = bench.probe().unwrap();
    let slow_probe = bench.report(ticket, Observed::Success, ms(5_001), None);
    assert!(matches!(slow_probe, Some(Transition::Reopened { .. })));
}

#[test]
fn items_09_and_10_it_is_open_until_its_deadline_and_not_a_millisecond_longer() {
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
fn the_gate_follows_the_headers_in_their_order() {
    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Timestamp = Timestamp::from_ms(784_111_777_000);
    for (name, value, closed_ms) in [
        ("retry-after", "45", 45_000),
        ("retry-after", "1", 1_000),
        ("retry-after-ms", "312", 312),
        ("retry-after", "Sun, 06 Nov 1994 08:49:57 GMT", 20_000),
        ("retry-after", "Sun, 06 Nov 1994 08:49:17 GMT", 0),
        ("retry-after", "0", 0),
        ("retry-after", "-5", 10_000),
        ("retry-after", "garbage", 10_000),
        ("retry-after", "86400", 60_000),
        ("x-ratelimit-reset-tokens", "7", 7_000),
        ("x-unrelated", "7", 10_000),
    ] {
        let mut gate = Gate::default();
        gate.close(NOW, retry_after::delay(&[(name, value)][..], NOW), &throttle());
        assert_eq!(gate.until, NOW.plus(ms(closed_ms)), "{name}: {value}");
    }
    let both = [("retry-after", "1"), ("retry-after-ms", "312")];
    assert_eq!(retry_after::delay(&both[..], NOW), Some(ms(312)), "milliseconds beat seconds");
}

#[test]
fn a_second_429_extends_and_a_stale_one_never_shortens() {
    let mut gate = Gate::default();
    gate.close(at(START), Some(ms(5_000)), &throttle());
    gate.close(at(START + 1_000), Some(ms(9_000)), &throttle());
    assert_eq!(gate.until, at(START + 10_000));
    gate.close(at(START + 2_000), Some(ms(500)), &throttle());
    assert_eq!(gate.until, at(START + 10_000));
}

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
    // So long that only the closing can have cleared it.
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
fn the_failure_of_a_probe_whose_lease_is_another_s_reopens_nothing() {
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
    assert_eq!(bench.report(slow, Observed::Success, FAST, None), None, "of an older half-open");
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
fn a_clock_put_back_does_not_wedge_the_breaker() {
    let mut bench = Bench::tripped();
    bench.now = START - 600_000;
    assert_eq!(bench.passage(), Passage::Probe, "no trip lasts that long");
    bench.probe().unwrap();
    bench.now -= 600_000;
    assert_eq!(bench.passage(), Passage::Probe, "no lease lasts that long");
    let mut bench = Bench::tripped();
    bench.now = START - 1_000;
    assert_eq!(bench.passage(), Passage::Open { until: at(START + 30_000) });
}

#[test]
fn a_clock_put_ahead_ends_what_it_passes() {
    let mut bench = Bench::tripped();
    bench.now = u64::MAX;
    assert_eq!(bench.passage(), Passage::Probe);
    let mut gate = Gate::default();
    gate.close(at(START), None, &throttle());
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
        // A worker that read the breaker before the trip counts by what it read.
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
        record.gate.close(at(START), None, &policy.throttle);
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
