//! What happened in a simulation, to be measured afterwards.

use crate::load::Request;
use crate::world::{Attempt, Seen};

/// A request that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// By which backend.
    pub backend: usize,
    /// When it came.
    pub arrived_ms: u64,
    /// How long it took until the attempt began that served it.
    pub added_ms: u64,
    /// The tokens that it took, as its backend measures them.
    pub tokens: u64,
    /// Prompt and output together.
    pub plain_tokens: u64,
    /// Who sent it.
    pub consumer: usize,
    /// When its response began.
    pub answered_ms: u64,
}

/// A request that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request.
    pub request: usize,
    /// The status that the client got.
    pub status: u16,
    /// When the request came.
    pub arrived_ms: u64,
    /// When the client got its answer.
    pub at_ms: u64,
    /// Whether a backend would have served it at that moment.
    pub could_be_served: bool,
}

/// What the backends of one quota said and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen429 {
    /// Until when the last 429 said that it refuses.
    pub until_ms: u64,
    /// Attempts that were sent before that.
    pub too_early: u64,
}

/// All that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// By request.
    pub served: Vec<Option<Served>>,
    /// Errors that clients got.
    pub refusals: Vec<Refusal>,
    /// Requests that were over a limit of their consumer.
    pub limited: Vec<usize>,
    /// Attempts, by backend.
    pub attempts: Vec<u64>,
    /// Attempts that came to nothing.
    pub wasted: u64,
    /// When attempts were sent to backends that turn everything away: time and backend.
    pub at_dead: Vec<(u64, usize)>,
    /// What backends said of when to come back, and whether that was heeded, by quota.
    pub named: Vec<Seen429>,
    /// Requests that were at one backend twice without having waited between.
    pub tried_twice: u64,
    /// By backend, the one that stands for its quota.
    quotas: Vec<usize>,
    last: Vec<Option<(usize, u64)>>,
}

impl Record {
    pub(crate) fn new(requests: usize, quotas: Vec<usize>) -> Self {
        let backends = quotas.len();
        Self {
            served: vec![None; requests],
            attempts: vec![0; backends],
            named: vec![Seen429::default(); backends],
            last: vec![None; requests],
            quotas,
            ..Self::default()
        }
    }

    pub(crate) fn attempt(&mut self, attempt: &Attempt, is_dead: bool) {
        let Attempt { backend, at_ms, request } = *attempt;
        self.attempts[backend] += 1;
        if is_dead {
            self.at_dead.push((at_ms, backend));
        }
        let named = &mut self.named[self.quotas[backend]];
        named.too_early += u64::from(at_ms < named.until_ms);
        let before = self.last[request].replace((backend, at_ms));
        let is_again = before.is_some_and(|(last, at)| last == backend && at_ms < at + 20);
        self.tried_twice += u64::from(is_again);
    }

    pub(crate) fn answered(&mut self, attempt: &Attempt, seen: &Seen, now_ms: u64) {
        let Seen::Head(head) = seen else {
            self.wasted += 1;
            return;
        };
        if head.status != 200 {
            self.wasted += 1;
        }
        if head.status == 429 {
            let value = |name| head.headers.iter().find(|(key, _)| *key == name);
            let number = |name| value(name).and_then(|(_, value)| value.parse::<u64>().ok());
            let delay = number("retry-after-ms")
                .or_else(|| number("retry-after").map(|seconds| seconds * 1_000));
            // What is too large by itself says nothing of others.
            let delay = delay.filter(|delay| *delay <= 60_000).unwrap_or(0);
            let named = &mut self.named[self.quotas[attempt.backend]];
            named.until_ms = named.until_ms.max(now_ms + delay);
        }
    }

    pub(crate) fn served(&mut self, attempt: &Attempt, request: &Request, tokens: u64, now: u64) {
        self.served[attempt.request] = Some(Served {
            backend: attempt.backend,
            arrived_ms: request.at_ms,
            added_ms: attempt.at_ms - request.at_ms,
            tokens,
            plain_tokens: request.prompt_tokens + request.output_tokens,
            consumer: request.consumer,
            answered_ms: now,
        });
    }

    pub(crate) fn refused(
        &mut self,
        request: usize,
        arrived_ms: u64,
        status: u16,
        could_be_served: bool,
        at_ms: u64,
    ) {
        self.refusals.push(Refusal { request, status, arrived_ms, at_ms, could_be_served });
    }

    pub(crate) fn limited(&mut self, request: usize) {
        self.limited.push(request);
    }
}
