#![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

use super::*;
use crate::policy::fixtures::{Dice, at, ms};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

mod model;

const START: u64 = 1_795_000_000_000;

fn tokens(limit: u32) -> BudgetSettings {
    BudgetSettings { tokens_per_minute: NonZeroU32::new(limit), ..BudgetSettings::default() }
}

fn requests(limit: u32) -> BudgetSettings {
    BudgetSettings { requests_per_minute: NonZeroU32::new(limit), ..BudgetSettings::default() }
}

/// Drains a token per millisecond; an output token counts four.
fn provisioned(burst_tokens: u64) -> BudgetSettings {
    let provisioned = ProvisionedSettings {
        tokens_per_minute: NonZeroU64::new(60_000).unwrap(),
        burst_tokens,
        output_token_weight_permille: 4_000,
    };
    BudgetSettings { provisioned: Some(provisioned), ..BudgetSettings::default() }
}

/// The terms of a request for which no other backend is left.
const LAST: Terms = Terms { ceiling_permille: None, passes_limits: true };

fn prompt(prompt_tokens: u64) -> Estimate {
    Estimate { prompt_tokens, completion_tokens: 0 }
}

fn used(prompt_tokens: u64) -> Settlement {
    Settlement::Settled(UsedTokens { prompt_tokens, ..UsedTokens::default() })
}

/// A backend's record, as a single worker would keep it; empty while there is none.
struct Bench {
    settings: BudgetSettings,
    bytes: Vec<u8>,
}

impl Bench {
    fn new(settings: BudgetSettings) -> Self {
        Self { settings, bytes: Vec::new() }
    }

    fn reserve(&mut self, estimate: Estimate, now: u64) -> Result<Reservation, u64> {
        self.reserve_below(None, estimate, now)
    }

    fn reserve_below(
        &mut self,
        ceiling_permille: Option<u16>,
        estimate: Estimate,
        now: u64,
    ) -> Result<Reservation, u64> {
        self.reserve_by(Terms { ceiling_permille, passes_limits: false }, estimate, now)
    }

    fn reserve_by(
        &mut self,
        terms: Terms,
        estimate: Estimate,
        now: u64,
    ) -> Result<Reservation, u64> {
        let mut bytes = self.bytes.clone();
        match reserve(&mut bytes, &self.settings, estimate, terms, at(now)) {
            Admission::Granted(reservation) => {
                self.bytes = bytes;
                Ok(reservation)
            }
            Admission::Denied { until, clock_went_back } => {
                self.write_if(clock_went_back, bytes);
                Err(until.as_ms())
            }
        }
    }

    fn write_if(&mut self, is_changed: bool, bytes: Vec<u8>) -> bool {
        if is_changed {
            self.bytes = bytes;
        }
        is_changed
    }

    /// Reserves without ever concluding.
    fn hold(&mut self, estimate: Estimate, now: u64) {
        drop(self.reserve(estimate, now).unwrap());
    }

    fn conclude(&mut self, reservation: Reservation, ending: Settlement, now: u64) {
        let bytes = &mut self.bytes;
        reservation.conclude(ending, &self.settings, at(now), |change| change(bytes));
    }

    fn remaining(&self, now: u64) -> u64 {
        remaining_tokens(Some(&self.bytes), &self.settings, at(now)).unwrap()
    }

    fn permille(&self, now: u64) -> u64 {
        provisioned_permille(Some(&self.bytes), &self.settings, at(now)).unwrap()
    }

    fn utilize(&mut self, reservation: &Reservation, permille: u32, now: u64) {
        let mut bytes = self.bytes.clone();
        let is_changed = utilization(&mut bytes, &self.settings, reservation, permille, at(now));
        self.write_if(is_changed, bytes);
    }

    fn lower(&mut self, limit: i64, now: u64) -> bool {
        let mut bytes = self.bytes.clone();
        let is_changed = limit_header(&mut bytes, &self.settings, limit, at(now));
        self.write_if(is_changed, bytes)
    }

    fn bucket(&self, now: u64) -> Bucket {
        look(Some(&self.bytes), |record| {
            record.move_to(&self.settings, at(now));
            record.bucket
        })
    }
}

#[test]
fn without_limits_everything_is_granted() {
    let mut bench = Bench::new(BudgetSettings::default());
    assert!(!bench.settings.is_limited());
    for _ in 0..100 {
        bench.hold(prompt(u64::MAX), START);
    }
}

#[test]
fn tokens_are_reserved_up_to_the_limit_and_come_back_after_a_minute() {
    let mut bench = Bench::new(tokens(1_000));
    bench.hold(prompt(600), START + 999);
    bench.hold(prompt(400), START + 1_000);
    assert_eq!(bench.reserve(prompt(1), START + 1_000), Err(START + 61_000));
    assert_eq!(bench.reserve(prompt(601), START + 1_000), Err(START + 62_000));
    assert_eq!(bench.reserve(prompt(1), START + 60_999), Err(START + 61_000));
    bench.hold(prompt(600), START + 61_000);
    assert_eq!(bench.remaining(START + 61_000), 0);
}

#[test]
fn tokens_taken_late_in_a_second_count_for_a_full_minute() {
    for (taken, forgotten_after) in [(START, 61_000), (START + 999, 60_001)] {
        let mut bench = Bench::new(tokens(1_000));
        bench.hold(prompt(1_000), taken);
        for later in [59_999, 60_000, forgotten_after - 1] {
            assert_eq!(bench.remaining(taken + later), 0, "{later} ms later");
        }
        for later in [forgotten_after, 61_000] {
            assert_eq!(bench.remaining(taken + later), 1_000, "{later} ms later");
        }
    }
}

#[test]
fn a_request_larger_than_the_limit_passes_when_nothing_else_is_reserved() {
    let mut bench = Bench::new(tokens(1_000));
    let large = bench.reserve(prompt(u64::MAX), START).unwrap();
    assert_eq!(bench.reserve(prompt(5_000), START), Err(START + 61_000));
    bench.conclude(large, Settlement::Released, START);
    bench.hold(prompt(1), START);
    assert_eq!(bench.reserve(prompt(5_000), START), Err(START + 61_000));
    assert!(bench.reserve(prompt(999), START).is_ok());
}

#[test]
fn tokens_per_minute_count_the_larger_of_estimate_and_usage() {
    let mut bench = Bench::new(tokens(1_000));
    let mut remaining_after = |ending| {
        let reservation = bench.reserve(prompt(300), START).unwrap();
        bench.conclude(reservation, ending, START + 500);
        bench.remaining(START + 500)
    };
    assert_eq!(remaining_after(used(1)), 700, "Azure does not refund");
    assert_eq!(remaining_after(Settlement::Released), 700);
    assert_eq!(remaining_after(Settlement::Throttled { retry_after: None }), 700);
    assert_eq!(remaining_after(Settlement::Failed), 400, "it was counted when it was sent");
    assert_eq!(remaining_after(used(400)), 0);
}

#[test]
fn a_request_that_passes_the_limits_is_counted_all_the_same() {
    let mut bench = Bench::new(tokens(1_000));
    bench.hold(prompt(900), START);
    drop(bench.reserve_by(LAST, prompt(300), START).unwrap());
    assert_eq!(bench.remaining(START), 0);
    assert_eq!(bench.reserve(prompt(800), START), Err(START + 61_000));
    let mut bench = Bench::new(requests(6));
    bench.hold(prompt(1), START);
    assert!(bench.reserve(prompt(1), START).is_err());
    drop(bench.reserve_by(LAST, prompt(1), START).unwrap());
    let mut bench = Bench::new(provisioned(1_000));
    bench.hold(prompt(1_000), START);
    drop(bench.reserve_by(LAST, prompt(500), START).unwrap());
    assert_eq!(bench.permille(START), 1_500);
    let batch = Terms { ceiling_permille: Some(800), passes_limits: true };
    assert_eq!(bench.reserve_by(batch, prompt(1), START), Err(START + 701), "others come first");
}

#[test]
fn a_correction_goes_to_the_second_of_the_reservation() {
    let mut bench = Bench::new(tokens(1_000));
    let first = bench.reserve(prompt(500), START).unwrap();
    let second = bench.reserve(prompt(100), START + 30_000).unwrap();
    bench.conclude(first, used(800), START + 40_000);
    assert_eq!(bench.remaining(START + 40_000), 100);
    assert_eq!(bench.remaining(START + 61_000), 900);
    bench.conclude(second, used(2_000), START + 91_000);
    assert_eq!(bench.remaining(START + 91_000), 1_000, "it was forgotten by then");
}

#[test]
fn requests_are_counted_in_ten_seconds_and_stay_counted() {
    let mut bench = Bench::new(requests(13));
    for _ in 0..3 {
        let refused = bench.reserve(prompt(1), START + 9_000).unwrap();
        let ending = Settlement::Throttled { retry_after: Some(ms(300)) };
        bench.conclude(refused, ending, START + 9_000);
    }
    assert_eq!(bench.reserve(prompt(1), START + 9_999), Err(START + 10_000));
    bench.hold(prompt(1), START + 10_000);
    bench.hold(prompt(1), START + 9_999);
    bench.hold(prompt(1), START + 10_000);
    let overtaken = bench.reserve(prompt(1), START + 9_999);
    assert_eq!(overtaken, Err(START + 20_000), "a late reading of the clock starts no window");
}

#[test]
fn provisioned_throughput_admits_a_little_below_its_capacity_and_drains_to_the_millisecond() {
    let mut bench = Bench::new(provisioned(1_000));
    bench.hold(prompt(979), START);
    let last = Estimate { prompt_tokens: 121, completion_tokens: 100 };
    bench.hold(last, START);
    assert_eq!(bench.permille(START), 1_500);
    assert_eq!(bench.reserve(prompt(1), START), Err(START + 521));
    assert_eq!(bench.reserve(prompt(1), START + 520), Err(START + 521));
    assert!(bench.reserve(prompt(1), START + 521).is_ok());
}

#[test]
fn a_drain_that_is_no_whole_number_per_millisecond_loses_nothing() {
    let mut settings = provisioned(1_000);
    if let Some(provisioned) = &mut settings.provisioned {
        provisioned.tokens_per_minute = NonZeroU64::new(7).unwrap();
    }
    let mut bench = Bench::new(settings);
    bench.hold(prompt(7), START);
    for step in 1..60_000 {
        if step % 7 == 0 {
            bench.hold(prompt(0), START + step);
        }
    }
    let level = |now| bench.bucket(now);
    let empty = Bucket::default().permille(&settings.provisioned.unwrap());
    assert_ne!(level(START + 59_999), level(START + 60_000));
    assert_eq!(level(START + 60_000).permille(&settings.provisioned.unwrap()), empty);
    let settings = settings.provisioned.unwrap();
    assert_eq!(level(START + 60_000).full_until(&settings, 0), None);
    assert!(level(START + 59_999).full_until(&settings, 0).is_some());
}

#[test]
fn cached_tokens_cost_provisioned_throughput_nothing() {
    let mut bench = Bench::new(provisioned(1_000));
    let reservation = bench.reserve(prompt(800), START).unwrap();
    let usage = UsedTokens { prompt_tokens: 800, cached_tokens: 700, completion_tokens: 50 };
    bench.conclude(reservation, Settlement::Settled(usage), START);
    assert_eq!(bench.permille(START), 300);
}

#[test]
fn a_correction_never_takes_the_level_below_empty() {
    let mut bench = Bench::new(provisioned(1_000));
    let reservation = bench.reserve(prompt(900), START).unwrap();
    bench.conclude(reservation, used(100), START + 500);
    assert_eq!(bench.permille(START + 500), 0);
    bench.hold(prompt(1_000), START + 500);
    assert_eq!(bench.permille(START + 500), 1_000);
}

#[test]
fn a_throttle_is_over_exactly_when_the_backend_said() {
    let mut bench = Bench::new(provisioned(1_000));
    let refused = bench.reserve(prompt(400), START).unwrap();
    bench.conclude(refused, Settlement::Throttled { retry_after: Some(ms(312)) }, START + 10);
    assert_eq!(bench.permille(START + 321), 1_000);
    assert_eq!(bench.permille(START + 322), 999);
    assert_eq!(bench.reserve(prompt(1), START + 10), Err(START + 342), "it has a little room left");
    assert!(bench.reserve(prompt(0), START + 342).is_ok());
    let mut bench = Bench::new(provisioned(1_000));
    bench.hold(prompt(900), START);
    let refused = bench.reserve(prompt(9_100), START).unwrap();
    bench.conclude(refused, Settlement::Throttled { retry_after: None }, START);
    assert_eq!(bench.permille(START), 900, "without a time only the tokens are given back");
}

#[test]
fn a_lost_reservation_blocks_for_a_minute_at_most() {
    let mut bench = Bench::new(provisioned(1_000));
    let huge = Estimate { prompt_tokens: u64::MAX, completion_tokens: u64::MAX };
    bench.hold(huge, START);
    assert_eq!(bench.reserve(prompt(1), START), Err(START + 60_021));
    let mut bench = Bench::new(tokens(1_000));
    bench.hold(huge, START);
    assert_eq!(bench.reserve(prompt(1), START), Err(START + 61_000));
}

#[test]
fn batch_requests_leave_provisioned_throughput_to_others() {
    let mut bench = Bench::new(provisioned(1_000));
    drop(bench.reserve_below(Some(600), prompt(600), START).unwrap());
    assert_eq!(bench.reserve_below(Some(600), prompt(1), START), Err(START + 1));
    bench.hold(prompt(100), START);
    assert_eq!(bench.reserve_below(Some(600), prompt(1), START), Err(START + 101));
    assert!(bench.reserve_below(Some(0), prompt(1), START + 700).is_ok(), "an empty one has room");
    let mut without = Bench::new(tokens(10));
    assert!(without.reserve_below(Some(0), prompt(1), START).is_ok());
}

#[test]
fn a_utilization_moves_the_level_only_as_far_as_it_proves() {
    let mut bench = Bench::new(provisioned(1_000));
    let first = bench.reserve(prompt(100), START).unwrap();
    bench.utilize(&first, 500, START + 50);
    assert_eq!(bench.permille(START + 50), 450, "others use it too; 50 may have drained since");
    let five = [100; 5].map(|tokens| bench.reserve(prompt(tokens), START + 50).unwrap());
    bench.utilize(&first, 500, START + 50);
    assert_eq!(bench.permille(START + 50), 950, "it may be from before the five");
    let last = bench.reserve(prompt(0), START + 50).unwrap();
    bench.utilize(&last, 200, START + 50);
    assert_eq!(bench.permille(START + 50), 200, "nothing went in since");
    bench.utilize(&first, 900, START + 50);
    assert_eq!(bench.permille(START + 50), 200, "the older one does not undo the newer");
    bench.utilize(&last, 201, START + 50);
    assert_eq!(bench.permille(START + 50), 200, "not worth a write");
    five.into_iter().for_each(|one| bench.conclude(one, used(100), START + 50));
    assert_eq!(bench.permille(START + 50), 700, "they were not in it, and were written off");
}

#[test]
fn an_over_estimate_is_taken_out_once() {
    let mut bench = Bench::new(provisioned(10_000));
    let early = [300; 10].map(|tokens| bench.reserve(prompt(tokens), START).unwrap());
    let last = bench.reserve(prompt(300), START + 100).unwrap();
    // Ten requests used 50 each, of which 100 drained. The eleventh is in it with 50.
    bench.utilize(&last, 45, START + 180);
    early.into_iter().for_each(|one| bench.conclude(one, used(50), START + 190));
    bench.conclude(last, used(50), START + 200);
    assert_eq!(bench.permille(START + 200), 35, "as much as the backend states");
}

#[test]
fn lost_and_long_reservations_are_corrected_by_the_stated_utilization() {
    let mut bench = Bench::new(provisioned(100_000));
    bench.hold(prompt(150_000), START);
    let slow = bench.reserve_by(LAST, prompt(5_000), START).unwrap();
    let says_10_permille = |bench: &mut Bench, seconds: u64| {
        let now = START + seconds * 1_000;
        let newer = bench.reserve_by(LAST, prompt(1_000), now).unwrap();
        bench.utilize(&newer, 10, now);
        bench.conclude(newer, used(1_000), now);
        bench.permille(now)
    };
    assert_eq!(says_10_permille(&mut bench, 1), 29, "and the newer one, except its share");
    assert_eq!(says_10_permille(&mut bench, 95), 10, "nothing else is remembered");
    bench.conclude(slow, used(100), START + 100_000);
    assert_eq!(bench.permille(START + 100_000), 0, "it takes out more than it had");
    assert_eq!(says_10_permille(&mut bench, 100), 10, "what the backend states corrects that");
}

#[test]
fn a_lower_limit_of_the_backend_holds_for_five_minutes() {
    let mut bench = Bench::new(tokens(1_000));
    for ignored in [i64::MIN, -1, 0, 1_000, 1_001, i64::MAX] {
        assert!(!bench.lower(ignored, START), "{ignored}");
    }
    assert!(bench.lower(300, START));
    assert!(!bench.lower(300, START + 59_999), "it is known");
    assert_eq!(bench.remaining(START), 300);
    assert_eq!(bench.remaining(START + 299_999), 300);
    assert_eq!(bench.remaining(START + 300_000), 1_000);
    assert!(bench.lower(300, START + 60_000));
    bench.hold(prompt(300), START + 350_000);
    let until = bench.reserve(prompt(300), START + 350_000);
    assert_eq!(until, Err(START + 360_000), "it expires before the minute is over");
    assert_eq!(bench.remaining(START - 5_000), 700, "its age is unknown after a step back");
}

#[test]
fn a_clock_that_is_set_back_while_all_is_denied_wedges_nothing() {
    let mut settings = provisioned(1_000);
    settings.tokens_per_minute = NonZeroU32::new(500);
    let mut bench = Bench::new(settings);
    bench.hold(prompt(60_000), START);
    let now = START - 3_600_000;
    for second in 0..61 {
        let until = bench.reserve(prompt(1), now + second * 1_000);
        assert_eq!(until, Err(now + 61_000), "second {second}");
    }
    assert!(bench.reserve(prompt(1), now + 61_000).is_ok());
}

#[test]
fn a_record_that_cannot_be_read_is_fresh() {
    let mut bench = Bench::new(tokens(1_000));
    bench.hold(prompt(1_000), START);
    let bytes = std::mem::take(&mut bench.bytes);
    for length in 0..bytes.len() {
        bench.bytes = bytes[..length].to_vec();
        assert_eq!(bench.remaining(START), 1_000, "{length} bytes");
    }
    let mut other = bytes.clone();
    other[0] = VERSION - 1;
    bench.bytes = other;
    assert_eq!(bench.remaining(START), 1_000);
    bench.bytes = bytes;
    assert_eq!(bench.remaining(START), 0);
}

#[test]
fn damaged_records_and_odd_numbers_never_wedge_a_budget() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let mut settings = provisioned(dice.below(5_000));
        settings.tokens_per_minute = NonZeroU32::new(dice.roll() as u32 | 1);
        settings.requests_per_minute = NonZeroU32::new(1 + dice.below(100) as u32);
        let mut bench = Bench::new(settings);
        drop(bench.reserve(prompt(dice.roll()), dice.roll()));
        for _ in 0..20 {
            let position = 1 + dice.below(RECORD_BYTES as u64 - 1) as usize;
            bench.bytes[position] = dice.roll() as u8;
        }
        let now = [0, START, u64::MAX - 200_000][dice.below(3) as usize];
        if let Ok(reservation) = bench.reserve(prompt(dice.roll()), now) {
            bench.utilize(&reservation, dice.roll() as u32, now);
            bench.conclude(reservation, used(dice.roll()), now + 5);
        }
        // A damaged record may contain a level that no request could cause.
        let settled = bench.reserve(prompt(1), now + 65_000);
        let until = settled.map_or_else(|until| until, |_| now);
        assert!(until < u64::MAX, "seed {seed}");
    }
}

#[test]
fn a_damaged_sum_is_corrected_in_the_next_second() {
    let mut bench = Bench::new(tokens(1_000));
    bench.hold(prompt(400), START);
    let sum = 1 + 16;
    for damage in [0, 300, u64::MAX] {
        bench.bytes[sum..sum + 8].copy_from_slice(&damage.to_le_bytes());
        assert_ne!(bench.remaining(START), 600);
        assert_eq!(bench.remaining(START + 1_000), 600);
    }
}
