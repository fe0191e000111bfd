//! Which backend is chosen.

use crate::policy::backend::breaker::State;
use crate::policy::backend::records::BackendRecord;
use crate::policy::choice::{Choice, Denials, Needs, Rotation, Situation, Unavailable, select};
use crate::policy::fixtures::{Dice, at, pool};
use crate::policy::pool::{BackendIndex, BackendSet, OperationSet, PoolPolicy};
use crate::policy::time::Timestamp;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOW: u64 = 1_000_000;
const ANY: Needs =
    Needs { operation: OperationSet(1), prompt_tokens: 0, tokens: 0, affinity: None };

/// A pool with its records and one worker's rotation.
struct Bench {
    policy: PoolPolicy,
    records: Vec<BackendRecord>,
    rotation: Rotation,
}

impl Bench {
    fn new(backends: &[(u8, u8)]) -> Self {
        let policy = pool(backends);
        let rotation = Rotation::new(&policy);
        Self { records: vec![BackendRecord::default(); backends.len()], rotation, policy }
    }

    fn choose(&mut self, tried: BackendSet, now: u64) -> Result<Choice, Unavailable> {
        let (policy, records) = (&self.policy, &self.records);
        let denied = Denials::none();
        let judged = BackendSet::EMPTY;
        let request = Situation {
            needs: &ANY,
            tried,
            judged,
            throttled: BackendSet::EMPTY,
            denied,
            now: at(now),
            roll: 0,
        };
        let choice = select(policy, records, &request, &mut self.rotation);
        self.rotation.take();
        choice
    }

    fn position(&mut self, now: u64) -> usize {
        self.choose(BackendSet::EMPTY, now).unwrap().backend.position()
    }

    fn counts(&mut self, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; self.records.len()];
        (0..picks).for_each(|_| counts[self.position(NOW)] += 1);
        counts
    }

    fn throttle(&mut self, position: usize, until: u64) {
        self.records[position].gate.until = at(until);
    }

    fn open(&mut self, position: usize, until: u64) {
        self.records[position].breaker.state = State::Open { until: at(until), failed_probes: 0 };
    }
}

#[test]
fn the_lowest_priority_number_wins_while_any_of_its_backends_is_eligible() {
    let mut bench = Bench::new(&[(5, 1), (1, 1), (1, 1), (3, 1)]);
    bench.throttle(1, NOW + 10);
    assert_eq!(bench.counts(100), [0, 0, 100, 0]);
}

#[test]
fn the_next_tier_serves_only_when_the_whole_tier_is_out() {
    let mut bench = Bench::new(&[(1, 1), (1, 1), (2, 1), (3, 1)]);
    bench.throttle(0, NOW + 10);
    assert_eq!(bench.counts(10), [0, 10, 0, 0]);
    bench.open(1, NOW + 10);
    assert_eq!(bench.counts(10), [0, 0, 10, 0]);
    let choice = bench.choose(BackendSet::EMPTY, NOW).unwrap();
    assert_eq!((choice.tier, choice.probe), (1, None));
}

#[test]
fn the_upper_tier_is_used_again_in_the_millisecond_of_its_recovery() {
    let mut bench = Bench::new(&[(1, 1), (2, 1)]);
    bench.throttle(0, NOW + 300);
    assert_eq!(bench.position(NOW + 299), 1);
    assert_eq!(bench.position(NOW + 300), 0);
}

#[test]
fn shares_follow_the_weights_exactly() {
    assert_eq!(Bench::new(&[(1, 3), (1, 1)]).counts(10_000), [7_500, 2_500]);
    assert_eq!(Bench::new(&[(1, 50), (1, 30), (1, 20)]).counts(10_000), [5_000, 3_000, 2_000]);
    assert_eq!(Bench::new(&[(1, 100); 4]).counts(10_000), [2_500; 4]);
    assert_eq!(Bench::new(&[(1, 7)]).counts(10), [10]);
}

#[test]
fn a_member_that_is_out_leaves_its_share_to_the_others_by_weight() {
    let mut bench = Bench::new(&[(1, 4), (1, 3), (1, 1)]);
    bench.counts(1_003);
    bench.throttle(0, NOW + 10);
    let counts = bench.counts(4_000);
    assert!(counts[1].abs_diff(3_000) <= 1 && counts[2].abs_diff(1_000) <= 1, "{counts:?}");
    bench.throttle(0, 0);
    let counts = bench.counts(8_000);
    for (count, expected) in counts.iter().zip([4_000_usize, 3_000, 1_000]) {
        assert!(count.abs_diff(expected) <= 1, "{counts:?}");
    }
}

#[test]
fn weight_zero_serves_only_when_nothing_else_of_its_tier_can() {
    let mut bench = Bench::new(&[(1, 0), (1, 1), (1, 0), (2, 1)]);
    assert_eq!(bench.counts(10), [0, 10, 0, 0]);
    bench.throttle(1, NOW + 10);
    assert_eq!(bench.counts(10), [5, 0, 5, 0]);
}

#[test]
fn backends_that_were_tried_are_not_chosen_again() {
    let mut bench = Bench::new(&[(1, 1), (1, 1), (2, 1)]);
    let mut tried = BackendSet::EMPTY;
    for _ in 0..3 {
        let choice = bench.choose(tried, NOW).unwrap();
        assert!(!tried.contains(choice.backend));
        tried = tried.with(choice.backend);
    }
    let unavailable = bench.choose(tried, NOW).unwrap_err();
    assert_eq!(
        unavailable,
        Unavailable { soonest: Some(at(NOW)), throttled: false, is_undecided: true }
    );
}

#[test]
fn failing_over_does_not_disturb_the_alternation_of_first_attempts() {
    let mut bench = Bench::new(&[(1, 1), (1, 1)]);
    for round in 0..100 {
        let first = bench.choose(BackendSet::EMPTY, NOW).unwrap().backend;
        assert_eq!(first.position(), round % 2);
        let second = bench.choose(BackendSet::EMPTY.with(first), NOW).unwrap().backend;
        assert_ne!(first, second);
    }
}

#[test]
fn the_same_arguments_give_the_same_choice() {
    for seed in 0..100 {
        let (mut left, mut right) = (random_pool(seed), random_pool(seed));
        for _ in 0..50 {
            let none = BackendSet::EMPTY;
            assert_eq!(left.choose(none, NOW), right.choose(none, NOW), "seed {seed}");
        }
    }
}

#[test]
fn an_empty_pool_and_missing_records_are_safe() {
    let mut empty = Bench::new(&[]);
    let nothing = Unavailable { soonest: None, throttled: false, is_undecided: false };
    assert_eq!(empty.choose(BackendSet::EMPTY, NOW), Err(nothing));
    let mut bench = Bench::new(&[(1, 1), (1, 1)]);
    bench.records.clear();
    assert!(bench.choose(BackendSet::EMPTY, NOW).is_ok());
}

#[test]
fn a_choice_is_always_in_the_first_tier_that_can_serve_and_errors_mean_none_can() {
    for seed in 0..500 {
        let mut bench = random_pool(seed);
        let mut dice = Dice::new(seed);
        let tried = (0..bench.records.len()).filter(|_| dice.below(4) == 0);
        let tried = tried.filter_map(BackendIndex::new).fold(BackendSet::EMPTY, BackendSet::with);
        let expected = expected_tier(&bench, tried, at(NOW));
        match bench.choose(tried, NOW) {
            Ok(choice) => {
                let member = bench.policy.member(choice.backend).unwrap();
                assert_eq!(Some(member.priority), expected, "seed {seed}: {choice:?}");
                assert!(!tried.contains(choice.backend), "seed {seed}");
            }
            Err(unavailable) => {
                assert_eq!(expected, None, "seed {seed}");
                assert!(
                    unavailable.soonest.is_some_and(|soonest| soonest >= at(NOW)),
                    "seed {seed}"
                );
            }
        }
    }
}

/// The priority of the first tier with a backend that was not tried and whose gate and breaker let the request pass.
fn expected_tier(bench: &Bench, tried: BackendSet, now: Timestamp) -> Option<u8> {
    let is_single = bench.records.len() == 1;
    let members = bench.policy.members.iter().zip(&bench.records).enumerate();
    let free = members.filter(|(position, (_, record))| {
        let open = matches!(record.breaker.state, State::Open { until, .. } if until > now);
        let gated = record.gate.until > now && !is_single;
        !tried.contains(BackendIndex::new(*position).unwrap()) && !gated && !open
    });
    free.map(|(_, (member, _))| member.priority).min()
}

fn random_pool(seed: u64) -> Bench {
    let mut dice = Dice::new(seed);
    let size = 1 + dice.below(9);
    let backends: Vec<(u8, u8)> =
        (0..size).map(|_| (dice.below(3) as u8, dice.below(4) as u8)).collect();
    let mut bench = Bench::new(&backends);
    for position in 0..backends.len() {
        match dice.below(3) {
            0 => bench.throttle(position, NOW - 1 + dice.below(3)),
            1 => bench.open(position, NOW - 1 + dice.below(3)),
            _ => (),
        }
    }
    bench
}
