//! Which backend gets the next attempt.
//!
//! Tiers by ascending priority; the first one with an eligible backend is chosen, and within it a
//! backend by weight, scaled by headroom. So a tier is left the moment that none of its backends is
//! eligible, and used again the moment that one is.
//!
//! Four rules need their reason:
//!
//! - *A ramp never exhausts a pool.* A backend that recovers takes part in only a part of the
//!   picks; but when all tiers came to nothing, a second pass ignores the ramps: some traffic too
//!   many is better than an error.
//! - *A pool with one backend does not enforce its gate.* Its 429 can be passed on, with the
//!   backend's own words; an answer of the gateway's could only say less.
//! - *Weight 0* serves only when nothing else of its tier can. Several such share equally.
//! - *Affinity* chooses by weighted rendezvous hashing, and only within the tier. Headroom does not
//!   enter: related requests would move with every change of it. The rotation does not turn.
//!
//! This runs for each attempt, so it does not allocate.

use super::breaker::Admission;
pub use super::rotation::{Rotation, Turn};

use super::pool::{BackendIndex, BackendSet, MAX_BACKENDS, Member, OperationSet, PoolPolicy, Tier};
use super::records::BackendRecord;
use super::rotation::Shares;
use super::time::Timestamp;

/// What a request needs of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The operation.
    pub operation: OperationSet,
    /// The estimated length of the prompt; 0 when it is unknown.
    pub prompt_tokens: u64,
    /// Requests with the same value go to the same backend where possible.
    pub affinity: Option<u64>,
}

/// Why a backend cannot be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// Its circuit breaker is open.
    Breaker {
        /// When a probe may go.
        until: Timestamp,
    },
    /// Its throttle gate is closed.
    Gate {
        /// When it opens.
        until: Timestamp,
    },
    /// It does not serve the operation.
    Operation,
    /// The prompt is too long for it.
    PromptLength,
    /// It recovers, and this pick is not among those that it takes part in.
    Ramp,
    /// This request was there already.
    Tried,
}

/// How a backend can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligible {
    /// As any other.
    Ordinary,
    /// As the half-open probe of its circuit breaker.
    Probe,
}

/// The chosen backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub backend: BackendIndex,
    /// The position of its tier, 0 being the first; more than 0 is a spill.
    pub tier: usize,
    /// Whether the attempt is the half-open probe, whose lease must be taken before it is sent.
    pub probe: bool,
}

/// No backend can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// When the first of the backends that could serve the request recovers; `None`: there is none.
    /// A backend that is neither throttled nor broken, but was tried, has recovered now.
    pub soonest: Option<Timestamp>,
    /// Whether every backend that could serve the request is out for throttling alone.
    pub throttled: bool,
}

/// Chooses a backend for the next attempt of a request that was at the backends `tried`.
///
/// `records` are the members' records in their order; a missing one is fresh. `roll` is any random
/// number; the same arguments give the same choice.
///
/// # Errors
/// [`Unavailable`] when no backend is eligible.
#[expect(clippy::too_many_arguments, reason = "a pure function of all that a choice depends on")]
pub fn select(
    policy: &PoolPolicy,
    records: &[BackendRecord],
    needs: &Needs,
    tried: BackendSet,
    rotation: &mut Rotation,
    turn: Turn,
    now: Timestamp,
    roll: u64,
) -> Result<Choice, Unavailable> {
    let pool = Pool { policy, records, needs, tried, now, roll };
    let (tier, backend) = pool
        .choose(Ramps::Honoured, rotation, turn)
        .or_else(|| pool.choose(Ramps::Ignored, rotation, turn))
        .ok_or_else(|| pool.unavailable())?;
    let probe = pool.eligibility(backend, Ramps::Ignored) == Ok(Eligible::Probe);
    Ok(Choice { backend, tier, probe })
}

/// Whether and how `backend` can be chosen.
///
/// # Errors
/// [`Ineligible`] says why it cannot.
pub fn eligibility(
    policy: &PoolPolicy,
    records: &[BackendRecord],
    needs: &Needs,
    tried: BackendSet,
    backend: BackendIndex,
    now: Timestamp,
    roll: u64,
) -> Result<Eligible, Ineligible> {
    Pool { policy, records, needs, tried, now, roll }.eligibility(backend, Ramps::Honoured)
}

/// The backends of the tiers up to the chosen one that could not be chosen, with the reasons, for
/// the trail. Those that were tried are not among them: the trail has them as attempts.
pub fn skipped(
    policy: &PoolPolicy,
    records: &[BackendRecord],
    needs: &Needs,
    tried: BackendSet,
    choice: Option<&Choice>,
    now: Timestamp,
    roll: u64,
) -> Vec<(BackendIndex, Ineligible)> {
    let pool = Pool { policy, records, needs, tried, now, roll };
    let tiers = choice.map_or(policy.tiers.len(), |choice| choice.tier.saturating_add(1));
    let members = policy.tiers.iter().take(tiers).flat_map(|tier| tier.members.iter());
    members
        .filter(|backend| choice.is_none_or(|choice| choice.backend != *backend))
        .filter_map(|backend| match pool.eligibility(backend, Ramps::Honoured) {
            Ok(_) | Err(Ineligible::Tried) => None,
            Err(reason) => Some((backend, reason)),
        })
        .collect()
}

/// When the first backend recovers that could serve the request and is not among `spent`, those
/// that it must not try again; `None`: there is none, and waiting is in vain.
pub fn worth_waiting_for(
    policy: &PoolPolicy,
    records: &[BackendRecord],
    needs: &Needs,
    spent: BackendSet,
    now: Timestamp,
) -> Option<Timestamp> {
    let pool = Pool { policy, records, needs, tried: spent, now, roll: 0 };
    let left = pool.suitable().filter(|backend| !spent.contains(*backend));
    left.map(|backend| {
        let (gate, breaker) = pool.closed_until(backend);
        gate.max(breaker).unwrap_or(now)
    })
    .min()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ramps {
    Honoured,
    Ignored,
}

/// All that a choice depends on, but for the rotation.
struct Pool<'a> {
    policy: &'a PoolPolicy,
    records: &'a [BackendRecord],
    needs: &'a Needs,
    tried: BackendSet,
    now: Timestamp,
    roll: u64,
}

impl Pool<'_> {
    fn choose(
        &self,
        ramps: Ramps,
        rotation: &mut Rotation,
        turn: Turn,
    ) -> Option<(usize, BackendIndex)> {
        self.policy.tiers.iter().enumerate().find_map(|(position, tier)| {
            let candidates = self.candidates(tier, ramps);
            let backend = match self.needs.affinity {
                Some(affinity) => self.rendezvous(candidates, affinity),
                None => rotation.next(&self.shares(candidates), turn),
            };
            Some((position, backend?))
        })
    }

    /// The eligible backends of a tier: those with a weight, or else those without.
    fn candidates(&self, tier: &Tier, ramps: Ramps) -> BackendSet {
        let (mut weighted, mut reserve) = (BackendSet::EMPTY, BackendSet::EMPTY);
        for backend in tier.members.iter() {
            if self.eligibility(backend, ramps).is_ok() {
                let weight = self.policy.member(backend).map_or(0, |member| member.weight);
                let set = if weight > 0 { &mut weighted } else { &mut reserve };
                *set = set.with(backend);
            }
        }
        if weighted.is_empty() { reserve } else { weighted }
    }

    fn eligibility(&self, backend: BackendIndex, ramps: Ramps) -> Result<Eligible, Ineligible> {
        if self.tried.contains(backend) {
            return Err(Ineligible::Tried);
        }
        let Some(member) = self.policy.member(backend) else { return Err(Ineligible::Operation) };
        self.suitability(member)?;
        let record = self.record(backend);
        if self.policy.members.len() > 1
            && let Some(until) = record.gate.closed_until(self.now, &self.policy.throttle)
        {
            return Err(Ineligible::Gate { until });
        }
        match record.breaker.admission(&self.policy.breaker, self.now) {
            Admission::Open { until } => Err(Ineligible::Breaker { until }),
            Admission::Probe => Ok(Eligible::Probe),
            Admission::Ramp { percent }
                if ramps == Ramps::Honoured
                    && mix(self.roll, member.key).checked_rem(100) >= Some(u64::from(percent)) =>
            {
                Err(Ineligible::Ramp)
            }
            Admission::Closed | Admission::Ramp { .. } => Ok(Eligible::Ordinary),
        }
    }

    /// Whether the backend could ever serve the request.
    fn suitability(&self, member: &Member) -> Result<(), Ineligible> {
        if !member.operations.covers(self.needs.operation) {
            return Err(Ineligible::Operation);
        }
        if member.max_prompt_tokens.is_some_and(|limit| self.needs.prompt_tokens > limit) {
            return Err(Ineligible::PromptLength);
        }
        Ok(())
    }

    fn record(&self, backend: BackendIndex) -> BackendRecord {
        self.records.get(backend.position()).copied().unwrap_or_default()
    }

    fn shares(&self, candidates: BackendSet) -> Shares {
        let mut shares = [0; MAX_BACKENDS];
        for backend in candidates.iter() {
            let weight = self.weight(backend);
            let headroom = self.record(backend).headroom.share_permille(self.now);
            if let Some(share) = shares.get_mut(backend.position()) {
                *share = u32::from(weight).saturating_mul(u32::from(headroom)).max(1);
            }
        }
        shares
    }

    /// At least 1: among candidates a weight of 0 means that all have it.
    fn weight(&self, backend: BackendIndex) -> u8 {
        self.policy.member(backend).map_or(1, |member| member.weight.max(1))
    }

    /// Weighted rendezvous hashing: each candidate draws a lot from its key and the affinity, and
    /// -weight / ln(lot) is greatest in proportion to the weights. A candidate that drops out moves
    /// only its own requests.
    fn rendezvous(&self, candidates: BackendSet, affinity: u64) -> Option<BackendIndex> {
        let score = |backend: BackendIndex| {
            let key = self.policy.member(backend).map_or(0, |member| member.key);
            // 53 bits and a half: strictly between 0 and 1.
            let lot = ((mix(affinity, key) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            f64::from(self.weight(backend)) / -lot.ln()
        };
        candidates.iter().max_by(|left, right| score(*left).total_cmp(&score(*right)))
    }

    fn unavailable(&self) -> Unavailable {
        let mut soonest: Option<Timestamp> = None;
        let mut throttled = true;
        for backend in self.suitable() {
            let (gate, breaker) = self.closed_until(backend);
            let recovers = gate.max(breaker).unwrap_or(self.now);
            soonest = Some(soonest.map_or(recovers, |soonest| soonest.min(recovers)));
            throttled &= gate.is_some() && breaker.is_none();
        }
        Unavailable { soonest, throttled: throttled && soonest.is_some() }
    }

    /// The backends that could ever serve the request.
    fn suitable(&self) -> impl Iterator<Item = BackendIndex> {
        self.policy.members.iter().zip(0..).filter_map(|(member, position)| {
            let backend = BackendIndex::new(position)?;
            self.suitability(member).is_ok().then_some(backend)
        })
    }

    /// Until when gate and circuit breaker keep `backend` out, each if it does.
    fn closed_until(&self, backend: BackendIndex) -> (Option<Timestamp>, Option<Timestamp>) {
        let record = self.record(backend);
        let gate = record.gate.closed_until(self.now, &self.policy.throttle);
        match record.breaker.admission(&self.policy.breaker, self.now) {
            Admission::Open { until } => (gate, Some(until)),
            Admission::Closed | Admission::Probe | Admission::Ramp { .. } => (gate, None),
        }
    }
}

/// Mixes two numbers into one of which every bit depends on all of theirs (splitmix64's finish).
fn mix(left: u64, right: u64) -> u64 {
    let mut z = left ^ right.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::breaker::State;
    use crate::policy::fixtures::{at, backend, pool};
    use crate::policy::headroom::Headroom;
    use std::collections::HashMap;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Timestamp = Timestamp::from_ms(100_000);
    const ANY: Needs = Needs { operation: OperationSet(1), prompt_tokens: 0, affinity: None };

    fn pick(policy: &PoolPolicy, records: &[BackendRecord], needs: &Needs, roll: u64) -> usize {
        let mut rotation = Rotation::new(policy);
        select(policy, records, needs, BackendSet::EMPTY, &mut rotation, Turn::Take, NOW, roll)
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
        record.breaker.state = State::Closed { since: NOW };
        record
    }

    fn exhausted(policy: &PoolPolicy, records: &[BackendRecord], tried: BackendSet) -> Unavailable {
        let mut rotation = Rotation::new(policy);
        select(policy, records, &ANY, tried, &mut rotation, Turn::Take, NOW, 0).unwrap_err()
    }

    #[test]
    fn a_backend_that_cannot_take_the_operation_or_the_prompt_is_passed_over() {
        let mut policy = pool(&[(1, 1), (2, 1), (3, 1)]);
        policy.members[0].operations = OperationSet(2);
        policy.members[1].max_prompt_tokens = Some(1_000);
        let long = Needs { prompt_tokens: 1_001, ..ANY };
        assert_eq!(pick(&policy, &[], &Needs { prompt_tokens: 1_000, ..ANY }, 0), 1);
        assert_eq!(pick(&policy, &[], &long, 0), 2);
        let choice = Choice { backend: backend(2), tier: 2, probe: false };
        let reasons = skipped(&policy, &[], &long, BackendSet::EMPTY, Some(&choice), NOW, 0);
        let expected =
            [(backend(0), Ineligible::Operation), (backend(1), Ineligible::PromptLength)];
        assert_eq!(reasons, expected);
    }

    #[test]
    fn a_pool_with_one_backend_does_not_enforce_its_gate() {
        let policy = pool(&[(1, 1)]);
        assert_eq!(pick(&policy, &[gated(160_000)], &ANY, 0), 0);
        let tried = BackendSet::EMPTY.with(backend(0));
        let expected = Unavailable { soonest: Some(at(160_000)), throttled: true };
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
    fn only_a_backend_that_the_request_may_still_try_is_worth_waiting_for() {
        let policy = pool(&[(1, 1), (2, 1)]);
        let wait = |records: &[BackendRecord], spent| {
            worth_waiting_for(&policy, records, &ANY, spent, NOW)
        };
        let (none, first) = (BackendSet::EMPTY, BackendSet::EMPTY.with(backend(0)));
        let records = [open(101_000), gated(102_000)];
        assert_eq!(wait(&records, none), Some(at(101_000)));
        assert_eq!(wait(&records, first), Some(at(102_000)));
        assert_eq!(wait(&[BackendRecord::default(), gated(102_000)], first), Some(at(102_000)));
        assert_eq!(wait(&records, first.with(backend(1))), None);
    }

    #[test]
    fn a_backend_whose_open_time_is_over_is_chosen_as_a_probe() {
        let policy = pool(&[(1, 1), (2, 1)]);
        let mut rotation = Rotation::new(&policy);
        let mut choose = |records: &[BackendRecord]| {
            let tried = BackendSet::EMPTY;
            select(&policy, records, &ANY, tried, &mut rotation, Turn::Take, NOW, 0).unwrap()
        };
        assert_eq!(choose(&[open(100_000)]), Choice { backend: backend(0), tier: 0, probe: true });
        assert_eq!(choose(&[open(100_001)]), Choice { backend: backend(1), tier: 1, probe: false });
    }

    #[test]
    fn the_soonest_recovery_is_told_and_whether_throttling_is_all() {
        let policy = pool(&[(1, 1), (2, 1)]);
        let none = BackendSet::EMPTY;
        let unavailable =
            |soonest, throttled| Unavailable { soonest: Some(at(soonest)), throttled };
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
    fn backends_that_could_never_serve_the_request_do_not_decide_the_reply() {
        let mut policy = pool(&[(1, 1), (2, 1)]);
        policy.members[1].operations = OperationSet(2);
        let expected = Unavailable { soonest: Some(at(104_000)), throttled: true };
        assert_eq!(exhausted(&policy, &[gated(104_000)], BackendSet::EMPTY), expected);
        policy.members[0].operations = OperationSet(2);
        let never = Unavailable { soonest: None, throttled: false };
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
            let choice = select(&policy, &records, &ANY, none, &mut rotation, Turn::Take, NOW, 0);
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
    fn only_the_tiers_up_to_the_choice_explain_themselves() {
        let policy = pool(&[(1, 1), (2, 1), (2, 1), (3, 1)]);
        let records = [gated(100_080), open(120_000), BackendRecord::default(), gated(100_090)];
        let choice = Choice { backend: backend(2), tier: 1, probe: false };
        let none = BackendSet::EMPTY;
        let reasons = skipped(&policy, &records, &ANY, none, Some(&choice), NOW, 0);
        let gate = (backend(0), Ineligible::Gate { until: at(100_080) });
        let breaker = (backend(1), Ineligible::Breaker { until: at(120_000) });
        assert_eq!(reasons, [gate, breaker]);
        let tried = none.with(backend(0));
        let reasons = skipped(&policy, &records, &ANY, tried, Some(&choice), NOW, 0);
        assert_eq!(reasons, [breaker]);
        assert_eq!(skipped(&policy, &records, &ANY, none, None, NOW, 0).len(), 3);
    }
}
