//! Who is to blame for a failed attempt: the backend, or the request.
//!
//! A client decides what a backend is asked, so a client can make a backend fail: with a prompt that takes longer
//! than every time limit, with a body that crashes the server, or with an object that another resource stores. Such a
//! request visits several backends of a pool. If each visit counted as a fault, a few requests of one client would
//! open every circuit breaker.
//!
//! So most faults are judged by contrast, when the outcome of the request is known:
//!
//! - A backend that *failed what another one served* is to blame.
//! - A backend that failed alone, because no other one gave a verdict, can only be compared with itself: others may
//!   be throttled, there may be none, or a part of the response went to the client already. Its fault counts unless
//!   it completed another request within [`ALONE_FOR`]. Refusing a credential or a deployment does not count.
//! - If two backends gave a verdict on a request and none served it, the request is to blame, and nothing is counted.
//!   Nothing is counted either when the client left while another backend still worked on the request.
//!
//! A connection that cannot be made needs no contrast, because no part of the request was sent. Throttles, cancels
//! and client errors are no faults.
//!
//! # Refused credentials
//! A key can lack a right that only some requests need. So a circuit breaker opens only after [`DENIALS_TO_TRIP`]
//! refusals in a row, without a success between them.
//!
//! # Resets
//! A backend that closes its idle connections at once resets all requests that were on their way on them, possibly
//! after a 408 on each. That is one event, so it counts once: see [`is_same_reset`].

use crate::policy::backend::records::BackendRecord;
use crate::policy::pool::{BackendIndex, BackendSet};
use crate::policy::response::classify::{Fault, Outcome};
use crate::policy::time::{Millis, Timestamp};

/// How often in a row a backend refuses the gateway's credential before its circuit breaker opens.
pub const DENIALS_TO_TRIP: u32 = 3;

/// How long a backend that completed a request is not blamed for a fault without contrast. While other requests are
/// served, a client whose requests always fail cannot take the backend from them.
pub const ALONE_FOR: Millis = Millis::from_secs(10);

/// Resets that are further apart than this are never one event: closing many connections at once takes milliseconds.
const SAME_EVENT: Millis = Millis::from_secs(1);

/// What an attempt's outcome means for the circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The backend is to blame: the outcome counts.
    Guilty,
    /// No other backend to compare with: see [`counts_alone`].
    Alone,
    /// The request is to blame, or it is unknown who is: the outcome does not count.
    Acquitted,
}

/// The attempts of one request that failed in a way that the request may have caused, with the data that is kept for
/// each until it is judged.
#[derive(Debug)]
pub struct Suspects<T> {
    open: Vec<(Outcome, T)>,
    /// The backends that gave a verdict on the request.
    judged: BackendSet,
}

impl<T> Default for Suspects<T> {
    fn default() -> Self {
        Self { open: Vec::new(), judged: BackendSet::EMPTY }
    }
}

impl<T> Suspects<T> {
    /// An attempt at `backend` ended with `outcome`.
    pub fn note(&mut self, backend: BackendIndex, outcome: &Outcome) {
        if is_judgement(outcome) {
            self.judged = self.judged.with(backend);
        }
    }

    /// Keeps an attempt whose blame is open.
    pub fn suspect(&mut self, outcome: Outcome, attempt: T) {
        self.open.push((outcome, attempt));
    }

    /// Whether nobody is suspected.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Judges all suspects once, when it is known whether another backend served the request.
    pub fn judge(&mut self, is_served: bool) -> impl Iterator<Item = (T, Verdict)> + use<T> {
        let is_alone = self.judged.len() <= 1;
        std::mem::take(&mut self.open).into_iter().map(move |(outcome, attempt)| {
            let verdict = match outcome {
                _ if is_served => Verdict::Guilty,
                Outcome::Fault { .. } if is_alone => Verdict::Alone,
                _ => Verdict::Acquitted,
            };
            (attempt, verdict)
        })
    }

    /// Acquits all suspects: the client left before another backend, which was asked already, could show a result. A
    /// client must not gain anything by leaving at the right moment.
    pub fn dismiss(&mut self) -> impl Iterator<Item = (T, Verdict)> + use<T> {
        std::mem::take(&mut self.open).into_iter().map(|(_, it)| (it, Verdict::Acquitted))
    }
}

/// Whether blame for `outcome` is open, so that its attempt must be [suspected](Suspects::suspect). Any other outcome
/// counts at once.
pub fn is_open(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Fault { fault, .. } => was_sent(*fault),
        Outcome::Misconfigured { .. } | Outcome::Denied { .. } => true,
        Outcome::Cancelled
        | Outcome::ClientError
        | Outcome::Elsewhere { .. }
        | Outcome::Misrouted(_)
        | Outcome::Spilled { .. }
        | Outcome::Success
        | Outcome::Throttled { .. } => false,
    }
}

/// Whether the outcome is the backend's verdict on the request.
fn is_judgement(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Cancelled | Outcome::Misrouted(_) | Outcome::Throttled { .. } => false,
        Outcome::Fault { fault, .. } => was_sent(*fault),
        Outcome::ClientError
        | Outcome::Denied { .. }
        | Outcome::Elsewhere { .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Spilled { .. }
        | Outcome::Success => true,
    }
}

/// Whether a part of the request may have been sent before the fault.
fn was_sent(fault: Fault) -> bool {
    match fault {
        Fault::Connect | Fault::ConnectTimeout | Fault::Tls => false,
        Fault::Empty
        | Fault::NoUpgrade
        | Fault::NotReceived
        | Fault::Reset
        | Fault::Status(_)
        | Fault::StreamError
        | Fault::Timeout => true,
    }
}

/// Counts that a backend refused the gateway's credential. `is_first`: this worker saw it serve since the last
/// refusal. Returns whether the refusals in a row are enough for its circuit breaker to open.
pub fn count_denial(record: &mut BackendRecord, is_first: bool) -> bool {
    let before = if is_first { 0 } else { record.denied };
    record.denied = before.saturating_add(1);
    record.denied >= DENIALS_TO_TRIP
}

/// Whether a fault counts without contrast: the backend completed nothing in the last [`ALONE_FOR`] before the fault
/// `ended`. `completed`: its last known completion; zero: never.
pub fn counts_alone(completed: Timestamp, ended: Timestamp) -> bool {
    // A time in the future shows that the clock was set back.
    completed > ended || completed.plus(ALONE_FOR) <= ended
}

/// Whether a reset is the same event as the last one that counted: the attempt began before that one, and ended at
/// nearly the same time. Otherwise notes the reset as a new event.
pub fn is_same_reset(record: &mut BackendRecord, began: Timestamp, ended: Timestamp) -> bool {
    let last = record.last_reset;
    let apart = ended.since(last).max(last.since(ended));
    // Attempts can follow each other within one millisecond, so an equal time proves nothing.
    let is_same = began < last && apart <= SAME_EVENT;
    if !is_same {
        record.last_reset = ended;
    }
    is_same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{at, backend};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const CONNECT: Outcome = Outcome::Fault { fault: Fault::Connect, retry_after: None };
    const RESET: Outcome = Outcome::Fault { fault: Fault::Reset, retry_after: None };
    const TIMEOUT: Outcome = Outcome::Fault { fault: Fault::Timeout, retry_after: None };
    const BROKEN: Outcome = Outcome::Fault { fault: Fault::Status(503), retry_after: None };
    const STREAM: Outcome = Outcome::Fault { fault: Fault::StreamError, retry_after: None };
    const FAULTS: [Outcome; 4] = [RESET, TIMEOUT, BROKEN, STREAM];
    const WRONG: Outcome = Outcome::Misconfigured { status: 404 };
    const DENIED: Outcome = Outcome::Denied { status: 401 };
    const ELSEWHERE: Outcome = Outcome::Elsewhere { status: 404 };
    const THROTTLED: Outcome = Outcome::Throttled { delay: None };

    /// What counts of the attempts of one request, at one backend after the other: at once, and when its outcome is
    /// known.
    fn counted(outcomes: &[Outcome], is_served: bool) -> Vec<Outcome> {
        judged(outcomes, is_served, Verdict::Guilty)
    }

    /// The outcomes with this verdict, without those that count at once.
    fn judged(outcomes: &[Outcome], is_served: bool, wanted: Verdict) -> Vec<Outcome> {
        let mut suspects = Suspects::default();
        let mut counted = Vec::new();
        for (position, outcome) in outcomes.iter().enumerate() {
            suspects.note(backend(position), outcome);
            if is_open(outcome) {
                suspects.suspect(*outcome, *outcome);
            } else if *outcome == CONNECT {
                counted.push(*outcome);
            }
        }
        let found = suspects.judge(is_served).filter(|(_, verdict)| *verdict == wanted);
        counted.extend(found.map(|(outcome, _)| outcome));
        assert_eq!(suspects.judge(true).count(), 0, "judged twice");
        counted
    }

    #[test]
    fn a_backend_that_failed_what_another_served_is_to_blame() {
        for outcome in FAULTS.into_iter().chain([WRONG, DENIED]) {
            assert_eq!(counted(&[outcome, Outcome::Success], true), [outcome]);
            assert_eq!(counted(&[outcome, BROKEN, Outcome::Success], true), [outcome, BROKEN]);
        }
    }

    #[test]
    fn what_nobody_could_serve_is_the_fault_of_the_request() {
        for first in FAULTS.into_iter().chain([WRONG, DENIED, ELSEWHERE]) {
            for second in FAULTS.into_iter().chain([WRONG, DENIED, ELSEWHERE]) {
                assert_eq!(counted(&[first, second], false), [], "{first:?}, {second:?}");
                assert_eq!(counted(&[first, second, THROTTLED], false), []);
            }
            assert_eq!(counted(&[first, Outcome::ClientError], false), [], "{first:?}");
        }
    }

    #[test]
    fn a_fault_without_anybody_to_compare_with_is_alone() {
        let alone = |outcomes: &[Outcome]| judged(outcomes, false, Verdict::Alone);
        for fault in FAULTS {
            assert_eq!(alone(&[fault]), [fault]);
            assert_eq!(alone(&[fault, THROTTLED, Outcome::Cancelled]), [fault]);
            assert_eq!(alone(&[CONNECT, fault]), [CONNECT, fault]);
            assert_eq!(counted(&[fault], false), []);
        }
        for refusal in [WRONG, DENIED] {
            assert_eq!(alone(&[refusal]), []);
            assert_eq!(counted(&[refusal], false), []);
            assert_eq!(counted(&[refusal, THROTTLED], false), []);
        }
    }

    #[test]
    fn what_fails_alone_counts_when_nothing_was_completed_for_ten_seconds() {
        assert!(counts_alone(Timestamp::ZERO, at(1_700_000_000_000)));
        assert!(!counts_alone(at(100_000), at(100_000)));
        assert!(!counts_alone(at(100_000), at(109_999)));
        assert!(counts_alone(at(100_000), at(110_000)));
        assert!(counts_alone(at(100_000), at(99_999)), "the clock was set back");
    }

    #[test]
    fn a_failed_connection_counts_whatever_the_outcome_of_the_request() {
        for is_served in [false, true] {
            assert_eq!(counted(&[CONNECT, CONNECT], is_served), [CONNECT, CONNECT]);
        }
    }

    #[test]
    fn three_refusals_of_the_credential_in_a_row_are_enough() {
        let mut record = BackendRecord::default();
        assert!(!count_denial(&mut record, false));
        assert!(!count_denial(&mut record, false));
        // A success came between.
        assert!(!count_denial(&mut record, true));
        assert!(!count_denial(&mut record, false));
        assert!(count_denial(&mut record, false));
    }

    #[test]
    fn resets_of_attempts_that_ran_side_by_side_are_one_event() {
        let mut record = BackendRecord::default();
        assert!(!is_same_reset(&mut record, at(1_000), at(5_000)));
        for began in [0, 1_000, 4_999] {
            assert!(is_same_reset(&mut record, at(began), at(5_003)), "{began}");
        }
        assert_eq!(record.last_reset, at(5_000));
    }

    #[test]
    fn resets_one_after_the_other_count_one_by_one() {
        let mut record = BackendRecord::default();
        for time in [5_000, 5_000, 5_001, 5_001] {
            assert!(!is_same_reset(&mut record, at(time), at(time)), "{time}");
        }
    }

    #[test]
    fn long_attempts_that_are_reset_at_different_times_are_several_events() {
        let mut record = BackendRecord::default();
        assert!(!is_same_reset(&mut record, at(0), at(30_000)));
        assert!(!is_same_reset(&mut record, at(10), at(32_000)));
        // The clock was set back by an hour.
        let mut record = BackendRecord { last_reset: at(3_600_000), ..BackendRecord::default() };
        assert!(!is_same_reset(&mut record, at(5), at(10)));
        assert_eq!(record.last_reset, at(10));
    }
}
