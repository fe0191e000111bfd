//! The figures as tables, and where they are published.

use crate::measure::{Effort, Figures};
use crate::plot;
use std::fs;
use std::io;
use std::path::Path;

const BEGIN: &str = "<!-- figures: written by `make bench` -->";
const END: &str = "<!-- end of figures -->";

/// The figures as a table in Markdown.
pub(crate) fn table(figures: &[Figures]) -> String {
    let mut lines = vec![
        "| what | gateway | CPU, µs | ratio | of retries | answers/s | p50, µs | p99, µs |"
            .to_owned(),
        "|---|---|--:|--:|--:|--:|--:|--:|".to_owned(),
    ];
    lines.extend(figures.iter().map(|figures| {
        let of_retries = figures.ratio_to_retries.map_or_else(String::new, |it| format!("{it:.2}"));
        format!(
            "| {} | {} | {:.1} | {:.2} | {of_retries} | {:.0} | {:.0} | {:.0} |",
            figures.case,
            figures.kind.name,
            figures.cpu_us,
            figures.ratio,
            figures.answers_per_second,
            figures.p50_us,
            figures.p99_us
        )
    }));
    lines.join("\n")
}

/// What a second worker brings, for each gateway that was measured with one and with two; `None` without any.
///
/// With load and upstream on the same CPUs, there may be no CPU left for a second worker to use. What can be
/// told then is whether its requests cost more CPU time, as they do when workers are in each other's way:
/// two workers with a CPU each would answer twice the responses per second of CPU time.
pub(crate) fn scaling(figures: &[Figures]) -> Option<String> {
    let lines: Vec<String> = figures.windows(2).filter_map(scaled).collect();
    let head = "| 2 workers beside 1 | answers/s | with a CPU for each | Envoy's CPUs | idle CPUs, % |\n\
                |---|--:|--:|--:|--:|";
    (!lines.is_empty()).then(|| format!("{head}\n{}", lines.join("\n")))
}

fn scaled(pair: &[Figures]) -> Option<String> {
    let [one, two] = pair else { return None };
    if one.case != two.case || one.kind.workers != 1 || two.kind.workers != 2 {
        return None;
    }
    Some(format!(
        "| {} | {:.2} × | {:.2} × | {:.2}, {:.2} | {:.0}, {:.0} |",
        one.kind.name,
        two.answers_per_second / one.answers_per_second,
        2.0 / two.ratio,
        one.cpus,
        two.cpus,
        one.idle * 100.0,
        two.idle * 100.0
    ))
}

/// Puts the figures into the documentation in `folder`.
///
/// # Errors
/// When the page is missing or has no place for them.
pub(crate) fn write(folder: &Path, figures: &[Figures], machine: &str) -> io::Result<()> {
    let path = folder.join("performance.md");
    let page = fs::read_to_string(&path)?;
    let parts = page.split_once(BEGIN).zip(page.split_once(END));
    let Some(((before, _), (_, after))) = parts else {
        return Err(io::Error::other("docs/performance.md has no place for the figures"));
    };
    let tables: Vec<String> =
        [Some(table(figures)), scaling(figures)].into_iter().flatten().collect();
    let tables = tables.join("\n\n");
    fs::write(path, format!("{before}{BEGIN}\n{machine}\n\n{tables}\n{END}{after}"))?;
    fs::write(folder.join("performance.svg"), plot::draw(figures)?)
}

/// What the figures were measured on.
pub(crate) fn machine(versions: &str, effort: Effort) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("CPU");
    format!(
        "{model}, {cpus} CPUs for Envoy, load and upstream together; {versions}; {} starts, rounds after each: {}{}.",
        effort.starts,
        effort.rounds,
        if effort.loaded { "; other programs used the machine" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;
    use crate::gateway::Kind;

    fn figures(kind: Kind, ratio: f64, answers_per_second: f64) -> Figures {
        Figures {
            case: "workers",
            kind,
            per_event: false,
            cpu_us: 100.0 * ratio,
            ratio,
            ratio_to_retries: None,
            answers_per_second,
            p50_us: 1.0,
            p99_us: 2.0,
            cpus: 0.5,
            idle: 0.25,
        }
    }

    #[test]
    fn a_second_worker_is_told_by_responses_and_by_what_they_cost() {
        let one = CASES[0].kinds[0];
        let two = Kind { workers: 2, ..one };
        let scaling = scaling(&[figures(one, 1.0, 1000.0), figures(two, 1.25, 1500.0)]).unwrap();
        let line = scaling.lines().last().unwrap();
        assert_eq!(line, "| bare Envoy | 1.50 × | 1.60 × | 0.50, 0.50 | 25, 25 |");
    }

    #[test]
    fn gateways_with_one_worker_tell_nothing_about_two() {
        let one = CASES[0].kinds[0];
        assert!(scaling(&[figures(one, 1.0, 1000.0), figures(one, 1.25, 1500.0)]).is_none());
    }
}
