use super::*;
use crate::policy::fixtures::{at, breaker, ms, pool, rule};
use crate::policy::pool::Threshold;
use crate::policy::window::Counts;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn busy(seed: u64) -> BackendRecord {
    let states = [
        State::Closed { since: at(seed) },
        State::Open { until: at(seed), failed_probes: 3 },
        State::HalfOpen { lease_until: at(seed), failed_probes: 7 },
    ];
    BackendRecord {
        gate: Gate { until: at(seed | 16) },
        breaker: Breaker {
            state: states[usize::try_from(seed % 3).unwrap()],
            epoch: u32::MAX - 5,
            consecutive: [0; 4],
            rule: seed.is_multiple_of(2).then_some(2),
        },
        headroom: Headroom { permille: 77, at: at(seed | 32) },
        served: OperationSet(7),
        denied: 2,
        last_reset: at(seed | 64),
    }
}

fn filled(policy: &PoolPolicy) -> Vec<u8> {
    let mut bytes = PoolRecord::reseat(None, policy);
    for member in &policy.members {
        bytes = PoolRecord::update(Some(&bytes), member.key, |record| *record = busy(member.key))
            .unwrap()
            .0;
    }
    bytes
}

#[test]
fn what_is_written_is_read() {
    let policy = pool(&[(1, 1), (2, 1), (2, 1)]);
    let bytes = filled(&policy);
    assert_eq!(bytes.len(), POOL_HEAD_BYTES + 3 * ENTRY_BYTES);
    assert_eq!(PoolRecord::decode(&bytes, &policy), [busy(1), busy(2), busy(3)]);
}

#[test]
fn a_snapshot_says_what_decoding_all_says() {
    let policy = pool(&[(1, 1), (2, 1), (2, 1)]);
    let mut reordered = policy.clone();
    reordered.members.reverse();
    let whole = filled(&policy);
    for length in [whole.len(), whole.len() - 1, 1, 0] {
        let snapshot = Snapshot::new(whole[..length].to_vec());
        for policy in [&policy, &reordered] {
            let all = PoolRecord::decode(&whole[..length], policy);
            for (position, member) in policy.members.iter().enumerate() {
                let backend = BackendIndex::new(position).unwrap();
                assert_eq!(snapshot.of(backend, member), all[position], "{length} bytes");
            }
        }
    }
}

#[test]
fn an_update_leaves_the_other_backends_untouched() {
    let policy = pool(&[(1, 1), (2, 1), (2, 1)]);
    let bytes = filled(&policy);
    let close = |record: &mut BackendRecord| record.gate.until = at(9_999);
    let (updated, ()) = PoolRecord::update(Some(&bytes), 2, close).unwrap();
    let records = PoolRecord::decode(&updated, &policy);
    assert_eq!((records[0], records[2]), (busy(1), busy(3)));
    assert_eq!(records[1].gate.until, at(9_999));
}

#[test]
fn an_update_by_an_older_configuration_is_dropped() {
    let bytes = filled(&pool(&[(1, 1)]));
    let result = PoolRecord::update(Some(&bytes), 99, |_| ());
    assert_eq!(result.map(|_| ()), Err(NotUpdated::UnknownBackend));
    for damaged in [None, Some(&bytes[..40]), Some(&b""[..]), Some(&b"\x09\x00"[..])] {
        let result = PoolRecord::update(damaged, 1, |_| ());
        assert_eq!(result.map(|_| ()), Err(NotUpdated::Unreadable), "{damaged:?}");
    }
}

#[test]
fn a_reload_keeps_the_state_of_backends_whose_name_stays() {
    let old = pool(&[(1, 1), (2, 1), (2, 1)]);
    let mut new = old.clone();
    new.members.reverse();
    new.members[0].key = 50;
    let bytes = PoolRecord::reseat(Some(&filled(&old)), &new);
    let expected = [BackendRecord::default(), busy(2), busy(1)];
    assert_eq!(PoolRecord::decode(&bytes, &new), expected);
    assert_eq!(PoolRecord::decode(&bytes, &old)[2], BackendRecord::default());
}

#[test]
fn a_reload_starts_faults_in_a_row_afresh() {
    let policy = pool(&[(1, 1)]);
    let bytes = PoolRecord::reseat(None, &policy);
    let fault = |record: &mut BackendRecord| record.breaker.consecutive[1] = 4;
    let (bytes, ()) = PoolRecord::update(Some(&bytes), 1, fault).unwrap();
    assert_eq!(PoolRecord::decode(&bytes, &policy)[0].breaker.consecutive[1], 4);
    let bytes = PoolRecord::reseat(Some(&bytes), &policy);
    assert_eq!(PoolRecord::decode(&bytes, &policy)[0].breaker.consecutive[1], 0);
}

#[test]
fn a_record_that_cannot_be_read_is_fresh() {
    let policy = pool(&[(1, 1), (1, 1)]);
    let bytes = filled(&policy);
    let fresh = [BackendRecord::default(); 2];
    for length in 0..bytes.len() {
        assert_eq!(PoolRecord::decode(&bytes[..length], &policy), fresh, "{length} bytes");
    }
    let mut other_version = bytes.clone();
    other_version[0] = 9;
    assert_eq!(PoolRecord::decode(&other_version, &policy), fresh);
    let mut bad_state = bytes;
    bad_state[POOL_HEAD_BYTES + KEY_BYTES + 8] = 3;
    assert_eq!(PoolRecord::decode(&bad_state, &policy), [fresh[0], busy(2)]);
    let (repaired, ()) = PoolRecord::update(Some(&bad_state), 1, |_| ()).unwrap();
    assert_eq!(repaired[POOL_HEAD_BYTES + KEY_BYTES + 8], 0);
}

#[test]
fn a_quota_group_shares_its_gate() {
    let mut policy = pool(&[(1, 1), (2, 1), (2, 1)]);
    policy.members[0].quota_group = Some(7);
    policy.members[2].quota_group = Some(7);
    let fresh = PoolRecord::reseat(None, &policy);
    let gates = |bytes: &[u8]| {
        let records = PoolRecord::decode(bytes, &policy);
        [0, 1, 2].map(|position: usize| records[position].gate.until.as_ms())
    };
    let close = |position| {
        let backend = BackendIndex::new(position).unwrap();
        let closed =
            PoolRecord::close_gate(Some(&fresh), &policy, backend, Some(ms(300)), at(1_000));
        gates(&closed.unwrap())
    };
    assert_eq!(close(0), [1_300, 0, 1_300]);
    assert_eq!(close(1), [0, 1_300, 0]);
    let group = PoolRecord::close_group(Some(&fresh), &policy, 7, Some(ms(300)), at(1_000));
    assert_eq!(gates(&group.unwrap()), [1_300, 0, 1_300]);
    let unknown = PoolRecord::close_group(Some(&fresh), &policy, 8, None, at(1_000));
    assert_eq!(unknown, Err(NotUpdated::UnknownBackend));
}

#[test]
fn counts_survive_the_record_and_not_a_change_of_the_rules() {
    let settings = breaker(vec![rule(Threshold::Count(5))]);
    let count = |windows: &mut RuleWindows| {
        windows.epoch = 9;
        windows.windows[0].add(Counts { faults: 2, total: 3 }, ms(30_000), at(70_000));
        *windows
    };
    let (bytes, written) = WindowsRecord::update(None, &settings, count);
    assert_eq!(WindowsRecord::decode(Some(&bytes), &settings), written);
    let others = breaker(vec![rule(Threshold::Count(6))]);
    assert_eq!(WindowsRecord::decode(Some(&bytes), &others), RuleWindows::default());
    for length in 0..bytes.len() {
        let read = WindowsRecord::decode(Some(&bytes[..length]), &settings);
        assert_eq!(read, RuleWindows::default(), "{length} bytes");
    }
}

#[test]
fn keys_are_stable() {
    assert_eq!(key_of(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(key_of("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(key_of("foobar"), 0x8594_4171_f739_67e8);
    assert_eq!(pool_key("gpt-4o"), "spillway/pool/gpt-4o");
    assert_eq!(budget_key("france"), "spillway/budget/france");
    assert_eq!(consumer_key("7"), "spillway/consumer/7");
    assert_eq!(consumer_slot_key(7), "spillway/consumers/7");
}
