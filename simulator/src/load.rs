//! What clients send: random requests from a seed.

use crate::random::Random;

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it arrives, in milliseconds since the start.
    pub at_ms: u64,
    /// The real tokens of its prompt.
    pub prompt_tokens: u64,
    /// The tokens that the model will write.
    pub output_tokens: u64,
    /// The maximum of output tokens that it names, if any.
    pub max_tokens: Option<u64>,
    /// The bytes of its prompt.
    pub text_bytes: u64,
    /// Whether it asks for an event stream.
    pub streams: bool,
    /// Who sends it, as a position in the load's consumers.
    pub consumer: usize,
    /// Decides what random faults it meets at each backend.
    pub roll: u64,
}

/// A synthetic load.
#[derive(Clone, Debug)]
pub struct Load {
    /// How long requests arrive.
    pub seconds: u64,
    /// How many arrive per second on average; with bursts, before the pattern's factors apply.
    pub per_second: f64,
    /// How arrivals are spread over time.
    pub pattern: Pattern,
    /// The sizes of prompts.
    pub prompt: Size,
    /// The sizes of outputs.
    pub output: Size,
    /// How many per hundred name a maximum of output tokens, which is more than they need.
    pub names_max_percent: u64,
    /// How many per hundred ask for a stream.
    pub streams_percent: u64,
    /// The shares of the consumers. Empty: there is one.
    pub consumers: Vec<f64>,
}

/// How arrivals are spread over time.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// Random arrivals at one rate.
    Steady,
    /// Random arrivals, for a time at a higher rate and for a time at a lower one.
    Bursts {
        /// How long a burst lasts.
        on_s: u64,
        /// The time between two bursts.
        off_s: u64,
        /// The factor of the rate in a burst.
        on: f64,
        /// The factor of the rate between two bursts.
        off: f64,
    },
}

/// The sizes of prompts or outputs in tokens: log-normal, approximately as in real traffic.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The median.
    pub median: f64,
    /// The deviation of the logarithm.
    pub sigma: f64,
    /// The largest size.
    pub max: u64,
}

impl Size {
    /// The average size, if the largest sizes were not cut.
    pub fn mean(&self) -> f64 {
        self.median * (self.sigma * self.sigma / 2.0).exp()
    }

    fn draw(&self, random: &mut Random) -> u64 {
        (random.log_normal(self.median, self.sigma).round() as u64).clamp(1, self.max)
    }
}

impl Load {
    /// Chats of a few hundred tokens, with complete responses and streams, at a steady rate.
    pub fn chats(seconds: u64, per_second: f64) -> Self {
        Self {
            seconds,
            per_second,
            pattern: Pattern::Steady,
            prompt: Size { median: 400.0, sigma: 0.8, max: 4_000 },
            output: Size { median: 90.0, sigma: 0.7, max: 1_000 },
            names_max_percent: 50,
            streams_percent: 50,
            consumers: Vec::new(),
        }
    }

    /// The average size of a request in normalised tokens. An output token counts `weight` times.
    pub fn mean_tokens(&self, weight: f64) -> f64 {
        self.prompt.mean() + weight * self.output.mean()
    }

    /// The requests of a seed, in the order of their arrival.
    pub fn requests(&self, seed: u64) -> Vec<Request> {
        let mut random = Random::new(seed);
        let (mut at, mut requests) = (0.0, Vec::new());
        let end = self.seconds as f64;
        while at < end {
            // Arrivals at the highest rate. If the present rate is lower, some of them are left out.
            at += random.exponential(1.0 / self.highest());
            if at < end && random.unit() < self.rate(at) / self.highest() {
                requests.push(self.request((at * 1_000.0) as u64, &mut random));
            }
        }
        requests
    }

    fn highest(&self) -> f64 {
        match self.pattern {
            Pattern::Steady => self.per_second,
            Pattern::Bursts { on, off, .. } => self.per_second * on.max(off),
        }
    }

    fn rate(&self, at: f64) -> f64 {
        match self.pattern {
            Pattern::Steady => self.per_second,
            Pattern::Bursts { on_s, off_s, on, off } => {
                let is_on = (at as u64).checked_rem(on_s + off_s).unwrap_or(0) < on_s;
                self.per_second * if is_on { on } else { off }
            }
        }
    }

    fn request(&self, at_ms: u64, random: &mut Random) -> Request {
        let prompt_tokens = self.prompt.draw(random);
        let output_tokens = self.output.draw(random);
        let names_max = random.chance(self.names_max_percent);
        let spare = 1.0 + 2.0 * random.unit();
        Request {
            at_ms,
            prompt_tokens,
            output_tokens,
            max_tokens: names_max.then_some((output_tokens as f64 * spare).ceil() as u64),
            text_bytes: (prompt_tokens as f64 * random.log_normal(4.0, 0.1)) as u64,
            streams: random.chance(self.streams_percent),
            consumer: self.consumer(random.unit()),
            roll: random.number(),
        }
    }

    fn consumer(&self, unit: f64) -> usize {
        let mut left = unit * self.consumers.iter().sum::<f64>();
        let found = self.consumers.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        found.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_has_its_rate_and_its_sizes() {
        let load = Load::chats(1_000, 8.0);
        let requests = load.requests(3);
        assert!((requests.len() as f64 / 8_000.0 - 1.0).abs() < 0.05, "{}", requests.len());
        let prompts = requests.iter().map(|request| request.prompt_tokens).sum::<u64>() as f64;
        let mean = prompts / requests.len() as f64;
        assert!((mean / load.prompt.mean() - 1.0).abs() < 0.05, "{mean}");
        assert!(requests.is_sorted_by_key(|request| request.at_ms));
    }

    #[test]
    fn more_requests_arrive_in_bursts_than_between_them() {
        let pattern = Pattern::Bursts { on_s: 10, off_s: 20, on: 3.0, off: 0.5 };
        let requests = Load { pattern, ..Load::chats(600, 10.0) }.requests(4);
        let (on, off): (Vec<_>, Vec<_>) =
            requests.iter().partition(|request| request.at_ms / 1_000 % 30 < 10);
        let ratio = on.len() as f64 / off.len() as f64;
        assert!((ratio - 3.0).abs() < 0.4, "{ratio}");
    }

    #[test]
    fn consumers_have_their_shares() {
        let requests = Load { consumers: vec![3.0, 1.0], ..Load::chats(1_000, 8.0) }.requests(5);
        let first = requests.iter().filter(|request| request.consumer == 0).count();
        assert!((first as f64 / requests.len() as f64 - 0.75).abs() < 0.02);
    }
}
