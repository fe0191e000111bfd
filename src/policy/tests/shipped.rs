//! The rules of a pool that configures none: a share, and faults in a row.

use crate::policy::backend::breaker::{Breaker, Observed, RuleWindows, RulesMet, Transition};
use crate::policy::backend::breaker::{Observation, State};
use crate::policy::backend::rules::{Successes, is_plain_success};
use crate::policy::fixtures::{Dice, at, breaker, ms, rule};
use crate::policy::pool::{BreakerSettings, Threshold};
use crate::policy::response::classify::Fault;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const FAULT: Observed = Observed::Fault(Fault::Status(503));
const WORKERS: usize = 4;

fn shipped() -> BreakerSettings {
    breaker(vec![
        rule(Threshold::Percentage { percent: 50, min_requests: 20 }),
        rule(Threshold::Consecutive(5)),
    ])
}

/// One backend and several workers. Each worker adds its successes to the counts later.
struct Backend {
    settings: BreakerSettings,
    breaker: Breaker,
    windows: RuleWindows,
    successes: [Successes; WORKERS],
    writes: u32,
}

impl Backend {
    fn new() -> Self {
        let (breaker, windows) = <(Breaker, RuleWindows)>::default();
        let successes = Default::default();
        Self { settings: shipped(), breaker, windows, successes, writes: 0 }
    }

    fn see(&mut self, worker: usize, observed: Observed, now: u64) -> Option<Transition> {
        let (ticket, now) = (self.breaker.ticket(), at(now));
        let is_plain = is_plain_success(&self.settings, observed, ms(10));
        let mut met = RulesMet::default();
        if !is_plain || self.successes[worker].count(&self.settings, ticket.epoch, now) {
            let successes = std::mem::take(&mut self.successes[worker]).of(ticket.epoch);
            self.windows.add(&self.settings, ticket.epoch, successes, now);
            self.writes += 1;
            if !is_plain {
                let counted =
                    self.windows.count(&self.settings, ticket.epoch, observed, ms(10), now);
                met = counted.unwrap();
            }
        }
        let elapsed = ms(10);
        let observation = Observation { ticket, observed, elapsed, retry_after: None };
        self.breaker.conclude(&observation, met, &self.settings, now, 0)
    }

    fn is_closed(&self) -> bool {
        matches!(self.breaker.state, State::Closed { .. })
    }
}

#[test]
fn one_error_in_six_hundred_never_opens_a_busy_backend() {
    for seed in 0..5 {
        let (mut backend, mut dice) = (Backend::new(), Dice::new(seed));
        for request in 0..60_000_u64 {
            let worker = usize::try_from(dice.below(4)).unwrap();
            let observed = if dice.below(588) == 0 { FAULT } else { Observed::Success };
            assert_eq!(backend.see(worker, observed, 1_000_000 + request * 10), None, "{seed}");
        }
        assert!(backend.is_closed());
        // In ten minutes, each second has one write per worker, and those of the errors.
        assert!(backend.writes < 60_000 / 20, "{} writes", backend.writes);
    }
}

#[test]
fn a_backend_that_fails_most_requests_is_excluded_within_seconds() {
    let (mut backend, mut dice) = (Backend::new(), Dice::new(7));
    let opened = (0..1_000_u64).find(|request| {
        let observed = if dice.below(3) > 0 { FAULT } else { Observed::Success };
        backend.see(0, observed, 1_000_000 + request * 10).is_some()
    });
    assert!(opened.is_some_and(|request| request < 100), "{opened:?}");
}

#[test]
fn a_dead_backend_with_little_traffic_is_taken_out_after_five_faults() {
    let mut backend = Backend::new();
    for request in 0..4 {
        assert_eq!(backend.see(0, FAULT, 1_000_000 + request * 60_000), None);
    }
    assert!(backend.see(1, FAULT, 2_000_000).is_some());
}

#[test]
fn successes_of_an_epoch_that_is_over_are_dropped() {
    let (settings, mut successes) = (shipped(), Successes::default());
    assert!(!successes.count(&settings, 1, at(1_000)));
    assert!(!successes.count(&settings, 1, at(1_999)));
    assert!(successes.count(&settings, 1, at(2_000)));
    assert_eq!((successes.of(1), successes.of(2)), (3, 0));
    assert!(!successes.count(&settings, 2, at(2_001)));
    assert_eq!(successes.of(2), 1);
    // The clock was set back.
    assert!(successes.count(&settings, 2, at(500)));
}
