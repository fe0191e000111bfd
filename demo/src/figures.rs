//! From what was seen to the figures that the promises are judged by.
//!
//! Two figures need care. *Reopening*: a deadline of the throttle gate counts only when the gate really
//! opened then; one that a later 429 moved is recognised by the absence of any request between the two
//! deadlines. *The failover's cost*: what a request with two attempts took longer than the median request
//! of its kind with one, less the time that the failed attempt itself took.

use std::time::Duration;

use crate::client::{Answer, Kind};
use crate::observe::{Arrival, Observations};
use crate::stage::{FIRST_BYTE, PROVISIONED_TOKENS_PER_MINUTE};
use crate::story::Chapter;

/// Requests that were chosen just before another worker opened the breaker may still arrive.
const ON_THEIR_WAY_MS: u64 = 50;

/// What was measured. `None`: there was nothing to measure it by.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Figures {
    pub(crate) requests: usize,
    pub(crate) streams: usize,
    /// The reasons of those that failed.
    pub(crate) problems: Vec<String>,
    /// Requests that needed another attempt.
    pub(crate) failovers: usize,
    /// Of the calm's requests, those that the provisioned backend served.
    pub(crate) calm_share_percent: Option<f64>,
    /// The same when the load has fallen again and its bucket has had time to drain.
    pub(crate) final_share_percent: Option<f64>,
    /// Tokens that the provisioned backend processed under overload, of those that it could.
    pub(crate) provisioned_use_percent: Option<f64>,
    /// From the reopening of its gate to its next request.
    pub(crate) reopenings: Vec<Duration>,
    /// The parts of the two other backends in the overload's spill.
    pub(crate) spilled: Vec<(String, usize)>,
    /// The slowest hundredth in the overload, and while the region failed.
    pub(crate) overload_p99: Option<Duration>,
    pub(crate) failure_p99: Option<Duration>,
    /// Failed requests of that chapter.
    pub(crate) failure_problems: usize,
    /// How often the region's breaker opened.
    pub(crate) openings: usize,
    /// Requests that reached the region meanwhile.
    pub(crate) while_open: usize,
    /// The region's answers after it came back.
    pub(crate) returned: usize,
    /// Responses with both headers.
    pub(crate) explained: usize,
    /// What the gateway added to the median.
    pub(crate) gateway_added: Option<Millis>,
    pub(crate) failover_added: Option<Millis>,
}

/// A difference of two times, which noise can make negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Millis(pub(crate) f64);

impl Figures {
    /// Computes them. The arrivals are those of the provisioned backend and of the failing region.
    pub(crate) fn of(seen: &Observations, provisioned: &[Arrival], region: &[Arrival]) -> Self {
        let answers = &seen.answers;
        let latencies = |chapter: Chapter| {
            let of_chapter = answers.iter().filter(move |answer| answer.chapter == chapter);
            of_chapter.map(|answer| answer.latency).collect()
        };
        let failed = |answer: &&Answer| answer.problem.is_some();
        let in_failure = answers.iter().filter(|answer| answer.chapter == Chapter::Failure);
        let last = seen.names.len().saturating_sub(1);
        let names = seen.names.iter().enumerate().skip(1);
        Self {
            requests: answers.len(),
            streams: answers.iter().filter(|answer| answer.kind.streams()).count(),
            problems: answers.iter().filter_map(|answer| answer.problem.clone()).collect(),
            failovers: failovers(answers),
            calm_share_percent: provisioned_share_percent(seen, Chapter::Calm, 1),
            final_share_percent: provisioned_share_percent(seen, Chapter::CalmAgain, 3),
            provisioned_use_percent: provisioned_use_percent(seen),
            reopenings: reopenings(&seen.gate_deadlines_ms, provisioned),
            spilled: names
                .map(|(place, name)| (name.clone(), seen.served(place, Chapter::Overload)))
                .collect(),
            overload_p99: percentile(latencies(Chapter::Overload), 99),
            failure_p99: percentile(latencies(Chapter::Failure), 99),
            failure_problems: in_failure.filter(failed).count(),
            openings: seen.openings.len(),
            while_open: while_open(seen, region),
            returned: seen.served(last, Chapter::Return) + seen.served(last, Chapter::CalmAgain),
            explained: answers.iter().filter(|answer| is_explained(answer)).count(),
            gateway_added: gateway_added(&seen.overheads),
            failover_added: failover_added(answers),
        }
    }
}

/// The requests that needed another attempt.
pub(crate) fn failovers(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.attempts.is_some_and(|attempts| attempts > 1)).count()
}

/// The smallest value that is not exceeded by this part of all values (nearest rank).
pub(crate) fn percentile(mut values: Vec<Duration>, percent: usize) -> Option<Duration> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

fn median(mut values: Vec<f64>) -> Option<Millis> {
    values.sort_unstable_by(f64::total_cmp);
    let rank = values.len().div_ceil(2).max(1);
    values.get(rank - 1).copied().map(Millis)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn is_explained(answer: &Answer) -> bool {
    answer.served_by.is_some() && answer.attempts.is_some()
}

/// What the provisioned backend served of the last so-many-th part of a chapter's requests.
fn provisioned_share_percent(seen: &Observations, chapter: Chapter, parts: usize) -> Option<f64> {
    let of_chapter = seen.answers.iter().filter(|answer| answer.chapter == chapter);
    let last = of_chapter.clone().count().checked_div(parts).filter(|count| *count > 0)?;
    let own = of_chapter.rev().take(last);
    let own = own.filter(|answer| answer.served_by.as_ref() == seen.names.first()).count();
    Some(100.0 * own as f64 / last as f64)
}

/// From the first 429 on: until then the bucket had not been filled, so there was no more to use.
fn provisioned_use_percent(seen: &Observations) -> Option<f64> {
    let before = seen.provisioned.first()?.throttled;
    let first = seen.provisioned.iter().find(|stats| stats.throttled > before)?;
    let last = seen.provisioned.last()?;
    let seconds = last.at.duration_since(first.at).as_secs_f64();
    let possible = seconds * PROVISIONED_TOKENS_PER_MINUTE as f64 / 60.0;
    let used = last.tokens_used.saturating_sub(first.tokens_used) as f64;
    (seconds >= 1.0).then(|| 100.0 * used / possible)
}

fn reopenings(deadlines_ms: &[u64], arrivals: &[Arrival]) -> Vec<Duration> {
    let next = deadlines_ms.iter().skip(1).map(Some).chain([None]);
    let waits = deadlines_ms.iter().zip(next).filter_map(|(deadline_ms, next_ms)| {
        let arrival = arrivals.iter().find(|arrival| arrival.at_ms >= *deadline_ms)?;
        let moved = next_ms.is_some_and(|next_ms| arrival.at_ms >= *next_ms);
        (!moved).then(|| Duration::from_millis(arrival.at_ms.saturating_sub(*deadline_ms)))
    });
    waits.collect()
}

fn while_open(seen: &Observations, region: &[Arrival]) -> usize {
    let open = |arrival: &&Arrival| {
        seen.openings.iter().any(|opening| {
            let begin_ms = opening.seen_at_ms.saturating_add(ON_THEIR_WAY_MS);
            (begin_ms..opening.until_ms).contains(&arrival.at_ms)
        })
    };
    region.iter().filter(open).count()
}

fn gateway_added(overheads: &[(Duration, Duration)]) -> Option<Millis> {
    let (direct, through): (Vec<Duration>, Vec<Duration>) = overheads.iter().copied().unzip();
    let (direct, through) = (percentile(direct, 50)?, percentile(through, 50)?);
    Some(Millis(millis(through) - millis(direct)))
}

fn failover_added(answers: &[Answer]) -> Option<Millis> {
    let under_load = |answer: &&Answer| answer.chapter.is_overloaded() && answer.problem.is_none();
    let first_bytes = |kind: Kind, attempts: u32| {
        let these = answers.iter().filter(under_load);
        let these =
            these.filter(move |answer| answer.kind == kind && answer.attempts == Some(attempts));
        these.map(|answer| answer.first_byte)
    };
    let added = Kind::ALL.into_iter().flat_map(|kind| {
        let usual = percentile(first_bytes(kind, 1).collect(), 50);
        let two = first_bytes(kind, 2);
        two.filter_map(move |time| Some(millis(time) - millis(usual?) - millis(FIRST_BYTE)))
    });
    median(added.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{Backend, Scenery};

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn arrivals(times: &[u64]) -> Vec<Arrival> {
        times.iter().map(|at_ms| Arrival { at_ms: *at_ms }).collect()
    }

    fn answer(kind: Kind, attempts: u32, first_byte: Duration) -> Answer {
        Answer {
            kind,
            chapter: Chapter::Overload,
            ended_at: tokio::time::Instant::now(),
            problem: None,
            served_by: Some("ptu".to_owned()),
            attempts: Some(attempts),
            first_byte,
            latency: first_byte,
        }
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<Duration> = (1..=100).rev().map(ms).collect();
        assert_eq!(percentile(hundred.clone(), 50), Some(ms(50)));
        assert_eq!(percentile(hundred.clone(), 99), Some(ms(99)));
        assert_eq!(percentile(hundred.clone(), 100), Some(ms(100)));
        assert_eq!(percentile(hundred, 0), Some(ms(1)));
        assert_eq!(percentile(vec![ms(7)], 99), Some(ms(7)));
        assert_eq!(percentile(vec![ms(1), ms(9)], 50), Some(ms(1)));
        assert_eq!(percentile(vec![ms(1), ms(9)], 51), Some(ms(9)));
        assert_eq!(percentile(Vec::new(), 50), None);
    }

    #[test]
    fn a_reopening_lasts_until_the_next_request() {
        let waits = reopenings(&[100, 300], &arrivals(&[90, 112, 118, 305]));
        assert_eq!(waits, [ms(12), ms(5)]);
    }

    #[test]
    fn a_deadline_that_a_later_429_moved_is_no_reopening() {
        assert_eq!(reopenings(&[100, 150], &arrivals(&[90, 160])), [ms(10)]);
    }

    #[test]
    fn a_gate_after_which_nothing_came_gives_no_figure() {
        assert_eq!(reopenings(&[100], &arrivals(&[90])), []);
    }

    #[test]
    fn a_failover_costs_what_it_takes_beyond_the_failed_attempt() {
        let one = [10, 12, 14].map(|time| answer(Kind::Chat, 1, ms(time)));
        let two = [24, 25, 90].map(|time| answer(Kind::Chat, 2, ms(time)));
        let answers: Vec<Answer> = one.into_iter().chain(two).collect();
        assert_eq!(failover_added(&answers), Some(Millis(3.0)));
        assert_eq!(failovers(&answers), 3);
        assert_eq!(failover_added(&[]), None);
    }

    #[test]
    fn the_provisioned_share_is_that_of_the_chapters_last_part() {
        let names =
            ["ptu", "sweden"].map(|name| Backend { name: name.to_owned(), url: String::new() });
        let backends = names.to_vec();
        let scenery = Scenery { gateway: String::new(), admin: String::new(), backends };
        let mut seen = Observations::new(&scenery);
        let by = |name: &str| Answer {
            served_by: Some(name.to_owned()),
            ..answer(Kind::Chat, 1, ms(10))
        };
        assert_eq!(provisioned_share_percent(&seen, Chapter::Overload, 1), None);
        seen.answers = ["sweden", "ptu", "sweden", "sweden", "ptu", "ptu"].map(by).to_vec();
        assert_eq!(provisioned_share_percent(&seen, Chapter::Overload, 1), Some(50.0));
        assert_eq!(provisioned_share_percent(&seen, Chapter::Overload, 3), Some(100.0));
        assert_eq!(provisioned_share_percent(&seen, Chapter::Calm, 1), None);
    }

    #[test]
    fn the_gateways_cost_is_the_difference_of_the_medians() {
        let pairs = [(ms(10), ms(11)), (ms(12), ms(14)), (ms(50), ms(90))];
        assert_eq!(gateway_added(&pairs), Some(Millis(2.0)));
        assert_eq!(gateway_added(&[]), None);
    }
}
