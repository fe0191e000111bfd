//! Long random sequences against a model that keeps a list of all events.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A request that was granted.
struct Held {
    reservation: Reservation,
    /// Its position in the model's list of tokens.
    entry: usize,
    /// The tokens that it holds in the minute.
    tokens: u64,
    /// How many movements of the level came before it, and when it came.
    movements: usize,
    at: u64,
    /// By how many parts it raised the level.
    parts: i128,
    /// When it was reserved.
    reserved: Reserved,
}

/// A half minute of the wall clock, and how often the clock was set back before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Reserved {
    put_back: u64,
    half_minute: u64,
}

/// The state that changes with time.
#[derive(Clone, Copy)]
struct Clocked {
    /// The seconds that have passed, and the second of the wall clock.
    passed: u64,
    second: u64,
    window: u64,
    requests: u64,
    /// The level in sixty-thousandths of a token, as of `drained_at`.
    level: i128,
    drained_at: u64,
    put_back: u64,
    /// The parts that were written off the remembered reservations.
    written_off: i128,
    lowered: Option<(u64, u64)>,
}

/// All events of one record.
struct Model {
    settings: BudgetSettings,
    clocked: Clocked,
    /// (when in seconds passed, tokens)
    tokens: Vec<(u64, u64)>,
    /// Everything that raised (positive) or lowered the level, except draining.
    movements: Vec<i128>,
}

impl Model {
    fn new(settings: BudgetSettings) -> Self {
        Self {
            settings,
            clocked: Clocked {
                passed: 0,
                second: 0,
                window: 0,
                requests: 0,
                level: 0,
                drained_at: 0,
                put_back: 0,
                written_off: 0,
                lowered: None,
            },
            tokens: Vec::new(),
            movements: Vec::new(),
        }
    }

    fn tick(&mut self, now: u64) {
        let second = now / 1_000;
        self.clocked.passed += second.saturating_sub(self.clocked.second);
        if second > self.clocked.second || second + 1 < self.clocked.second {
            self.clocked.second = second;
        }
        let window = now / 10_000;
        if self.clocked.window < window || self.clocked.window * 10_000 > now + 1_000 {
            (self.clocked.window, self.clocked.requests) = (window, 0);
        }
        let elapsed = now.saturating_sub(self.clocked.drained_at);
        self.clocked.level = (self.clocked.level - self.drain() * i128::from(elapsed)).max(0);
        let clock_went_back = self.clocked.drained_at > now + 1_000;
        if elapsed > 0 || clock_went_back {
            self.clocked.drained_at = now;
        }
        self.clocked.put_back += u64::from(clock_went_back);
        self.clocked.lowered = self.clocked.lowered.filter(|(_, said)| *said <= now + 1_000);
    }

    fn drain(&self) -> i128 {
        i128::from(self.settings.provisioned.unwrap().tokens_per_minute.get())
    }

    fn capacity(&self) -> i128 {
        i128::from(self.settings.provisioned.unwrap().burst_tokens) * 60_000
    }

    fn highest(&self) -> i128 {
        self.capacity() + self.drain() * 60_000
    }

    fn limit(&self, now: u64) -> u64 {
        let configured = u64::from(self.settings.tokens_per_minute.unwrap().get());
        match self.clocked.lowered {
            Some((tokens, said)) if said <= now + 1_000 && now.saturating_sub(said) < 300_000 => {
                tokens
            }
            _ => configured,
        }
    }

    fn in_minute(&self) -> u64 {
        let recent = self.tokens.iter().filter(|(when, _)| self.clocked.passed - when < 61);
        recent.map(|(_, tokens)| tokens).sum()
    }

    fn admits(&self, estimate: Estimate, terms: Terms, now: u64) -> bool {
        let below = |permille: u16| {
            self.clocked.level < (self.capacity() * i128::from(permille) / 1_000).max(1)
        };
        if !terms.ceiling_permille.is_none_or(below) || terms.passes_limits {
            return terms.ceiling_permille.is_none_or(below);
        }
        let limit = self.limit(now);
        let tokens = estimate.total().min(limit);
        let per_window = u64::from(self.settings.requests_per_minute.unwrap().get()).div_ceil(6);
        self.in_minute() + tokens <= limit && self.clocked.requests < per_window && below(980)
    }

    fn parts(&self, usage: UsedTokens) -> i128 {
        let input = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        (i128::from(input) + 4 * i128::from(usage.completion_tokens)) * 60_000
    }

    fn move_by(&mut self, parts: i128) -> i128 {
        let level = (self.clocked.level + parts).clamp(0, self.highest());
        let moved = level - self.clocked.level;
        self.clocked.level = level;
        self.movements.push(moved);
        moved
    }

    fn grant(&mut self, estimate: Estimate, reservation: Reservation, now: u64) -> Held {
        let movements = self.movements.len();
        let tokens = estimate.total().min(self.limit(now));
        self.tokens.push((self.clocked.passed, tokens));
        self.clocked.requests += 1;
        let parts = self.move_by(self.parts(estimate.into()));
        let (entry, at) = (self.tokens.len() - 1, self.clocked.drained_at);
        Held { reservation, entry, tokens, movements, at, parts, reserved: self.half_minute() }
    }

    fn half_minute(&self) -> Reserved {
        let Clocked { put_back, drained_at, .. } = self.clocked;
        Reserved { put_back, half_minute: drained_at / 30_000 }
    }

    /// Whether its reservation is remembered: it is of this half minute or of the two before.
    fn remembers(&self, held: &Held) -> bool {
        let (now, since) = (self.half_minute(), held.reserved);
        now.put_back == since.put_back && now.half_minute - since.half_minute < 3
    }

    /// `others` are the parts of all other remembered reservations.
    fn conclude(&mut self, held: &Held, others: i128, ending: Settlement) {
        let usage = match ending {
            Settlement::Settled(usage) => usage,
            _ => UsedTokens::default(),
        };
        self.tokens[held.entry].1 = match ending {
            Settlement::Settled(usage) => usage.total().max(held.tokens),
            Settlement::Failed => held.tokens,
            Settlement::Released | Settlement::Throttled { .. } => 0,
        };
        let mut left = held.parts;
        if self.remembers(held) {
            let all = others + held.parts;
            let permille = self.clocked.written_off * 1_000 / all.max(1);
            let share = held.parts / 1_000 * permille + held.parts % 1_000 * permille / 1_000;
            left -= share;
            self.clocked.written_off = (self.clocked.written_off - share).min(others);
        }
        self.move_by(self.parts(usage) - left);
        if let Settlement::Throttled { retry_after: Some(length) } = ending {
            let least = self.capacity() + self.drain() * i128::from(length.as_ms()) - 1;
            self.move_by((least - self.clocked.level).max(0));
        }
    }

    /// `reserved` are the parts of all remembered reservations.
    fn utilize(&mut self, held: &Held, reserved: i128, permille: u32) {
        let said = self.capacity() * i128::from(permille) / 1_000;
        let since = &self.movements[held.movements..];
        let poured: i128 = since.iter().filter(|moved| **moved > 0).sum();
        let taken_out: i128 = since.iter().filter(|moved| **moved < 0).sum();
        let drained = self.drain() * i128::from(self.clocked.drained_at.saturating_sub(held.at));
        let least = (said - drained + taken_out).max(0);
        let level = self.clocked.level.min(said + poured).max(least).min(self.highest());
        let permille = |level: i128| level * 1_000 / self.capacity().max(1);
        // Small moves are not written.
        if (permille(level) - permille(self.clocked.level)).abs() >= 5 {
            let written_off = self.clocked.written_off + (self.clocked.level - level).max(0);
            self.clocked.written_off = written_off.min(reserved);
            self.move_by(level - self.clocked.level);
        }
    }
}

/// The level of a record in parts, computed from the time at which it drains to zero.
fn level(bench: &Bench, now: u64) -> i128 {
    let mut bytes = [0; 32];
    bench.bucket(now).encode(&mut Writer::new(&mut bytes));
    i128::from(u64::from_le_bytes(bytes[..8].try_into().unwrap()))
}

/// The actions of workers on one record, and on the clock.
struct Run {
    seed: u64,
    dice: Dice,
    bench: Bench,
    model: Model,
    held: Vec<Held>,
    now: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let settings = BudgetSettings {
            tokens_per_minute: NonZeroU32::new(500 + dice.below(20_000) as u32),
            requests_per_minute: NonZeroU32::new(1 + dice.below(600) as u32),
            provisioned: Some(ProvisionedSettings {
                tokens_per_minute: NonZeroU64::new(1 + dice.below(90_000)).unwrap(),
                burst_tokens: dice.below(8_000),
                output_token_weight_permille: 4_000,
            }),
        };
        let (bench, model) = (Bench::new(settings), Model::new(settings));
        Self { seed, dice, bench, model, held: Vec::new(), now: START }
    }

    fn step(&mut self) {
        let (bytes, clocked) = (self.bench.bytes.clone(), self.model.clocked);
        self.turn_the_clock();
        self.act();
        self.compare();
        if self.bench.bytes == bytes {
            // Nothing was written, so the record does not know this time.
            self.model.clocked = clocked;
        }
    }

    fn act(&mut self) {
        match self.dice.below(9) {
            0..=3 => self.reserve(),
            4..=6 => self.conclude(),
            7 => self.utilize(),
            _ => {
                let limit = self.dice.below(30_000) as i64 - 500;
                if self.bench.lower(limit, self.now) {
                    self.model.clocked.lowered = Some((limit as u64, self.now));
                }
            }
        }
    }

    fn turn_the_clock(&mut self) {
        let dice = &mut self.dice;
        self.now = match dice.below(60) {
            0 => self.now + dice.below(200_000),
            1 => self.now - dice.below(200_000),
            2 => self.now - dice.below(2_500),
            3 => self.now + dice.below(20_000),
            _ => self.now + dice.below(400),
        };
        self.model.tick(self.now);
        let written_off = self.model.clocked.written_off.min(self.reserved());
        self.model.clocked.written_off = written_off;
    }

    /// The parts of all remembered reservations.
    fn reserved(&self) -> i128 {
        let remembered = self.held.iter().filter(|held| self.model.remembers(held));
        remembered.map(|held| held.parts).sum()
    }

    fn estimate(&mut self) -> Estimate {
        let completion_tokens = self.dice.below(300);
        Estimate { prompt_tokens: self.dice.below(1_500), completion_tokens }
    }

    fn reserve(&mut self) {
        let estimate = self.estimate();
        let ceiling = (self.dice.below(4) == 0).then(|| self.dice.below(1_001) as u16);
        let passes_limits = self.dice.below(8) == 0;
        let terms = Terms { ceiling_permille: ceiling, passes_limits };
        if self.dice.below(3) == 0 {
            // The race is lost: the bytes are not written, and the reservation is dropped.
            let (mut bytes, settings) = (self.bench.bytes.clone(), &self.bench.settings);
            let _ = reserve(&mut bytes, settings, estimate, terms, at(self.now));
        }
        let admits = self.model.admits(estimate, terms, self.now);
        match self.bench.reserve_by(terms, estimate, self.now) {
            Ok(reservation) => {
                assert!(admits, "seed {}: granted", self.seed);
                self.held.push(self.model.grant(estimate, reservation, self.now));
            }
            Err(until) => {
                assert!(!admits && until > self.now, "seed {}: denied until {until}", self.seed);
                let granted = |now| {
                    let (mut bytes, settings) = (self.bench.bytes.clone(), &self.bench.settings);
                    matches!(
                        reserve(&mut bytes, settings, estimate, terms, at(now)),
                        Admission::Granted(_)
                    )
                };
                let exact = granted(until) && !granted(until - 1);
                assert!(exact, "seed {}: until {until} is not exact", self.seed);
            }
        }
    }

    fn ending(&mut self) -> Settlement {
        match self.dice.below(6) {
            0 => Settlement::Released,
            1 => Settlement::Failed,
            2 => Settlement::Throttled {
                retry_after: (self.dice.below(2) == 0).then(|| ms(self.dice.below(5_000))),
            },
            _ => Settlement::Settled(UsedTokens {
                prompt_tokens: self.dice.below(2_500),
                cached_tokens: self.dice.below(3) * self.dice.below(2_000),
                completion_tokens: self.dice.below(900),
            }),
        }
    }

    fn conclude(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.swap_remove(self.dice.below(self.held.len() as u64) as usize);
        let ending = self.ending();
        let others = self.reserved();
        self.model.conclude(&held, others, ending);
        let races = self.dice.below(3);
        let Bench { settings, bytes } = &mut self.bench;
        held.reservation.conclude(ending, settings, at(self.now), |change| {
            // Lost races run the change on a record that is then not written.
            (0..races).for_each(|_| change(&mut bytes.clone()));
            change(bytes);
        });
    }

    fn utilize(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let position = self.dice.below(self.held.len() as u64) as usize;
        let permille = self.dice.below(1_500) as u32;
        let reserved = self.reserved();
        self.model.utilize(&self.held[position], reserved, permille);
        self.bench.utilize(&self.held[position].reservation, permille, self.now);
    }

    fn compare(&self) {
        let left = self.model.limit(self.now).saturating_sub(self.model.in_minute());
        let (seed, now) = (self.seed, self.now);
        assert_eq!(self.bench.remaining(now), left, "seed {seed}, at {now}");
        let expected = self.model.clocked.level;
        assert_eq!(level(&self.bench, now), expected, "seed {seed}, at {now}");
    }
}

#[test]
fn a_budget_agrees_with_a_list_of_all_that_happened() {
    for seed in 0..250 {
        let mut run = Run::new(seed);
        (0..400).for_each(|_| run.step());
    }
}

#[test]
fn nothing_leaks() {
    for seed in 1_000..1_050 {
        let mut run = Run::new(seed);
        (0..200).for_each(|_| run.step());
        while !run.held.is_empty() {
            run.conclude();
        }
        run.now += 86_400_000;
        assert_eq!(level(&run.bench, run.now), 0, "seed {seed}");
        let limit = u64::from(run.bench.settings.tokens_per_minute.unwrap().get());
        assert_eq!(run.bench.remaining(run.now), limit, "seed {seed}");
    }
}

#[test]
fn reservations_that_are_released_in_time_leave_no_trace() {
    for seed in 2_000..2_100 {
        let mut run = Run::new(seed);
        run.bench.settings.requests_per_minute = NonZeroU32::new(u32::MAX);
        let mut reservations = Vec::new();
        for _ in 0..40 {
            let estimate = run.estimate();
            reservations.extend(run.bench.reserve(estimate, run.now));
        }
        for reservation in reservations {
            run.bench.conclude(reservation, Settlement::Released, run.now);
        }
        assert_eq!(level(&run.bench, run.now), 0, "seed {seed}");
        let limit = u64::from(run.bench.settings.tokens_per_minute.unwrap().get());
        assert_eq!(run.bench.remaining(run.now), limit, "seed {seed}");
    }
}
