use super::*;
use crate::policy::fixtures::{at, backend, ms};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOW: Timestamp = Timestamp::from_ms(1_000_000);

fn settings() -> FailoverSettings {
    FailoverSettings { max_attempts: 3, max_wait: ms(500), ..crate::policy::fixtures::failover() }
}

fn found() -> Result<Choice, Unavailable> {
    Ok(Choice { backend: backend(1), tier: 0, probe: None })
}

fn none_before(soonest: Option<Timestamp>) -> Result<Choice, Unavailable> {
    Err(Unavailable { soonest, throttled: true, is_undecided: true })
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

/// The ledger after attempts with these outcomes, at one backend after the other.
fn after(outcomes: &[Outcome]) -> Ledger {
    let mut ledger = Ledger::default();
    for (position, outcome) in outcomes.iter().enumerate() {
        ledger.begin(backend(position));
        ledger.end(backend(position), outcome);
    }
    ledger
}

#[test]
fn the_first_failover_of_a_request_is_free_and_further_ones_need_the_budget() {
    let first = after(&[fault(503)]);
    let next = first.next(found(), None, &settings(), NOW, || panic!("asked for the first"));
    assert_eq!(next, Next::Retry);
    let second = after(&[fault(503), fault(503)]);
    assert_eq!(second.next(found(), None, &settings(), NOW, || true), Next::Retry);
    let denied = second.next(found(), None, &settings(), NOW, || false);
    assert_eq!(denied, Next::Stop(Stop::Limited));
}

#[test]
fn a_failover_after_a_429_is_free() {
    for refusal in
        [throttled(), Outcome::Elsewhere { status: 429 }, Outcome::Elsewhere { status: 200 }]
    {
        let ledger = after(&[fault(503), refusal]);
        let next = ledger.next(found(), None, &settings(), NOW, || panic!("asked for a 429"));
        assert_eq!(next, Next::Retry);
    }
    let ledger = after(&[throttled(), fault(503)]);
    let next = ledger.next(found(), None, &settings(), NOW, || false);
    assert_eq!(next, Next::Stop(Stop::Limited));
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
fn after_a_gate_reopened_a_request_that_may_wait_does_so_without_delay() {
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
    Stop::Exhausted(Unavailable { soonest: Some(at(5)), throttled: true, is_undecided: true })
}

/// Every backend that could serve the request refused it.
fn refused() -> Stop {
    Stop::Exhausted(Unavailable { soonest: None, throttled: false, is_undecided: false })
}

const REFUSALS: [(Outcome, u16); 5] = [
    (Outcome::Elsewhere { status: 400 }, 400),
    (Outcome::Elsewhere { status: 404 }, 404),
    (Outcome::Denied { status: 401 }, 401),
    (Outcome::Denied { status: 403 }, 403),
    (Outcome::Misconfigured { status: 404 }, 404),
];

#[test]
fn an_exhausted_pool_gets_a_reply_of_the_gateway() {
    let expected = FinalResponse::Exhausted { throttled: true, soonest: Some(at(5)) };
    for (outcome, status) in [(throttled(), 429), (fault(503), 503)].into_iter().chain(REFUSALS) {
        assert_eq!(ending(&outcome, status, &exhausted(), 2, NOW), expected, "{outcome:?}");
    }
}

#[test]
fn a_refusal_by_every_backend_is_passed_on() {
    for (outcome, status) in REFUSALS {
        for stop in [refused(), Stop::Refused] {
            for pool_size in [1, 2, 3] {
                assert_eq!(ending(&outcome, status, &stop, pool_size, NOW), FinalResponse::PassOn);
            }
        }
    }
}

#[test]
fn a_429_from_every_backend_is_passed_on_with_the_delay_of_the_pool() {
    let outcome = Outcome::Elsewhere { status: 429 };
    assert_eq!(ending(&outcome, 429, &refused(), 2, NOW), FinalResponse::PassOnError);
    assert_eq!(ending(&outcome, 429, &refused(), 1, NOW), FinalResponse::PassOn);
    let in_band = ending(&Outcome::Elsewhere { status: 200 }, 200, &refused(), 2, NOW);
    assert!(matches!(in_band, FinalResponse::Exhausted { .. }));
}

#[test]
fn attempts_that_ran_out_are_unanimous_only_when_all_of_them_were_refused() {
    let refusal = Outcome::Elsewhere { status: 404 };
    let all = after(&[refusal, Outcome::Denied { status: 403 }, refusal]);
    assert_eq!(next(&all, found()), Next::Stop(Stop::Refused));
    for other in [fault(503), throttled()] {
        let some = after(&[refusal, other, refusal]);
        assert_eq!(next(&some, found()), Next::Stop(Stop::Limited));
        let ending = ending(&refusal, 404, &Stop::Limited, 4, NOW);
        assert_eq!(ending, FinalResponse::Exhausted { throttled: false, soonest: Some(NOW) });
    }
}

#[test]
fn a_pool_of_one_passes_its_backends_errors_on() {
    assert_eq!(ending(&throttled(), 429, &exhausted(), 1, NOW), FinalResponse::PassOn);
    assert_eq!(ending(&fault(500), 500, &exhausted(), 1, NOW), FinalResponse::PassOn);
}

#[test]
fn a_refusal_within_a_success_is_never_passed_on() {
    for stop in [exhausted(), Stop::Limited] {
        let ending = ending(&throttled(), 200, &stop, 1, NOW);
        assert!(matches!(ending, FinalResponse::Exhausted { .. }));
    }
}

#[test]
fn when_all_say_within_a_stream_that_they_are_full_the_client_is_told_so() {
    let outcome = Outcome::Elsewhere { status: 200 };
    let decided = Unavailable { soonest: None, throttled: false, is_undecided: false };
    let undecided = Unavailable { is_undecided: true, ..decided };
    let throttled = |unavailable| match ending(&outcome, 200, &Stop::Exhausted(unavailable), 2, NOW)
    {
        FinalResponse::Exhausted { throttled, .. } => throttled,
        other => panic!("{other:?}"),
    };
    assert!(throttled(decided));
    assert!(!throttled(undecided));
}

#[test]
fn while_another_backend_could_serve_the_last_error_is_passed_on() {
    assert_eq!(ending(&throttled(), 429, &Stop::Limited, 2, NOW), FinalResponse::PassOnError);
    assert_eq!(ending(&fault(503), 503, &Stop::Limited, 2, NOW), FinalResponse::PassOnError);
}

#[test]
fn an_attempt_without_a_response_has_nothing_to_pass_on() {
    let outcome = Outcome::Fault { fault: Fault::Connect, retry_after: None };
    let expected = FinalResponse::Exhausted { throttled: false, soonest: Some(NOW) };
    assert_eq!(ending(&outcome, 0, &Stop::Limited, 2, NOW), expected);
}

#[test]
fn only_a_failure_that_another_backend_may_not_have_is_worth_another_attempt() {
    let spilled = Outcome::Spilled { error: 429 };
    for outcome in [Outcome::Success, spilled, Outcome::ClientError, Outcome::Cancelled] {
        assert!(!is_worth_another(&outcome));
    }
    for outcome in [
        throttled(),
        fault(500),
        Outcome::Denied { status: 401 },
        Outcome::Misconfigured { status: 404 },
        Outcome::Elsewhere { status: 400 },
    ] {
        assert!(is_worth_another(&outcome));
    }
}

#[test]
fn after_a_429_that_closes_no_gate_the_backend_may_still_have_what_others_lack() {
    let mut ledger = Ledger::default();
    ledger.begin(backend(0));
    ledger.end(backend(0), &Outcome::Elsewhere { status: 429 });
    // While that is the last response, it is a verdict like any other.
    assert_eq!(ledger.judged(), BackendSet::EMPTY.with(backend(0)));
    ledger.begin(backend(1));
    ledger.end(backend(1), &Outcome::Elsewhere { status: 404 });
    assert_eq!(ledger.judged(), BackendSet::EMPTY.with(backend(1)));
}

#[test]
fn redirects_of_all_backends_are_an_unusable_response_and_of_some_are_not() {
    let unavailable =
        |is_undecided| Unavailable { soonest: Some(NOW), throttled: false, is_undecided };
    for outcome in [Outcome::Denied { status: 302 }, Outcome::Elsewhere { status: 302 }] {
        for (pool_size, stop) in [
            (1, Stop::Exhausted(unavailable(false))),
            (2, Stop::Exhausted(unavailable(false))),
            (3, Stop::Refused),
        ] {
            let told = ending(&outcome, 302, &stop, pool_size, NOW);
            assert_eq!(told, FinalResponse::Unusable { status: 302 }, "{stop:?}");
        }
        let soon = FinalResponse::Exhausted { throttled: false, soonest: Some(NOW) };
        for stop in [Stop::Exhausted(unavailable(true)), Stop::Limited] {
            assert_eq!(ending(&outcome, 302, &stop, 2, NOW), soon, "{stop:?}");
        }
        assert_eq!(result_in_trail(&outcome, 302), Some(AttemptResult::Status(302)));
        let ledger = after(&[outcome]);
        assert!(ledger.judged().contains(backend(0)), "{outcome:?}");
    }
}

#[test]
fn a_request_that_was_not_received_is_repeated_for_free_whatever_it_creates() {
    let unheard = Outcome::Fault { fault: Fault::NotReceived, retry_after: None };
    let ledger = after(&[fault(503), unheard]);
    let next = ledger.next(found(), None, &settings(), NOW, || panic!("asked for a 408"));
    assert_eq!(next, Next::Retry);
    let next = after(&[unheard, fault(503)]).next(found(), None, &settings(), NOW, || false);
    assert_eq!(next, Next::Stop(Stop::Limited));
    assert!(!may_be_done(&unheard));
    assert!(may_be_done(&fault(408)));
    assert_eq!(result_in_trail(&unheard, 408), Some(AttemptResult::Status(408)));
}
