//! Many workers share one store, and every write may lose its race.

use crate::policy::backend::breaker::{Lease, Observation, Observed, Transition};
use crate::policy::backend::records::{PoolRecord, WindowsRecord};
use crate::policy::choice::{Denials, Needs, Rotation, Situation, select};
use crate::policy::failover::retry_budget::{Deposits, withdraw};
use crate::policy::fixtures::{Dice, at, ms, pool};
use crate::policy::pool::{BackendSet, OperationSet, PoolPolicy, Threshold};
use crate::policy::response::classify::Fault;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One entry of shared data: bytes, and a number that every write changes.
struct Store {
    bytes: Vec<u8>,
    cas: u32,
    lost_races: u32,
}

impl Store {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, cas: 1, lost_races: 0 }
    }

    /// Lets `workers` change the entry at the same time. Random numbers interleave their reads and writes, and a
    /// worker starts again when another wrote in between. Returns the result of each worker's last try.
    fn race<R>(
        &mut self,
        workers: usize,
        dice: &mut Dice,
        change: impl Fn(usize, &[u8]) -> (Vec<u8>, R),
    ) -> Vec<R> {
        let mut tries: Vec<Option<(u32, Vec<u8>, R)>> = (0..workers).map(|_| None).collect();
        let mut results: Vec<Option<R>> = (0..workers).map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            let worker = dice.below(workers as u64) as usize;
            if results[worker].is_some() {
                continue;
            }
            match tries[worker].take() {
                Some((cas, bytes, result)) if cas == self.cas => {
                    (self.bytes, self.cas) = (bytes, self.cas + 1);
                    results[worker] = Some(result);
                }
                Some(_) => self.lost_races += 1,
                None => {
                    let (bytes, result) = change(worker, &self.bytes);
                    tries[worker] = Some((self.cas, bytes, result));
                }
            }
        }
        results.into_iter().flatten().collect()
    }
}

const WORKERS: usize = 8;
const FAULT: Observed = Observed::Fault(Fault::Connect);

fn tripping_at(count: u32) -> PoolPolicy {
    let mut policy = pool(&[(1, 1), (2, 1)]);
    policy.breaker.rules[0].threshold = Threshold::Count(count);
    policy
}

#[test]
fn no_fault_is_lost_and_one_worker_alone_reports_the_trip() {
    for seed in 0..50 {
        let mut dice = Dice::new(seed);
        let policy = tripping_at(5);
        let settings = &policy.breaker;
        let mut pool = Store::new(PoolRecord::reseat(None, &policy, at(0)).bytes);
        let mut windows = Store::new(Vec::new());
        let ticket = PoolRecord::decode(&pool.bytes, &policy)[0].breaker.ticket();
        let met = windows.race(WORKERS, &mut dice, |_, bytes| {
            WindowsRecord::update(Some(bytes), settings, |windows| {
                windows.count(settings, ticket.epoch, FAULT, ms(5), at(7_000)).unwrap()
            })
        });
        let counted = WindowsRecord::decode(Some(&windows.bytes), settings).windows[0];
        let counted = counted.counts(settings.rules[0].interval, at(7_000)).faults;
        assert_eq!(counted as usize, WORKERS, "seed {seed}");
        let reached = met.iter().filter(|met| !met.is_empty()).count();
        assert_eq!(reached, WORKERS - 4, "seed {seed}");

        let transitions = pool.race(WORKERS, &mut dice, |worker, bytes| {
            PoolRecord::update(Some(bytes), 1, |record| {
                let observation =
                    Observation { ticket, observed: FAULT, elapsed: ms(5), retry_after: None };
                record.breaker.conclude(&observation, met[worker], settings, at(7_000), 0)
            })
            .unwrap()
        });
        let opened = transitions.iter().flatten().collect::<Vec<_>>();
        assert!(matches!(opened[..], [Transition::Opened { .. }]), "seed {seed}: {opened:?}");
        assert!(pool.lost_races + windows.lost_races > 0, "seed {seed}: no race was lost");
    }
}

#[test]
fn two_workers_that_throttle_at_once_leave_the_later_deadline() {
    for seed in 0..50 {
        let policy = pool(&[(1, 1), (2, 1)]);
        let mut store = Store::new(PoolRecord::reseat(None, &policy, at(0)).bytes);
        store.race(WORKERS, &mut Dice::new(seed), |worker, bytes| {
            PoolRecord::update(Some(bytes), 1 + worker as u64 % 2, |record| {
                record.gate.close(at(1_000), Some(ms(100 * worker as u64)), 0, &policy.throttle);
            })
            .unwrap()
        });
        let records = PoolRecord::decode(&store.bytes, &policy);
        let deadlines = [records[0].gate.until, records[1].gate.until];
        assert_eq!(deadlines, [at(1_600), at(1_700)], "seed {seed}");
    }
}

#[test]
fn of_many_workers_one_gets_the_probe() {
    for seed in 0..50 {
        let mut dice = Dice::new(seed);
        let policy = tripping_at(1);
        let settings = &policy.breaker;
        let mut store = Store::new(PoolRecord::reseat(None, &policy, at(0)).bytes);
        let (bytes, until) = PoolRecord::update(Some(&store.bytes), 1, |record| {
            let ticket = record.breaker.ticket();
            let observed = Observed::Misconfigured;
            let observation = Observation { ticket, observed, elapsed: ms(5), retry_after: None };
            record.breaker.conclude(&observation, Default::default(), settings, at(1_000), 0)
        })
        .unwrap();
        let Some(Transition::Opened { until, .. }) = until else { panic!("{until:?}") };
        store.bytes = bytes;
        let tickets = store.race(WORKERS, &mut dice, |_, bytes| {
            PoolRecord::update(Some(bytes), 1, |record| {
                record.breaker.lease_probe(Lease::Due, settings, until)
            })
            .unwrap()
        });
        assert_eq!(tickets.iter().flatten().count(), 1, "seed {seed}");
    }
}

#[test]
fn workers_that_report_one_probe_twice_close_it_once() {
    let policy = tripping_at(1);
    let settings = &policy.breaker;
    let mut store = Store::new(PoolRecord::reseat(None, &policy, at(0)).bytes);
    let (bytes, ticket) = PoolRecord::update(Some(&store.bytes), 1, |record| {
        record.breaker.state =
            crate::policy::backend::breaker::State::Open { until: at(5), failed_probes: 0 };
        record.breaker.lease_probe(Lease::Due, settings, at(5)).unwrap()
    })
    .unwrap();
    store.bytes = bytes;
    let transitions = store.race(WORKERS, &mut Dice::new(1), |_, bytes| {
        PoolRecord::update(Some(bytes), 1, |record| {
            let observed = Observed::Success;
            let observation = Observation { ticket, observed, elapsed: ms(5), retry_after: None };
            record.breaker.conclude(&observation, Default::default(), settings, at(9), 0)
        })
        .unwrap()
    });
    assert_eq!(transitions.into_iter().flatten().collect::<Vec<_>>(), [Transition::Closed]);
}

#[test]
fn workers_share_one_retry_budget() {
    for seed in 0..20 {
        let mut failover = pool(&[(1, 1)]).failover;
        (failover.retry_percent, failover.min_retries_per_second) = (20, 0);
        let mut deposits = Deposits::default();
        (0..10).for_each(|_| deposits.count(at(50_000)));
        let mut store = Store::new(Vec::new());
        let granted = store.race(WORKERS, &mut Dice::new(seed), |_, bytes| {
            withdraw(Some(bytes), &deposits, &failover, at(50_000))
        });
        assert!(granted.iter().all(|granted| *granted), "seed {seed}: {granted:?}");
        // 80 requests allow 16 failovers, and half of those are used.
        let spent = Deposits::default();
        let more = store.race(2 * WORKERS, &mut Dice::new(seed), |_, bytes| {
            withdraw(Some(bytes), &spent, &failover, at(50_000))
        });
        let more = more.iter().filter(|granted| **granted).count();
        assert_eq!(more, WORKERS, "seed {seed}");
    }
}

#[test]
fn damaged_records_read_safely_and_leave_a_pool_that_serves() {
    let policy = pool(&[(1, 1), (1, 1), (2, 1)]);
    let sound = PoolRecord::reseat(None, &policy, at(0)).bytes;
    let windows = WindowsRecord::update(None, &policy.breaker, |_| ()).0;
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed);
        let mut damage = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for _ in 0..1 + dice.below(20) {
                let position = dice.below(bytes.len() as u64) as usize;
                bytes[position] = dice.roll() as u8;
            }
            bytes.truncate(dice.below(2 * bytes.len() as u64) as usize);
            bytes
        };
        let (pool_bytes, windows_bytes) = (damage(&sound), damage(&windows));
        let _ = PoolRecord::reseat(Some(&pool_bytes), &policy, at(7));
        let _ = PoolRecord::update(Some(&pool_bytes), 2, |record| {
            record.breaker.lease_probe(Lease::Due, &policy.breaker, at(u64::MAX));
        });
        let mut counts = WindowsRecord::decode(Some(&windows_bytes), &policy.breaker);
        counts.count(&policy.breaker, 3, FAULT, ms(u64::MAX), at(dice.roll()));
        let records = PoolRecord::decode(&pool_bytes, &policy);
        let needs =
            Needs { operation: OperationSet(1), prompt_tokens: 0, tokens: 0, affinity: None };
        let now = at(1_800_000_000_000);
        let mut rotation = Rotation::new(&policy);
        let (tried, denied, roll) = (BackendSet::EMPTY, Denials::none(), dice.roll());
        let judged = BackendSet::EMPTY;
        let request = Situation {
            needs: &needs,
            tried,
            judged,
            throttled: BackendSet::EMPTY,
            denied,
            now,
            roll,
        };
        let choice = select(&policy, &records, &request, &mut rotation);
        assert!(choice.is_ok(), "seed {seed}: {records:?}");
    }
}
