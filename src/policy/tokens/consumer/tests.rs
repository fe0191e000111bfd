#![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

use super::*;
use crate::policy::fixtures::{Dice, at};
use std::collections::HashSet;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// 20 November 2026, 09:30:00.
const START: u64 = 1_795_167_000_000;
const DAY_MS: u64 = 86_400_000;

fn limited(per_minute: u32, quota: Option<(u64, Period)>) -> ConsumerSettings {
    ConsumerSettings {
        tokens_per_minute: NonZeroU32::new(per_minute),
        quota: quota
            .map(|(tokens, period)| Quota { tokens: NonZeroU64::new(tokens).unwrap(), period }),
        class: Class::Interactive,
    }
}

fn used(prompt_tokens: u64) -> Option<UsedTokens> {
    Some(UsedTokens { prompt_tokens, ..UsedTokens::default() })
}

#[derive(Debug, PartialEq)]
enum Denied {
    Minute(u64),
    Quota(u64),
}

struct Bench {
    settings: ConsumerSettings,
    bytes: Vec<u8>,
}

impl Bench {
    fn new(settings: ConsumerSettings) -> Self {
        Self { settings, bytes: Vec::new() }
    }

    fn admit(&mut self, tokens: u64, now: u64) -> Result<ConsumerReservation, Denied> {
        let estimate = Estimate { prompt_tokens: tokens, completion_tokens: 0 };
        let mut bytes = self.bytes.clone();
        match admit(&mut bytes, &self.settings, estimate, at(now)) {
            ConsumerAdmission::Granted { reservation, remaining } => {
                assert_eq!(remaining, super::remaining(Some(&bytes), &self.settings, at(now)));
                self.bytes = bytes;
                Ok(reservation)
            }
            ConsumerAdmission::Denied { limit, until, clock_went_back, .. } => {
                if clock_went_back {
                    self.bytes = bytes;
                }
                Err(match limit {
                    Limit::TokensPerMinute => Denied::Minute(until.as_ms()),
                    Limit::Quota => Denied::Quota(until.as_ms()),
                })
            }
        }
    }

    fn hold(&mut self, tokens: u64, now: u64) {
        drop(self.admit(tokens, now).unwrap());
    }

    fn conclude(&mut self, reservation: ConsumerReservation, usage: Option<UsedTokens>, now: u64) {
        let bytes = &mut self.bytes;
        let left = reservation.conclude(usage, &self.settings, at(now), |change| {
            change(&mut bytes.clone());
            change(bytes)
        });
        assert_eq!(left, remaining(Some(&self.bytes), &self.settings, at(now)));
    }

    fn remaining(&self, now: u64) -> (Option<u64>, Option<u64>) {
        let left = remaining(Some(&self.bytes), &self.settings, at(now));
        (left.tokens_per_minute, left.quota)
    }
}

#[test]
fn without_limits_everything_is_granted() {
    let mut bench = Bench::new(ConsumerSettings::default());
    (0..100).for_each(|_| bench.hold(u64::MAX, START));
    assert_eq!(bench.remaining(START), (None, None));
}

#[test]
fn tokens_per_minute_and_quota_are_distinguished() {
    let mut bench = Bench::new(limited(1_000, Some((1_500, Period::Hour))));
    bench.hold(1_000, START);
    assert_eq!(bench.remaining(START), (Some(0), Some(500)));
    assert_eq!(bench.admit(1, START).unwrap_err(), Denied::Minute(START + 61_000));
    assert_eq!(bench.admit(501, START).unwrap_err(), Denied::Quota(START + 1_800_000));
    bench.hold(500, START + 61_000);
    assert_eq!(bench.admit(1, START + 1_799_999).unwrap_err(), Denied::Quota(START + 1_800_000));
    bench.hold(1_000, START + 1_800_000);
    assert_eq!(bench.remaining(START + 1_800_000), (Some(0), Some(500)));
}

#[test]
fn a_quota_is_corrected_only_in_its_own_period() {
    let mut bench = Bench::new(limited(0, Some((1_000, Period::Hour))));
    let first = bench.admit(400, START).unwrap();
    bench.conclude(first, used(300), START + 1_000);
    assert_eq!(bench.remaining(START + 1_000), (None, Some(700)));
    let second = bench.admit(400, START + 2_000).unwrap();
    bench.conclude(second, None, START + 3_000);
    assert_eq!(bench.remaining(START + 3_000), (None, Some(700)));
    let late = bench.admit(400, START + 4_000).unwrap();
    let next = START + 1_800_000;
    bench.hold(100, next);
    bench.conclude(late, used(9_999), next + 5);
    assert_eq!(bench.remaining(next + 5), (None, Some(900)));
}

#[test]
fn more_than_the_quota_passes_when_nothing_is_used() {
    let mut bench = Bench::new(limited(0, Some((1_000, Period::Day))));
    let large = bench.admit(u64::MAX, START).unwrap();
    assert!(bench.admit(1, START).is_err());
    bench.conclude(large, used(u64::MAX), START);
    assert_eq!(bench.remaining(START), (None, Some(0)));
    assert_eq!(bench.remaining(START + DAY_MS), (None, Some(1_000)));
}

#[test]
fn periods_are_those_of_the_utc_calendar() {
    let bounds = |period: Period, now| {
        let (start, end) = period.bounds(at(now));
        (start.as_ms() / 1_000, end.as_ms() / 1_000)
    };
    assert_eq!(bounds(Period::Hour, START), (1_795_165_200, 1_795_168_800));
    assert_eq!(bounds(Period::Day, START), (1_795_132_800, 1_795_219_200));
    assert_eq!(bounds(Period::Month, START), (1_793_491_200, 1_796_083_200));
    // The last millisecond of a December and the first of a leap February.
    assert_eq!(bounds(Period::Month, 1_704_067_199_999), (1_701_388_800, 1_704_067_200));
    assert_eq!(bounds(Period::Month, 1_706_745_600_000), (1_706_745_600, 1_709_251_200));
    for period in [Period::Hour, Period::Day, Period::Month] {
        let (start, end) = period.bounds(at(u64::MAX));
        assert!(start <= at(u64::MAX) && end >= start);
        assert_eq!(period.bounds(at(0)).0, at(0));
    }
}

#[test]
fn every_period_begins_where_the_last_one_ended() {
    for period in [Period::Hour, Period::Day, Period::Month] {
        let mut now = at(START);
        for _ in 0..500 {
            let (start, end) = period.bounds(now);
            assert!(start <= now && now < end);
            assert_eq!(period.bounds(end).0, end);
            assert_eq!(period.bounds(Timestamp::from_ms(end.as_ms() - 1)), (start, end));
            now = end;
        }
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_the_usage_and_wedges_nothing() {
    let mut bench = Bench::new(limited(100, Some((1_000, Period::Day))));
    bench.hold(100, START);
    bench.hold(100, START + 61_000);
    let yesterday = START - DAY_MS;
    assert_eq!(bench.remaining(yesterday), (Some(0), Some(800)));
    assert_eq!(bench.admit(1, yesterday).unwrap_err(), Denied::Minute(yesterday + 61_000));
    bench.hold(100, yesterday + 61_000);
    assert_eq!(bench.remaining(yesterday + 61_000), (Some(0), Some(700)));
    assert_eq!(bench.remaining(START).1, Some(1_000), "the next day begins");
}

#[test]
fn a_late_reading_of_the_clock_begins_no_period() {
    let mut bench = Bench::new(limited(0, Some((1_000, Period::Hour))));
    let next = START + 1_800_000;
    bench.hold(900, START);
    bench.hold(10, next);
    bench.hold(10, next - 1);
    assert_eq!(bench.remaining(next), (None, Some(980)));
}

#[test]
fn a_record_that_cannot_be_read_is_fresh() {
    let mut bench = Bench::new(limited(100, Some((1_000, Period::Month))));
    bench.hold(100, START);
    let bytes = std::mem::take(&mut bench.bytes);
    for length in 0..bytes.len() {
        bench.bytes = bytes[..length].to_vec();
        assert_eq!(bench.remaining(START), (Some(100), Some(1_000)), "{length} bytes");
    }
    bench.bytes = bytes;
    assert_eq!(bench.remaining(START), (Some(0), Some(900)));
}

#[test]
fn unlisted_consumers_spread_over_a_fixed_number_of_slots() {
    let secret = SlotSecret::new([1, 2]);
    let slot = |name: String| unlisted_slot(&name, &secret);
    let slots: HashSet<u64> = (0..20_000).map(|name| slot(format!("tenant-{name}"))).collect();
    assert!(slots.iter().all(|slot| *slot < UNLISTED_SLOTS));
    assert_eq!(slots.len() as u64, UNLISTED_SLOTS);
    assert_eq!(slot("a".to_owned()), slot("a".to_owned()));
    let ten: HashSet<u64> = (0..10).map(|name| slot(format!("team-{name}"))).collect();
    assert!(ten.len() >= 9);
}

/// Somebody who knows the hash could search for a name that shares another one's slot. Such a name works for about
/// one secret in a thousand.
#[test]
fn a_name_that_shares_a_slot_under_one_secret_does_not_under_another() {
    let known = SlotSecret::new([0, 0]);
    let victim = unlisted_slot("victim", &known);
    let mut names = (0..).map(|name| format!("attacker-{name}"));
    let aimed = names.find(|name| unlisted_slot(name, &known) == victim).unwrap();
    let mut dice = Dice::new(33);
    let hits = (0..2_000).filter(|_| {
        let secret = SlotSecret::new([dice.roll(), dice.roll()]);
        unlisted_slot(&aimed, &secret) == unlisted_slot("victim", &secret)
    });
    assert!(hits.count() < 10);
}

#[test]
fn a_secret_outlives_its_record_and_is_not_shown() {
    let secret = SlotSecret::new([u64::MAX, 7]);
    let record = secret.encode();
    assert!(SlotSecret::decode(&record) == Some(secret));
    for length in 0..record.len() {
        assert!(SlotSecret::decode(&record[..length]).is_none(), "{length} bytes");
    }
    assert_eq!(format!("{secret:?}"), "<secret>");
}

/// The records of versions 1 and 2 ended with the quota, after a minute of 60 or 61 slots and no sum.
#[test]
fn the_used_part_of_a_quota_is_read_from_records_of_older_versions() {
    let mut bench = Bench::new(limited(1_000, Some((5_000, Period::Month))));
    bench.hold(900, START);
    let new = bench.bytes.clone();
    let quota = &new[HEAD_BYTES - USED_BYTES..HEAD_BYTES];
    for (version, slots) in [(1, 60), (2, 61)] {
        let old = [&[version][..], &vec![7; 16 + 4 * slots], quota].concat();
        assert!(!is_unusable(&old), "version {version}");
        bench.bytes = old;
        assert_eq!(bench.remaining(START), (Some(1_000), Some(4_100)), "version {version}");
        bench.hold(100, START);
        assert_eq!(bench.bytes.len(), RECORD_BYTES);
        assert_eq!(bench.remaining(START + 70_000), (Some(1_000), Some(4_000)));
    }
    for damaged in [&new[..285], &[1; 285][..284], &[0; 281]] {
        bench.bytes = damaged.to_vec();
        assert!(is_unusable(&bench.bytes));
        assert_eq!(bench.remaining(START), (Some(1_000), Some(5_000)));
    }
}

/// A request that was admitted, and its position in the list.
struct Held {
    reservation: ConsumerReservation,
    entry: usize,
}

#[test]
fn a_consumer_agrees_with_a_list_of_all_requests() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let (per_minute, quota) = (100 + dice.below(5_000), 1_000 + dice.below(60_000));
        let mut bench = Bench::new(limited(per_minute as u32, Some((quota, Period::Hour))));
        let mut held: Vec<Held> = Vec::new();
        // (second, hour, tokens)
        let mut all: Vec<(u64, u64, u64)> = Vec::new();
        let mut now = START;
        for _ in 0..500 {
            now += if dice.below(100) == 0 { dice.below(900_000) } else { dice.below(3_000) };
            let (second, hour) = (now / 1_000, now / 3_600_000);
            let minute_sum = |all: &[(u64, u64, u64)]| -> u64 {
                all.iter().filter(|one| second - one.0 < 61).map(|one| one.2).sum()
            };
            let hour_sum = |all: &[(u64, u64, u64)]| -> u64 {
                all.iter().filter(|one| one.1 == hour).map(|one| one.2).sum()
            };
            if dice.below(2) == 0 || held.is_empty() {
                let tokens = dice.below(per_minute.min(quota));
                let in_minute = minute_sum(&all) + tokens <= per_minute;
                let in_quota = hour_sum(&all) + tokens <= quota;
                match bench.admit(tokens, now) {
                    Ok(reservation) => {
                        assert!(in_minute && in_quota, "seed {seed}, at {now}");
                        held.push(Held { reservation, entry: all.len() });
                        all.push((second, hour, tokens));
                    }
                    Err(Denied::Minute(_)) => assert!(in_quota && !in_minute, "seed {seed}"),
                    Err(Denied::Quota(_)) => assert!(!in_quota, "seed {seed}"),
                }
            } else {
                let Held { reservation, entry } =
                    held.swap_remove(dice.below(held.len() as u64) as usize);
                let usage = (dice.below(4) > 0).then(|| dice.below(3_000));
                all[entry].2 = usage.unwrap_or(0);
                bench.conclude(reservation, usage.and_then(used), now);
            }
            let minute = per_minute.saturating_sub(minute_sum(&all));
            let hour = quota.saturating_sub(hour_sum(&all));
            assert_eq!(bench.remaining(now), (Some(minute), Some(hour)), "seed {seed}, at {now}");
        }
    }
}
