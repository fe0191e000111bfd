//! Writes what an attempt showed into the records, like the filter's `src/filter/pool/health.rs` and
//! `src/filter/pool/budget.rs`.

use super::Desk;
use spillway::policy::backend::breaker::{
    Breaker, Lease, Observation, Observed, RulesMet, Ticket, needs_count,
};
use spillway::policy::backend::headroom::Headroom;
use spillway::policy::backend::records::{
    BackendRecord, COMPLETION_WORTH_WRITING, PoolRecord, Records, Snapshot, WindowsRecord,
};
use spillway::policy::backend::rules;
use spillway::policy::failover::blame;
use spillway::policy::pool::{BackendIndex, OperationSet};
use spillway::policy::response::classify::{Fault, Outcome};
use spillway::policy::response::rate_limits::RateLimits;
use spillway::policy::time::{Millis, Timestamp};
use spillway::policy::tokens::budget::{self, Reservation, Settlement};

/// A running attempt.
pub(super) struct RunningAttempt {
    pub(super) backend: BackendIndex,
    pub(super) at: Timestamp,
    pub(super) ticket: Ticket,
    pub(super) record: BackendRecord,
    pub(super) reservation: Option<Reservation>,
    pub(super) tokens: u64,
}

impl RunningAttempt {
    pub(super) fn witness(&self) -> Self {
        Self { reservation: None, ..*self }
    }
}

/// What an attempt showed.
#[derive(Clone, Copy)]
pub(super) struct Evidence {
    pub(super) outcome: Outcome,
    pub(super) status: u16,
    pub(super) elapsed: Millis,
    pub(super) hints: CapacityHints,
}

/// What response headers state about the backend's remaining capacity.
#[derive(Clone, Copy, Default)]
pub(super) struct CapacityHints {
    headroom_permille: Option<u16>,
    utilization_permille: Option<u32>,
    tokens_per_minute: Option<i64>,
}

impl CapacityHints {
    /// As `CapacityHints::read`, for a response that was not spilled over.
    pub(super) fn read(headers: &[(&str, String)]) -> Self {
        let limits = RateLimits::read(headers);
        Self {
            headroom_permille: limits.left_permille(),
            utilization_permille: limits.utilization_permille(),
            tokens_per_minute: limits.token_limit(),
        }
    }
}

impl Desk<'_> {
    pub(super) fn records(&self) -> Snapshot {
        Snapshot::new(self.shared.pool.clone())
    }

    /// As `Pool::keep_records`.
    pub(super) fn keep_records(&mut self, records: Snapshot) {
        self.worker.recent = Some((self.now, records));
    }

    fn recent_record(&mut self, backend: BackendIndex) -> BackendRecord {
        let recent = self.worker.recent.take().filter(|(read_at, _)| *read_at == self.now);
        let records = recent.map_or_else(|| self.records(), |(_, records)| records);
        let record = self.record_in(&records, backend);
        self.keep_records(records);
        record
    }

    pub(super) fn record_in(&self, records: &Snapshot, backend: BackendIndex) -> BackendRecord {
        let member = self.setup.policy.member(backend);
        member.map(|member| records.of(backend, member)).unwrap_or_default()
    }

    /// As `Pool::update`.
    fn update<R>(
        &mut self,
        backend: BackendIndex,
        change: impl FnOnce(&mut BackendRecord) -> R,
    ) -> Option<R> {
        self.worker.recent = None;
        let key = self.setup.policy.member(backend)?.key;
        let (bytes, found) = PoolRecord::update(Some(&self.shared.pool), key, change).ok()?;
        self.shared.pool = bytes;
        Some(found)
    }

    /// As `Pool::note`.
    pub(super) fn note(&mut self, attempt: &RunningAttempt, evidence: &Evidence) {
        self.note_headroom(attempt, evidence);
        if let Outcome::Throttled { delay } = evidence.outcome {
            self.close_gates(attempt, delay);
        }
    }

    /// As `Pool::note_service`.
    pub(super) fn note_service(&mut self, attempt: &RunningAttempt, operation: OperationSet) {
        self.worker.backends[attempt.backend.position()].has_served = true;
        if attempt.record.served.covers(operation) && attempt.record.denied == 0 {
            return;
        }
        self.update(attempt.backend, |record| {
            record.served.0 |= operation.0;
            record.denied = 0;
        });
    }

    /// As `Pool::convict`.
    pub(super) fn convict(
        &mut self,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        ended: Timestamp,
    ) {
        let backend = attempt.backend;
        let is_probe = attempt.ticket.is_probe();
        match evidence.outcome {
            Outcome::Denied { status } => {
                let own = &mut self.worker.backends[backend.position()];
                let is_first = std::mem::take(&mut own.has_served);
                let is_enough =
                    self.update(backend, |record| blame::count_denial(record, is_first));
                if is_probe || is_enough == Some(true) {
                    let outcome = Outcome::Misconfigured { status };
                    self.observe(attempt, &Evidence { outcome, ..*evidence });
                }
            }
            Outcome::Throttled { delay } => {
                let left = delay.map(|delay| ended.plus(delay).since(self.now));
                if left != Some(Millis::ZERO) {
                    self.close_gates(attempt, left);
                }
                self.observe(attempt, evidence);
            }
            Outcome::Fault { fault: Fault::Reset | Fault::NotReceived, .. } if !is_probe => {
                let is_known =
                    self.update(backend, |record| blame::is_same_reset(record, attempt.at, ended));
                if is_known != Some(true) {
                    self.observe(attempt, evidence);
                }
            }
            _ => self.observe(attempt, evidence),
        }
    }

    /// As `Pool::accuse`.
    pub(super) fn accuse(
        &mut self,
        attempt: &RunningAttempt,
        evidence: &Evidence,
        ended: Timestamp,
    ) {
        let seen_by_others = self.recent_record(attempt.backend).completed_at;
        let own = self.worker.backends[attempt.backend.position()].completed_at;
        if attempt.ticket.is_probe() || blame::counts_alone(own.max(seen_by_others), ended) {
            self.convict(attempt, evidence, ended);
        }
    }

    /// As `Pool::acquit`.
    pub(super) fn acquit(&mut self, attempt: &RunningAttempt) {
        if attempt.ticket.is_probe() {
            self.release_probe(attempt);
        }
    }

    /// As `Pool::note_completion`.
    pub(super) fn note_completion(&mut self, attempt: &RunningAttempt) {
        let now = self.now;
        self.worker.backends[attempt.backend.position()].completed_at = now;
        let known = attempt.record.completed_at;
        if known > now || now.since(known) >= COMPLETION_WORTH_WRITING {
            self.update(attempt.backend, |record| record.completed_at = now);
        }
    }

    /// As `Pool::write_head` and `Budget::correct`.
    pub(super) fn write_head(&mut self, attempt: &RunningAttempt, evidence: &Evidence) {
        if attempt.ticket.is_probe() {
            self.observe(attempt, evidence);
        }
        self.note_headroom(attempt, evidence);
        let position = attempt.backend.position();
        let (Some(reservation), Some(settings)) =
            (&attempt.reservation, &self.setup.backends[position].budget)
        else {
            return;
        };
        let record = &mut self.shared.budgets[position];
        if let Some(permille) = evidence.hints.utilization_permille {
            written(record, |bytes| {
                budget::utilization(bytes, settings, reservation, permille, self.now)
            });
        }
        if let Some(limit) = evidence.hints.tokens_per_minute {
            written(record, |bytes| budget::limit_header(bytes, settings, limit, self.now));
        }
    }

    /// As `RunningAttempt::conclude`.
    pub(super) fn settle(&mut self, attempt: &mut RunningAttempt, ending: Settlement) {
        let position = attempt.backend.position();
        let taken = attempt.reservation.take();
        if let (Some(reservation), Some(settings)) = (taken, &self.setup.backends[position].budget)
        {
            let record = &mut self.shared.budgets[position];
            reservation.conclude(ending, settings, self.now, |change| change(record));
        }
    }

    /// As `Pool::lease_probe`.
    pub(super) fn lease_probe(&mut self, backend: BackendIndex, lease: Lease) -> Option<Ticket> {
        let (setup, now) = (self.setup, self.now);
        let settings = &setup.policy.breaker;
        self.update(backend, |record| record.breaker.lease_probe(lease, settings, now)).flatten()
    }

    /// As `Pool::release_probe`.
    pub(super) fn release_probe(&mut self, attempt: &RunningAttempt) {
        let (outcome, hints) = (Outcome::Cancelled, CapacityHints::default());
        self.observe(attempt, &Evidence { outcome, status: 0, elapsed: Millis::ZERO, hints });
    }

    fn note_headroom(&mut self, attempt: &RunningAttempt, evidence: &Evidence) {
        let now = self.now;
        if let Some(permille) = evidence.hints.headroom_permille
            && attempt.record.headroom.worth_writing(permille, now)
        {
            self.update(attempt.backend, |record| {
                record.headroom = Headroom { permille, at: now };
            });
        }
    }

    /// As `Pool::close_gates`; there is one pool.
    fn close_gates(&mut self, attempt: &RunningAttempt, delay: Option<Millis>) {
        let (backend, tokens) = (attempt.backend, attempt.tokens);
        let policy = &self.setup.policy;
        let pool = Some(&*self.shared.pool);
        if let Ok(bytes) = PoolRecord::close_gate(pool, policy, backend, delay, tokens, self.now) {
            self.shared.pool = bytes;
        }
        self.worker.recent = None;
    }

    /// As `Pool::observe`.
    pub(super) fn observe(&mut self, attempt: &RunningAttempt, evidence: &Evidence) {
        let setup = self.setup;
        let settings = &setup.policy.breaker;
        let observed = Observed::of(&evidence.outcome, settings);
        let elapsed = evidence.elapsed;
        let breaker = &attempt.record.breaker;
        let is_needed =
            attempt.ticket.is_probe() || breaker.needs_window(settings, observed, elapsed);
        if !is_needed && !self.ends_run(attempt, observed, elapsed) {
            return;
        }
        let is_counted =
            breaker.counts_ordinary(attempt.ticket) && needs_count(settings, observed, elapsed);
        let is_plain = rules::is_plain_success(settings, observed, elapsed);
        let now = self.now;
        let met = if is_counted
            && (!is_plain
                || self.worker.backends[attempt.backend.position()].successes.count(
                    settings,
                    attempt.ticket.epoch,
                    now,
                )) {
            self.count(attempt, observed, elapsed, is_plain)
        } else {
            RulesMet::default()
        };
        let grows = breaker.grows_by(observed);
        if is_counted && is_plain && !grows && !self.ends_run(attempt, observed, elapsed) {
            return;
        }
        let retry_after = match evidence.outcome {
            Outcome::Fault { retry_after, .. } => retry_after,
            _ => None,
        };
        let observation = Observation { ticket: attempt.ticket, observed, elapsed, retry_after };
        let roll = self.random.number();
        self.update(attempt.backend, |record| {
            record.breaker.conclude(&observation, met, settings, now, roll)
        });
    }

    /// As `Pool::ends_run`.
    fn ends_run(&mut self, attempt: &RunningAttempt, observed: Observed, elapsed: Millis) -> bool {
        let setup = self.setup;
        let settings = &setup.policy.breaker;
        let is_run = |breaker: &Breaker| breaker.counts_in_row_change(settings, observed, elapsed);
        if !settings.ends_runs(observed, elapsed) {
            return false;
        }
        is_run(&attempt.record.breaker) || {
            let present = self.recent_record(attempt.backend).breaker;
            present.counts_ordinary(attempt.ticket) && is_run(&present)
        }
    }

    /// As `Pool::count`.
    fn count(
        &mut self,
        attempt: &RunningAttempt,
        observed: Observed,
        elapsed: Millis,
        is_plain: bool,
    ) -> RulesMet {
        let (setup, epoch, now) = (self.setup, attempt.ticket.epoch, self.now);
        let settings = &setup.policy.breaker;
        let position = attempt.backend.position();
        let own = &mut self.worker.backends[position];
        let successes = std::mem::take(&mut own.successes).of(epoch);
        let record = &mut self.shared.windows[position];
        let (bytes, met) = WindowsRecord::update(Some(record), settings, |windows| {
            if successes > 0 {
                windows.add(settings, epoch, successes, now);
            }
            if is_plain {
                return (!windows.is_later_than(epoch)).then_some(RulesMet::default());
            }
            windows.count(settings, epoch, observed, elapsed, now)
        });
        if met.is_some() {
            *record = bytes;
        }
        // If the counts belong to a later epoch, they mean nothing to the attempt. The filter restarts them if the
        // breaker was forgotten, which never happens here.
        met.unwrap_or_default()
    }
}

/// Changes a record of counts, or leaves it unchanged when a write is not needed. As `shared::count`.
pub(super) fn written(record: &mut Vec<u8>, change: impl FnOnce(&mut Vec<u8>) -> bool) {
    let mut changed = record.clone();
    if change(&mut changed) {
        *record = changed;
    }
}
