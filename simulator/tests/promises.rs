//! What holds in every scenario.

use simulator::record::Record;
use simulator::scenarios;
use simulator::simulation::Kind;
use simulator::spillway::Setup;

/// How many random scenarios are run; `make simulate SIMULATE='--random 10000'` runs more.
const SCENARIOS: u64 = 25;

/// How many responses each request got.
fn responses(record: &Record) -> Vec<u32> {
    let mut responses: Vec<u32> =
        record.served.iter().map(|served| u32::from(served.is_some())).collect();
    record.refusals.iter().for_each(|refusal| responses[refusal.request] += 1);
    record.limited.iter().for_each(|request| responses[*request] += 1);
    responses
}

#[test]
fn the_same_seed_gives_the_same_record_for_every_gateway() {
    for seed in [3, 4] {
        for kind in Kind::ALL {
            let run = || scenarios::random(seed).run(kind).unwrap();
            assert_eq!(run(), run(), "{kind:?}, seed {seed}");
        }
    }
    let run = |seed| scenarios::random(seed).run(Kind::Spillway).unwrap();
    assert_ne!(run(3), run(4));
}

#[test]
fn every_request_gets_one_response_and_no_backend_is_asked_before_the_time_it_named() {
    for seed in 1..=SCENARIOS {
        let simulation = scenarios::random(seed);
        let record = simulation.run(Kind::Spillway).unwrap();
        assert!(responses(&record).iter().all(|count| *count == 1), "seed {seed}");
        assert_eq!(record.tried_twice, 0, "seed {seed}");
        let most =
            u32::from(Setup::new(&simulation.document).unwrap().policy.failover.max_attempts);
        assert!(record.most_attempts <= most, "seed {seed}: {}", record.most_attempts);
        // Replicas do not know about each other, and a pool of one has no other backend to ask.
        if simulation.replicas == 1 && simulation.deployments.len() > 1 {
            let early: u64 = record.named.iter().map(|named| named.too_early).sum();
            assert_eq!(early, 0, "seed {seed}");
        }
    }
}

#[test]
fn the_optimum_never_asks_in_vain() {
    for seed in 1..=SCENARIOS {
        let record = scenarios::random(seed).run(Kind::Clairvoyant).unwrap();
        assert_eq!(record.wasted, 0, "seed {seed}");
        assert!(record.refusals.iter().all(|refusal| !refusal.could_be_served), "seed {seed}");
    }
}
