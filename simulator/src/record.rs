//! The events of a simulation, from which the figures are computed.

use crate::load::Request;
use crate::world::{Attempt, Seen};

/// How long before an attempt begins it is decided: a gateway pauses before a retry.
const JUST_MS: u64 = 1;

/// The output that can be expected at most of a request without a maximum.
const LONGEST_EXPECTED_TOKENS: u64 = 2_000;

/// A served request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The backend that served it.
    pub backend: usize,
    /// When it arrived.
    pub arrived_ms: u64,
    /// The time until the attempt began that served it.
    pub added_ms: u64,
    /// The tokens that it used, in its backend's measure.
    pub tokens: u64,
    /// Prompt and output tokens together.
    pub plain_tokens: u64,
    /// Who sent it.
    pub consumer: usize,
    /// When its response began.
    pub response_at_ms: u64,
}

/// A request that was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request.
    pub request: usize,
    /// The status that the client got.
    pub status: u16,
    /// When the request came.
    pub arrived_ms: u64,
    /// When the client got the response.
    pub at_ms: u64,
    /// Whether a backend would have served it at that moment.
    pub could_be_served: bool,
}

/// The 429s of the backends that share one quota.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen429 {
    /// Until when the last 429 refuses requests.
    pub until_ms: u64,
    /// When it came.
    pub at_ms: u64,
    /// The size of the smallest refused request.
    pub smallest: Size,
    /// Attempts that were sent before that time, except for smaller requests.
    pub too_early: u64,
}

/// The tokens that a gateway can expect a request to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    least: u64,
    most: u64,
}

impl Size {
    pub(crate) fn of(request: &Request) -> Self {
        let prompt = request.text_bytes / 4;
        let output = |unknown| request.max_tokens.unwrap_or(unknown);
        Self { least: prompt + output(0), most: prompt + output(LONGEST_EXPECTED_TOKENS) }
    }
}

/// All events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// By request.
    pub served: Vec<Option<Served>>,
    /// Errors that clients got.
    pub refusals: Vec<Refusal>,
    /// Requests that exceeded a limit of their consumer.
    pub limited: Vec<usize>,
    /// The number of attempts, by backend.
    pub attempts: Vec<u64>,
    /// Attempts that served nobody.
    pub wasted: u64,
    /// When attempts were sent to backends that fail all requests: time and backend.
    pub at_dead: Vec<(u64, usize)>,
    /// The delays that backends named, and whether they were obeyed, by quota.
    pub named: Vec<Seen429>,
    /// Attempts at a backend that had already failed the request, except by a 429.
    pub tried_twice: u64,
    /// The most attempts of one request.
    pub most_attempts: u32,
    /// For each backend, the one that represents its quota.
    quotas: Vec<usize>,
    /// By request.
    sizes: Vec<Size>,
    /// By request: its attempts, and the set of backends that failed it, one bit each.
    trips: Vec<(u32, u64)>,
}

impl Record {
    pub(crate) fn new(sizes: Vec<Size>, quotas: Vec<usize>) -> Self {
        let backends = quotas.len();
        Self {
            served: vec![None; sizes.len()],
            attempts: vec![0; backends],
            named: vec![Seen429::default(); backends],
            trips: vec![(0, 0); sizes.len()],
            sizes,
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
        // A choice just before the 429 came could not obey it.
        let is_known = at_ms > named.at_ms + JUST_MS;
        let is_smaller = self.sizes[request].least < named.smallest.most;
        named.too_early += u64::from(is_known && at_ms < named.until_ms && !is_smaller);
        let (attempts, failed) = &mut self.trips[request];
        *attempts += 1;
        self.tried_twice += *failed >> backend & 1;
        self.most_attempts = self.most_attempts.max(*attempts);
    }

    pub(crate) fn responded(&mut self, attempt: &Attempt, seen: &Seen, now_ms: u64) {
        let status = if let Seen::Head(head) = seen { head.status } else { 0 };
        self.wasted += u64::from(status != 200);
        if !matches!(status, 200 | 429) {
            self.trips[attempt.request].1 |= 1 << attempt.backend;
        }
        if let Seen::Head(head) = seen
            && status == 429
        {
            let value = |name| head.headers.iter().find(|(key, _)| *key == name);
            let number = |name| value(name).and_then(|(_, value)| value.parse::<u64>().ok());
            let delay = number("retry-after-ms")
                .or_else(|| number("retry-after").map(|seconds| seconds * 1_000));
            // A request that is larger than the limit says nothing about others.
            let delay = delay.filter(|delay| *delay <= 60_000).unwrap_or(0);
            let named = &mut self.named[self.quotas[attempt.backend]];
            let size = self.sizes[attempt.request];
            if now_ms >= named.until_ms || size.most < named.smallest.most {
                named.smallest = size;
            }
            if now_ms + delay > named.until_ms {
                (named.at_ms, named.until_ms) = (now_ms, now_ms + delay);
            }
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
            response_at_ms: now,
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
