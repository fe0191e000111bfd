//! What Spillway promises, each with its figure, its bound and a verdict.
//!
//! Bounds are wide enough for a noisy machine with two cores and narrow enough that a broken promise
//! cannot hide in them. A missing figure breaks its promise, because nothing was shown.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::figures::{Figures, millis, percentile};
use crate::table::{BAD, DIM, GOOD, Style};

/// Below this the story was not told.
const REQUESTS_MIN: usize = 500;
const CALM_SHARE_MIN_PERCENT: f64 = 99.0;
/// A few requests: a single one that meets a full bucket must not decide.
const FINAL_SHARE_MIN_PERCENT: f64 = 90.0;
const PROVISIONED_USE_MIN_PERCENT: f64 = 85.0;
const REOPENING_MEDIAN_MAX_MS: f64 = 50.0;
const REOPENING_MAX_MS: f64 = 500.0;
const GATEWAY_ADDED_MAX_MS: f64 = 5.0;
const FAILOVER_ADDED_MAX_MS: f64 = 10.0;
/// How much slower the slowest hundredth may get while a region fails: two failed attempts and noise.
const FAILURE_SLOWDOWN_MAX_MS: f64 = 200.0;

/// How many different reasons for errors are shown.
const REASONS_SHOWN: usize = 3;

/// What became of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    /// Nothing of it is in the story.
    Untold,
}

/// One promise, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) number: usize,
    pub(crate) title: &'static str,
    pub(crate) verdict: Verdict,
    /// What was measured, with the bound.
    pub(crate) findings: Vec<Finding>,
}

/// One figure of a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) measured: String,
    /// What was required; empty for a remark.
    pub(crate) bound: String,
    pub(crate) holds: bool,
}

/// Judges all promises.
pub(crate) fn judge(figures: &Figures) -> Vec<Promise> {
    let all = [
        ("The client gets an answer", answers(figures)),
        ("Provisioned capacity is never wasted", capacity(figures)),
        ("No shared fate", fate(figures)),
        ("Exact accounting", Vec::new()),
        ("Explainable", explanations(figures)),
        ("Cheap", costs(figures)),
    ];
    let judged = all.into_iter().zip(1..).map(|((title, findings), number)| {
        let verdict = match findings.as_slice() {
            [] => Verdict::Untold,
            findings if findings.iter().all(|finding| finding.holds) => Verdict::Pass,
            _ => Verdict::Fail,
        };
        Promise { number, title, verdict, findings }
    });
    judged.collect()
}

/// Whether no promise is broken.
pub(crate) fn all_kept(promises: &[Promise]) -> bool {
    promises.iter().all(|promise| promise.verdict != Verdict::Fail)
}

/// The summary, a line each.
pub(crate) fn summary(promises: &[Promise], style: Style) -> Vec<String> {
    const UNTOLD: &str = "          not in this story: its backends have no budgets, so that they do throttle; see `make test`";
    let mut lines = vec!["Promises".to_owned()];
    for promise in promises {
        let verdict = match promise.verdict {
            Verdict::Pass => style.paint(GOOD, "PASS"),
            Verdict::Fail => style.paint(BAD, "FAIL"),
            Verdict::Untold => style.paint(DIM, "  - "),
        };
        lines.push(format!("  {verdict}  {} {}", promise.number, promise.title));
        lines.extend(promise.findings.iter().map(|finding| {
            let mark = if finding.holds { " " } else { "!" };
            let line = format!("        {mark} {}", finding.measured);
            if finding.bound.is_empty() {
                return line;
            }
            format!("{line:<76} {}", style.paint(DIM, &finding.bound))
        }));
        lines.extend((promise.verdict == Verdict::Untold).then(|| UNTOLD.to_owned()));
    }
    lines
}

fn finding(holds: bool, measured: String, bound: impl Into<String>) -> Finding {
    Finding { measured, bound: bound.into(), holds }
}

fn remark(text: String) -> Finding {
    finding(true, text, "")
}

/// A finding about a figure that may be missing.
fn at_least(least: f64, unit: &str, figure: Option<f64>, name: &str) -> Finding {
    let holds = figure.is_some_and(|figure| figure >= least);
    finding(holds, shown(figure, unit, name), format!("at least {least:.0} {unit}"))
}

/// The same with a bound above it.
fn at_most(most: f64, unit: &str, figure: Option<f64>, name: &str) -> Finding {
    let holds = figure.is_some_and(|figure| figure <= most);
    finding(holds, shown(figure, unit, name), format!("at most {most:.0} {unit}"))
}

fn shown(figure: Option<f64>, unit: &str, name: &str) -> String {
    match figure {
        Some(figure) if figure < 10.0 => format!("{name}: {figure:.1} {unit}"),
        Some(figure) => format!("{name}: {figure:.0} {unit}"),
        None => format!("{name}: nothing was measured"),
    }
}

fn answers(figures: &Figures) -> Vec<Finding> {
    let failed = figures.problems.len();
    let told = format!("{failed} errors in {} requests", figures.requests);
    let enough = figures.requests >= REQUESTS_MIN;
    let mut findings = vec![
        finding(failed == 0 && enough, told, format!("0 in at least {REQUESTS_MIN}")),
        remark(format!(
            "{} of them streams, read to their last event; {} needed a failover",
            figures.streams, figures.failovers
        )),
    ];
    findings.extend(reasons(&figures.problems));
    findings
}

/// The most frequent reasons for which requests failed.
fn reasons(problems: &[String]) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for problem in problems {
        *counts.entry(problem).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown = counts.into_iter().take(REASONS_SHOWN);
    shown.map(|(reason, count)| finding(false, format!("{count} times {reason}"), "")).collect()
}

fn capacity(figures: &Figures) -> Vec<Finding> {
    let [calm, after, used] =
        [figures.calm_share_percent, figures.final_share_percent, figures.provisioned_use_percent];
    let waits = |percent| percentile(figures.reopenings.clone(), percent).map(millis);
    let times = figures.reopenings.len();
    let spilled = figures.spilled.map(|(name, count)| format!("{name} {count}")).join(", ");
    vec![
        at_least(
            CALM_SHARE_MIN_PERCENT,
            "%",
            calm,
            "served by the provisioned backend in the calm",
        ),
        at_least(FINAL_SHARE_MIN_PERCENT, "%", after, "and after the load has fallen again"),
        at_least(PROVISIONED_USE_MIN_PERCENT, "%", used, "of its tokens used under overload"),
        at_most(
            REOPENING_MEDIAN_MAX_MS,
            "ms",
            waits(50),
            &format!("gate reopened to next request, median of {times}"),
        ),
        at_most(REOPENING_MAX_MS, "ms", waits(100), "the longest of them"),
        remark(format!("spilled in the overload: {spilled}")),
    ]
}

fn fate(figures: &Figures) -> Vec<Finding> {
    let Figures { failure_problems, openings, while_open, returned, .. } = figures;
    let [before, meanwhile] =
        [figures.overload_p99, figures.failure_p99].map(|p99: Option<Duration>| p99.map(millis));
    let limit = before.map_or(0.0, |before| before + FAILURE_SLOWDOWN_MAX_MS);
    vec![
        finding(
            *failure_problems == 0,
            format!("{failure_problems} errors while a region failed"),
            "0",
        ),
        at_most(limit, "ms", meanwhile, "p99 latency meanwhile"),
        remark(shown(before, "ms", "p99 latency before")),
        finding(
            *openings > 0,
            format!("its circuit breaker opened {openings} times"),
            "at least once",
        ),
        finding(
            *while_open == 0,
            format!("{while_open} requests reached it while the breaker was open"),
            "0",
        ),
        finding(
            *returned > 0,
            format!("{returned} requests served by it after its return"),
            "at least 1",
        ),
    ]
}

fn explanations(figures: &Figures) -> Vec<Finding> {
    let Figures { explained, requests, .. } = figures;
    let measured =
        format!("{explained} of {requests} responses with x-served-by and x-spillway-attempts");
    vec![finding(explained == requests && *requests > 0, measured, "all")]
}

fn costs(figures: &Figures) -> Vec<Finding> {
    let [gateway, failover] = [figures.gateway_added_ms, figures.failover_added_ms];
    let by_gateway = "added to a request by Envoy and filter, median";
    let by_failover = "added by a failover beyond the failed attempt, median";
    vec![
        at_most(GATEWAY_ADDED_MAX_MS, "ms", gateway, by_gateway),
        at_most(FAILOVER_ADDED_MAX_MS, "ms", failover, by_failover),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Figures {
        Figures {
            requests: 1000,
            streams: 500,
            failovers: 40,
            calm_share_percent: Some(100.0),
            final_share_percent: Some(100.0),
            provisioned_use_percent: Some(97.0),
            reopenings: vec![Duration::from_millis(12)],
            spilled: [("sweden", 50), ("france", 50)],
            overload_p99: Some(Duration::from_millis(400)),
            failure_p99: Some(Duration::from_millis(410)),
            openings: 2,
            returned: 5,
            explained: 1000,
            gateway_added_ms: Some(0.6),
            failover_added_ms: Some(1.2),
            ..Figures::default()
        }
    }

    fn broken(change: impl FnOnce(&mut Figures)) -> Vec<usize> {
        let mut figures = kept();
        change(&mut figures);
        let promises = judge(&figures);
        let failed = promises.iter().filter(|promise| promise.verdict == Verdict::Fail);
        let numbers: Vec<usize> = failed.map(|promise| promise.number).collect();
        assert_eq!(all_kept(&promises), numbers.is_empty());
        numbers
    }

    #[test]
    fn promises_that_are_kept_pass_and_the_one_that_is_not_told_is_not_judged() {
        assert!(broken(|_| {}).is_empty());
        let accounting = judge(&kept()).remove(3);
        assert_eq!((accounting.number, accounting.verdict), (4, Verdict::Untold));
    }

    #[test]
    fn one_error_breaks_the_first_promise() {
        assert_eq!(broken(|figures| figures.problems.push("status 503".to_owned())), [1]);
    }

    #[test]
    fn a_story_without_requests_shows_nothing() {
        assert_eq!(broken(|figures| figures.requests = 499), [1, 5]);
        assert_eq!(broken(|figures| *figures = Figures::default()), [1, 2, 3, 5, 6]);
    }

    #[test]
    fn idle_provisioned_capacity_breaks_the_second() {
        assert_eq!(broken(|figures| figures.provisioned_use_percent = Some(84.0)), [2]);
        assert_eq!(broken(|figures| figures.calm_share_percent = Some(90.0)), [2]);
        assert_eq!(broken(|figures| figures.final_share_percent = Some(89.0)), [2]);
        assert_eq!(broken(|figures| figures.reopenings = vec![Duration::from_millis(51)]), [2]);
        assert_eq!(broken(|figures| figures.reopenings.clear()), [2]);
        let one_late = [10, 10, 501].map(Duration::from_millis).to_vec();
        assert_eq!(broken(|figures| figures.reopenings = one_late), [2]);
    }

    #[test]
    fn a_failing_region_that_others_feel_breaks_the_third() {
        assert_eq!(broken(|figures| figures.failure_problems = 1), [3]);
        assert_eq!(broken(|figures| figures.failure_p99 = Some(Duration::from_millis(601))), [3]);
        assert_eq!(broken(|figures| figures.while_open = 1), [3]);
        assert_eq!(broken(|figures| figures.openings = 0), [3]);
        assert_eq!(broken(|figures| figures.returned = 0), [3]);
    }

    #[test]
    fn the_reasons_of_errors_are_shown_by_their_number() {
        let problems = ["reset", "503", "reset"].map(str::to_owned);
        let shown: Vec<String> = reasons(&problems).into_iter().map(|it| it.measured).collect();
        assert_eq!(shown, ["2 times reset", "1 times 503"]);
    }

    #[test]
    fn a_response_without_its_headers_breaks_the_fifth() {
        assert_eq!(broken(|figures| figures.explained = 999), [5]);
    }

    #[test]
    fn costs_above_their_bounds_break_the_sixth() {
        assert_eq!(broken(|figures| figures.gateway_added_ms = Some(5.1)), [6]);
        assert_eq!(broken(|figures| figures.failover_added_ms = None), [6]);
    }

    #[test]
    fn the_summary_names_every_promise_and_marks_what_is_broken() {
        let mut figures = kept();
        figures.while_open = 3;
        let text = summary(&judge(&figures), Style::Plain).join("\n");
        for line in [
            "PASS  1 The client gets an answer",
            "FAIL  3 No shared fate",
            "  -   4 Exact accounting",
            "! 3 requests reached it while the breaker was open",
            "not in this story",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
