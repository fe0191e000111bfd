//! Backends that follow Azure OpenAI's rules, as far as a gateway can observe them. `docs/azure.md` has the rules
//! with their sources.
//!
//! The backends on real sockets (`mock-azure`) follow the same rules, but count tokens in a sliding minute, and use
//! tokio's clock. So the two share no code.

mod bucket;
mod faults;
mod window;

use crate::load::Request;
use crate::random::{mix, unit};
use bucket::Bucket;
pub use faults::{Fault, Period};
use std::fmt::Write;
use window::Windows;

/// The output of a request without a maximum, as Azure estimates it for provisioned throughput.
const GUESSED_OUTPUT: u64 = 256;
/// The same for pay-as-you-go.
const GUESSED_OUTPUT_STANDARD: u64 = 16;

/// One deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Its name, which is also the backend's name in the configuration.
    pub name: String,
    /// Its capacity.
    pub capacity: Capacity,
    /// Its speed.
    pub speed: Speed,
    /// How much of each token it counts, in thousandths: it may count differently from what it states.
    pub counts_permille: u64,
    /// Its faults, and their times.
    pub faults: Vec<Period>,
    /// Deployments with the same number share one quota, which is that of the first of them.
    pub quota: Option<usize>,
}

/// The capacity of a deployment.
#[derive(Clone, Copy, Debug)]
pub enum Capacity {
    /// Provisioned throughput.
    Provisioned {
        /// The drain, in normalised tokens per minute.
        tokens_per_minute: u64,
        /// The size of the bucket.
        burst_tokens: u64,
        /// How many tokens an output token counts as.
        output_weight: u64,
        /// Whether the expected tokens of a request are corrected to its usage when it ends.
        corrects: bool,
    },
    /// Pay-as-you-go.
    Standard {
        /// Tokens per minute.
        tokens_per_minute: u64,
        /// Requests per minute; each window of ten seconds has a sixth of it.
        requests_per_minute: u64,
    },
}

/// The speed of a deployment.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// The time to the first token of an empty prompt, in milliseconds.
    pub base_ms: u64,
    /// The prompt tokens that it reads per second.
    pub prompt_per_s: u64,
    /// The output tokens that it writes per second.
    pub output_per_s: u64,
    /// How far a time may differ from the usual one, in percent.
    pub jitter_percent: u64,
}

impl Default for Speed {
    fn default() -> Self {
        Self { base_ms: 150, prompt_per_s: 8_000, output_per_s: 80, jitter_percent: 30 }
    }
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The headers that matter to a gateway.
    pub headers: Vec<(&'static str, String)>,
    /// The beginning of the body, if it is an error.
    pub body: &'static str,
}

/// The reaction to an attempt.
#[derive(Clone, Debug)]
pub enum Reaction {
    /// No connection.
    Refused {
        /// After these milliseconds.
        after_ms: u64,
    },
    /// No reaction, however long anybody waits.
    Silent,
    /// A response.
    Response {
        /// The milliseconds to its headers.
        head_ms: u64,
        /// The milliseconds from there to its end.
        rest_ms: u64,
        /// Its headers.
        head: Head,
        /// What it occupies at the deployment until it ends; `None` for an error.
        held: Option<Held>,
    },
}

/// What a request occupies at a deployment.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    tokens: u64,
}

/// All deployments.
#[derive(Clone, Debug)]
pub struct Azure {
    deployments: Vec<Deployment>,
    limits: Vec<Limits>,
}

#[derive(Clone, Debug)]
enum Limits {
    Provisioned(Bucket),
    Standard(Windows),
    /// The quota is that of another deployment.
    Of(usize),
}

impl Azure {
    /// The deployments, with unused capacity.
    pub fn new(deployments: Vec<Deployment>) -> Self {
        let limits = |(position, deployment): (usize, &Deployment)| {
            let sharer = deployments[..position]
                .iter()
                .position(|other| deployment.quota.is_some() && other.quota == deployment.quota);
            match (sharer, deployment.capacity) {
                (Some(first), _) => Limits::Of(first),
                (None, Capacity::Provisioned { tokens_per_minute, burst_tokens, .. }) => {
                    Limits::Provisioned(Bucket::new(tokens_per_minute, burst_tokens))
                }
                (None, Capacity::Standard { tokens_per_minute, requests_per_minute }) => {
                    Limits::Standard(Windows::new(tokens_per_minute, requests_per_minute))
                }
            }
        };
        let limits = deployments.iter().enumerate().map(limits).collect();
        Self { deployments, limits }
    }

    /// The deployments.
    pub fn deployments(&self) -> &[Deployment] {
        &self.deployments
    }

    /// Sends a request to a deployment.
    pub fn ask(&mut self, backend: usize, request: &Request, now_ms: u64) -> Reaction {
        match self.fault(backend, request, now_ms) {
            Some(Fault::Refused) => return Reaction::Refused { after_ms: 2 },
            Some(Fault::Silent) => return Reaction::Silent,
            Some(Fault::Status(status)) => return error(status, Vec::new(), "", 15),
            Some(Fault::Errors { .. }) => return error(500, Vec::new(), "", 120),
            Some(Fault::Lowered { .. } | Fault::Slow { .. }) | None => {}
        }
        let tokens = self.expected(backend, request);
        if let Some(refusal) = self.refusal(backend, tokens, now_ms) {
            return refusal;
        }
        let percent = self.percent(backend, now_ms);
        match self.limits_of(backend) {
            Limits::Provisioned(bucket) => bucket.pour(tokens, now_ms),
            Limits::Standard(windows) => windows.take(tokens, now_ms),
            Limits::Of(_) => {}
        }
        let headers = self.headers(backend, percent, now_ms);
        let (first_ms, output_ms) = self.times(backend, request, now_ms);
        let (head_ms, rest_ms) =
            if request.streams { (first_ms, output_ms) } else { (first_ms + output_ms, 0) };
        let head = Head { status: 200, headers, body: "" };
        Reaction::Response { head_ms, rest_ms, head, held: Some(Held { tokens }) }
    }

    /// An admitted request ended. `is_served`: it used its tokens; otherwise it used none.
    pub fn end(
        &mut self,
        backend: usize,
        request: &Request,
        held: Held,
        is_served: bool,
        now_ms: u64,
    ) {
        let taken = if is_served { self.taken(backend, request) } else { 0 };
        let corrects = match self.deployments[backend].capacity {
            Capacity::Provisioned { corrects, .. } => corrects,
            Capacity::Standard { .. } => false,
        };
        match self.limits_of(backend) {
            Limits::Provisioned(bucket) if corrects => bucket.correct(held.tokens, taken, now_ms),
            Limits::Standard(windows) => {
                windows.take_more(taken.saturating_sub(held.tokens), now_ms);
            }
            Limits::Provisioned(_) | Limits::Of(_) => {}
        }
    }

    /// Until when a deployment does not serve a request; `None`: it would serve it now. Nothing changes.
    pub fn out_until(&mut self, backend: usize, request: &Request, now_ms: u64) -> Option<u64> {
        if let Some(until) = self.broken_until(backend, request, now_ms) {
            return Some(until);
        }
        let tokens = self.expected(backend, request);
        let percent = self.percent(backend, now_ms);
        match self.limits_of(backend) {
            Limits::Provisioned(bucket) => bucket.full_for(now_ms),
            Limits::Standard(windows) => {
                windows.full(tokens, percent, now_ms).map(|full| full.for_ms)
            }
            Limits::Of(_) => None,
        }
        .map(|for_ms| now_ms + for_ms)
    }

    /// How many of a deployment's tokens a request uses, in the deployment's own measure: normalised for provisioned
    /// throughput.
    pub fn measure(&self, backend: usize, request: &Request) -> u64 {
        let weight = match self.deployments[backend].capacity {
            Capacity::Provisioned { output_weight, .. } => output_weight,
            Capacity::Standard { .. } => 1,
        };
        request.prompt_tokens + weight * request.output_tokens
    }

    /// For each deployment, the one that has its quota.
    pub fn quotas(&self) -> Vec<usize> {
        let quota = |(position, limits): (usize, &Limits)| match limits {
            Limits::Of(first) => *first,
            Limits::Provisioned(_) | Limits::Standard(_) => position,
        };
        self.limits.iter().enumerate().map(quota).collect()
    }

    /// Whether a deployment is provisioned throughput.
    pub fn is_provisioned(&self, backend: usize) -> bool {
        matches!(self.deployments[backend].capacity, Capacity::Provisioned { .. })
    }

    fn taken(&self, backend: usize, request: &Request) -> u64 {
        self.measure(backend, request) * self.deployments[backend].counts_permille / 1_000
    }

    /// The tokens that a request counts before it is carried out. Only the bytes of its prompt are known.
    fn expected(&self, backend: usize, request: &Request) -> u64 {
        let deployment = &self.deployments[backend];
        let (weight, guess) = match deployment.capacity {
            Capacity::Provisioned { output_weight, .. } => (output_weight, GUESSED_OUTPUT),
            Capacity::Standard { .. } => (1, GUESSED_OUTPUT_STANDARD),
        };
        let output = request.max_tokens.unwrap_or(guess);
        let expected = request.text_bytes.div_ceil(4) + weight * output;
        expected * deployment.counts_permille / 1_000
    }

    fn refusal(&mut self, backend: usize, tokens: u64, now_ms: u64) -> Option<Reaction> {
        let percent = self.percent(backend, now_ms);
        let (for_ms, is_provisioned, reset) = match self.limits_of(backend) {
            Limits::Provisioned(bucket) => (bucket.full_for(now_ms)?, true, None),
            Limits::Standard(windows) => {
                let full = windows.full(tokens, percent, now_ms)?;
                windows.count_refused();
                let is_too_large = !full.is_requests && tokens > windows.limit(percent);
                let for_ms = if is_too_large { 86_400_000 } else { full.for_ms };
                (for_ms, false, Some(full.is_requests))
            }
            Limits::Of(_) => return None,
        };
        let mut headers = self.headers(backend, percent, now_ms);
        let seconds = for_ms.div_ceil(1_000).to_string();
        if is_provisioned {
            headers.push(("retry-after-ms", for_ms.to_string()));
        }
        match reset {
            Some(true) => headers.push(("x-ratelimit-reset-requests", seconds.clone())),
            Some(false) => headers.push(("x-ratelimit-reset-tokens", seconds.clone())),
            None => {}
        }
        headers.push(("retry-after", seconds));
        Some(error(
            429,
            headers,
            r#"{"error":{"code":"429","message":"Rate limit is exceeded."}}"#,
            5,
        ))
    }

    fn headers(
        &mut self,
        backend: usize,
        percent: u64,
        now_ms: u64,
    ) -> Vec<(&'static str, String)> {
        match self.limits_of(backend) {
            Limits::Provisioned(bucket) => {
                let permille = bucket.permille(now_ms);
                let mut text = String::new();
                // Writing to a string cannot fail.
                let _ = write!(text, "{}.{}%", permille / 10, permille % 10);
                vec![("azure-openai-deployment-utilization", text)]
            }
            Limits::Standard(windows) => {
                let (limit, left) = windows.requests_left(percent);
                vec![
                    ("x-ratelimit-limit-requests", limit.to_string()),
                    ("x-ratelimit-remaining-requests", left.to_string()),
                    ("x-ratelimit-limit-tokens", windows.limit(percent).to_string()),
                    ("x-ratelimit-remaining-tokens", windows.tokens_left(percent).to_string()),
                ]
            }
            Limits::Of(_) => Vec::new(),
        }
    }

    /// The milliseconds to the first token, and from there to the last.
    fn times(&self, backend: usize, request: &Request, now_ms: u64) -> (u64, u64) {
        let Deployment { speed, faults, .. } = &self.deployments[backend];
        let slow = faults.iter().filter(|period| period.holds(now_ms)).find_map(|period| {
            match period.fault {
                Fault::Slow { factor } => Some(factor),
                _ => None,
            }
        });
        let chance = unit(mix(request.roll.wrapping_add(backend as u64)));
        let jitter = 1.0 + (2.0 * chance - 1.0) * speed.jitter_percent as f64 / 100.0;
        let factor = jitter * slow.unwrap_or(1) as f64;
        let first = speed.base_ms as f64
            + 1_000.0 * request.prompt_tokens as f64 / speed.prompt_per_s.max(1) as f64;
        let output = 1_000.0 * request.output_tokens as f64 / speed.output_per_s.max(1) as f64;
        ((first * factor) as u64 + 1, (output * factor) as u64)
    }

    fn limits_of(&mut self, backend: usize) -> &mut Limits {
        let position = match self.limits[backend] {
            Limits::Of(first) => first,
            Limits::Provisioned(_) | Limits::Standard(_) => backend,
        };
        &mut self.limits[position]
    }
}

fn error(
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
    head_ms: u64,
) -> Reaction {
    Reaction::Response { head_ms, rest_ms: 0, head: Head { status, headers, body }, held: None }
}

#[cfg(test)]
mod tests;
