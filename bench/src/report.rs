//! The figures as a table and as a plot.

use crate::measure::{Effort, Figures};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

const BEGIN: &str = "<!-- figures: written by `make bench` -->";
const END: &str = "<!-- end of figures -->";

/// The figures as a table in Markdown.
pub(crate) fn table(figures: &[Figures]) -> String {
    let mut lines = vec![
        "| what | gateway | CPU, µs | ratio | answers/s | p50, µs | p99, µs |".to_owned(),
        "|---|---|--:|--:|--:|--:|--:|".to_owned(),
    ];
    lines.extend(figures.iter().map(|figures| {
        format!(
            "| {} | {} | {:.1} | {:.2} | {:.0} | {:.0} | {:.0} |",
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

/// The CPU time of each gateway, as bars.
pub(crate) fn plot(figures: &[Figures]) -> String {
    const ROW: usize = 18;
    const LEFT: usize = 400;
    const SCALE: f64 = 100.0;
    let height = (figures.len() + 2) * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"820\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"{ROW}\">CPU time of Envoy, in that of the first of each group</text>\n"
    );
    for (row, figures) in (2..).zip(figures) {
        let (y, width) = (row * ROW, figures.ratio.min(4.0) * SCALE);
        let colour = if (figures.ratio - 1.0).abs() < 1e-9 { "#9aa5b1" } else { "#2b6cb0" };
        let unit = if figures.per_event { "an event" } else { "a request" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}: {}</text>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{width:.0}\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"{y}\">{:.2} ({:.1} µs {unit})</text>",
            LEFT - 6,
            figures.case,
            figures.kind.name,
            y - 10,
            400.0 + width + 6.0,
            figures.ratio,
            figures.cpu_us
        ); // writing to a String cannot fail
    }
    svg.push_str("</svg>\n");
    svg
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
    let table = table(figures);
    fs::write(path, format!("{before}{BEGIN}\n{machine}\n\n{table}\n{END}{after}"))?;
    fs::write(folder.join("performance.svg"), plot(figures))
}

/// What the figures were measured on.
pub(crate) fn machine(envoy_version: &str, effort: Effort) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("CPU");
    format!(
        "{model}, {cpus} CPUs for Envoy, load and upstream together; Envoy {envoy_version}; {} starts with {} rounds each.",
        effort.starts, effort.rounds
    )
}
