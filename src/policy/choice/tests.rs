use super::*;
use crate::policy::backend::breaker::State;
use crate::policy::backend::headroom::Headroom;
use crate::policy::fixtures::{at, backend, ms, pool};
use std::collections::HashMap;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOW: Timestamp = Timestamp::from_ms(100_000);
const ANY: Needs =
    Needs { operation: OperationSet(1), prompt_tokens: 0, tokens: 0, affinity: None };

fn asking(needs: &Needs, tried: BackendSet, roll: u64) -> Situation<'_> {
    let (judged, throttled) = (BackendSet::EMPTY, BackendSet::EMPTY);
    Situation { needs, tried, judged, throttled, denied: Denials::none(), now: NOW, roll }
}

fn pick(policy: &PoolPolicy, records: &[BackendRecord], needs: &Needs, roll: u64) -> usize {
    let mut rotation = Rotation::new(policy);
    select(policy, records, &asking(needs, BackendSet::EMPTY, roll), &mut rotation)
        .unwrap()
        .backend
        .position()
}

fn gated(until: u64) -> BackendRecord {
    let mut record = BackendRecord::default();
    record.gate.until = at(until);
    record
}

fn open(until: u64) -> BackendRecord {
    let mut record = BackendRecord::default();
    record.breaker.state = State::Open { until: at(until), failed_probes: 0 };
    record
}

fn ramping() -> BackendRecord {
    let mut record = BackendRecord::default();
    record.breaker.state = State::Closed { since: NOW, successes: 0 };
    record
}

fn exhausted(policy: &PoolPolicy, records: &[BackendRecord], tried: BackendSet) -> Unavailable {
    let mut rotation = Rotation::new(policy);
    select(policy, records, &asking(&ANY, tried, 0), &mut rotation).unwrap_err()
}

#[test]
fn a_backend_that_throttled_the_request_for_no_time_is_throttled_all_the_same() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let both = BackendSet::EMPTY.with(backend(0)).with(backend(1));
    let unavailable = |throttled| {
        let situation = Situation { throttled, ..asking(&ANY, both, 0) };
        select(&policy, &[][..], &situation, &mut Rotation::new(&policy)).unwrap_err()
    };
    assert!(unavailable(both).throttled);
    assert!(!unavailable(BackendSet::EMPTY.with(backend(0))).throttled, "the other one failed");
}

#[test]
fn a_much_smaller_request_passes_a_gate_when_nobody_else_is_left() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let mut records = [BackendRecord::default(); 2];
    for record in &mut records {
        record.gate.close(NOW, Some(ms(5_000)), 1_000, &policy.throttle);
    }
    let last = |tokens, tried| {
        let (needs, mut rotation) = (Needs { tokens, ..ANY }, Rotation::new(&policy));
        let situation = asking(&needs, tried, 0);
        assert!(select(&policy, &records[..], &situation, &mut rotation).is_err());
        select_last(&policy, &records[..], &situation, &mut rotation)
    };
    assert_eq!(last(500, BackendSet::EMPTY).unwrap().backend, backend(0));
    assert_eq!(last(500, BackendSet::EMPTY.with(backend(0))).unwrap().backend, backend(1));
    for tokens in [0, 501] {
        assert!(last(tokens, BackendSet::EMPTY).unwrap_err().throttled, "{tokens}");
    }
}

#[test]
fn a_backend_that_cannot_take_the_operation_or_the_prompt_is_skipped() {
    let mut policy = pool(&[(1, 1), (2, 1), (3, 1)]);
    policy.members[0].operations = OperationSet(2);
    policy.members[1].max_prompt_tokens = Some(1_000);
    let long = Needs { prompt_tokens: 1_001, ..ANY };
    assert_eq!(pick(&policy, &[], &Needs { prompt_tokens: 1_000, ..ANY }, 0), 1);
    assert_eq!(pick(&policy, &[], &long, 0), 2);
    let choice = Choice { backend: backend(2), tier: 2, probe: None };
    let reasons = skipped(&policy, &[], &asking(&long, BackendSet::EMPTY, 0), Some(&choice));
    let expected = [(backend(0), Ineligible::Operation), (backend(1), Ineligible::PromptLength)];
    assert_eq!(reasons, expected);
}

#[test]
fn a_prompt_is_too_long_only_when_no_backend_with_the_operation_takes_it() {
    let mut policy = pool(&[(1, 1), (2, 1), (3, 1)]);
    policy.members[0].operations = OperationSet(2);
    policy.members[1].max_prompt_tokens = Some(1_000);
    let of = |prompt_tokens| Needs { prompt_tokens, ..ANY };
    assert_eq!(too_long_for(&policy, &of(u64::MAX)), None, "one has no limit");
    policy.members[2].max_prompt_tokens = Some(500);
    assert_eq!(
        too_long_for(&policy, &of(1_001)),
        Some(1_000),
        "a backend without the operation does not help"
    );
    for taken in [0, 500, 1_000] {
        assert_eq!(too_long_for(&policy, &of(taken)), None, "{taken}");
    }
    policy.members[1].operations = OperationSet(1);
    policy.members[2].operations = OperationSet(1);
    let unserved = Needs { operation: OperationSet(4), ..of(u64::MAX) };
    assert_eq!(too_long_for(&policy, &unserved), None, "its length is not the reason");
}

#[test]
fn a_pool_with_one_backend_does_not_enforce_its_gate() {
    let policy = pool(&[(1, 1)]);
    assert_eq!(pick(&policy, &[gated(160_000)], &ANY, 0), 0);
    let tried = BackendSet::EMPTY.with(backend(0));
    let expected = Unavailable { soonest: Some(at(160_000)), throttled: true, is_undecided: true };
    assert_eq!(exhausted(&policy, &[gated(160_000)], tried), expected);
}

#[test]
fn a_ramp_takes_its_part_of_the_picks() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let ramped = (0..10_000).filter(|roll| pick(&policy, &[ramping()], &ANY, *roll) == 0);
    let count = ramped.count();
    assert!((900..1_100).contains(&count), "{count}");
}

#[test]
fn a_ramp_never_exhausts_a_pool() {
    let policy = pool(&[(1, 1), (1, 1)]);
    for roll in 0..200 {
        assert_eq!(pick(&policy, &[ramping(), open(130_000)], &ANY, roll), 0);
    }
}

#[test]
fn a_backend_whose_open_time_is_over_is_chosen_as_a_probe() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let mut rotation = Rotation::new(&policy);
    let mut choose = |records: &[BackendRecord]| {
        let tried = BackendSet::EMPTY;
        let choice = select(&policy, records, &asking(&ANY, tried, 0), &mut rotation).unwrap();
        rotation.take();
        choice
    };
    assert_eq!(
        choose(&[open(100_000)]),
        Choice { backend: backend(0), tier: 0, probe: Some(Lease::Due) }
    );
    assert_eq!(choose(&[open(100_001)]), Choice { backend: backend(1), tier: 1, probe: None });
}

#[test]
fn the_soonest_recovery_is_returned_and_whether_throttling_is_the_only_reason() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let none = BackendSet::EMPTY;
    let unavailable = |soonest, throttled| Unavailable {
        soonest: Some(at(soonest)),
        throttled,
        is_undecided: true,
    };
    let throttled = [gated(104_000), gated(102_000)];
    assert_eq!(exhausted(&policy, &throttled, none), unavailable(102_000, true));
    let mixed = [gated(104_000), open(103_000)];
    assert_eq!(exhausted(&policy, &mixed, none), unavailable(103_000, false));
    let mut both = gated(104_000);
    both.breaker = open(120_000).breaker;
    assert_eq!(exhausted(&policy, &[both, both], none), unavailable(120_000, false));
    let tried = none.with(backend(0)).with(backend(1));
    assert_eq!(exhausted(&policy, &[], tried), unavailable(100_000, false));
    assert_eq!(exhausted(&policy, &throttled, tried), unavailable(102_000, true));
}

#[test]
fn a_backend_that_refused_the_request_does_not_decide_the_delay() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let unavailable = |judged: BackendSet, tried, records: &[BackendRecord]| {
        let request = Situation { judged, ..asking(&ANY, tried, 0) };
        select(&policy, records, &request, &mut Rotation::new(&policy)).unwrap_err()
    };
    let first = BackendSet::EMPTY.with(backend(0));
    let gate = [BackendRecord::default(), gated(104_000)];
    let left = Unavailable { soonest: Some(at(104_000)), throttled: true, is_undecided: true };
    assert_eq!(unavailable(first, first, &gate), left);
    let both = first.with(backend(1));
    let nobody = Unavailable { soonest: None, throttled: false, is_undecided: false };
    assert_eq!(unavailable(both, both, &[]), nobody);
}

#[test]
fn backends_that_could_never_serve_the_request_do_not_decide_the_reply() {
    let mut policy = pool(&[(1, 1), (2, 1)]);
    policy.members[1].operations = OperationSet(2);
    let expected = Unavailable { soonest: Some(at(104_000)), throttled: true, is_undecided: true };
    assert_eq!(exhausted(&policy, &[gated(104_000)], BackendSet::EMPTY), expected);
    policy.members[0].operations = OperationSet(2);
    let never = Unavailable { soonest: None, throttled: false, is_undecided: false };
    assert_eq!(exhausted(&policy, &[], BackendSet::EMPTY), never);
}

#[test]
fn little_headroom_means_a_smaller_share() {
    let policy = pool(&[(1, 10), (1, 10)]);
    let full = Headroom { permille: 0, at: NOW };
    let records = [BackendRecord { headroom: full, ..Default::default() }];
    let mut rotation = Rotation::new(&policy);
    let scarce = (0..2_100).filter(|_| {
        let none = BackendSet::EMPTY;
        let choice = select(&policy, &records, &asking(&ANY, none, 0), &mut rotation);
        rotation.take();
        choice.unwrap().backend == backend(0)
    });
    assert_eq!(scarce.count(), 100);
}

#[test]
fn affinity_follows_the_weights_and_moves_only_what_it_must() {
    let policy = pool(&[(1, 3), (1, 1), (1, 0), (2, 9)]);
    let backend_of = |records: &[BackendRecord]| -> HashMap<u64, usize> {
        let by = |affinity| Needs { affinity: Some(affinity), ..ANY };
        (0..10_000).map(|value| (value, pick(&policy, records, &by(value), 0))).collect()
    };
    let all = backend_of(&[]);
    let first = all.values().filter(|position| **position == 0).count();
    assert!((7_350..7_650).contains(&first), "{first}");
    assert!(all.values().all(|position| *position < 2));
    let without_first = backend_of(&[gated(160_000)]);
    assert!(without_first.values().all(|position| *position == 1));
    let policy = pool(&[(1, 1), (1, 1), (1, 1)]);
    for value in 0..1_000 {
        let needs = Needs { affinity: Some(value), ..ANY };
        let before = pick(&policy, &[], &needs, 0);
        let after = pick(&policy, &[gated(160_000)], &needs, 0);
        assert!(before == 0 || before == after, "{value}");
    }
}

#[test]
fn only_backends_up_to_the_chosen_tier_are_in_the_trail() {
    let policy = pool(&[(1, 1), (2, 1), (2, 1), (3, 1)]);
    let records = [gated(100_080), open(120_000), BackendRecord::default(), gated(100_090)];
    let choice = Choice { backend: backend(2), tier: 1, probe: None };
    let none = BackendSet::EMPTY;
    let reasons = skipped(&policy, &records, &asking(&ANY, none, 0), Some(&choice));
    let gate = (backend(0), Ineligible::Gate { until: at(100_080) });
    let breaker = (backend(1), Ineligible::Breaker { until: at(120_000) });
    assert_eq!(reasons, [gate, breaker]);
    let tried = none.with(backend(0));
    let reasons = skipped(&policy, &records, &asking(&ANY, tried, 0), Some(&choice));
    assert_eq!(reasons, [breaker]);
    assert_eq!(skipped(&policy, &records, &asking(&ANY, none, 0), None).len(), 3);
}

#[test]
fn a_budget_without_room_moves_the_request_and_counts_as_throttling() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let mut rotation = Rotation::new(&policy);
    let mut ask = |denied: &Denials, records: &[BackendRecord]| {
        let request = Situation { denied, ..asking(&ANY, BackendSet::EMPTY, 0) };
        let choice = select(&policy, records, &request, &mut rotation);
        rotation.take();
        (choice, skipped(&policy, records, &request, choice.as_ref().ok()))
    };
    let mut denied = Denials::NONE;
    denied.budget(backend(0), at(103_000));
    let (choice, reasons) = ask(&denied, &[]);
    assert_eq!(choice.unwrap().backend, backend(1));
    assert_eq!(reasons, [(backend(0), Ineligible::Budget { until: at(103_000) })]);
    let both = Unavailable { soonest: Some(at(103_000)), throttled: true, is_undecided: true };
    assert_eq!(ask(&denied, &[gated(100_500), gated(109_000)]).0, Err(both));
    let faulty = Unavailable { soonest: Some(at(103_000)), throttled: false, is_undecided: true };
    assert_eq!(ask(&denied, &[gated(100_500), open(109_000)]).0, Err(faulty));
    denied.budget(backend(0), NOW);
    assert_eq!(ask(&denied, &[]).0.unwrap().backend, backend(0), "it has room again");
}

#[test]
fn a_pool_with_one_backend_enforces_its_budget() {
    let policy = pool(&[(1, 1)]);
    let mut denied = Denials::NONE;
    denied.budget(backend(0), at(103_000));
    let request = Situation { denied: &denied, ..asking(&ANY, BackendSet::EMPTY, 0) };
    let mut rotation = Rotation::new(&policy);
    let none = select(&policy, &[], &request, &mut rotation);
    assert_eq!(
        none,
        Err(Unavailable { soonest: Some(at(103_000)), throttled: true, is_undecided: true })
    );
}

#[test]
fn a_backend_without_credential_is_skipped_and_is_not_throttled() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let mut denied = Denials::NONE;
    denied.credential(backend(0));
    let request = Situation { denied: &denied, ..asking(&ANY, BackendSet::EMPTY, 0) };
    let choice = Choice { backend: backend(1), tier: 1, probe: None };
    let mut rotation = Rotation::new(&policy);
    assert_eq!(select(&policy, &[], &request, &mut rotation), Ok(choice));
    let reasons = skipped(&policy, &[], &request, Some(&choice));
    assert_eq!(reasons, [(backend(0), Ineligible::Credential)]);
    let gated = [BackendRecord::default(), gated(104_000)];
    let none = select(&policy, &gated, &request, &mut rotation);
    assert_eq!(
        none,
        Err(Unavailable { soonest: Some(at(104_000)), throttled: false, is_undecided: true })
    );
}
