use super::*;
use crate::policy::backend::breaker::RuleWindows;
use crate::policy::fixtures::{at, breaker, ms, pool, rule};
use crate::policy::pool::Threshold;
use crate::policy::window::Counts;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn busy(seed: u64) -> BackendRecord {
    let states = [
        State::Closed { since: at(seed), successes: seed as u8 },
        State::Open { until: at(seed), failed_probes: 3 },
        State::HalfOpen { lease_until: at(seed), failed_probes: 7 },
    ];
    BackendRecord {
        gate: Gate { until: at(seed | 16), tokens: seed as u32 },
        breaker: Breaker {
            state: states[usize::try_from(seed % 3).unwrap()],
            epoch: u32::MAX - 5,
            consecutive: [0; 4],
            rule: seed.is_multiple_of(2).then_some(2),
            early: Early { from: at(seed | 3), due: at(seed | 5) },
        },
        headroom: Headroom { permille: 77, at: at(seed | 32) },
        served: OperationSet(1 << 31 | 5),
        denied: 2,
        last_reset: at(seed | 64),
        completed_at: at(seed | 9),
    }
}

fn filled(policy: &PoolPolicy) -> Vec<u8> {
    let mut bytes = PoolRecord::reseat(None, policy, at(0)).bytes;
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
fn a_snapshot_reads_the_same_as_decoding_everything() {
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
fn an_update_for_a_backend_that_the_record_lacks_adds_it() {
    let bytes = filled(&pool(&[(1, 1)]));
    let (bytes, ()) = PoolRecord::update(Some(&bytes), 99, |record| *record = busy(99)).unwrap();
    let mut policy = pool(&[(1, 1), (1, 1)]);
    policy.members[1].key = 99;
    assert_eq!(PoolRecord::decode(&bytes, &policy), [busy(1), busy(99)]);
    for damaged in [None, Some(&bytes[..40]), Some(&b""[..]), Some(&b"\x01\x01"[..])] {
        let result = PoolRecord::update(damaged, 1, |_| ());
        assert_eq!(result.map(|_| ()), Err(NotUpdated::Unreadable), "{damaged:?}");
    }
}

#[test]
fn a_gate_of_a_quota_group_closes_for_members_that_the_record_lacks() {
    let mut policy = pool(&[(1, 1), (2, 1)]);
    policy.members.iter_mut().for_each(|member| member.quota_group = Some(7));
    let bytes = PoolRecord::reseat(None, &pool(&[(1, 1)]), at(0)).bytes;
    let first = BackendIndex::new(0).unwrap();
    let bytes =
        PoolRecord::close_gate(Some(&bytes), &policy, first, Some(ms(300)), 0, at(1_000)).unwrap();
    let gates = PoolRecord::decode(&bytes, &policy).into_iter().map(|record| record.gate.until);
    assert_eq!(gates.collect::<Vec<_>>(), [at(1_300), at(1_300)]);
}

/// A pool of backends with these keys.
fn pool_of(keys: std::ops::Range<u64>) -> PoolPolicy {
    let mut policy =
        pool(&vec![(1, 1); usize::try_from(keys.end.saturating_sub(keys.start)).unwrap()]);
    policy.members.iter_mut().zip(keys).for_each(|(member, key)| member.key = key);
    policy
}

#[test]
fn two_configurations_of_one_pool_keep_each_others_backends() {
    let (left, right) = (pool_of(0..3), pool_of(2..5));
    let mut bytes = filled(&left);
    for _ in 0..5 {
        bytes = PoolRecord::reseat(Some(&bytes), &right, at(50)).bytes;
        bytes = PoolRecord::update(Some(&bytes), 4, |record| *record = busy(4)).unwrap().0;
        bytes = PoolRecord::reseat(Some(&bytes), &left, at(50)).bytes;
    }
    let mut both = pool_of(0..5);
    assert_eq!(PoolRecord::decode(&bytes, &left), [busy(0), busy(1), busy(2)]);
    both.members.remove(3);
    assert_eq!(PoolRecord::decode(&bytes, &both), [busy(0), busy(1), busy(2), busy(4)]);
    assert_eq!(bytes.len(), POOL_HEAD_BYTES + 4 * ENTRY_BYTES, "nothing is known about 3");
}

#[test]
fn a_record_is_bounded_and_counts_what_it_drops() {
    let now = at(LONGEST_RAMP.as_ms() + 1_000);
    let closed =
        |until| BackendRecord { gate: Gate { until, tokens: 0 }, ..BackendRecord::default() };
    let mut bytes = PoolRecord::reseat(None, &pool_of(0..1), now).bytes;
    for key in 1..255 {
        let gate = if key % 2 == 0 { at(1) } else { now.plus(ms(5_000)) };
        bytes = PoolRecord::update(Some(&bytes), key, |record| *record = closed(gate)).unwrap().0;
    }
    let full = PoolRecord::update(Some(&bytes), 1_000, |_| ()).map(|_| ());
    assert_eq!(full, Err(NotUpdated::Full));
    // 64 new members leave room for 191 of the others. The gates of 127 of those are still closed.
    let new = pool_of(1_000..1_064);
    let Reseated { bytes, dropped } = PoolRecord::reseat(Some(&bytes), &new, now);
    assert_eq!((bytes[1], dropped), (255, 0));
    let mut odd = pool_of(0..127);
    odd.members.iter_mut().enumerate().for_each(|(i, member)| member.key = 2 * i as u64 + 1);
    let kept = Snapshot::new(bytes.clone());
    for member in &odd.members {
        let record = kept.of(BackendIndex::new(0).unwrap(), member);
        assert_eq!(record.gate.until, now.plus(ms(5_000)), "{}", member.key);
    }
    // With 191 others that matter and 64 members that matter too, a pool of 64 others must drop those members.
    let mut bytes = bytes;
    for member in &new.members {
        bytes = PoolRecord::update(Some(&bytes), member.key, |record| *record = busy(1)).unwrap().0;
    }
    let other = PoolRecord::reseat(Some(&bytes), &pool_of(2_000..2_064), now);
    assert_eq!((other.bytes[1], other.dropped), (255, 0), "idle ones go first");
    let Reseated { bytes, dropped } = PoolRecord::reseat(
        Some(&(0..255).fold(other.bytes, |bytes, position| {
            let at = POOL_HEAD_BYTES + position * ENTRY_BYTES;
            let key = u64::from_le_bytes(bytes[at..at + KEY_BYTES].try_into().unwrap());
            PoolRecord::update(Some(&bytes), key, |record| *record = busy(1)).unwrap().0
        })),
        &pool_of(3_000..3_010),
        now,
    );
    assert_eq!((bytes[1], dropped), (255, 10));
}

#[test]
fn a_record_of_an_older_version_keeps_its_fields() {
    let policy = pool(&[(1, 1), (2, 1)]);
    let new = filled(&policy);
    let fresh = BackendRecord::default();
    let of_version_3 =
        |record: BackendRecord| BackendRecord { gate: Gate { tokens: 0, ..record.gate }, ..record };
    let of_version_2 = |record: BackendRecord| BackendRecord {
        completed_at: fresh.completed_at,
        breaker: Breaker { early: fresh.breaker.early, ..record.breaker },
        ..of_version_3(record)
    };
    let of_version_1 = |record| BackendRecord {
        served: fresh.served,
        denied: fresh.denied,
        last_reset: fresh.last_reset,
        ..of_version_2(record)
    };
    for (version, entry_bytes, expected) in [
        (1, ENTRY_BYTES_V1, [busy(1), busy(2)].map(of_version_1)),
        (2, ENTRY_BYTES_V2, [busy(1), busy(2)].map(of_version_2)),
        (3, ENTRY_BYTES_V3, [busy(1), busy(2)].map(of_version_3)),
    ] {
        let entries = new[POOL_HEAD_BYTES..].chunks(ENTRY_BYTES);
        let old =
            entries.fold(vec![version, 2], |old, entry| [&old, &entry[..entry_bytes]].concat());
        assert_eq!(PoolRecord::decode(&old, &policy), expected, "version {version}");
        let (updated, ()) = PoolRecord::update(Some(&old), 2, |_| ()).unwrap();
        assert_eq!(PoolRecord::decode(&updated, &policy), expected);
        assert_eq!(PoolRecord::reseat(Some(&old), &policy, at(0)).bytes, updated);
        let cut = old.split_last().unwrap().1;
        assert_eq!(PoolRecord::decode(cut, &policy), [fresh; 2]);
    }
}

#[test]
fn a_reload_keeps_the_state_of_backends_whose_name_stays() {
    let old = pool(&[(1, 1), (2, 1), (2, 1)]);
    let mut new = old.clone();
    new.members.reverse();
    new.members[0].key = 50;
    let bytes = PoolRecord::reseat(Some(&filled(&old)), &new, at(0)).bytes;
    let expected = [BackendRecord::default(), busy(2), busy(1)];
    assert_eq!(PoolRecord::decode(&bytes, &new), expected);
    assert_eq!(
        PoolRecord::decode(&bytes, &old),
        [busy(1), busy(2), busy(3)],
        "requests of the old rules still run"
    );
}

#[test]
fn a_reload_starts_faults_in_a_row_afresh() {
    let policy = pool(&[(1, 1)]);
    let bytes = PoolRecord::reseat(None, &policy, at(0)).bytes;
    let fault = |record: &mut BackendRecord| record.breaker.consecutive[1] = 4;
    let (bytes, ()) = PoolRecord::update(Some(&bytes), 1, fault).unwrap();
    assert_eq!(PoolRecord::decode(&bytes, &policy)[0].breaker.consecutive[1], 4);
    let bytes = PoolRecord::reseat(Some(&bytes), &policy, at(0)).bytes;
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
    other_version[0] = POOL_VERSION + 1;
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
    let fresh = PoolRecord::reseat(None, &policy, at(0)).bytes;
    let gates = |bytes: &[u8]| {
        let records = PoolRecord::decode(bytes, &policy);
        [0, 1, 2].map(|position: usize| records[position].gate.until.as_ms())
    };
    let close = |position| {
        let backend = BackendIndex::new(position).unwrap();
        let closed =
            PoolRecord::close_gate(Some(&fresh), &policy, backend, Some(ms(300)), 0, at(1_000));
        gates(&closed.unwrap())
    };
    assert_eq!(close(0), [1_300, 0, 1_300]);
    assert_eq!(close(1), [0, 1_300, 0]);
    let group = PoolRecord::close_group(Some(&fresh), &policy, 7, Some(ms(300)), 0, at(1_000));
    assert_eq!(gates(&group.unwrap()), [1_300, 0, 1_300]);
    let unknown = PoolRecord::close_group(Some(&fresh), &policy, 8, None, 0, at(1_000));
    assert_eq!(unknown, Err(NotUpdated::UnknownBackend));
}

#[test]
fn a_record_of_a_newer_version_is_distinguished() {
    assert!(is_newer(&[3], 2) && is_newer(&[u8::MAX, 0], 2));
    assert!(!is_newer(&[2, 9], 2) && !is_newer(&[0], 2) && !is_newer(&[], 2));
}

fn two_faults(windows: &mut RuleWindows) -> RuleWindows {
    windows.epoch = 9;
    windows.windows[0].add(Counts { faults: 2, total: 3 }, ms(30_000), at(70_000));
    *windows
}

#[test]
fn counts_survive_the_record_and_not_a_change_of_the_rules() {
    let settings = breaker(vec![rule(Threshold::Count(5))]);
    let (bytes, written) = WindowsRecord::update(None, &settings, two_faults);
    assert_eq!(WindowsRecord::decode(Some(&bytes), &settings), written);
    let others = breaker(vec![rule(Threshold::Count(6))]);
    assert_eq!(WindowsRecord::decode(Some(&bytes), &others), RuleWindows::default());
    for length in 0..bytes.len() {
        let read = WindowsRecord::decode(Some(&bytes[..length]), &settings);
        assert_eq!(read, RuleWindows::default(), "{length} bytes");
    }
}

#[test]
fn counts_of_other_rules_stay_as_they_are_and_the_record_is_bounded() {
    let with = |count| breaker(vec![rule(Threshold::Count(count))]);
    let (mut bytes, written) = WindowsRecord::update(None, &with(1), two_faults);
    let mut longest = 0;
    for count in 2..20 {
        bytes = WindowsRecord::update(Some(&bytes), &with(count), two_faults).0;
        bytes = WindowsRecord::update(Some(&bytes), &with(1), |_| ()).0;
        assert_eq!(WindowsRecord::decode(Some(&bytes), &with(1)), written, "{count}");
        assert_eq!(WindowsRecord::decode(Some(&bytes), &with(count)), written, "{count}");
        longest = longest.max(bytes.len());
    }
    assert_eq!(longest, 1_457);
    assert_eq!(WindowsRecord::decode(Some(&bytes), &with(5)), RuleWindows::default());
}
