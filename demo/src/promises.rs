//! What Spillway promises, each with its figure, its bound and a verdict.
//!
//! Bounds are wide enough for a noisy machine with two cores and narrow enough that a broken promise
//! cannot hide in them. A figure that is missing breaks its promise: nothing was shown.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::figures::{Figures, Millis, percentile};
use crate::table::Style;

/// Below this the story was not told.
const REQUESTS_MIN: usize = 500;
const CALM_SHARE_MIN_PERCENT: f64 = 99.0;
/// A handful of requests: one that meets a full bucket must not decide.
const FINAL_SHARE_MIN_PERCENT: f64 = 90.0;
const PROVISIONED_USE_MIN_PERCENT: f64 = 85.0;
const REOPENING_MEDIAN_MAX: Duration = Duration::from_millis(50);
const REOPENING_MAX: Duration = Duration::from_millis(500);
const GATEWAY_ADDED_MAX: Millis = Millis(5.0);
const FAILOVER_ADDED_MAX: Millis = Millis(10.0);
/// How much slower the slowest hundredth may get while a region fails: two failed attempts and noise.
const FAILURE_SLOWDOWN_MAX: Duration = Duration::from_millis(200);

/// How many different reasons of errors are shown.
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
    let judged = all.into_iter().enumerate().map(|(place, (title, findings))| {
        let verdict = match findings.as_slice() {
            [] => Verdict::Untold,
            findings if findings.iter().all(|finding| finding.holds) => Verdict::Pass,
            _ => Verdict::Fail,
        };
        Promise { number: place + 1, title, verdict, findings }
    });
    judged.collect()
}

/// Whether no promise is broken.
pub(crate) fn all_kept(promises: &[Promise]) -> bool {
    promises.iter().all(|promise| promise.verdict != Verdict::Fail)
}

/// The summary, a line each.
pub(crate) fn summary(promises: &[Promise], style: Style) -> Vec<String> {
    let mut lines = vec!["Promises".to_owned()];
    for promise in promises {
        let verdict = match promise.verdict {
            Verdict::Pass => style.good("PASS"),
            Verdict::Fail => style.bad("FAIL"),
            Verdict::Untold => style.dim("  - "),
        };
        lines.push(format!("  {verdict}  {} {}", promise.number, promise.title));
        for finding in &promise.findings {
            let mark = if finding.holds { " " } else { "!" };
            let mut line = format!("        {mark} {}", finding.measured);
            if !finding.bound.is_empty() {
                line = format!("{line:<76} {}", style.dim(&finding.bound));
            }
            lines.push(line);
        }
        if promise.verdict == Verdict::Untold {
            lines.push("          not in this story: its backends have no budgets, so that they do throttle; see `make test`".to_owned());
        }
    }
    lines
}

fn finding(holds: bool, measured: String, bound: impl Into<String>) -> Finding {
    Finding { measured, bound: bound.into(), holds }
}

/// A finding about a figure that may be missing.
fn about<T>(
    figure: Option<T>,
    name: &str,
    bound: &str,
    holds: impl Fn(&T) -> bool,
    show: impl Fn(&T) -> String,
) -> Finding {
    match &figure {
        Some(figure) => finding(holds(figure), format!("{name}: {}", show(figure)), bound),
        None => finding(false, format!("{name}: nothing was measured"), bound),
    }
}

fn answers(figures: &Figures) -> Vec<Finding> {
    let failed = figures.problems.len();
    let told = format!("{failed} errors in {} requests", figures.requests);
    let enough = figures.requests >= REQUESTS_MIN;
    let bound = format!("0 in at least {REQUESTS_MIN}");
    let mut findings = vec![finding(failed == 0 && enough, told, bound)];
    findings.push(finding(
        true,
        format!(
            "{} of them streams, read to their last event; {} needed a failover",
            figures.streams, figures.failovers
        ),
        "",
    ));
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
    let percent = |value: &f64| format!("{value:.0} %");
    let reopenings = &figures.reopenings;
    let longest = percentile(reopenings.clone(), 100);
    vec![
        about(
            figures.calm_share_percent,
            "served by the provisioned backend in the calm",
            &format!("at least {CALM_SHARE_MIN_PERCENT:.0} %"),
            |share| *share >= CALM_SHARE_MIN_PERCENT,
            percent,
        ),
        about(
            figures.final_share_percent,
            "and after the load has fallen again",
            &format!("at least {FINAL_SHARE_MIN_PERCENT:.0} %"),
            |share| *share >= FINAL_SHARE_MIN_PERCENT,
            percent,
        ),
        about(
            figures.provisioned_use_percent,
            "of its tokens used under overload",
            &format!("at least {PROVISIONED_USE_MIN_PERCENT:.0} %"),
            |share| *share >= PROVISIONED_USE_MIN_PERCENT,
            percent,
        ),
        about(
            percentile(reopenings.clone(), 50),
            "gate reopened to next request, median",
            &format!("at most {}", time(REOPENING_MEDIAN_MAX)),
            |median| *median <= REOPENING_MEDIAN_MAX,
            |median| format!("{} ({} times)", time(*median), reopenings.len()),
        ),
        about(
            longest,
            "the longest of them",
            &format!("at most {}", time(REOPENING_MAX)),
            |longest| *longest <= REOPENING_MAX,
            |longest| time(*longest),
        ),
        finding(true, format!("spilled in the overload: {}", spilled(&figures.spilled)), ""),
    ]
}

fn spilled(parts: &[(String, usize)]) -> String {
    let parts: Vec<String> = parts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    parts.join(", ")
}

fn fate(figures: &Figures) -> Vec<Finding> {
    let errors = figures.failure_problems;
    let limit = figures.overload_p99.map_or(Duration::ZERO, |p99| p99 + FAILURE_SLOWDOWN_MAX);
    let opened = figures.openings;
    vec![
        finding(errors == 0, format!("{errors} errors while a region failed"), "0"),
        about(
            figures.failure_p99,
            "p99 latency meanwhile",
            &format!("at most {}", time(limit)),
            |p99| *p99 <= limit,
            |p99| {
                let before = figures.overload_p99.map_or_else(|| "?".to_owned(), time);
                format!("{} ({before} before)", time(*p99))
            },
        ),
        finding(opened > 0, format!("its circuit breaker opened {opened} times"), "at least once"),
        finding(
            figures.while_open == 0,
            format!("{} requests reached it while the breaker was open", figures.while_open),
            "0",
        ),
        finding(
            figures.returned > 0,
            format!("{} requests served by it after its return", figures.returned),
            "at least 1",
        ),
    ]
}

fn explanations(figures: &Figures) -> Vec<Finding> {
    let Figures { explained, requests, .. } = figures;
    let measured =
        format!("{explained} of {requests} answers with x-served-by and x-spillway-attempts");
    vec![finding(explained == requests && *requests > 0, measured, "all")]
}

fn costs(figures: &Figures) -> Vec<Finding> {
    let show = |added: &Millis| format!("{:.1} ms", added.0);
    let at_most = |bound: Millis| format!("at most {:.0} ms", bound.0);
    vec![
        about(
            figures.gateway_added,
            "added to a request by Envoy and filter, median",
            &at_most(GATEWAY_ADDED_MAX),
            |added| *added <= GATEWAY_ADDED_MAX,
            show,
        ),
        about(
            figures.failover_added,
            "added by a failover beyond the failed attempt, median",
            &at_most(FAILOVER_ADDED_MAX),
            |added| *added <= FAILOVER_ADDED_MAX,
            show,
        ),
    ]
}

fn time(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
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
            spilled: vec![("sweden".to_owned(), 50), ("france".to_owned(), 50)],
            overload_p99: Some(Duration::from_millis(400)),
            failure_p99: Some(Duration::from_millis(410)),
            openings: 2,
            returned: 5,
            explained: 1000,
            gateway_added: Some(Millis(0.6)),
            failover_added: Some(Millis(1.2)),
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
        assert_eq!(broken(|figures| figures.gateway_added = Some(Millis(5.1))), [6]);
        assert_eq!(broken(|figures| figures.failover_added = None), [6]);
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
