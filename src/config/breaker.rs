//! The circuit breaker's settings, in our names and in those of API Management.
//!
//! A rule of API Management can be copied unchanged. Where a part has no counterpart, an error says so and
//! nothing is guessed: this concerns its prose reasons other than "Server errors".

use super::duration::{HOUR, duration};
use super::json::Json;
use super::reader::{Fields, Node};
use super::statuses;
use crate::policy::pool::{BreakerSettings, MAX_RULES, Reasons, Rule, StatusSet, Threshold};
use crate::policy::time::Millis;

/// The threshold of a rule that states none.
const DEFAULT_COUNT: u32 = 5;
/// High enough to show that a backend is broken, and not just a few requests.
const DEFAULT_PERCENT: u8 = 50;
/// How many faults in a row show the same when there is too little traffic for a share.
const DEFAULT_CONSECUTIVE: u32 = 5;
const DEFAULT_INTERVAL: Millis = Millis::from_secs(30);
const DEFAULT_STATUSES: [(u16, u16); 2] = [statuses::SERVER_ERRORS, (408, 408)];
const DEFAULT_MAX_TRIP_DURATION: Millis = Millis::from_secs(300);
const DEFAULT_PROBE_TIMEOUT: Millis = Millis::from_secs(30);
const DEFAULT_RAMP_DURATION: Millis = Millis::from_secs(10);

/// Enough attempts to make one failure a small share.
const DEFAULT_MIN_REQUESTS: u32 = 20;

/// A larger count would never be reached within an interval.
const COUNT_MAX: u32 = 10_000;

/// The shortest pause that is of any use.
const TRIP_DURATION_MIN: Millis = Millis::new(100);
const TRIP_DURATION_MAX: Millis = Millis::from_secs(86_400);

/// What a pool without `circuit_breaker` has.
pub(super) fn default_settings() -> BreakerSettings {
    BreakerSettings {
        rules: default_rules(),
        max_trip_duration: DEFAULT_MAX_TRIP_DURATION,
        probe_timeout: DEFAULT_PROBE_TIMEOUT,
        ramp_duration: DEFAULT_RAMP_DURATION,
    }
}

/// The value of `circuit_breaker`.
pub(super) fn settings(node: &Node<'_>) -> Option<BreakerSettings> {
    node.object(|fields| {
        let longest = fields.optional("max_trip_duration", trip_duration);
        let probe_timeout = fields
            .optional("probe_timeout", |n| {
                duration(n, Millis::from_secs(1)..=Millis::from_secs(600))
            })
            .unwrap_or(DEFAULT_PROBE_TIMEOUT);
        let ramp_duration = fields
            .optional("ramp_duration", |n| duration(n, Millis::ZERO..=HOUR))
            .unwrap_or(DEFAULT_RAMP_DURATION);
        let rules = fields
            .optional("rules", |n| n.list(0..=MAX_RULES, "rules", |n| rule(n, longest)))
            .unwrap_or_else(default_rules);
        let trips = rules.iter().filter_map(|rule| rule.trip_duration);
        let max_trip_duration =
            longest.unwrap_or_else(|| trips.fold(DEFAULT_MAX_TRIP_DURATION, Millis::max));
        Some(BreakerSettings { rules, max_trip_duration, probe_timeout, ramp_duration })
    })
}

/// A share of the attempts, because a count would open the breaker of a busy backend at a harmless rate of
/// faults; and a number in a row, for a backend with little traffic.
fn default_rules() -> Vec<Rule> {
    let share =
        Threshold::Percentage { percent: DEFAULT_PERCENT, min_requests: DEFAULT_MIN_REQUESTS };
    [share, Threshold::Consecutive(DEFAULT_CONSECUTIVE)]
        .map(|threshold| Rule { threshold, ..default_rule() })
        .into()
}

/// The defaults of a rule.
fn default_rule() -> Rule {
    Rule {
        threshold: Threshold::Count(DEFAULT_COUNT),
        interval: DEFAULT_INTERVAL,
        statuses: StatusSet::new(DEFAULT_STATUSES.to_vec()),
        reasons: DEFAULT_REASONS,
        trip_duration: None,
        accept_retry_after: true,
    }
}

const DEFAULT_REASONS: Reasons =
    Reasons { connect: true, timeout: true, reset: true, stream_error: true, slow: None };

fn trip_duration(node: &Node<'_>) -> Option<Millis> {
    duration(node, TRIP_DURATION_MIN..=TRIP_DURATION_MAX)
}

/// A rule whose `trip_duration` is at most `longest`.
fn rule(node: &Node<'_>, longest: Option<Millis>) -> Option<Rule> {
    node.object(|fields| {
        // A name is only for readers of the configuration.
        fields.optional("name", |n| n.text("texts"));
        let default = default_rule();
        let rule = fields.optional("failure_condition", |n| condition(n, &default));
        let rule = rule.unwrap_or(default);
        let trip = fields.optional("trip_duration", trip_duration);
        if longest.zip(trip).is_some_and(|(longest, trip)| trip > longest) {
            fields.problem_at("trip_duration", "is longer than max_trip_duration of the breaker");
        }
        let accept_retry_after =
            fields.optional("accept_retry_after", |n| n.flag()).unwrap_or(true);
        Some(Rule { trip_duration: trip, accept_retry_after, ..rule })
    })
}

/// `default` with the changes of the failure condition.
fn condition(node: &Node<'_>, default: &Rule) -> Option<Rule> {
    node.object(|fields| {
        let threshold = threshold(fields).unwrap_or(default.threshold);
        let interval = fields
            .optional("interval", |n| duration(n, Millis::from_secs(1)..=HOUR))
            .unwrap_or(default.interval);
        let given = fields.optional_or_apim("status_codes", "status_code_ranges", statuses::ranges);
        let mut ranges = given.unwrap_or_else(|| DEFAULT_STATUSES.to_vec());
        let slow_call =
            fields.optional("slow_call_duration", |n| duration(n, Millis::new(1)..=HOUR));
        let reasons = fields.optional_or_apim("reasons", "error_reasons", named_reasons);
        check_slow(fields, reasons.as_deref());
        let named = reasons.unwrap_or_else(|| DEFAULT_NAMED.to_vec());
        if named.contains(&Reason::ServerErrors) {
            ranges.push(statuses::SERVER_ERRORS);
        }
        if ranges.is_empty() && named.is_empty() {
            fields.problem("counts nothing: status_codes and reasons are both empty");
        }
        let reasons = reasons_of(&named, slow_call);
        Some(Rule {
            threshold,
            interval,
            statuses: StatusSet::new(ranges),
            reasons,
            ..default.clone()
        })
    })
}

fn threshold(fields: &mut Fields<'_>) -> Option<Threshold> {
    let count = fields.optional("count", |n| n.whole(1..=COUNT_MAX));
    let consecutive = fields.optional("consecutive", |n| n.whole(1..=COUNT_MAX));
    let percent = fields.optional("percentage", |n| n.whole(1_u8..=100));
    let min_requests = fields.optional("min_requests", |n| n.whole(1..=COUNT_MAX));
    let given: Vec<&str> =
        ["count", "consecutive", "percentage"].into_iter().filter(|key| fields.has(key)).collect();
    if given.len() > 1 {
        fields.problem(format!("found {}, allowed is one of them", given.join(", ")));
    }
    if fields.has("min_requests") && !fields.has("percentage") {
        fields.problem_at("min_requests", "only goes with percentage");
    }
    let percentage = percent.map(|percent| Threshold::Percentage {
        percent,
        min_requests: min_requests.unwrap_or(DEFAULT_MIN_REQUESTS),
    });
    let count = count.map(Threshold::Count);
    let consecutive = consecutive.map(Threshold::Consecutive);
    count.or(consecutive).or(percentage)
}

/// A word of the list `reasons`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Connect,
    Reset,
    ServerErrors,
    Slow,
    StreamError,
    Timeout,
}

const NAMED_REASONS: [(&str, Reason); 6] = [
    ("connect", Reason::Connect),
    ("timeout", Reason::Timeout),
    ("reset", Reason::Reset),
    ("stream_error", Reason::StreamError),
    ("slow", Reason::Slow),
    ("Server errors", Reason::ServerErrors),
];

const DEFAULT_NAMED: [Reason; 4] =
    [Reason::Connect, Reason::Timeout, Reason::Reset, Reason::StreamError];

fn named_reasons(node: &Node<'_>) -> Option<Vec<Reason>> {
    node.list(0..=NAMED_REASONS.len(), "reasons", |n| match n.json() {
        Json::Text(text) if text == "Client errors" => {
            n.problem(
                "found \"Client errors\", which would let a client's mistake open the breaker; \
                 name the statuses in status_codes instead",
            );
            None
        }
        _ => n.choice(&NAMED_REASONS),
    })
}

/// The reason "slow" and `slow_call_duration` need each other.
fn check_slow(fields: &Fields<'_>, reasons: Option<&[Reason]>) {
    let is_slow_counted = reasons.is_some_and(|reasons| reasons.contains(&Reason::Slow));
    match (is_slow_counted, fields.has("slow_call_duration")) {
        (true, false) => {
            fields.problem_at("slow_call_duration", "missing, but the reason \"slow\" needs it");
        }
        (false, true) => {
            fields.problem_at("slow_call_duration", "has no effect without \"slow\" in reasons");
        }
        _ => {}
    }
}

fn reasons_of(named: &[Reason], slow_call: Option<Millis>) -> Reasons {
    Reasons {
        connect: named.contains(&Reason::Connect),
        timeout: named.contains(&Reason::Timeout),
        reset: named.contains(&Reason::Reset),
        stream_error: named.contains(&Reason::StreamError),
        slow: slow_call.filter(|_| named.contains(&Reason::Slow)),
    }
}
