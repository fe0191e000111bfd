//! The retry budget: how many failovers a pool can afford.
//!
//! A failover spares the backend that failed, but when a whole region is down, failovers multiply the load on the
//! others. As in Finagle, the failovers of the last ten seconds may be at most a share of the requests of that time,
//! plus a number per second that a quiet pool always has.
//!
//! Counting every request in shared data would cost a contended write per request. So a worker counts its requests
//! locally, and adds them to the shared record only when it wants a failover. Until then other workers do not see
//! them, so the budget is stricter than configured. The difference is small when a region fails, because then every
//! worker asks.

use crate::policy::codec::Reader;
use crate::policy::pool::FailoverSettings;
use crate::policy::time::{Millis, Timestamp};
use crate::policy::window::{Counts, Window};

/// The newest version of a record that can be read.
pub const VERSION: u8 = 1;
const INTERVAL: Millis = Millis::from_secs(10);
const INTERVAL_SECS: u64 = 10;

/// The requests of one pool that one worker has not yet added to the shared record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deposits(Window);

impl Deposits {
    /// Counts one request.
    pub fn count(&mut self, now: Timestamp) {
        self.0.add(Counts { faults: 0, total: 1 }, INTERVAL, now);
    }

    /// Forgets all, after they were written to the record.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Asks for one failover. Returns the shared record with the deposits added, and whether the failover is granted.
///
/// An unreadable record is fresh. If the failover is denied, the caller may leave the record unwritten, and must then
/// keep the deposits.
pub fn withdraw(
    record: Option<&[u8]>,
    deposits: &Deposits,
    settings: &FailoverSettings,
    now: Timestamp,
) -> (Vec<u8>, bool) {
    // In these windows the faults are failovers and the total is requests.
    let mut window = record.and_then(decode).unwrap_or_default();
    window.merge(&deposits.0, INTERVAL, now);
    let spent = window.counts(INTERVAL, now);
    let granted = u64::from(spent.faults).saturating_add(1).saturating_mul(100)
        <= allowance_percent(spent.total, settings);
    if granted {
        window.add(Counts { faults: 1, total: 0 }, INTERVAL, now);
    }
    let mut bytes = vec![VERSION];
    window.encode(&mut bytes);
    (bytes, granted)
}

/// The failovers that this many `requests` allow, in hundredths.
fn allowance_percent(requests: u32, settings: &FailoverSettings) -> u64 {
    let always = u64::from(settings.min_retries_per_second).saturating_mul(INTERVAL_SECS);
    u64::from(requests)
        .saturating_mul(u64::from(settings.retry_percent))
        .saturating_add(always.saturating_mul(100))
}

fn decode(bytes: &[u8]) -> Option<Window> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return None;
    }
    Window::decode(&mut reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{at, failover};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn settings(retry_percent: u8, min_retries_per_second: u32) -> FailoverSettings {
        FailoverSettings { retry_percent, min_retries_per_second, ..failover() }
    }

    /// Asks until a failover is denied.
    fn granted(
        record: &mut Option<Vec<u8>>,
        deposits: &mut Deposits,
        settings: &FailoverSettings,
        now: u64,
    ) -> u32 {
        for count in 0..100_000 {
            let (bytes, granted) = withdraw(record.as_deref(), deposits, settings, at(now));
            if !granted {
                return count;
            }
            *record = Some(bytes);
            deposits.clear();
        }
        panic!("never denied");
    }

    #[test]
    fn a_quiet_pool_has_its_minimum_and_no_more() {
        let (mut record, mut none) = (None, Deposits::default());
        assert_eq!(granted(&mut record, &mut none, &settings(20, 10), 50_000), 100);
        assert_eq!(granted(&mut record, &mut none, &settings(20, 10), 50_000), 0);
    }

    #[test]
    fn a_share_of_the_requests_may_fail_over() {
        let (mut record, mut deposits) = (None, Deposits::default());
        for request in 0..1_000 {
            deposits.count(at(50_000 + request));
        }
        assert_eq!(granted(&mut record, &mut deposits, &settings(20, 1), 51_000), 210);
    }

    #[test]
    fn a_budget_of_nothing_grants_nothing() {
        let mut deposits = Deposits::default();
        deposits.count(at(1_000));
        assert_eq!(granted(&mut None, &mut deposits, &settings(0, 0), 1_000), 0);
    }

    #[test]
    fn a_denied_failover_is_not_charged() {
        let settings = settings(20, 0);
        let mut deposits = Deposits::default();
        (0..5).for_each(|_| deposits.count(at(50_000)));
        let (mut record, granted) = withdraw(None, &deposits, &settings, at(50_000));
        assert!(granted);
        for _ in 0..10 {
            let (bytes, granted) =
                withdraw(Some(&record), &Deposits::default(), &settings, at(50_001));
            assert!(!granted);
            record = bytes;
        }
        assert!(withdraw(Some(&record), &deposits, &settings, at(50_002)).1);
    }

    #[test]
    fn the_budget_returns_when_the_failovers_are_ten_seconds_old() {
        let (mut record, mut none) = (None, Deposits::default());
        let settings = settings(20, 2);
        assert_eq!(granted(&mut record, &mut none, &settings, 50_000), 20);
        assert_eq!(granted(&mut record, &mut none, &settings, 59_999), 0);
        assert_eq!(granted(&mut record, &mut none, &settings, 60_000), 20);
    }

    #[test]
    fn the_deposits_of_all_workers_count() {
        let (mut record, settings) = (None, settings(10, 0));
        for worker in 0..4 {
            let mut deposits = Deposits::default();
            (0..100).for_each(|request| deposits.count(at(50_000 + 10 * request + worker)));
            assert_eq!(granted(&mut record, &mut deposits, &settings, 51_000), 10);
        }
    }

    #[test]
    fn old_deposits_are_worth_nothing() {
        let mut deposits = Deposits::default();
        (0..1_000).for_each(|_| deposits.count(at(50_000)));
        assert_eq!(granted(&mut None, &mut deposits, &settings(20, 0), 60_000), 0);
    }

    #[test]
    fn a_clock_that_steps_back_wedges_nothing() {
        let (mut record, mut none) = (None, Deposits::default());
        let settings = settings(20, 2);
        assert_eq!(granted(&mut record, &mut none, &settings, 5_000_000), 20);
        assert_eq!(granted(&mut record, &mut none, &settings, 4_000_000), 20);
        assert_eq!(granted(&mut record, &mut none, &settings, 3_996_000), 0);
        assert_eq!(granted(&mut record, &mut none, &settings, 4_010_000), 20);
    }

    #[test]
    fn a_damaged_record_is_fresh() {
        for record in [&b""[..], b"\x01", b"\x07aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            let (_, granted) = withdraw(Some(record), &Deposits::default(), &settings(0, 1), at(5));
            assert!(granted, "{record:?}");
        }
    }
}
