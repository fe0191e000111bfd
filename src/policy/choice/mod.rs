//! Chooses the backend of the next attempt.
//!
//! Tiers come by ascending priority. The first one with an eligible backend is chosen, and within it a backend by
//! weight, scaled by headroom. So a tier is left at the moment when none of its backends is eligible, and used again
//! at the moment when one is.
//!
//! Six rules need a reason:
//!
//! - *A ramp never exhausts a pool.* A recovering backend takes part in only a part of the picks. When no tier has
//!   another backend, a second pass ignores the ramps: some additional traffic is better than an error.
//! - *A request that nobody can serve probes early.* It would fail anyway, so it may be the probe of an open circuit
//!   breaker before the open time is over (see [`super::backend::breaker`]). So a backend that works again is found
//!   within a second, and a client that made a breaker open has not stopped the pool.
//! - *A pool with one backend does not enforce its gate.* Its 429 can be passed on with the backend's own words; a
//!   reply of the gateway could only say less.
//! - *A budget is asked after the choice*, not before it (see [`denials`]). So it can only move a request to another
//!   backend. When no backend is left, the choice is repeated without the denials of budgets: the backend's own 429
//!   is the authority. Then a request also passes a gate that only much larger ones closed (see
//!   [`super::backend::gate`]).
//! - *Weight 0* serves only when nothing else in its tier can. Several backends of weight 0 share equally.
//! - *Affinity* chooses by weighted rendezvous hashing, and only within the tier. Headroom is ignored, because every
//!   change of it would move related requests. The rotation does not advance.
//!
//! This code runs for each attempt, so it does not allocate.

pub mod denials;
pub mod rotation;

use super::backend::breaker::{Lease, Passage};
pub use denials::Denials;
pub use rotation::Rotation;

use super::backend::records::{BackendRecord, Records};
use super::pool::{BackendIndex, BackendSet, MAX_BACKENDS, Member, OperationSet, PoolPolicy, Tier};
use super::time::Timestamp;
use rotation::Shares;

/// What a request needs from a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The operation.
    pub operation: OperationSet,
    /// The estimated length of the prompt; 0: unknown.
    pub prompt_tokens: u64,
    /// The tokens that it is expected to use, prompt and output; 0: unknown.
    pub tokens: u64,
    /// Requests with the same value go to the same backend where possible.
    pub affinity: Option<u64>,
}

/// What a selection depends on: the request, and what happened to it so far.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What it needs from a backend.
    pub needs: &'a Needs,
    /// The backends that it tried.
    pub tried: BackendSet,
    /// Those of them that returned a 4xx, and would do so again.
    pub judged: BackendSet,
    /// The backends among them that throttled it, for whatever time.
    pub throttled: BackendSet,
    /// The backends whose budget or credential denied it.
    pub denied: &'a Denials,
    /// The time of the selection.
    pub now: Timestamp,
    /// Any random number; the same arguments give the same choice.
    pub roll: u64,
}

/// Why a backend cannot be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// Its circuit breaker is open.
    Breaker {
        /// When a probe may be sent.
        until: Timestamp,
    },
    /// Its budget has no room for the request.
    Budget {
        /// When it has room, if nothing else happens.
        until: Timestamp,
    },
    /// There is no valid credential for it.
    Credential,
    /// Its throttle gate is closed.
    Gate {
        /// When it opens.
        until: Timestamp,
    },
    /// It does not serve the operation.
    Operation,
    /// The prompt is too long for it.
    PromptLength,
    /// It recovers, and this pick is not one of those in which it takes part.
    Ramp,
    /// This request has tried it.
    Tried,
}

/// The chosen backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its position.
    pub backend: BackendIndex,
    /// The position of its tier; the first is 0. A higher one is a spill.
    pub tier: usize,
    /// Why the attempt may be the half-open probe, if it must be one. Its lease must be taken before it is sent.
    pub probe: Option<Lease>,
}

/// No backend can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// When the first backend that could serve the request recovers; `None`: there is none, or the time is unknown,
    /// as with a credential that cannot be fetched. A backend that was tried and is neither throttled nor broken
    /// counts as recovered now.
    pub soonest: Option<Timestamp>,
    /// Whether throttling is the only reason at every backend that could serve the request: its own 429 or its
    /// budget.
    pub throttled: bool,
    /// Whether some backend could serve the request and has not returned a 4xx to it. Then the other backends do not
    /// influence `soonest` and `throttled`.
    pub is_undecided: bool,
}

/// Chooses a backend for the next attempt of a request. If the rotation chose it, its turn must still be taken
/// ([`Rotation::take`]).
///
/// # Errors
/// [`Unavailable`] when no backend is eligible.
pub fn select(
    policy: &PoolPolicy,
    records: &(impl Records + ?Sized),
    situation: &Situation<'_>,
    rotation: &mut Rotation,
) -> Result<Choice, Unavailable> {
    rotation.pass_over();
    let pool = Pool { policy, records, situation };
    pool.choose(Pass::Usual, rotation)
        .or_else(|| pool.choose(Pass::NoRamps, rotation))
        .ok_or_else(|| pool.unavailable())
}

/// Chooses a backend for a request for which [`select`] found none: one whose gate was closed by much larger
/// requests. The denials of budgets in `situation` must be forgotten before.
///
/// # Errors
/// [`Unavailable`] when no backend is eligible.
pub fn select_last(
    policy: &PoolPolicy,
    records: &(impl Records + ?Sized),
    situation: &Situation<'_>,
    rotation: &mut Rotation,
) -> Result<Choice, Unavailable> {
    rotation.pass_over();
    let pool = Pool { policy, records, situation };
    pool.choose(Pass::Last, rotation).ok_or_else(|| pool.unavailable())
}

/// Chooses a backend whose circuit breaker is open, for a request for which [`select`] found none and which cannot
/// wait.
pub fn select_early(
    policy: &PoolPolicy,
    records: &(impl Records + ?Sized),
    situation: &Situation<'_>,
    rotation: &mut Rotation,
) -> Option<Choice> {
    rotation.pass_over();
    Pool { policy, records, situation }.choose(Pass::Early, rotation)
}

/// The backends up to the chosen tier that could not be chosen, with the reasons, for the trail. Tried backends are
/// not among them: the trail contains their attempts.
pub fn skipped(
    policy: &PoolPolicy,
    records: &(impl Records + ?Sized),
    situation: &Situation<'_>,
    choice: Option<&Choice>,
) -> Vec<(BackendIndex, Ineligible)> {
    let pool = Pool { policy, records, situation };
    let tiers = choice.map_or(policy.tiers.len(), |choice| choice.tier.saturating_add(1));
    let members = policy.tiers.iter().take(tiers).flat_map(|tier| tier.members.iter());
    members
        .filter(|backend| choice.is_none_or(|choice| choice.backend != *backend))
        .filter_map(|backend| match pool.eligibility(backend, Pass::Usual) {
            Ok(_) | Err(Ineligible::Tried) => None,
            Err(reason) => Some((backend, reason)),
        })
        .collect()
}

/// When the first backend recovers that could serve the request and is not in `situation.tried`, which here means those
/// that it must not try again; `None`: waiting is useless, because there is none.
pub fn worth_waiting_for(
    policy: &PoolPolicy,
    records: &(impl Records + ?Sized),
    situation: &Situation<'_>,
) -> Option<Timestamp> {
    let pool = Pool { policy, records, situation };
    let left = pool.suitable().filter(|backend| !situation.tried.contains(*backend));
    left.filter(|backend| !situation.denied.lacks_credential(*backend))
        .map(|backend| {
            let (throttle, breaker) = pool.closed_until(backend);
            throttle.max(breaker).unwrap_or(situation.now)
        })
        .min()
}

/// The longest prompt that a backend with the operation takes, if none takes the request's prompt. Unlike all other
/// reasons, this one does not change with time.
pub fn too_long_for(policy: &PoolPolicy, needs: &Needs) -> Option<u64> {
    let mut longest = None;
    for member in policy.members.iter().filter(|it| it.operations.covers(needs.operation)) {
        let limit = member.max_prompt_tokens.filter(|limit| needs.prompt_tokens > *limit)?;
        longest = longest.max(Some(limit));
    }
    longest
}

/// The passes of a choice. Those after the usual one exclude fewer backends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Usual,
    /// Ignores ramps.
    NoRamps,
    /// Ignores ramps, and gates that much larger requests closed.
    Last,
    /// Ignores ramps, and the open time of circuit breakers.
    Early,
}

/// All that a choice depends on, except the rotation.
struct Pool<'a, R: ?Sized> {
    policy: &'a PoolPolicy,
    records: &'a R,
    situation: &'a Situation<'a>,
}

impl<R: Records + ?Sized> Pool<'_, R> {
    fn choose(&self, pass: Pass, rotation: &mut Rotation) -> Option<Choice> {
        let (tier, backend) =
            self.policy.tiers.iter().enumerate().find_map(|(position, tier)| {
                let candidates = self.candidates(tier, pass);
                let backend = match self.situation.needs.affinity {
                    Some(affinity) => self.rendezvous(candidates, affinity),
                    None => rotation.next(&self.shares(candidates)),
                };
                Some((position, backend?))
            })?;
        let breaker = self.record(backend).breaker;
        let probe = match breaker.passage(&self.policy.breaker, self.situation.now) {
            Passage::Probe => Some(Lease::Due),
            // Only possible in the last pass.
            Passage::Open { .. } => Some(Lease::Early),
            Passage::Closed | Passage::Ramp { .. } => None,
        };
        Some(Choice { backend, tier, probe })
    }

    /// The eligible backends of a tier: those with a weight, or if there are none, those without.
    fn candidates(&self, tier: &Tier, pass: Pass) -> BackendSet {
        let (mut weighted, mut reserve) = (BackendSet::EMPTY, BackendSet::EMPTY);
        for backend in tier.members.iter() {
            if self.eligibility(backend, pass).is_ok() {
                let weight = self.policy.member(backend).map_or(0, |member| member.weight);
                let set = if weight > 0 { &mut weighted } else { &mut reserve };
                *set = set.with(backend);
            }
        }
        if weighted.is_empty() { reserve } else { weighted }
    }

    // Most callers ask about every backend of a pool, and ignore the reason.
    #[inline(always)]
    fn eligibility(&self, backend: BackendIndex, pass: Pass) -> Result<(), Ineligible> {
        if self.situation.tried.contains(backend) {
            return Err(Ineligible::Tried);
        }
        let Some(member) = self.policy.member(backend) else { return Err(Ineligible::Operation) };
        self.suitability(member)?;
        if self.situation.denied.lacks_credential(backend) {
            return Err(Ineligible::Credential);
        }
        let record = self.records.of(backend, member);
        if self.policy.members.len() > 1
            && let Some(until) = record.gate.closed_until(self.situation.now, &self.policy.throttle)
            && !(pass == Pass::Last && record.gate.lets_pass(self.situation.needs.tokens))
        {
            return Err(Ineligible::Gate { until });
        }
        if let Some(until) = self.situation.denied.budget_until(backend, self.situation.now) {
            return Err(Ineligible::Budget { until });
        }
        match record.breaker.passage(&self.policy.breaker, self.situation.now) {
            Passage::Open { .. }
                if pass == Pass::Early && record.breaker.admits_early(self.situation.now) =>
            {
                Ok(())
            }
            Passage::Open { until } => Err(Ineligible::Breaker { until }),
            Passage::Ramp { percent }
                if pass == Pass::Usual
                    && mix(self.situation.roll, member.key).checked_rem(100)
                        >= Some(u64::from(percent)) =>
            {
                Err(Ineligible::Ramp)
            }
            Passage::Closed | Passage::Probe | Passage::Ramp { .. } => Ok(()),
        }
    }

    /// Whether the backend could ever serve the request.
    fn suitability(&self, member: &Member) -> Result<(), Ineligible> {
        if !member.operations.covers(self.situation.needs.operation) {
            return Err(Ineligible::Operation);
        }
        if member.max_prompt_tokens.is_some_and(|limit| self.situation.needs.prompt_tokens > limit)
        {
            return Err(Ineligible::PromptLength);
        }
        Ok(())
    }

    fn record(&self, backend: BackendIndex) -> BackendRecord {
        let record = |member| self.records.of(backend, member);
        self.policy.member(backend).map(record).unwrap_or_default()
    }

    fn shares(&self, candidates: BackendSet) -> Shares {
        let mut shares = [0; MAX_BACKENDS];
        for backend in candidates.iter() {
            let weight = self.weight(backend);
            let headroom = self.record(backend).headroom.share_permille(self.situation.now);
            if let Some(share) = shares.get_mut(backend.position()) {
                *share = u32::from(weight).saturating_mul(u32::from(headroom)).max(1);
            }
        }
        shares
    }

    /// At least 1: if the weight is 0, all candidates have weight 0.
    fn weight(&self, backend: BackendIndex) -> u8 {
        self.policy.member(backend).map_or(1, |member| member.weight.max(1))
    }

    /// Weighted rendezvous hashing: each candidate's lot is a hash of its key and the affinity, and the probability
    /// that its -weight / ln(lot) is the greatest is proportional to its weight. A candidate that drops out moves
    /// only its own requests.
    fn rendezvous(&self, candidates: BackendSet, affinity: u64) -> Option<BackendIndex> {
        let score = |backend: BackendIndex| {
            let key = self.policy.member(backend).map_or(0, |member| member.key);
            // 53 bits and a half, so it lies strictly between 0 and 1.
            let lot = ((mix(affinity, key) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            f64::from(self.weight(backend)) / -lot.ln()
        };
        candidates.iter().max_by(|left, right| score(*left).total_cmp(&score(*right)))
    }

    fn unavailable(&self) -> Unavailable {
        let mut soonest: Option<Timestamp> = None;
        let (mut throttled, mut is_undecided) = (true, false);
        for backend in self.suitable().filter(|it| !self.situation.judged.contains(*it)) {
            is_undecided = true;
            let has_credential = !self.situation.denied.lacks_credential(backend);
            let (throttle, breaker) = self.closed_until(backend);
            let is_throttled = throttle.is_some() || self.situation.throttled.contains(backend);
            throttled &= is_throttled && breaker.is_none() && has_credential;
            if has_credential {
                let recovers = throttle.max(breaker).unwrap_or(self.situation.now);
                soonest = Some(soonest.map_or(recovers, |soonest| soonest.min(recovers)));
            }
        }
        Unavailable { soonest, throttled: throttled && soonest.is_some(), is_undecided }
    }

    /// The backends that could ever serve the request.
    fn suitable(&self) -> impl Iterator<Item = BackendIndex> {
        self.policy.members.iter().zip(0..).filter_map(|(member, position)| {
            let backend = BackendIndex::new(position)?;
            self.suitability(member).is_ok().then_some(backend)
        })
    }

    /// Until when a throttle (gate or budget) and until when the circuit breaker excludes `backend`, if they do.
    fn closed_until(&self, backend: BackendIndex) -> (Option<Timestamp>, Option<Timestamp>) {
        let record = self.record(backend);
        let gate = record.gate.closed_until(self.situation.now, &self.policy.throttle);
        let throttle = gate.max(self.situation.denied.budget_until(backend, self.situation.now));
        match record.breaker.passage(&self.policy.breaker, self.situation.now) {
            Passage::Open { until } => (throttle, Some(until)),
            Passage::Closed | Passage::Probe | Passage::Ramp { .. } => (throttle, None),
        }
    }
}

/// Mixes two numbers into one. Each of its bits depends on all bits of both (the finish of splitmix64).
fn mix(left: u64, right: u64) -> u64 {
    let mut z = left ^ right.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
