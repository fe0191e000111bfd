//! The failed attempts of a request, and who is to blame for them once that is known.

use super::{OnItsWay, Request};
use crate::filter::pool::health::{Evidence, RunningAttempt};
use crate::policy::choice::Unavailable;
use crate::policy::failover::blame::{self, Verdict};
use crate::policy::failover::{self, FinalResponse};
use crate::policy::response::classify::Outcome;
use crate::policy::time::Timestamp;
use crate::policy::tokens::budget::Settlement;

/// An attempt that failed.
pub(super) struct Suspect {
    attempt: RunningAttempt,
    evidence: Evidence,
    ended: Timestamp,
}

impl Request {
    /// An attempt failed before any part of it went to the client. Returns the outcome that counts for the request.
    pub(crate) fn fail(
        &mut self,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Outcome {
        if matches!(self.response, OnItsWay::Held(_)) {
            self.response = OnItsWay::Nothing;
        }
        if let Some(elsewhere) = self.put_off(attempt, evidence, now) {
            return self.fail(attempt, &elsewhere, now);
        }
        self.ledger.end(attempt.backend.index, &evidence.outcome);
        self.may_be_done |=
            !self.asked.call.is_repeatable() && failover::may_be_done(&evidence.outcome);
        let closed_until = self.pool.note(&self.pools, attempt, evidence, now);
        self.blame(attempt, evidence, now);
        let ending = match evidence.outcome {
            Outcome::Throttled { delay } => self.throttled(delay),
            Outcome::Cancelled => Settlement::Failed,
            outcome if failover::may_be_done(&outcome) => Settlement::Failed,
            _ => Settlement::Released,
        };
        attempt.conclude(ending, now);
        self.note_attempt(attempt, evidence, closed_until.map(|until| until.since(now)));
        self.fall_back(attempt, evidence);
        evidence.outcome
    }

    /// If the cost of a request is unknown, a 429 may be about this request alone. So it closes no gate until another
    /// backend has served the request. Returns what counts until then.
    fn put_off(
        &mut self,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Option<Evidence> {
        let Outcome::Throttled { .. } = evidence.outcome else { return None };
        if !self.asked.hides_its_cost() {
            return None;
        }
        let suspect = Suspect { attempt: attempt.witness(), evidence: *evidence, ended: now };
        self.suspects.suspect(evidence.outcome, suspect);
        let outcome = Outcome::Elsewhere { status: evidence.status };
        Some(Evidence { outcome, ..*evidence })
    }

    /// Counts a failed attempt against its backend, or remembers it until it is known who is to blame.
    fn blame(&mut self, attempt: &RunningAttempt, evidence: &Evidence, now: Timestamp) {
        // If the request spilled over, the response is another deployment's.
        let outcome = match evidence.hints.spilled {
            Some(error) => Outcome::Spilled { error },
            None => evidence.outcome,
        };
        let evidence = Evidence { outcome, ..*evidence };
        self.suspects.note(attempt.backend.index, &outcome);
        if !blame::is_open(&outcome) {
            self.pool.observe(attempt, &evidence, now);
            return;
        }
        self.suspects
            .suspect(outcome, Suspect { attempt: attempt.witness(), evidence, ended: now });
        if !self.asked.is_of_model() {
            // A failure without a model says nothing about the deployment of a model.
            let verdicts = self.suspects.dismiss();
            self.carry_out(verdicts, now);
        } else if self.is_closed() {
            self.judge(false, now);
        }
    }

    /// The outcome of the request is known: counts the failed attempts that are their backends' fault.
    pub(super) fn judge(&mut self, is_served: bool, now: Timestamp) {
        if self.suspects.is_empty() {
            return;
        }
        let verdicts = self.suspects.judge(is_served);
        self.carry_out(verdicts, now);
    }

    pub(super) fn carry_out(
        &self,
        verdicts: impl Iterator<Item = (Suspect, Verdict)>,
        now: Timestamp,
    ) {
        for (Suspect { attempt, evidence, ended }, verdict) in verdicts {
            match verdict {
                Verdict::Guilty => {
                    self.pool.convict(&self.pools, &attempt, &evidence, ended, now);
                }
                Verdict::Alone => {
                    self.pool.accuse(&self.pools, &attempt, &evidence, ended, now);
                }
                Verdict::Acquitted => {
                    self.pool.acquit(&attempt, &evidence, now);
                }
            }
        }
    }

    /// Judges the failed attempts of a request that nobody served. If that opens a circuit breaker, the soonest
    /// recovery is later than it was when the pool was found exhausted.
    pub(super) fn after_judgement(
        &mut self,
        ending: FinalResponse,
        now: Timestamp,
    ) -> FinalResponse {
        if self.suspects.is_empty() {
            return ending;
        }
        self.judge(false, now);
        match (&ending, self.peek(now)) {
            (FinalResponse::Exhausted { .. }, Err(Unavailable { throttled, soonest, .. })) => {
                FinalResponse::Exhausted { throttled, soonest }
            }
            _ => ending,
        }
    }
}
