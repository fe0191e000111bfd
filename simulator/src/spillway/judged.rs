//! The failed attempts of a request, like the filter's `src/filter/request/judged.rs`.

use super::Desk;
use super::health::{Evidence, RunningAttempt};
use super::request::Ongoing;
use spillway::policy::failover;
use spillway::policy::failover::blame::{self, Verdict};
use spillway::policy::response::classify::Outcome;
use spillway::policy::time::Timestamp;
use spillway::policy::tokens::budget::Settlement;

/// A failed attempt.
pub(super) struct Suspect {
    attempt: RunningAttempt,
    evidence: Evidence,
    ended: Timestamp,
}

impl Ongoing {
    /// As `Request::fail`. The attempt has ended.
    pub(super) fn fail(&mut self, evidence: &Evidence, desk: &mut Desk<'_>) -> Outcome {
        let Some(mut attempt) = self.attempt.take() else { return evidence.outcome };
        let evidence = self.put_off(&attempt, evidence, desk).unwrap_or(*evidence);
        self.ledger.end(attempt.backend, &evidence.outcome);
        desk.note(&attempt, &evidence);
        self.blame(&attempt, &evidence, desk);
        let ending = match evidence.outcome {
            // As `Request::throttled`.
            Outcome::Throttled { delay } => {
                let settings = &desk.setup.policy.throttle;
                let retry_after = delay.unwrap_or(settings.default_retry_after);
                Settlement::Throttled {
                    retry_after: Some(retry_after.min(settings.max_retry_after)),
                }
            }
            Outcome::Cancelled => Settlement::Failed,
            outcome if failover::may_be_done(&outcome) => Settlement::Failed,
            _ => Settlement::Released,
        };
        desk.settle(&mut attempt, ending);
        evidence.outcome
    }

    /// As `Request::put_off`.
    fn put_off(
        &mut self,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        desk: &Desk<'_>,
    ) -> Option<Evidence> {
        let Outcome::Throttled { .. } = evidence.outcome else { return None };
        if !self.hides_its_cost {
            return None;
        }
        let (attempt, ended) = (attempt.witness(), desk.now);
        self.suspects.suspect(evidence.outcome, Suspect { attempt, evidence: *evidence, ended });
        let outcome = Outcome::Elsewhere { status: evidence.status };
        Some(Evidence { outcome, ..*evidence })
    }

    /// As `Request::blame`.
    fn blame(&mut self, attempt: &RunningAttempt, evidence: &Evidence, desk: &mut Desk<'_>) {
        self.suspects.note(attempt.backend, &evidence.outcome);
        if !blame::is_open(&evidence.outcome) {
            desk.observe(attempt, evidence);
            return;
        }
        let (attempt, ended) = (attempt.witness(), desk.now);
        self.suspects.suspect(evidence.outcome, Suspect { attempt, evidence: *evidence, ended });
    }

    /// As `Request::judge` and `Request::carry_out`.
    pub(super) fn judge(&mut self, is_served: bool, desk: &mut Desk<'_>) {
        if self.suspects.is_empty() {
            return;
        }
        for (Suspect { attempt, evidence, ended }, verdict) in self.suspects.judge(is_served) {
            match verdict {
                Verdict::Guilty => desk.convict(&attempt, &evidence, ended),
                Verdict::Alone => desk.accuse(&attempt, &evidence, ended),
                Verdict::Acquitted => desk.acquit(&attempt),
            }
        }
    }
}
