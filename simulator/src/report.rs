//! Figures as tables in Markdown.

use crate::kinds;
use simulator::figures::{Figures, outages};
use simulator::record::Record;
use simulator::scenarios::Scenario;
use simulator::simulation::Kind;
use std::fmt::Write;

/// The time that one point in a plot covers.
pub(crate) const SLICE_MS: u64 = 4_000;

/// The results of a scenario.
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// The figures by gateway, the optimum first.
    pub(crate) rows: Vec<(Kind, Figures)>,
    /// The marks that Spillway missed.
    pub(crate) missed: Vec<String>,
    pub(crate) has_marks: bool,
    /// What the first backend served in each [`SLICE_MS`], by gateway, for the plots.
    pub(crate) series: Vec<(Kind, Vec<u32>)>,
    /// The first backend's outage in milliseconds: beginning and end.
    pub(crate) outage_ms: Option<(u64, u64)>,
}

/// Runs a scenario with each of its gateways.
pub(crate) fn outcome(scenario: &Scenario) -> Result<Outcome, String> {
    let Scenario { name, simulation, marks, .. } = scenario;
    let mut records = Vec::new();
    for kind in kinds(scenario) {
        records.push((*kind, simulation.run(*kind)?));
    }
    let figures =
        |(kind, record): &(Kind, Record)| (*kind, Figures::of(record, &simulation.deployments));
    let rows: Vec<(Kind, Figures)> = records.iter().map(figures).collect();
    let mut missed = Vec::new();
    if let [(_, optimum), (_, own), ..] = rows.as_slice()
        && let [(_, optimal), (_, record), ..] = records.as_slice()
    {
        missed = marks.iter().filter_map(|it| it.missed(own, optimum, record, optimal)).collect();
    }
    let outages = outages(&simulation.deployments);
    let outage = outages.first().filter(|(backend, _)| *backend == 0);
    Ok(Outcome {
        name: name.clone(),
        rows,
        missed,
        has_marks: !marks.is_empty(),
        series: records.iter().map(|(kind, record)| (*kind, series(record))).collect(),
        outage_ms: outage.map(|(_, period)| (period.from_ms, period.until_ms)),
    })
}

/// The number of requests that the first backend served, by the time slice in which they were sent.
fn series(record: &Record) -> Vec<u32> {
    let mut series = Vec::new();
    for served in record.served.iter().flatten().filter(|served| served.backend == 0) {
        let slice = ((served.arrived_ms + served.added_ms) / SLICE_MS) as usize;
        series.resize(series.len().max(slice + 1), 0);
        series[slice] += 1;
    }
    series
}

/// Spillway in all scenarios, with the marks that it missed.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| scenario | client errors | of them needless | PTU, % of the optimum | pay-as-you-go, × | wasted attempts, % \
         | added p50, ms | added p99, ms | marks missed |\n|---|---:|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for outcome in outcomes {
        let [(_, optimum), (_, own), ..] = outcome.rows.as_slice() else { continue };
        let missed = match outcome.missed.as_slice() {
            [] if outcome.has_marks => "none".to_owned(),
            missed => missed.join("; "),
        };
        push(&mut text, &outcome.name, own, optimum, &format!("{missed} |"));
    }
    text
}

/// All gateways in the scenarios that compare them.
pub(crate) fn comparison(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.rows.len() > 2) {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "**{}**\n\n| gateway | client errors | of them needless | PTU, % of the optimum | pay-as-you-go, × \
             | wasted attempts, % | added p50, ms | added p99, ms | at the dead, a minute | healed share, % |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
            outcome.name
        );
        let Some((_, optimum)) = outcome.rows.first() else { continue };
        for (kind, figures) in &outcome.rows {
            let healed = match optimum.healed {
                0 => "–".to_owned(),
                all => format!("{:.0}", 100.0 * figures.healed as f64 / all as f64),
            };
            let dead = figures.at_dead_per_minute;
            push(&mut text, kind.name(), figures, optimum, &format!("{dead:.1} | {healed} |"));
        }
        text.push('\n');
    }
    text
}

fn push(text: &mut String, name: &str, figures: &Figures, optimum: &Figures, rest: &str) {
    let of = |part: u64, whole: u64, factor: f64, digits: usize| match whole {
        // The optimum ignores the limits of consumers.
        _ if figures.limited > 0 => "–".to_owned(),
        0 => "–".to_owned(),
        _ => format!("{:.digits$}", factor * part as f64 / whole as f64),
    };
    let provisioned = of(figures.provisioned_tokens, optimum.provisioned_tokens, 100.0, 1);
    let standard = of(figures.standard_tokens, optimum.standard_tokens, 1.0, 3);
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {provisioned} | {standard} | {:.2} | {} | {} | {rest}",
        figures.errors,
        figures.needless_errors,
        figures.wasted_percent(),
        figures.added_p50_ms,
        figures.added_p99_ms,
    );
}
