//! One request in flight, like the filter's `src/filter/request/`.

use super::Desk;
use super::health::{CapacityHints, Evidence, RunningAttempt};
use super::judged::Suspect;
use super::setup::{LARGE_BYTES_MIN, Setup};
use crate::load::Request;
use spillway::config::operation_bit;
use spillway::openai::call::api::Operation;
use spillway::policy::backend::breaker::Ticket;
use spillway::policy::backend::records::{BackendRecord, Snapshot};
use spillway::policy::choice::{
    Choice, Denials, Needs, Situation, Unavailable, select, select_early, select_last,
    worth_waiting_for,
};
use spillway::policy::failover::blame::Suspects;
use spillway::policy::failover::{Ledger, Next, retry_budget};
use spillway::policy::pool::{MAX_BACKENDS, OperationSet};
use spillway::policy::response::classify::{AttemptTraits, Outcome, Seen};
use spillway::policy::time::{Millis, Timestamp};
use spillway::policy::tokens::budget::{Admission, Reservation, Settlement, Terms, reserve};
use spillway::policy::tokens::consumer::{
    Class, ConsumerAdmission, ConsumerReservation, ConsumerSettings, admit,
};
use spillway::policy::tokens::estimate::{Estimate, RequestSize, UsedTokens};

/// How often a choice is repeated, as in the filter.
const CHOICES_MAX: usize = MAX_BACKENDS + 4;

/// The result when no backend can be taken.
const NOBODY: Unavailable = Unavailable { soonest: None, throttled: false, is_undecided: true };

/// Which backends may be chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Usual,
    Last,
    Early,
}

/// How far a request is.
pub(super) enum Stage {
    /// An attempt runs, or is about to.
    Planned,
    /// It waits for a backend.
    Waiting { since: Timestamp },
    /// It has ended.
    Over,
}

/// A chosen backend, before its attempt begins.
pub(super) struct Pick {
    choice: Choice,
    at: Timestamp,
    ticket: Ticket,
    record: BackendRecord,
    reservation: Option<Reservation>,
    tokens: u64,
}

/// The tokens that are reserved for its consumer.
struct HeldOfConsumer {
    consumer: usize,
    settings: ConsumerSettings,
    reservation: ConsumerReservation,
}

/// One request in flight.
pub(super) struct Ongoing {
    pub(super) id: usize,
    pub(super) replica: usize,
    pub(super) worker: usize,
    pub(super) stage: Stage,
    pub(super) ledger: Ledger,
    pub(super) suspects: Suspects<Suspect>,
    pub(super) attempt: Option<RunningAttempt>,
    /// The refusal that is held while the request waits.
    pub(super) refusal: Option<(Outcome, u16)>,
    /// What the headers of the response to the client showed.
    served: Option<Evidence>,
    pub(super) hides_its_cost: bool,
    consumer: usize,
    size: RequestSize,
    estimate: Estimate,
    needs: Needs,
    denied: Denials,
    pick: Option<Pick>,
    ceiling_permille: Option<u16>,
    held_of_consumer: Option<HeldOfConsumer>,
}

impl Ongoing {
    pub(super) fn new(id: usize, asked: &Request, replica: usize, worker: usize) -> Self {
        Self {
            id,
            replica,
            worker,
            stage: Stage::Planned,
            ledger: Ledger::default(),
            suspects: Suspects::default(),
            attempt: None,
            refusal: None,
            served: None,
            hides_its_cost: false,
            consumer: asked.consumer,
            size: RequestSize::default(),
            estimate: Estimate::default(),
            needs: Needs {
                operation: OperationSet::NONE,
                prompt_tokens: 0,
                tokens: 0,
                affinity: None,
            },
            denied: Denials::NONE,
            pick: None,
            ceiling_permille: None,
            held_of_consumer: None,
        }
    }

    /// As `Gateway::understand`.
    pub(super) fn understand(&mut self, asked: &Request, desk: &Desk<'_>) {
        self.hides_its_cost = !desk.setup.reads_bodies && asked.text_bytes >= LARGE_BYTES_MIN;
        if !self.hides_its_cost {
            self.size = RequestSize {
                text_bytes: asked.text_bytes,
                images: 0,
                max_output_tokens: asked.max_tokens,
                choices: None,
            };
        }
        self.estimate = desk.worker.estimator.estimate(&self.size);
        self.needs.operation = operation_bit(Operation::ChatCompletions);
        self.needs.prompt_tokens = self.estimate.prompt_tokens;
        self.needs.tokens = if self.hides_its_cost { 0 } else { self.estimate.total() };
    }

    /// As `Consumers::admit`.
    ///
    /// # Errors
    /// The consumer exceeds a limit.
    pub(super) fn admit(&mut self, desk: &mut Desk<'_>) -> Result<(), ()> {
        let Some(consumers) = &desk.setup.consumers else { return Ok(()) };
        let name = Setup::consumer(self.consumer);
        let settings = *consumers.limits_of(Some(&name));
        if settings.class == Class::Batch {
            let percent = consumers.batch_max_utilization_percent;
            self.ceiling_permille = Some(u16::from(percent).saturating_mul(10));
        }
        if settings.tokens_per_minute.is_none() && settings.quota.is_none() {
            return Ok(());
        }
        let record = desk.shared.consumers.entry(self.consumer).or_default();
        let mut bytes = record.clone();
        match admit(&mut bytes, &settings, self.estimate, desk.now) {
            ConsumerAdmission::Granted { reservation, .. } => {
                *record = bytes;
                let consumer = self.consumer;
                self.held_of_consumer = Some(HeldOfConsumer { consumer, settings, reservation });
                Ok(())
            }
            ConsumerAdmission::Denied { .. } => Err(()),
        }
    }

    /// As `Request::go_on`.
    pub(super) fn go_on(&mut self, desk: &mut Desk<'_>) -> Next {
        self.proceed(true, desk)
    }

    /// As `Request::go_on_at_once`.
    pub(super) fn go_on_at_once(&mut self, desk: &mut Desk<'_>) -> Next {
        self.proceed(false, desk)
    }

    fn proceed(&mut self, can_wait: bool, desk: &mut Desk<'_>) -> Next {
        self.denied = Denials::NONE;
        if self.ledger.has_attempts_left(&desk.setup.policy.failover) {
            self.take(can_wait, desk)
        } else {
            let records = desk.records();
            let selected = self.choose(Turn::Usual, &records, desk);
            self.next(selected, desk)
        }
    }

    /// As `Request::take`.
    fn take(&mut self, can_wait: bool, desk: &mut Desk<'_>) -> Next {
        let unavailable = match self.select(Turn::Usual, desk) {
            Ok(pick) => return self.take_or_leave(pick, desk),
            Err(unavailable) => unavailable,
        };
        let next = self.next(Err(unavailable), desk);
        if !(can_wait && matches!(next, Next::Wait { .. })) {
            self.denied.forgive_budgets();
            for turn in [Turn::Last, Turn::Early] {
                if let Ok(pick) = self.select(turn, desk)
                    && self.take_or_leave(pick, desk) == Next::Retry
                {
                    return Next::Retry;
                }
            }
        }
        next
    }

    /// As `Request::take_or_leave`.
    fn take_or_leave(&mut self, pick: Pick, desk: &mut Desk<'_>) -> Next {
        let next = self.next(Ok(pick.choice), desk);
        match next {
            Next::Retry => self.pick = Some(pick),
            Next::Wait { .. } | Next::Stop(_) => give_back(pick, desk),
        }
        next
    }

    /// As `Request::next`.
    fn next(&self, selected: Result<Choice, Unavailable>, desk: &mut Desk<'_>) -> Next {
        let policy = &desk.setup.policy;
        let recovers = selected.as_ref().err().and_then(|_| {
            let spent = Situation { tried: self.ledger.spent(), ..self.situation(desk.now, 0) };
            worth_waiting_for(policy, &desk.records(), &spent)
        });
        let (settings, now) = (&policy.failover, desk.now);
        self.ledger.next(selected, recovers, settings, now, || {
            let (retries, deposits) = (&mut desk.shared.retries, &mut desk.worker.deposits);
            let (record, granted) = retry_budget::withdraw(Some(retries), deposits, settings, now);
            *retries = record;
            deposits.clear();
            granted
        })
    }

    /// As `Request::select`.
    fn select(&mut self, turn: Turn, desk: &mut Desk<'_>) -> Result<Pick, Unavailable> {
        for _ in 0..CHOICES_MAX {
            let records = desk.records();
            let choice = self.choose(turn, &records, desk)?;
            let record = desk.record_in(&records, choice.backend);
            let ticket = record.breaker.ticket();
            let (at, tokens) = (desk.now, self.needs.tokens);
            let untaken = Pick { choice, at, ticket, record, reservation: None, tokens };
            let Some(pick) = self.hold(turn, untaken, desk) else { continue };
            desk.worker.rotation.take();
            if choice.probe.is_none() {
                desk.keep_records(records);
            }
            return Ok(pick);
        }
        Err(NOBODY)
    }

    /// As `Request::choose`.
    fn choose(
        &self,
        turn: Turn,
        records: &Snapshot,
        desk: &mut Desk<'_>,
    ) -> Result<Choice, Unavailable> {
        let situation = self.situation(desk.now, desk.random.number());
        let (policy, rotation) = (&desk.setup.policy, &mut desk.worker.rotation);
        match turn {
            Turn::Usual => select(policy, records, &situation, rotation),
            Turn::Last => select_last(policy, records, &situation, rotation),
            Turn::Early => select_early(policy, records, &situation, rotation).ok_or(NOBODY),
        }
    }

    /// As `Request::hold` and `Budget::reserve`.
    fn hold(&mut self, turn: Turn, untaken: Pick, desk: &mut Desk<'_>) -> Option<Pick> {
        let choice = untaken.choice;
        let position = choice.backend.position();
        let mut pick = untaken;
        if let Some(settings) = &desk.setup.backends[position].budget {
            let record = &mut desk.shared.budgets[position];
            let mut bytes = record.clone();
            let ceiling_permille = self.ceiling_permille;
            let terms = Terms { ceiling_permille, passes_limits: turn != Turn::Usual };
            match reserve(&mut bytes, settings, self.estimate, terms, desk.now) {
                Admission::Granted(reservation) => {
                    *record = bytes;
                    pick.reservation = Some(reservation);
                }
                Admission::Denied { until, .. } => {
                    self.denied.budget(choice.backend, until);
                    return None;
                }
            }
        }
        if let Some(lease) = choice.probe {
            match desk.lease_probe(choice.backend, lease) {
                Some(ticket) => pick.ticket = ticket,
                None => {
                    give_back(pick, desk);
                    return None;
                }
            }
        }
        Some(pick)
    }

    fn situation(&self, now: Timestamp, roll: u64) -> Situation<'_> {
        Situation {
            needs: &self.needs,
            tried: self.ledger.tried(),
            judged: self.ledger.judged(),
            throttled: self.ledger.throttled(),
            denied: &self.denied,
            now,
            roll,
        }
    }

    /// As `Request::begin`. Returns the backend's position.
    pub(super) fn begin(&mut self, desk: &mut Desk<'_>) -> Option<usize> {
        let pick = self.pick.take()?;
        let backend = pick.choice.backend;
        self.stage = Stage::Planned;
        self.ledger.begin(backend);
        let is_first = self.ledger.attempts() == 1;
        let at = if is_first { pick.at } else { desk.now };
        if is_first {
            desk.worker.deposits.count(at);
        }
        self.attempt = Some(pick.begin(at));
        Some(backend.position())
    }

    /// The request waited in the filter. As `Request::waited`.
    pub(super) fn waited(&mut self, now: Timestamp) {
        if let Stage::Waiting { since } = self.stage {
            self.ledger.wait(now.since(since));
            self.stage = Stage::Planned;
        }
    }

    pub(super) fn elapsed(&self, now: Timestamp) -> Millis {
        self.attempt.as_ref().map_or(Millis::ZERO, |attempt| now.since(attempt.at))
    }

    /// As `Request::traits`, for a chat with the gateway's own key.
    pub(super) fn traits(&self, desk: &Desk<'_>) -> AttemptTraits {
        let Some(attempt) = &self.attempt else { return AttemptTraits::NONE };
        let backend = &desk.setup.backends[attempt.backend.position()];
        let output = self.size.max_output_tokens.unwrap_or(0);
        AttemptTraits {
            owns_credential: true,
            owns_deployment: true,
            provisioned: backend.is_provisioned,
            is_model_operation: true,
            seen: match attempt.record.served {
                OperationSet::NONE => Seen::Nothing,
                served if served.covers(self.needs.operation) => Seen::Operation,
                _ => Seen::Others,
            },
            tokens: self.estimate.prompt_tokens.saturating_add(output),
            token_limit: backend.budget.as_ref().and_then(|budget| budget.token_limit()),
            ..AttemptTraits::NONE
        }
    }

    /// As `Request::serve`.
    pub(super) fn serve(&mut self, evidence: &Evidence, desk: &mut Desk<'_>) {
        let Some(attempt) = self.attempt.take() else { return };
        if evidence.outcome == Outcome::ClientError {
            self.charge_nothing(desk);
        }
        self.suspects.note(attempt.backend, &evidence.outcome);
        let is_served = evidence.outcome == Outcome::Success;
        self.judge(is_served, desk);
        if is_served {
            desk.note_service(&attempt, self.needs.operation);
        }
        desk.write_head(&attempt, evidence);
        self.attempt = Some(attempt);
        self.served = Some(*evidence);
    }

    /// As `Request::conclude`, for a complete response.
    pub(super) fn conclude(&mut self, asked: &Request, desk: &mut Desk<'_>) {
        let Some(mut attempt) = self.attempt.take() else { return };
        let Some(head) = self.served.take() else { return };
        let evidence = Evidence { hints: CapacityHints::default(), ..head };
        desk.note(&attempt, &evidence);
        if evidence.outcome == Outcome::Success {
            desk.note_completion(&attempt);
        }
        desk.observe(&attempt, &evidence);
        let used = UsedTokens {
            prompt_tokens: asked.prompt_tokens,
            cached_tokens: 0,
            completion_tokens: asked.output_tokens,
        };
        if desk.setup.is_metered {
            desk.worker.estimator.learn(&self.size, &used);
        }
        desk.settle(&mut attempt, Settlement::Settled(used));
        self.settle_consumer(Some(used), desk);
    }

    /// As `Request::charge_nothing`.
    pub(super) fn charge_nothing(&mut self, desk: &mut Desk<'_>) {
        self.settle_consumer(None, desk);
    }

    /// As `Admitted::conclude`.
    fn settle_consumer(&mut self, used: Option<UsedTokens>, desk: &mut Desk<'_>) {
        let Some(held) = self.held_of_consumer.take() else { return };
        let record = desk.shared.consumers.entry(held.consumer).or_default();
        held.reservation.conclude(used, &held.settings, desk.now, |change| change(record));
    }
}

impl Pick {
    fn begin(self, at: Timestamp) -> RunningAttempt {
        let Self { choice, ticket, record, reservation, tokens, .. } = self;
        RunningAttempt { backend: choice.backend, at, ticket, record, reservation, tokens }
    }
}

/// As `Pick::give_back`.
fn give_back(pick: Pick, desk: &mut Desk<'_>) {
    let mut attempt = pick.begin(desk.now);
    desk.settle(&mut attempt, Settlement::Released);
    if attempt.ticket.is_probe() {
        desk.release_probe(&attempt);
    }
}
