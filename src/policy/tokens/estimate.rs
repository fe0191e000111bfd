//! How many tokens a request will use, before it is sent.
//!
//! Counting with the model's own tokenizer costs 70 MB in every worker, and Azure itself admits by a rough estimate
//! from the number of characters. So the prompt counts one token for every four bytes of UTF-8, which is closer than
//! counting characters in almost every language. The rest is learned from the usage that each response states.
//!
//! *Prompt.* A straight line is learned: a number of tokens for each four bytes, plus a number for each request
//! (roles, templates, tools that the text does not show). It is the line that fits the latest responses best. Each
//! weighs by its *relative* error, and the last `MEMORY` count most. Three rules keep it stable. Until much is known,
//! it leans to `PRIOR_TOKENS_PER_REQUEST` and a factor of one. Factor and offset have bounds that natural text, code,
//! digits and hexadecimal do not reach. A response that differs from the expectation by more than half counts as
//! differing by half, so one odd request moves the line by less than one percent. Nothing is learned from requests
//! with images, because their flat cost is too rough.
//!
//! *Completion.* A request that names a maximum is charged all of it, once for each choice, as at Azure. One that
//! names none is charged the recent average of requests without a maximum.

/// The bytes of text per token, before anything is learned.
const BYTES_PER_TOKEN: f64 = 4.0;

/// The tokens of an image of any size: 1024 x 1024 in high detail costs four tiles of 170 and a base of 85 tokens
/// with gpt-4o (the scheme in OpenAI's guide to images and vision).
pub const TOKENS_PER_IMAGE: u64 = 765;

/// The completion of a request without a maximum, before anything is learned: the length of a chat response of a few
/// paragraphs. Only the first requests of a pool and worker depend on it.
pub const FIRST_COMPLETION_TOKENS: u64 = 256;

/// The most tokens of either kind that a request can be estimated at. The longest context is about a million tokens
/// and 128 choices are the most, so more is a mistake in the request.
pub const MAX_TOKENS: u64 = 1 << 27;

/// About how many responses are remembered.
const MEMORY: f64 = 64.0;
/// A chat with one message has about seven tokens that are not text (OpenAI's cookbook: three for
/// each message with its role, three to prime the response).
const PRIOR_TOKENS_PER_REQUEST: f64 = 7.0;
/// How many responses the prior factor of one counts as. It fades like them.
const PRIOR_ANSWERS: f64 = 2.0;
/// How firmly the prior offset holds: ratios scatter by a tenth, offsets by about twenty tokens. It never fades,
/// because prompts of one length show nothing about the offset.
const PRIOR_FIRMNESS: f64 = 0.01 / 400.0;
/// Tokens for each four bytes: Hindi has 0.66, base64 has 2.7.
const FACTOR_RANGE: (f64, f64) = (0.25, 4.0);
const OFFSET_RANGE: (f64, f64) = (-50.0, 1_000.0);
/// Shorter prompts count as this many tokens, so that a tiny one does not decide the offset.
const SHORTEST_TOKENS: f64 = 4.0;
/// How far a response may be from the expectation before it counts as odd.
const ODD: f64 = 1.5;

/// The sizes that an estimate is made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSize {
    /// The bytes of the prompt as UTF-8, without `data:` URLs.
    pub text_bytes: u64,
    /// The number of images.
    pub images: u64,
    /// The largest of `max_tokens`, `max_completion_tokens` and `max_output_tokens`. Zero for operations without a
    /// completion, such as embeddings.
    pub max_output_tokens: Option<u64>,
    /// The larger of `n` and `best_of`; zero counts as one.
    pub choices: Option<u64>,
}

/// The tokens that a request is expected to use, each at most [`MAX_TOKENS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// In the prompt.
    pub prompt_tokens: u64,
    /// In all completions.
    pub completion_tokens: u64,
}

impl Estimate {
    /// All tokens, saturating.
    pub const fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// The tokens that a request used, as its response states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedTokens {
    /// In the prompt, including cached ones.
    pub prompt_tokens: u64,
    /// The cached ones of the prompt. A number above the prompt's counts as the whole prompt.
    pub cached_tokens: u64,
    /// In all completions, including reasoning tokens.
    pub completion_tokens: u64,
}

impl UsedTokens {
    /// All tokens, saturating.
    pub const fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

impl From<Estimate> for UsedTokens {
    /// The usage of a request whose estimate was exact.
    fn from(estimate: Estimate) -> Self {
        Self {
            prompt_tokens: estimate.prompt_tokens,
            cached_tokens: 0,
            completion_tokens: estimate.completion_tokens,
        }
    }
}

/// What one worker learned about one pool's requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimator {
    prompt: Line,
    /// Tokens for each choice of a request without a maximum.
    completion: f64,
    completions_learned: f64,
}

impl Default for Estimator {
    fn default() -> Self {
        Self {
            prompt: Line::default(),
            completion: FIRST_COMPLETION_TOKENS as f64,
            completions_learned: 0.0,
        }
    }
}

impl Estimator {
    /// The tokens that a request of this size is expected to use.
    pub fn estimate(&self, size: &RequestSize) -> Estimate {
        let text = tokens(self.prompt.at(raw_tokens(size)));
        let prompt = text.saturating_add(size.images.saturating_mul(TOKENS_PER_IMAGE));
        let each = size.max_output_tokens.unwrap_or_else(|| tokens(self.completion));
        let completion = each.saturating_mul(choices(size));
        Estimate {
            prompt_tokens: prompt.min(MAX_TOKENS),
            completion_tokens: completion.min(MAX_TOKENS),
        }
    }

    /// Learns from the usage of a request of this size.
    ///
    /// A usage without prompt tokens states nothing, so nothing is learned.
    pub fn learn(&mut self, size: &RequestSize, usage: &UsedTokens) {
        if usage.prompt_tokens == 0 {
            return;
        }
        if size.images == 0 && size.text_bytes > 0 {
            self.prompt.learn(raw_tokens(size), usage.prompt_tokens.min(MAX_TOKENS) as f64);
        }
        if size.max_output_tokens.is_none() {
            let each = usage.completion_tokens.min(MAX_TOKENS) as f64 / choices(size) as f64;
            // The added tokens let the average leave zero again.
            let each = each.min(4.0 * self.completion + 64.0);
            self.completions_learned = (self.completions_learned + 1.0).min(MEMORY);
            self.completion += (each - self.completion) / self.completions_learned;
        }
    }
}

/// The straight line from four-byte units to tokens, as the sums of a weighted regression.
///
/// With x units and y tokens, y = factor * x + offset is fitted as y/x = factor + offset * (1/x),
/// which makes the errors relative.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    factor: f64,
    offset: f64,
    weight: f64,
    inverse: f64,
    inverse_squared: f64,
    ratio: f64,
    ratio_by_inverse: f64,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            factor: 1.0,
            offset: PRIOR_TOKENS_PER_REQUEST,
            weight: PRIOR_ANSWERS,
            inverse: 0.0,
            inverse_squared: 0.0,
            ratio: PRIOR_ANSWERS,
            ratio_by_inverse: 0.0,
        }
    }
}

impl Line {
    fn at(&self, units: f64) -> f64 {
        // An offset below zero must not reduce a short prompt to nothing.
        (self.factor * units + self.offset).max(self.factor * units / 2.0)
    }

    fn learn(&mut self, units: f64, tokens: f64) {
        let units = units.max(SHORTEST_TOKENS);
        let expected = self.at(units) / units;
        let ratio = (tokens / units).clamp(expected / ODD, expected * ODD);
        let inverse = 1.0 / units;
        let fade = 1.0 - 1.0 / MEMORY;
        self.weight = self.weight * fade + 1.0;
        self.inverse = self.inverse * fade + inverse;
        self.inverse_squared = self.inverse_squared * fade + inverse * inverse;
        self.ratio = self.ratio * fade + ratio;
        self.ratio_by_inverse = self.ratio_by_inverse * fade + ratio * inverse;
        self.fit();
    }

    /// Solves the two normal equations. The determinant is positive: the sums alone cannot make it
    /// negative, and the prior's firmness keeps it from zero.
    fn fit(&mut self) {
        let slope_weight = self.inverse_squared + PRIOR_FIRMNESS;
        let slope_sum = self.ratio_by_inverse + PRIOR_FIRMNESS * PRIOR_TOKENS_PER_REQUEST;
        let determinant = self.weight * slope_weight - self.inverse * self.inverse;
        let offset = (self.weight * slope_sum - self.inverse * self.ratio) / determinant;
        self.offset = offset.clamp(OFFSET_RANGE.0, OFFSET_RANGE.1);
        // The best factor for the offset within its bounds.
        let factor = (self.ratio - self.offset * self.inverse) / self.weight;
        self.factor = factor.clamp(FACTOR_RANGE.0, FACTOR_RANGE.1);
    }
}

fn raw_tokens(size: &RequestSize) -> f64 {
    size.text_bytes as f64 / BYTES_PER_TOKEN
}

fn choices(size: &RequestSize) -> u64 {
    size.choices.unwrap_or(1).max(1)
}

/// The nearest whole number of tokens, within 0 and [`MAX_TOKENS`].
fn tokens(estimate: f64) -> u64 {
    // The conversion drops the fraction, and turns negative numbers into zero.
    ((estimate + 0.5) as u64).min(MAX_TOKENS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

    use super::*;
    use crate::policy::fixtures::Dice;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn text(text_bytes: u64) -> RequestSize {
        RequestSize { text_bytes, ..RequestSize::default() }
    }

    fn used(prompt_tokens: u64, completion_tokens: u64) -> UsedTokens {
        UsedTokens { prompt_tokens, cached_tokens: 0, completion_tokens }
    }

    /// Roughly normal, mean 0 and deviation 1.
    fn normal(dice: &mut Dice) -> f64 {
        (0..12).map(|_| dice.below(1_000_000) as f64 / 1e6).sum::<f64>() - 6.0
    }

    /// A kind of traffic: tokens for each four bytes, tokens for each request, scatter.
    #[derive(Clone, Copy)]
    struct Kind(f64, f64, f64);

    impl Kind {
        fn request(self, dice: &mut Dice) -> (RequestSize, UsedTokens) {
            // Lengths over two orders of magnitude.
            let bytes = (60.0 * (dice.below(5_000) as f64 / 1_000.0).exp()) as u64;
            let ratio = self.0 * (1.0 + self.2 * normal(dice));
            let tokens = (bytes as f64 / 4.0 * ratio + self.1).max(1.0) as u64;
            (text(bytes), used(tokens, 0))
        }
    }

    fn median_error_permille(estimator: &Estimator, kind: Kind, dice: &mut Dice) -> u64 {
        let mut errors: Vec<u64> = (0..501)
            .map(|_| {
                let (size, usage) = kind.request(dice);
                let estimate = estimator.estimate(&size).prompt_tokens;
                estimate.abs_diff(usage.prompt_tokens) * 1_000 / usage.prompt_tokens
            })
            .collect();
        errors.sort_unstable();
        errors[250]
    }

    #[test]
    fn after_200_requests_of_one_kind_the_median_error_is_below_five_percent() {
        // The ratios are those of English, Python, JSON, Chinese, Russian, Hindi, digits, base64.
        for (seed, factor) in (0..).zip([0.92, 0.88, 1.56, 1.2, 0.68, 0.65, 1.33, 2.7]) {
            for offset in [0.0, 7.0, 120.0] {
                let (kind, mut dice) = (Kind(factor, offset, 0.05), Dice::new(seed));
                let mut estimator = Estimator::default();
                for _ in 0..200 {
                    let (size, usage) = kind.request(&mut dice);
                    estimator.learn(&size, &usage);
                }
                let error = median_error_permille(&estimator, kind, &mut dice);
                assert!(error < 50, "seed {seed}, {factor} + {offset}: {error} permille");
            }
        }
    }

    #[test]
    fn odd_requests_do_not_spoil_it() {
        for seed in 0..20 {
            let (kind, mut dice) = (Kind(0.9, 7.0, 0.04), Dice::new(seed));
            let mut estimator = Estimator::default();
            for request in 0..200 {
                let (size, mut usage) = kind.request(&mut dice);
                if request % 40 == 39 {
                    usage.prompt_tokens = [1, 900_000, u64::MAX][dice.below(3) as usize];
                }
                estimator.learn(&size, &usage);
            }
            let error = median_error_permille(&estimator, kind, &mut dice);
            assert!(error < 50, "seed {seed}: {error} permille");
        }
    }

    #[test]
    fn one_odd_request_moves_the_estimate_by_less_than_a_percent() {
        let mut estimator = Estimator::default();
        (0..500).for_each(|_| estimator.learn(&text(4_000), &used(1_007, 0)));
        let before = estimator.estimate(&text(4_000)).prompt_tokens;
        estimator.learn(&text(4_000), &used(1 << 40, 0));
        let after = estimator.estimate(&text(4_000)).prompt_tokens;
        assert!(before.abs_diff(1_007) <= 1, "{before}");
        assert!(after.abs_diff(before) * 100 <= before, "{before} to {after}");
    }

    #[test]
    fn it_follows_when_the_traffic_becomes_another_kind() {
        let (english, base64, mut dice) =
            (Kind(0.9, 7.0, 0.05), Kind(2.5, 7.0, 0.05), Dice::new(5));
        let mut estimator = Estimator::default();
        for kind in [english, base64, english] {
            for _ in 0..400 {
                let (size, usage) = kind.request(&mut dice);
                estimator.learn(&size, &usage);
            }
            let error = median_error_permille(&estimator, kind, &mut dice);
            assert!(error < 50, "{error} permille");
        }
    }

    #[test]
    fn short_prompts_do_not_mislead_it_about_long_ones() {
        let mut estimator = Estimator::default();
        let mut dice = Dice::new(8);
        for _ in 0..200 {
            let bytes = 40 + dice.below(200);
            estimator.learn(&text(bytes), &used(bytes / 4 + 8, 0));
        }
        let long = estimator.estimate(&text(400_000)).prompt_tokens;
        assert!(long.abs_diff(100_000) < 10_000, "{long}");
    }

    #[test]
    fn a_maximum_counts_once_for_each_choice() {
        let size = |max, choices| RequestSize {
            max_output_tokens: max,
            choices,
            ..RequestSize::default()
        };
        let completion =
            |max, choices| Estimator::default().estimate(&size(max, choices)).completion_tokens;
        assert_eq!(completion(Some(100), None), 100);
        assert_eq!(completion(Some(100), Some(3)), 300);
        assert_eq!(completion(Some(100), Some(0)), 100);
        assert_eq!(completion(None, Some(2)), 2 * FIRST_COMPLETION_TOKENS);
        assert_eq!(completion(Some(0), None), 0);
    }

    #[test]
    fn the_completion_is_learned_from_requests_that_name_no_maximum() {
        let mut estimator = Estimator::default();
        let limited = RequestSize { max_output_tokens: Some(5), ..text(40) };
        (0..100).for_each(|_| estimator.learn(&limited, &used(10, 5)));
        assert_eq!(estimator.estimate(&text(40)).completion_tokens, FIRST_COMPLETION_TOKENS);
        let two = RequestSize { choices: Some(2), ..text(40) };
        (0..200).for_each(|_| estimator.learn(&two, &used(10, 1_600)));
        let learned = estimator.estimate(&text(40)).completion_tokens;
        assert!((700..=800).contains(&learned), "{learned}");
        estimator.learn(&text(40), &used(10, u64::MAX));
        assert!(estimator.estimate(&text(40)).completion_tokens < 900);
        (0..2_000).for_each(|_| estimator.learn(&text(40), &used(10, 0)));
        assert_eq!(estimator.estimate(&text(40)).completion_tokens, 0);
        (0..500).for_each(|_| estimator.learn(&text(40), &used(10, 90)));
        assert!(estimator.estimate(&text(40)).completion_tokens > 80);
    }

    #[test]
    fn images_have_a_flat_cost_and_teach_nothing() {
        let images = RequestSize { images: 3, ..text(4_000) };
        let mut estimator = Estimator::default();
        assert_eq!(estimator.estimate(&images).prompt_tokens, 1_007 + 3 * TOKENS_PER_IMAGE);
        let before = estimator.estimate(&text(4_000));
        estimator.learn(&RequestSize { max_output_tokens: Some(1), ..images }, &used(90_000, 1));
        assert_eq!(estimator.estimate(&text(4_000)), before);
    }

    #[test]
    fn odd_numbers_stay_within_the_bounds() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut odd = || [0, 1, dice.below(99), dice.roll(), u64::MAX][dice.below(5) as usize];
            let mut estimator = Estimator::default();
            for _ in 0..50 {
                let size = RequestSize {
                    text_bytes: odd(),
                    images: odd() & 1,
                    max_output_tokens: (odd() & 1 == 0).then(&mut odd),
                    choices: (odd() & 1 == 0).then(&mut odd),
                };
                let estimate = estimator.estimate(&size);
                assert!(estimate.prompt_tokens <= MAX_TOKENS, "seed {seed}");
                assert!(estimate.completion_tokens <= MAX_TOKENS, "seed {seed}");
                estimator.learn(&size, &used(odd(), odd()));
                let Line { factor, offset, .. } = estimator.prompt;
                assert!((0.25..=4.0).contains(&factor) && offset.is_finite(), "seed {seed}");
                assert!(estimator.completion.is_finite(), "seed {seed}");
            }
        }
    }
}
