//! Smooth weighted round-robin: which backend's turn it is.
//!
//! With random choice, equal weights would differ by dozens over a minute, and on small quotas that is the difference
//! between 200 and 429. Here every backend has an account of the picks that it is owed. Each pick credits every
//! candidate with its share of a pick, and debits the chosen one. The usual rule, to pick the largest account, can
//! leave one of many backends more than a pick behind. Tijdeman's rule for the chairman assignment problem (Discrete
//! Mathematics 32, 1980) cannot: of those owed at least 1/(2n - 2) of a pick, it takes the one that would be a pick
//! behind soonest.
//!
//! Candidates come and go, and shares change with headroom. Accounts are in fractions of a pick, so changed shares do
//! not distort them. The account of an excluded backend does not change: when it returns it is at most about a pick
//! ahead or behind, and gets no burst. Meanwhile the accounts of the others do not add up to zero, so it can happen
//! that none of them is due. Then the one that would be a pick behind soonest gets the turn.

use crate::policy::pool::{BackendIndex, MAX_BACKENDS, PoolPolicy};

/// One pick, in the accounts' fixed-point unit.
const PICK: i64 = 1 << PICK_BITS;
const PICK_BITS: u32 = 32;
/// No account leaves this range, whatever the candidates were.
const ACCOUNT_LIMIT: i64 = 2 * PICK;
/// Credits are rounded down; without this margin possibly no account reaches the threshold.
const MARGIN: i64 = MAX_BACKENDS as i64;

/// The most picks with which a rotation can start, because configuring must be quick.
const START_MAX: u32 = 1_024;

/// The accounts of one pool's backends; local to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    accounts: Vec<i64>,
    /// The credits of the last look, by position; kept to avoid allocations.
    credits: Vec<i64>,
    /// The backend whose turn it is, until the turn is taken.
    next: Option<BackendIndex>,
}

/// The shares of the candidates by position; zero: not a candidate. Each is a weight times the
/// thousandths of a headroom, so it has less than 18 bits.
pub(super) type Shares = [u32; MAX_BACKENDS];

impl Rotation {
    /// All accounts are equal.
    pub fn new(policy: &PoolPolicy) -> Self {
        let even = vec![0; policy.members.len()];
        Self { credits: even.clone(), accounts: even, next: None }
    }

    /// A rotation in a state after some number of picks, which `roll`, any random number, decides. Every worker of
    /// every proxy starts like this. If all began with the same backend, it would get a pick from each at once, and
    /// the whole load if that is smaller than the number of workers.
    pub fn starting_anywhere(policy: &PoolPolicy, roll: u64) -> Self {
        let mut rotation = Self::new(policy);
        for (tier, roll) in policy.tiers.iter().zip(std::iter::successors(Some(roll), next_roll)) {
            let weight = |backend| policy.member(backend).map_or(0, |member| member.weight);
            let weights = tier.members.iter().map(weight).filter(|weight| *weight > 0);
            // Without weights all are equal.
            let divisor = weights.reduce(greatest_common_divisor).unwrap_or(1);
            let is_weightless = tier.members.iter().all(|backend| weight(backend) == 0);
            let mut shares: Shares = [0; MAX_BACKENDS];
            for backend in tier.members.iter() {
                let share = if is_weightless { 1 } else { weight(backend) };
                if let Some(slot) = shares.get_mut(backend.position()) {
                    *slot = u32::from(share).div_euclid(u32::from(divisor));
                }
            }
            // The picks repeat after as many picks as the sum of the shares.
            let period = shares.iter().copied().fold(0, u32::saturating_add).clamp(1, START_MAX);
            for _ in 0..roll.checked_rem(u64::from(period)).unwrap_or(0) {
                rotation.next(&shares);
                rotation.take();
            }
        }
        rotation
    }

    /// The candidate whose turn it is, until it is taken; `None` when there is none.
    pub(super) fn next(&mut self, shares: &Shares) -> Option<BackendIndex> {
        self.next = self.look(shares);
        self.next
    }

    /// Takes the turn of the last look, if it was not taken yet.
    pub fn take(&mut self) {
        let Some(next) = self.next.take() else { return };
        let credited = self.credits.iter().copied().fold(0, i64::saturating_add);
        if let Some(account) = self.accounts.get_mut(next.position()) {
            *account = account.saturating_sub(credited);
        }
        for (account, credit) in self.accounts.iter_mut().zip(&self.credits) {
            *account = account.saturating_add(*credit).clamp(-ACCOUNT_LIMIT, ACCOUNT_LIMIT);
        }
    }

    /// The choice was made without the rotation, so there is no turn to take.
    pub(super) fn pass_over(&mut self) {
        self.next = None;
    }

    fn look(&mut self, shares: &Shares) -> Option<BackendIndex> {
        let candidates = shares.iter().zip(&self.accounts).filter(|(share, _)| **share > 0);
        let (count, total) = candidates.fold((0_i64, 0_u64), |(count, total), (share, _)| {
            (count.saturating_add(1), total.saturating_add(u64::from(*share)))
        });
        let others = count.saturating_sub(1).max(1);
        let threshold = PICK.checked_div(others.saturating_mul(2))?;
        let mut best: Option<Candidate> = None;
        // Usually all have the same share, and a division takes as long as all the rest.
        let (mut known_share, mut known_credit) = (0, 0);
        let accounts = self.accounts.iter().zip(self.credits.iter_mut());
        for (position, (share, (account, credit))) in shares.iter().zip(accounts).enumerate() {
            if *share != known_share {
                (known_share, known_credit) = (*share, credit_of(*share, total));
            }
            *credit = known_credit;
            if *share == 0 {
                continue;
            }
            let owed = account.saturating_add(known_credit);
            let candidate = Candidate {
                position,
                is_due: owed >= threshold.saturating_sub(MARGIN),
                slack: PICK.saturating_sub(threshold).saturating_sub(owed),
                share: i64::from(*share),
            };
            if best.as_ref().is_none_or(|best| candidate.precedes(best)) {
                best = Some(candidate);
            }
        }
        BackendIndex::new(best?.position)
    }
}

struct Candidate {
    position: usize,
    is_due: bool,
    /// How much more it can be owed until it is a pick behind.
    slack: i64,
    share: i64,
}

impl Candidate {
    /// Due candidates come first. Then the number of picks until it is one behind decides: slack / share. Accounts
    /// have at most 34 bits and shares 18, so the products cannot wrap.
    fn precedes(&self, other: &Self) -> bool {
        if self.is_due != other.is_due {
            return self.is_due;
        }
        self.slack.wrapping_mul(other.share) < other.slack.wrapping_mul(self.share)
    }
}

/// Different bits of a random number.
fn next_roll(roll: &u64) -> Option<u64> {
    Some(roll.rotate_left(17))
}

fn greatest_common_divisor(a: u8, b: u8) -> u8 {
    let (mut a, mut b) = (a, b);
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}

/// `share / total` of a pick, rounded down.
fn credit_of(share: u32, total: u64) -> i64 {
    let credit = (u64::from(share) << PICK_BITS).checked_div(total).unwrap_or(0);
    i64::try_from(credit).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Dice, pool};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn shares_of(weights: &[u32]) -> Shares {
        let mut shares = [0; MAX_BACKENDS];
        shares[..weights.len()].copy_from_slice(weights);
        shares
    }

    fn rotation(size: usize) -> Rotation {
        Rotation::new(&pool(&vec![(1, 1); size]))
    }

    fn take(rotation: &mut Rotation, shares: &Shares) -> Option<BackendIndex> {
        let next = rotation.next(shares);
        rotation.take();
        next
    }

    fn picks(rotation: &mut Rotation, weights: &[u32], count: usize) -> String {
        let shares = shares_of(weights);
        let letter = |backend: BackendIndex| char::from(b"ABCDEF"[backend.position()]);
        (0..count).map(|_| letter(take(rotation, &shares).unwrap())).collect()
    }

    #[test]
    fn equal_weights_alternate_exactly() {
        assert_eq!(picks(&mut rotation(2), &[7, 7], 6), "ABABAB");
        assert_eq!(picks(&mut rotation(3), &[1, 1, 1], 9), "ABCABCABC");
        assert_eq!(picks(&mut rotation(5), &[1_000; 5], 5), "ABCDE");
    }

    #[test]
    fn the_picks_of_a_heavy_backend_are_spread_evenly() {
        assert_eq!(picks(&mut rotation(2), &[3, 1], 8), "AABAAABA");
        assert_eq!(picks(&mut rotation(3), &[5, 1, 1], 7), "AABAACA");
    }

    #[test]
    fn no_prefix_is_ever_a_whole_pick_off() {
        for seed in 0..60 {
            let mut dice = Dice::new(seed);
            let size = 2 + dice.below(15) as usize;
            let weights: Vec<u32> = (0..size).map(|_| 1 + dice.below(100) as u32).collect();
            let shares = shares_of(&weights);
            let total: u32 = weights.iter().sum();
            let mut rotation = rotation(size);
            let mut counts = vec![0_i64; size];
            for pick in 1..3_000_i64 {
                counts[take(&mut rotation, &shares).unwrap().position()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let off = count * i64::from(total) - pick * i64::from(*weight);
                    assert!(off.abs() < i64::from(total), "seed {seed}, pick {pick}: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn no_prefix_is_two_picks_off_after_a_backend_dropped_out() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let size = 3 + dice.below(14) as usize;
            let mut weights: Vec<u32> = (0..size).map(|_| 1 + dice.below(100) as u32).collect();
            let mut rotation = rotation(size);
            for _ in 0..dice.below(1_000) {
                take(&mut rotation, &shares_of(&weights)).unwrap();
            }
            weights[dice.below(size as u64) as usize] = 0;
            let shares = shares_of(&weights);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0_i64; size];
            let mut worst = 0.0_f64;
            for pick in 1..2_000_i64 {
                counts[take(&mut rotation, &shares).unwrap().position()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let off = count * i64::from(total) - pick * i64::from(*weight);
                    worst = worst.max(off.abs() as f64 / f64::from(total));
                }
            }
            assert!(worst < 2.0, "seed {seed}: {worst}");
        }
    }

    #[test]
    fn rotations_that_start_anywhere_begin_with_each_backend_by_its_share() {
        for weights in [vec![1, 1], vec![100, 100, 100], vec![5, 1, 1], vec![0, 0]] {
            let backends: Vec<(u8, u8)> = weights.iter().map(|weight| (1, *weight)).collect();
            let policy = pool(&backends);
            let shares: Vec<u32> = weights.iter().map(|weight| u32::from(*weight)).collect();
            let shares = if shares == [0, 0] { vec![1, 1] } else { shares };
            let total: u32 = shares.iter().sum();
            let (mut dice, mut firsts) = (Dice::new(34), vec![0.0; shares.len()]);
            for _ in 0..2_000 {
                let mut rotation = Rotation::starting_anywhere(&policy, dice.roll());
                firsts[take(&mut rotation, &shares_of(&shares)).unwrap().position()] += 1.0;
            }
            for (first, share) in firsts.iter().zip(&shares) {
                let fair = 2_000.0 * f64::from(*share) / f64::from(total);
                assert!((first - fair).abs() < 150.0, "{weights:?}: {firsts:?}");
            }
        }
    }

    #[test]
    fn a_rotation_that_starts_anywhere_continues_like_any_other() {
        let mut dice = Dice::new(35);
        for _ in 0..100 {
            let policy = pool(&[(1, 7), (1, 7), (2, 1), (1, 7), (2, 3)]);
            let mut rotation = Rotation::starting_anywhere(&policy, dice.roll());
            let first = picks(&mut rotation, &[7, 7, 0, 7, 0], 9);
            for letter in ['A', 'B', 'D'] {
                assert_eq!(first.matches(letter).count(), 3, "{first}");
            }
            assert_eq!(first.get(..3), first.get(3..6), "{first}");
            let second = picks(&mut rotation, &[0, 0, 1, 0, 3], 8);
            assert_eq!(second.matches('C').count(), 2, "{second}");
        }
    }

    #[test]
    fn asking_whose_turn_it_is_does_not_take_it() {
        let mut rotation = rotation(2);
        let shares = shares_of(&[1, 1]);
        let next = rotation.next(&shares);
        assert_eq!(rotation.next(&shares), next);
        assert_eq!(take(&mut rotation, &shares), next);
        assert_ne!(rotation.next(&shares), next);
    }

    #[test]
    fn a_turn_that_was_looked_at_can_be_taken_once() {
        let (mut at_once, mut later) = (rotation(3), rotation(3));
        for shares in [[3, 1, 2], [3, 0, 2], [0, 5, 5], [1, 1, 1]].repeat(20) {
            let shares = shares_of(&shares);
            let looked_at = later.next(&shares);
            later.take();
            later.take();
            assert_eq!(looked_at, take(&mut at_once, &shares));
            assert_eq!(later, at_once);
        }
        later.next(&shares_of(&[1, 1, 1]));
        later.pass_over();
        later.take();
        assert_eq!(later.accounts, at_once.accounts);
    }

    #[test]
    fn a_backend_that_returns_gets_no_burst() {
        let mut rotation = rotation(3);
        picks(&mut rotation, &[1, 1, 1], 7);
        let without = picks(&mut rotation, &[0, 1, 1], 100);
        assert!(!without.contains("BB") && !without.contains("CC"), "{without}");
        let back = picks(&mut rotation, &[1, 1, 1], 9);
        for letter in ['A', 'B', 'C'] {
            let count = back.matches(letter).count();
            assert!((2..=4).contains(&count), "{back}");
        }
        assert!(!back.contains("AA"), "{back}");
    }

    #[test]
    fn shares_hold_while_candidates_come_and_go() {
        for seed in 0..100 {
            let mut dice = Dice::new(seed);
            let weights: Vec<u32> = (0..5).map(|_| 1 + dice.below(9) as u32).collect();
            let mut rotation = rotation(5);
            let (mut counts, mut fair) = ([0.0; 5], [0.0; 5]);
            for _ in 0..5_000 {
                let out = dice.below(8) as usize;
                let mut present = weights.clone();
                if let Some(weight) = present.get_mut(out) {
                    *weight = 0;
                }
                let total: u32 = present.iter().sum();
                let picked = take(&mut rotation, &shares_of(&present)).unwrap();
                counts[picked.position()] += 1.0;
                fair.iter_mut().zip(&present).for_each(|(fair, weight)| {
                    *fair += f64::from(*weight) / f64::from(total);
                });
            }
            let off = counts.iter().zip(fair).map(|(count, fair): (&f64, _)| (count - fair).abs());
            let off = off.fold(0.0, f64::max);
            assert!(off < 3.0, "seed {seed}: {off} off, {counts:?}");
        }
    }

    #[test]
    fn shares_of_all_sizes_in_a_full_pool_do_not_overflow() {
        let mut rotation = rotation(MAX_BACKENDS);
        let mut shares = [100_000; MAX_BACKENDS];
        shares[5] = 1;
        for _ in 0..200 {
            take(&mut rotation, &shares).unwrap();
        }
        assert_eq!(take(&mut rotation, &[0; MAX_BACKENDS]), None);
    }
}
