//! The breaker against a model that keeps every event in a list, and forgets only by rule.

use crate::policy::backend::breaker::{
    Breaker, Lease, Observed, Passage, RuleWindows, Ticket, Transition,
};
use crate::policy::fixtures::{Dice, at, breaker, ms, rule};
use crate::policy::pool::{BreakerSettings, Threshold};
use crate::policy::response::classify::Fault;
use crate::policy::time::Millis;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const FAULT: Observed = Observed::Fault(Fault::Timeout);

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Closed,
    Open { until: u64 },
    HalfOpen { until: u64, holder: Option<u64> },
}

/// The model that a reader of the architecture would write.
struct Model {
    phase: Phase,
    /// All events since the breaker closed: the time, and whether it was a fault.
    events: Vec<(u64, bool)>,
    failed_probes: u32,
    /// Results of attempts that began in an earlier generation do not count.
    generation: u32,
    /// The width of a slot of the windows.
    slot_ms: u64,
}

impl Model {
    fn may_send(&self, now: u64) -> bool {
        self.phase == Phase::Closed || self.may_probe(now)
    }

    fn may_probe(&self, now: u64) -> bool {
        matches!(self.phase, Phase::Open { until } | Phase::HalfOpen { until, .. } if until <= now)
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.events.clear();
        self.generation += 1;
    }

    fn reached(&self, threshold: Threshold, now: u64) -> bool {
        let oldest = (now / self.slot_ms).saturating_sub(9);
        let recent = self.events.iter().filter(|(time, _)| time / self.slot_ms >= oldest);
        let (mut faults, mut total) = (0_u64, 0_u64);
        recent.for_each(|(_, fault)| {
            total += 1;
            faults += u64::from(*fault);
        });
        match threshold {
            Threshold::Count(limit) => faults >= u64::from(limit),
            Threshold::Percentage { percent, min_requests } => {
                total >= u64::from(min_requests) && faults * 100 >= total * u64::from(percent)
            }
            Threshold::Consecutive(limit) => {
                let in_row = self.events.iter().rev().take_while(|(_, fault)| *fault).count();
                in_row >= limit as usize
            }
        }
    }

    /// The expected report, as a word.
    fn finish(
        &mut self,
        begun: (u32, Option<u64>),
        observed: Observed,
        settings: &BreakerSettings,
        now: u64,
    ) -> &'static str {
        let (generation, probe) = begun;
        let is_probe = probe.is_some();
        if generation != self.generation {
            return "nothing";
        }
        match (self.phase, observed) {
            (Phase::HalfOpen { .. }, Observed::Success) if is_probe => {
                self.enter(Phase::Closed);
                "closed"
            }
            (Phase::HalfOpen { holder, .. }, _) if is_probe && holder != probe => "nothing",
            (Phase::HalfOpen { .. }, Observed::Ignored) if is_probe => {
                self.phase = Phase::HalfOpen { until: now, holder: None };
                "nothing"
            }
            (Phase::HalfOpen { .. }, _) if is_probe => {
                self.failed_probes += 1;
                let open_ms = (30_000_u64 << self.failed_probes.min(9)).min(300_000);
                self.enter(Phase::Open { until: now + open_ms });
                "reopened"
            }
            (Phase::Closed, Observed::Success | Observed::Fault(_)) if !is_probe => {
                self.events.push((now, observed == FAULT));
                let is_reached =
                    |rule: &crate::policy::pool::Rule| self.reached(rule.threshold, now);
                if observed == FAULT && settings.rules.iter().any(is_reached) {
                    self.failed_probes = 0;
                    self.enter(Phase::Open { until: now + 30_000 });
                    return "opened";
                }
                "nothing"
            }
            _ => "nothing",
        }
    }
}

fn word(transition: Option<Transition>) -> &'static str {
    match transition {
        None => "nothing",
        Some(Transition::Closed) => "closed",
        Some(Transition::Opened { .. }) => "opened",
        Some(Transition::Reopened { .. }) => "reopened",
    }
}

fn random_rules(dice: &mut Dice) -> BreakerSettings {
    let thresholds = [
        Threshold::Count(1 + dice.below(6) as u32),
        Threshold::Consecutive(1 + dice.below(5) as u32),
        Threshold::Percentage {
            percent: 20 + dice.below(80) as u8,
            min_requests: 1 + dice.below(8) as u32,
        },
    ];
    let rules = thresholds.into_iter().filter(|_| dice.below(2) == 0).map(rule).collect();
    let mut settings = breaker(rules);
    // Half of the windows are longer than every open time, so that only closing can clear them.
    let interval = [Millis::from_secs(30), Millis::from_secs(3_600)][dice.below(2) as usize];
    settings.rules.iter_mut().for_each(|rule| rule.interval = interval);
    settings
}

#[test]
fn the_breaker_agrees_with_the_model_on_any_sequence_of_events() {
    let mut transitions = 0;
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let settings = random_rules(&mut dice);
        let (mut breaker, mut windows) = <(Breaker, RuleWindows)>::default();
        let interval = settings.rules.first().map_or(10, |rule| rule.interval.as_ms());
        let mut model = Model {
            phase: Phase::Closed,
            events: vec![],
            failed_probes: 0,
            generation: 0,
            slot_ms: interval / 10,
        };
        let mut running: Vec<(Ticket, (u32, Option<u64>))> = Vec::new();
        let mut now = 1_000_000;
        for step in 0..400 {
            let place = format!("seed {seed}, step {step}");
            now += if dice.below(10) == 0 { dice.below(60_000) } else { dice.below(1_500) };
            let passage = breaker.passage(&settings, at(now));
            let may_send = !matches!(passage, Passage::Open { .. });
            assert_eq!(may_send, model.may_send(now), "{place}");
            if may_send && (running.is_empty() || dice.below(3) > 0) {
                let is_probe = model.may_probe(now);
                let ticket = match breaker.lease_probe(Lease::Due, &settings, at(now)) {
                    Some(ticket) => ticket,
                    None => breaker.ticket(),
                };
                assert_eq!(ticket.is_probe(), is_probe, "{place}");
                if is_probe {
                    let phase = Phase::HalfOpen { until: now + 30_000, holder: Some(step) };
                    if matches!(model.phase, Phase::HalfOpen { .. }) {
                        model.phase = phase;
                    } else {
                        model.enter(phase);
                    }
                }
                running.push((ticket, (model.generation, is_probe.then_some(step))));
            } else if !running.is_empty() {
                let which = dice.below(running.len() as u64) as usize;
                let (ticket, begun) = running.swap_remove(which);
                let observed = match dice.below(8) {
                    0 => Observed::Ignored,
                    1..4 => Observed::Success,
                    _ => FAULT,
                };
                let expected = model.finish(begun, observed, &settings, now);
                let transition = breaker.observe(
                    &mut windows,
                    ticket,
                    observed,
                    ms(5),
                    None,
                    &settings,
                    at(now),
                    0,
                );
                assert_eq!(word(transition), expected, "{place}");
                transitions += u32::from(transition.is_some());
            }
        }
    }
    assert!(transitions > 1_000, "only {transitions} transitions: the test shows too little");
}

#[test]
fn no_clock_however_wild_keeps_a_breaker_from_its_probe() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let settings = breaker(vec![rule(Threshold::Count(2))]);
        let (mut breaker, mut windows) = <(Breaker, RuleWindows)>::default();
        let mut now = 1_800_000_000_000_u64;
        for _ in 0..100 {
            now = match dice.below(6) {
                0 => dice.roll(),
                1 => now.saturating_sub(dice.below(4_000_000)),
                _ => now.saturating_add(dice.below(5_000)),
            };
            let ticket = breaker.lease_probe(Lease::Due, &settings, at(now));
            let ticket = ticket.unwrap_or_else(|| breaker.ticket());
            let _ = breaker.observe(
                &mut windows,
                ticket,
                if dice.below(3) == 0 { Observed::Success } else { FAULT },
                ms(dice.roll()),
                Some(ms(dice.roll())),
                &settings,
                at(now),
                dice.roll(),
            );
        }
        // From any state, with a steady clock, a probe is possible after the longest open time.
        now = 1_800_000_000_000 + 300_000;
        let passage = breaker.passage(&settings, at(now));
        let later = breaker.passage(&settings, at(now + 300_000));
        let is_stuck = matches!(later, Passage::Open { .. });
        assert!(!is_stuck, "seed {seed}: {passage:?} then {later:?}, {breaker:?}");
    }
}
