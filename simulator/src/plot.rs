//! Plots: the use of provisioned throughput, and the time around an outage.

use crate::report::{Outcome, SLICE_MS};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use simulator::simulation::Kind;
use std::error::Error;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 880;
/// The height of a bar and the text beside it.
const ROW: i32 = 18;
/// The width of the names before the bars.
const NAMES: i32 = 130;
/// The length of a hundred percent, in points.
const HUNDRED: i32 = 400;
/// The height of the title and its explanation.
const TITLE: i32 = 58;
/// plotters divides the size of a font by this.
const FONT_SCALE: f64 = 1.24;
/// The width of a panel in the plot of outages.
const PANEL: i32 = 250;
/// The time that is shown before and after an outage.
const AROUND_MS: u64 = 60_000;

/// The gateways that the plot of outages shows.
const SHOWN: [Kind; 4] = [Kind::Clairvoyant, Kind::LiteLlm, Kind::ApiManagement, Kind::Spillway];

/// All plots, each with the name of its file.
///
/// # Errors
/// If plotters cannot draw something.
pub(crate) fn all(outcomes: &[Outcome]) -> Result<Vec<(&'static str, String)>, String> {
    let text = |error: Box<dyn Error>| error.to_string();
    Ok(vec![
        ("routing-use.svg", used(outcomes).map_err(text)?),
        ("routing-outage.svg", outages(outcomes).map_err(text)?),
    ])
}

/// Bars: what provisioned throughput served, and the attempts that served nobody.
fn used(outcomes: &[Outcome]) -> Result<String, Box<dyn Error>> {
    let is_shown = |outcome: &&Outcome| {
        outcome.rows.len() > 2
            && (outcome.name.starts_with("150 %") || outcome.name.starts_with("bursts"))
    };
    let shown: Vec<&Outcome> = outcomes.iter().filter(is_shown).collect();
    let rows: usize = shown.iter().map(|outcome| outcome.rows.len() + 2).sum();
    let mut svg = String::new();
    let height = (TITLE + ROW * int(rows)).unsigned_abs();
    let canvas = SVGBackend::with_string(&mut svg, (WIDTH as u32, height)).into_drawing_area();
    canvas.fill(&WHITE)?;
    write(&canvas, "How much of provisioned throughput is used", (8, 18), 16, HPos::Left)?;
    let explained = "Tokens served, in percent of the optimum; longer is better. Grey: attempts that came to \
                     nothing, in percent of all.";
    write(&canvas, explained, (8, 38), 12, HPos::Left)?;
    let mut y = TITLE;
    for outcome in shown {
        write(&canvas, &outcome.name.replace('`', ""), (8, y + ROW / 2), 13, HPos::Left)?;
        let best = outcome.rows.first().map_or(1, |(_, optimum)| optimum.provisioned_tokens);
        for (kind, figures) in &outcome.rows {
            y += ROW;
            let used = 100.0 * figures.provisioned_tokens as f64 / best.max(1) as f64;
            let wasted = figures.wasted_percent();
            bar(&canvas, y, used, 3, colour(*kind))?;
            bar(&canvas, y, wasted, 11, RGBColor(120, 120, 120))?;
            let middle = y + ROW / 2;
            write(&canvas, kind.name(), (NAMES - 8, middle), 12, HPos::Right)?;
            let errors = match figures.errors {
                0 => String::new(),
                errors => format!(", {errors} client errors"),
            };
            let value = format!("{used:.1} %, {wasted:.1} % wasted{errors}");
            let end = NAMES + (used.max(wasted) / 100.0 * f64::from(HUNDRED)) as i32;
            write(&canvas, &value, (end + 6, middle), 12, HPos::Left)?;
        }
        y += 2 * ROW;
    }
    canvas.present()?;
    drop(canvas);
    Ok(svg)
}

fn bar(
    canvas: &Canvas<'_>,
    y: i32,
    percent: f64,
    from: i32,
    colour: RGBColor,
) -> Result<(), Box<dyn Error>> {
    let end = NAMES + (percent / 100.0 * f64::from(HUNDRED)).round() as i32;
    let until = if from == 3 { 11 } else { ROW - 3 };
    canvas.draw(&Rectangle::new([(NAMES, y + from), (end, y + until)], colour.filled()))?;
    Ok(())
}

/// Lines: what a region serves before, during and after its outage.
fn outages(outcomes: &[Outcome]) -> Result<String, Box<dyn Error>> {
    let is_shown =
        |outcome: &&Outcome| outcome.series.len() > 2 && outcome.name.starts_with("outage");
    let shown: Vec<_> = outcomes
        .iter()
        .filter(is_shown)
        .filter_map(|outcome| Some((outcome, outcome.outage_ms?)))
        .filter(|(outcome, _)| {
            !outcome.name.contains("errors") && !outcome.name.contains("refused")
        })
        .collect();
    let mut svg = String::new();
    let height = (TITLE + PANEL * int(shown.len()).max(1)).unsigned_abs();
    let canvas = SVGBackend::with_string(&mut svg, (WIDTH as u32, height)).into_drawing_area();
    canvas.fill(&WHITE)?;
    write(&canvas, "A region fails and heals", (8, 18), 16, HPos::Left)?;
    let mut x = 8;
    for kind in SHOWN {
        canvas.draw(&PathElement::new([(x, 40), (x + 24, 40)], colour(kind).stroke_width(3)))?;
        write(&canvas, kind.name(), (x + 30, 40), 12, HPos::Left)?;
        x += 150;
    }
    for (row, (outcome, outage)) in shown.iter().enumerate() {
        let top = TITLE + PANEL * int(row);
        let (_, below) = canvas.split_vertically(top);
        let (panel, _) = below.split_vertically(PANEL);
        panel_of(&panel, outcome, *outage)?;
    }
    canvas.present()?;
    drop(canvas);
    Ok(svg)
}

fn panel_of(
    panel: &Canvas<'_>,
    outcome: &Outcome,
    (from_ms, until_ms): (u64, u64),
) -> Result<(), Box<dyn Error>> {
    let begin_ms = from_ms.saturating_sub(AROUND_MS);
    let second = |ms: u64| (ms as f64 - from_ms as f64) / 1_000.0;
    let rate = |count: u32| f64::from(count) * 1_000.0 / SLICE_MS as f64;
    let slices = (begin_ms / SLICE_MS) as usize..((until_ms + AROUND_MS) / SLICE_MS) as usize;
    let all = outcome.series.iter().filter(|(kind, _)| SHOWN.contains(kind));
    let counts = all.clone().flat_map(|(_, series)| series.get(slices.clone()).unwrap_or_default());
    let highest = rate(counts.copied().max().unwrap_or(1)).ceil();
    let span = second(begin_ms)..second(until_ms + AROUND_MS);
    let mut chart = ChartBuilder::on(panel)
        .margin(12)
        .caption(outcome.name.as_str(), ("sans-serif", 14.0 * FONT_SCALE))
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(span, 0.0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .label_style(("sans-serif", 11.0 * FONT_SCALE))
        .x_desc("seconds since it failed")
        .y_desc("served a second")
        .y_labels(5)
        .draw()?;
    let dead = [(0.0, 0.0), (second(until_ms), highest)];
    chart.draw_series([Rectangle::new(dead, RGBColor(250, 225, 220).mix(0.7).filled())])?;
    for kind in SHOWN {
        let Some((_, series)) = outcome.series.iter().find(|(other, _)| *other == kind) else {
            continue;
        };
        let points = slices.clone().map(|slice| {
            let middle = slice as u64 * SLICE_MS + SLICE_MS / 2;
            (second(middle), rate(series.get(slice).copied().unwrap_or(0)))
        });
        let width = if kind == Kind::Spillway { 3 } else { 2 };
        let line = PathElement::new(points.collect::<Vec<_>>(), colour(kind).stroke_width(width));
        chart.draw_series([line])?;
    }
    Ok(())
}

fn write(
    canvas: &Canvas<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    side: HPos,
) -> Result<(), Box<dyn Error>> {
    let weight = if size > 12 { FontStyle::Bold } else { FontStyle::Normal };
    let font = ("sans-serif", f64::from(size) * FONT_SCALE, weight).into_font();
    let style = font.color(&BLACK).pos(Pos::new(side, VPos::Center));
    canvas.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Clairvoyant => RGBColor(160, 160, 160),
        Kind::Spillway => RGBColor(43, 108, 176),
        Kind::LiteLlm => RGBColor(221, 107, 32),
        Kind::ApiManagement => RGBColor(128, 90, 213),
        Kind::AzureAlone | Kind::FirstThenNext | Kind::RoundRobin | Kind::OneBackend => {
            RGBColor(144, 180, 216)
        }
    }
}

fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::outcome;
    use simulator::scenarios;

    fn drawn() -> Vec<(&'static str, String)> {
        let shown = |name: &str| name.starts_with("bursts") || name == "outage of 34 s, 503";
        let scenarios = scenarios::all(1).into_iter().filter(|it| shown(&it.name) && it.has_peers);
        let shorter = |mut scenario: scenarios::Scenario| {
            scenario.simulation.requests.truncate(1_500);
            outcome(&scenario).unwrap()
        };
        all(&scenarios.map(shorter).collect::<Vec<_>>()).unwrap()
    }

    /// The texts of a picture: where each begins, about where it ends, and its content.
    fn texts(svg: &str) -> Vec<(i32, i32, String)> {
        const CHARACTER: i32 = 7; // wider than the average one of 12 points
        let level = svg.split("<text ").skip(1).filter(|text| !text.contains("rotate("));
        let texts = level.map(|text| {
            let (attributes, rest) = text.split_once('>').unwrap();
            let x = attributes.split("x=\"").nth(1).unwrap().split('"').next().unwrap();
            let x: i32 = x.parse().unwrap();
            let text = rest.split("</text>").next().unwrap().trim().replace("&apos;", "'");
            let width = int(text.chars().count()) * CHARACTER;
            match attributes {
                _ if attributes.contains("\"end\"") => (x - width, x, text),
                _ if attributes.contains("\"middle\"") => (x - width / 2, x + width / 2, text),
                _ => (x, x + width, text),
            }
        });
        texts.collect()
    }

    #[test]
    fn no_text_is_cut_off_at_the_edges() {
        for (name, svg) in drawn() {
            for (begin, end, text) in texts(&svg) {
                assert!(begin >= 0 && end <= WIDTH, "{name}, {text}: from {begin} to {end}");
            }
        }
    }

    #[test]
    fn each_gateway_is_named_where_it_is_drawn() {
        let drawn = drawn();
        let named = |plot: usize, kind: Kind| {
            let name = kind.name();
            texts(&drawn[plot].1).iter().filter(|(_, _, text)| *text == name).count()
        };
        assert!(Kind::ALL.into_iter().all(|kind| named(0, kind) == 1));
        assert!(SHOWN.into_iter().all(|kind| named(1, kind) == 1));
    }
}
