//! One breaker with its counts, in virtual time.

use crate::policy::backend::breaker::{
    Breaker, Lease, Observed, Passage, RuleWindows, Ticket, Transition, TripReason,
};
use crate::policy::fixtures::{at, breaker, rule};
use crate::policy::pool::{BreakerSettings, Rule, Threshold};
use crate::policy::response::classify::Fault;
use crate::policy::time::Millis;

pub(super) const FAULT: Observed = Observed::Fault(Fault::Status(503));
pub(super) const FAST: Millis = Millis::new(20);
/// When the breaker opens in most tests.
pub(super) const START: u64 = 10_000_000;

/// A breaker with its counts, settings and a clock that the test sets.
pub(super) struct Bench {
    pub(super) breaker: Breaker,
    pub(super) windows: RuleWindows,
    pub(super) settings: BreakerSettings,
    pub(super) now: u64,
    pub(super) roll: u64,
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
            assert_eq!((self.breaker, self.windows), before, "changed without need");
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
