//! The CPU time of each gateway as bars, a group for each comparison.

use crate::gateway::Program;
use crate::measure::Figures;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::io;

const WIDTH: i32 = 880;
/// A bar and what stands beside it.
const ROW: i32 = 18;
/// Between two groups.
const GAP: i32 = 14;
/// The names before the bars.
const NAMES: i32 = 230;
/// The figures behind the longest bar.
const VALUES: i32 = 210;
/// What plotters divides the size of a font by.
const FONT_SCALE: f64 = 1.24;
/// The title and its explanation.
const TITLE: i32 = 58;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The figures as SVG.
///
/// # Errors
/// Never: what is drawn on is memory.
pub(crate) fn draw(figures: &[Figures]) -> io::Result<String> {
    let groups: Vec<&[Figures]> = figures.chunk_by(|a, b| a.case == b.case).collect();
    let rows = figures.len() + groups.len();
    let height = TITLE + ROW * int(rows) + GAP * int(groups.len());
    let longest = figures.iter().map(|figures| figures.ratio).fold(1.0, f64::max);
    let scale = f64::from(WIDTH - NAMES - VALUES) / longest;
    let mut svg = String::new();
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    paint(&canvas, &groups, scale).map_err(|error| io::Error::other(error.to_string()))?;
    drop(canvas);
    Ok(svg)
}

fn paint(
    canvas: &Canvas<'_>,
    groups: &[&[Figures]],
    scale: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    canvas.fill(&WHITE)?;
    write(canvas, "What a request costs Envoy in CPU time", (8, 18), 16, HPos::Left)?;
    let explained = "Multiples of the first gateway of each group; shorter is cheaper.";
    write(canvas, explained, (8, 38), 12, HPos::Left)?;
    let mut y = TITLE;
    for group in groups {
        let Some(first) = group.first() else { continue };
        write(canvas, first.case, (8, y + ROW / 2), 13, HPos::Left)?;
        for figures in *group {
            y += ROW;
            let end = NAMES + (figures.ratio * scale).round() as i32;
            let middle = y + ROW / 2;
            write(canvas, figures.kind.name, (NAMES - 8, middle), 12, HPos::Right)?;
            let bar = [(NAMES, y + 3), (end, y + ROW - 3)];
            canvas.draw(&Rectangle::new(bar, colour(figures.kind.program).filled()))?;
            let unit = if figures.per_event { "an event" } else { "a request" };
            let value = format!("{:.2} × ({:.1} µs {unit})", figures.ratio, figures.cpu_us);
            write(canvas, &value, (end + 6, middle), 12, HPos::Left)?;
        }
        y += ROW + GAP;
    }
    canvas.present()?;
    Ok(())
}

fn write(
    canvas: &Canvas<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    side: HPos,
) -> Result<(), Box<dyn std::error::Error>> {
    let weight = if size > 12 { FontStyle::Bold } else { FontStyle::Normal };
    let font = ("sans-serif", f64::from(size) * FONT_SCALE, weight).into_font();
    let style = font.color(&BLACK).pos(Pos::new(side, VPos::Center));
    canvas.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

fn colour(program: Program) -> RGBColor {
    match program {
        Program::Spillway => RGBColor(43, 108, 176),
        Program::Floor | Program::HostCalls => RGBColor(144, 180, 216),
        Program::BareEnvoy | Program::BareWithRetries | Program::LiteLlm | Program::Portkey => {
            RGBColor(154, 165, 177)
        }
    }
}

fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;

    fn figures() -> Vec<Figures> {
        let all = CASES.iter().flat_map(|case| {
            case.kinds.iter().enumerate().map(|(at, kind)| Figures {
                case: case.name,
                kind: *kind,
                per_event: true,
                cpu_us: 12_345.6,
                ratio: 1.0 + at as f64,
                ratio_to_retries: None,
                answers_per_second: 1.0,
                p50_us: 1.0,
                p99_us: 2.0,
                cpus: 0.5,
                idle: 0.25,
            })
        });
        all.collect()
    }

    /// The texts of a picture: where each begins or ends, whether it ends there, and what it says.
    fn texts(svg: &str) -> Vec<(i32, bool, String)> {
        let texts = svg.split("<text ").skip(1).map(|text| {
            let (attributes, rest) = text.split_once('>').unwrap();
            let x = attributes.split("x=\"").nth(1).unwrap().split('"').next().unwrap();
            let text = rest.split("</text>").next().unwrap().trim().replace("&apos;", "'");
            (x.parse().unwrap(), attributes.contains("\"end\""), text)
        });
        texts.collect()
    }

    #[test]
    fn no_text_is_cut_off_at_the_edges() {
        const CHARACTER: i32 = 7; // wider than the average one of 12 points
        for (x, ends_there, text) in texts(&draw(&figures()).unwrap()) {
            let width = int(text.chars().count()) * CHARACTER;
            let (begin, end) = if ends_there { (x - width, x) } else { (x, x + width) };
            assert!(begin >= 0 && end <= WIDTH, "{text}: from {begin} to {end}");
        }
    }

    #[test]
    fn each_group_is_named_once_and_has_all_its_gateways() {
        let texts: Vec<String> =
            texts(&draw(&figures()).unwrap()).into_iter().map(|(_, _, text)| text).collect();
        for case in &CASES {
            assert_eq!(texts.iter().filter(|text| *text == case.name).count(), 1, "{}", case.name);
        }
        let bare = texts.iter().filter(|text| *text == "bare Envoy with retries").count();
        let groups = CASES.iter().filter(|case| case.kinds.len() > 3).count();
        assert_eq!(bare, groups);
    }
}
