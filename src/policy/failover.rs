//! One request's way through its pool: what was tried, whether to go on, and what to say at the end.
//!
//! # Why a ledger
//!
//! Attempts of one request share three limits: each backend at most once, `max_attempts` in all, and
//! the pool's retry budget. A failed attempt also leaves a reason that the client may see in the
//! trail. Both are kept here, so that whoever watches an attempt only asks "what next?".
//!
//! # When all is closed
//!
//! A backend that throttled this very request may serve it after its gate reopened: waiting, within
//! `max_wait`, is the one case in which a backend is tried twice.

use super::classify::{Fault, Outcome};
use super::pool::{BackendIndex, BackendSet, FailoverSettings};
use super::select::{Choice, Unavailable};
use super::time::{Millis, Timestamp};
use super::trail::AttemptResult;

/// What one request tried so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    tried: BackendSet,
    throttled: BackendSet,
    attempts: u8,
    waited: Millis,
}

/// What to do after an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try another backend at once.
    Retry,
    /// Nothing can serve now; ask again at this time.
    Wait {
        /// When the soonest backend is expected back.
        until: Timestamp,
    },
    /// Nothing more will be tried.
    Stop(Stop),
}

/// Why nothing more is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// No backend is left.
    Exhausted(Unavailable),
    /// One is left, but `max_attempts` or the retry budget forbids it.
    Limited,
}

/// What the client gets after the last attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The backend's own answer as it is.
    PassOn,
    /// The backend's own error, with the pool's time to come back in the place of the backend's.
    PassOnError,
    /// The gateway's answer: the pool is exhausted.
    Exhausted {
        /// Whether throttling or a budget is the only reason.
        throttled: bool,
        /// When the soonest backend is expected back; `None`: nobody knows.
        soonest: Option<Timestamp>,
    },
}

impl Ledger {
    /// The backends that this request must not try again.
    pub fn tried(&self) -> BackendSet {
        self.tried
    }

    /// The backends that this request must not try again even after waiting: all that it tried, but
    /// for those that throttled it.
    pub fn spent(&self) -> BackendSet {
        self.throttled.iter().fold(self.tried, BackendSet::without)
    }

    /// How many attempts began.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// An attempt at `backend` begins.
    pub fn begin(&mut self, backend: BackendIndex) {
        self.tried = self.tried.with(backend);
        self.throttled = self.throttled.without(backend);
        self.attempts = self.attempts.saturating_add(1);
    }

    /// The attempt at `backend` ended with `outcome`.
    pub fn end(&mut self, backend: BackendIndex, outcome: &Outcome) {
        if matches!(outcome, Outcome::Throttled { .. }) {
            self.throttled = self.throttled.with(backend);
        }
    }

    /// The request waited for `length`: a gate that closed on it may have reopened.
    pub fn wait(&mut self, length: Millis) {
        self.waited = self.waited.plus(length);
        self.tried = self.spent();
        self.throttled = BackendSet::EMPTY;
    }

    /// What to do next, given what a selection among the untried backends found, and when the first
    /// backend that is not [`spent`](Self::spent) recovers.
    ///
    /// `withdraw` takes one failover out of the retry budget, if it allows one; it is asked last,
    /// so that a budget is only spent on a failover that happens. The first attempt is free.
    pub fn next(
        &self,
        selected: Result<Choice, Unavailable>,
        recovers: Option<Timestamp>,
        settings: &FailoverSettings,
        now: Timestamp,
        withdraw: impl FnOnce() -> bool,
    ) -> Next {
        match selected {
            Ok(_) if self.attempts >= settings.max_attempts => Next::Stop(Stop::Limited),
            Ok(_) if self.attempts == 0 || withdraw() => Next::Retry,
            Ok(_) => Next::Stop(Stop::Limited),
            Err(unavailable) => match recovers {
                Some(until) if self.may_wait(until, settings, now) => Next::Wait { until },
                _ => Next::Stop(Stop::Exhausted(unavailable)),
            },
        }
    }

    /// Whether waiting until `until` stays within `max_wait`, and can lead to another attempt. A gate
    /// that closed on this request may have reopened by now: that is a wait of no length.
    fn may_wait(&self, until: Timestamp, settings: &FailoverSettings, now: Timestamp) -> bool {
        let wait = until.since(now);
        settings.max_wait > Millis::ZERO
            && self.attempts < settings.max_attempts
            && self.waited.plus(wait) <= settings.max_wait
    }
}

/// Whether another attempt could end better than `outcome`.
pub fn is_worth_another(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Success | Outcome::ClientError | Outcome::Cancelled => false,
        Outcome::Throttled { .. }
        | Outcome::Fault { .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Misrouted(_)
        | Outcome::Elsewhere { .. } => true,
    }
}

/// What the trail says of `outcome`, which came with `status`; `None` when the client left first.
pub fn result_in_trail(outcome: &Outcome, status: u16) -> Option<AttemptResult> {
    match outcome {
        Outcome::Cancelled => None,
        Outcome::Throttled { .. } if status < 400 => Some(AttemptResult::InBand),
        Outcome::Misrouted(misroute) => Some(AttemptResult::Misrouted(*misroute)),
        Outcome::Fault { fault: Fault::Connect, .. } => Some(AttemptResult::Connect),
        Outcome::Fault { fault: Fault::ConnectTimeout, .. } => Some(AttemptResult::ConnectTimeout),
        Outcome::Fault { fault: Fault::Tls, .. } => Some(AttemptResult::Tls),
        Outcome::Fault { fault: Fault::Reset, .. } => Some(AttemptResult::Reset),
        Outcome::Fault { fault: Fault::StreamError, .. } => Some(AttemptResult::StreamError),
        Outcome::Fault { fault: Fault::Timeout, .. } => Some(AttemptResult::Timeout),
        Outcome::Success
        | Outcome::ClientError
        | Outcome::Throttled { .. }
        | Outcome::Fault { fault: Fault::Status(_), .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Elsewhere { .. } => Some(AttemptResult::Status(status)),
    }
}

/// What the client gets when nothing more is tried after `outcome`, which came with `status`.
///
/// * A request that no backend could take gets the backend's own 4xx: it says what is wrong.
/// * A pool of one passes its backend's errors on: no other answer would be truer.
/// * An error of the gateway's own credential is never passed on: the client can do nothing about it.
/// * While another backend could have served, the last error is passed on; the pool is not exhausted.
pub fn ending(
    outcome: &Outcome,
    status: u16,
    stop: &Stop,
    pool_size: usize,
    now: Timestamp,
) -> Ending {
    let is_error_of_backend =
        status >= 400 && matches!(outcome, Outcome::Throttled { .. } | Outcome::Fault { .. });
    match (outcome, stop) {
        (Outcome::Elsewhere { .. }, _) => Ending::PassOn,
        _ if is_error_of_backend && pool_size == 1 => Ending::PassOn,
        (_, Stop::Limited) if is_error_of_backend => Ending::PassOnError,
        (_, Stop::Limited) => Ending::Exhausted { throttled: false, soonest: Some(now) },
        (_, Stop::Exhausted(unavailable)) => {
            Ending::Exhausted { throttled: unavailable.throttled, soonest: unavailable.soonest }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{at, backend, ms};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Timestamp = Timestamp::from_ms(1_000_000);

    fn settings() -> FailoverSettings {
        FailoverSettings {
            max_attempts: 3,
            max_wait: ms(500),
            ..crate::policy::fixtures::failover()
        }
    }

    fn found() -> Result<Choice, Unavailable> {
        Ok(Choice { backend: backend(1), tier: 0, probe: false })
    }

    fn none_before(soonest: Option<Timestamp>) -> Result<Choice, Unavailable> {
        Err(Unavailable { soonest, throttled: true })
    }

    fn next(ledger: &Ledger, selected: Result<Choice, Unavailable>) -> Next {
        let recovers = selected.as_ref().err().and_then(|unavailable| unavailable.soonest);
        ledger.next(selected, recovers, &settings(), NOW, || true)
    }

    fn throttled() -> Outcome {
        Outcome::Throttled { delay: None }
    }

    fn fault(status: u16) -> Outcome {
        Outcome::Fault { fault: Fault::Status(status), retry_after: None }
    }

    #[test]
    fn the_first_attempt_costs_nothing_of_the_retry_budget() {
        let ledger = Ledger::default();
        let next = ledger.next(found(), None, &settings(), NOW, || panic!("asked for a failover"));
        assert_eq!(next, Next::Retry);
    }

    #[test]
    fn a_failover_needs_the_retry_budget_s_consent() {
        let mut ledger = Ledger::default();
        ledger.begin(backend(0));
        assert_eq!(ledger.next(found(), None, &settings(), NOW, || true), Next::Retry);
        assert_eq!(
            ledger.next(found(), None, &settings(), NOW, || false),
            Next::Stop(Stop::Limited)
        );
    }

    #[test]
    fn attempts_stop_at_their_maximum_without_touching_the_retry_budget() {
        let mut ledger = Ledger::default();
        for number in 0..3 {
            assert_eq!(next(&ledger, found()), Next::Retry);
            ledger.begin(backend(number));
        }
        let next = ledger.next(found(), None, &settings(), NOW, || panic!("asked for a failover"));
        assert_eq!(next, Next::Stop(Stop::Limited));
    }

    #[test]
    fn a_backend_is_tried_once() {
        let mut ledger = Ledger::default();
        ledger.begin(backend(0));
        ledger.begin(backend(2));
        assert!(ledger.tried().contains(backend(0)));
        assert!(!ledger.tried().contains(backend(1)));
        assert!(ledger.tried().contains(backend(2)));
    }

    #[test]
    fn a_request_waits_for_a_recovery_within_max_wait_and_for_no_later_one() {
        let ledger = Ledger::default();
        let until = NOW.plus(ms(500));
        assert_eq!(next(&ledger, none_before(Some(until))), Next::Wait { until });
        let later = none_before(Some(NOW.plus(ms(501))));
        assert!(matches!(next(&ledger, later), Next::Stop(Stop::Exhausted(_))));
        assert!(matches!(next(&ledger, none_before(None)), Next::Stop(Stop::Exhausted(_))));
    }

    #[test]
    fn waits_of_one_request_add_up() {
        let mut ledger = Ledger::default();
        ledger.wait(ms(300));
        let until = NOW.plus(ms(200));
        assert_eq!(next(&ledger, none_before(Some(until))), Next::Wait { until });
        let later = none_before(Some(NOW.plus(ms(201))));
        assert!(matches!(next(&ledger, later), Next::Stop(Stop::Exhausted(_))));
    }

    #[test]
    fn a_gate_that_reopened_meanwhile_is_a_wait_of_no_length_for_who_may_wait() {
        let mut ledger = Ledger::default();
        ledger.begin(backend(0));
        ledger.end(backend(0), &throttled());
        assert_eq!(next(&ledger, none_before(Some(NOW))), Next::Wait { until: NOW });
        let hasty = FailoverSettings { max_wait: Millis::ZERO, ..settings() };
        let next = ledger.next(none_before(Some(NOW)), Some(NOW), &hasty, NOW, || true);
        assert!(matches!(next, Next::Stop(Stop::Exhausted(_))));
    }

    #[test]
    fn nobody_waits_for_a_backend_that_is_spent() {
        let mut ledger = Ledger::default();
        ledger.begin(backend(0));
        ledger.end(backend(0), &throttled());
        ledger.begin(backend(1));
        ledger.end(backend(1), &fault(503));
        assert_eq!(ledger.spent(), BackendSet::EMPTY.with(backend(1)));
        // The breaker of the spent one closes soon, but nothing else does.
        let selected = none_before(Some(NOW.plus(ms(100))));
        let next = ledger.next(selected, None, &settings(), NOW, || true);
        assert!(matches!(next, Next::Stop(Stop::Exhausted(_))));
    }

    #[test]
    fn after_a_wait_a_throttled_backend_may_be_tried_again_and_a_broken_one_not() {
        let mut ledger = Ledger::default();
        ledger.begin(backend(0));
        ledger.end(backend(0), &throttled());
        ledger.begin(backend(1));
        ledger.end(backend(1), &fault(503));
        ledger.wait(ms(100));
        assert!(!ledger.tried().contains(backend(0)));
        assert!(ledger.tried().contains(backend(1)));
        assert_eq!(ledger.attempts(), 2);
    }

    #[test]
    fn a_request_that_used_up_its_attempts_does_not_wait() {
        let mut ledger = Ledger::default();
        for number in 0..3 {
            ledger.begin(backend(number));
        }
        let selected = none_before(Some(NOW.plus(ms(100))));
        assert!(matches!(next(&ledger, selected), Next::Stop(Stop::Exhausted(_))));
    }

    fn exhausted() -> Stop {
        Stop::Exhausted(Unavailable { soonest: Some(at(5)), throttled: true })
    }

    #[test]
    fn an_exhausted_pool_answers_for_itself() {
        let expected = Ending::Exhausted { throttled: true, soonest: Some(at(5)) };
        for outcome in [throttled(), fault(503), Outcome::Misconfigured { status: 401 }] {
            assert_eq!(ending(&outcome, 503, &exhausted(), 2, NOW), expected);
        }
    }

    #[test]
    fn a_pool_of_one_passes_its_backends_errors_on() {
        assert_eq!(ending(&throttled(), 429, &exhausted(), 1, NOW), Ending::PassOn);
        assert_eq!(ending(&fault(500), 500, &exhausted(), 1, NOW), Ending::PassOn);
    }

    #[test]
    fn a_refusal_within_a_success_is_never_passed_on() {
        for stop in [exhausted(), Stop::Limited] {
            let ending = ending(&throttled(), 200, &stop, 1, NOW);
            assert!(matches!(ending, Ending::Exhausted { .. }));
        }
    }

    #[test]
    fn the_gateway_s_own_wrong_credential_is_never_passed_on() {
        for (stop, pool_size) in [(exhausted(), 1), (Stop::Limited, 2)] {
            let outcome = Outcome::Misconfigured { status: 401 };
            let ending = ending(&outcome, 401, &stop, pool_size, NOW);
            assert!(matches!(ending, Ending::Exhausted { .. }));
        }
    }

    #[test]
    fn while_another_backend_could_serve_the_last_error_is_passed_on() {
        assert_eq!(ending(&throttled(), 429, &Stop::Limited, 2, NOW), Ending::PassOnError);
        assert_eq!(ending(&fault(503), 503, &Stop::Limited, 2, NOW), Ending::PassOnError);
    }

    #[test]
    fn an_attempt_without_an_answer_has_nothing_to_pass_on() {
        let outcome = Outcome::Fault { fault: Fault::Connect, retry_after: None };
        let expected = Ending::Exhausted { throttled: false, soonest: Some(NOW) };
        assert_eq!(ending(&outcome, 0, &Stop::Limited, 2, NOW), expected);
    }

    #[test]
    fn what_no_backend_could_take_is_the_clients_to_see() {
        for stop in [exhausted(), Stop::Limited] {
            let outcome = Outcome::Elsewhere { status: 400 };
            assert_eq!(ending(&outcome, 400, &stop, 3, NOW), Ending::PassOn);
        }
    }

    #[test]
    fn only_a_failure_that_another_backend_may_not_have_is_worth_another_attempt() {
        for outcome in [Outcome::Success, Outcome::ClientError, Outcome::Cancelled] {
            assert!(!is_worth_another(&outcome));
        }
        for outcome in [
            throttled(),
            fault(500),
            Outcome::Misconfigured { status: 404 },
            Outcome::Elsewhere { status: 400 },
        ] {
            assert!(is_worth_another(&outcome));
        }
    }
}
