//! A plot of a report, as SVG: how the times of each phase are distributed, and the server's memory over time.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::latency::percentile;
use crate::report::{Phase, Report};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 420;
/// Points of a curve.
const POINTS: usize = 200;
const TITLE: (&str, u32) = ("sans-serif", 20);
const TEXT: (&str, u32) = ("sans-serif", 16);
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// Colours that people tell apart, whatever they see of colours (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Draws it; the text of an SVG file.
///
/// # Errors
/// When nothing can be drawn.
pub fn svg(report: &Report) -> Result<String> {
    let panels = if report.memory.len() > 1 { 2 } else { 1 };
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT * panels)).into_drawing_area();
        draw(&area, report).map_err(|error| anyhow!("cannot plot: {error}"))?;
    }
    Ok(text)
}

/// A measure at several sizes of a mesh.
#[derive(Debug, Clone)]
pub struct Growth {
    /// What was measured, with its unit.
    pub measure: String,
    /// By what the mesh grew.
    pub size: String,
    /// Sizes and what was measured there.
    pub points: Vec<(f64, f64)>,
}

/// Draws how measures grow, a panel each, two in a row; the text of an SVG file.
///
/// # Errors
/// When nothing can be drawn.
pub fn growth(measures: &[Growth]) -> Result<String> {
    let mut text = String::new();
    let rows = measures.len().div_ceil(2).max(1);
    {
        let size = (WIDTH, HEIGHT * u32::try_from(rows)?);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        grow(&area, rows, measures).map_err(|error| anyhow!("cannot plot: {error}"))?;
    }
    Ok(text)
}

fn grow<'a>(area: &Area<'a>, rows: usize, measures: &[Growth]) -> Drawn<'a> {
    area.fill(&WHITE)?;
    for (panel, measure) in area.split_evenly((rows, 2)).iter().zip(measures) {
        let end = measure.points.iter().fold(1.0, |most, (size, _)| f64::max(most, *size));
        let most = measure
            .points
            .iter()
            .fold(1.0, |most, (_, value)| f64::max(most, *value));
        let mut chart = ChartBuilder::on(panel)
            .caption(&measure.measure, TITLE)
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..end * 1.05, 0.0..most * 1.1)?;
        chart
            .configure_mesh()
            .x_desc(&measure.size)
            .x_labels(6)
            .light_line_style(TRANSPARENT)
            .label_style(TEXT)
            .x_label_formatter(&|size| format!("{size:.0}"))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        let points = || measure.points.iter().copied();
        chart.draw_series(LineSeries::new(points(), COLOURS[0].stroke_width(2)))?;
        chart.draw_series(points().map(|point| Circle::new(point, 4, COLOURS[0].filled())))?;
    }
    area.present()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(area: &Area<'a>, report: &Report) -> Drawn<'a> {
    area.fill(&WHITE)?;
    if report.memory.len() > 1 {
        let (upper, lower) = area.split_vertically(HEIGHT);
        latencies(&upper, report)?;
        memory(&lower, report)?;
    } else {
        latencies(area, report)?;
    }
    area.present()
}

fn latencies<'a>(area: &Area<'a>, report: &Report) -> Drawn<'a> {
    let phases: Vec<(&Phase, Vec<f64>)> = report
        .phases
        .iter()
        .filter(|phase| !phase.arrivals.is_empty())
        .map(|phase| {
            let mut sorted = phase.arrivals.clone();
            sorted.sort_by(f64::total_cmp);
            (phase, sorted)
        })
        .collect();
    let all = || phases.iter().flat_map(|(_, sorted)| sorted.iter().copied());
    // An axis of powers of ten has no place for nothing.
    let least = all().fold(f64::INFINITY, f64::min).clamp(0.1, 1e6);
    let most = all().fold(least * 10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("From the change to its arrival, {} sidecars", report.sidecars),
            TITLE,
        )
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((least..most).log_scale(), 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("milliseconds")
        .y_desc("arrived, %")
        .light_line_style(TRANSPARENT)
        .label_style(TEXT)
        .x_label_formatter(&|millis| format!("{millis}"))
        .y_label_formatter(&|of_hundred| format!("{of_hundred:.0}"))
        .draw()?;
    for ((phase, sorted), colour) in phases.iter().zip(COLOURS.iter().cycle()) {
        let points = (0..=POINTS).filter_map(|point| {
            let of_hundred = 100.0 * point as f64 / POINTS as f64;
            Some((percentile(sorted, of_hundred)?, of_hundred))
        });
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(&phase.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    if !phases.is_empty() {
        chart
            .configure_series_labels()
            .label_font(TEXT)
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    Ok(())
}

fn memory<'a>(area: &Area<'a>, report: &Report) -> Drawn<'a> {
    let points = || {
        report
            .memory
            .iter()
            .map(|sample| (sample.at, sample.resident as f64 / MEBIBYTE))
    };
    let end = points().map(|(at, _)| at).fold(1.0, f64::max);
    let most = points().map(|(_, resident)| resident).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Resident memory of the control plane", TITLE)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("MiB")
        .light_line_style(TRANSPARENT)
        .label_style(TEXT)
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|resident| format!("{resident:.0}"))
        .draw()?;
    chart.draw_series(LineSeries::new(points(), COLOURS[0].stroke_width(2)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn phases_with_arrivals_and_memory_are_drawn() {
        let text = svg(&report()).unwrap();
        assert!(
            text.starts_with("<svg") && text.trim_end().ends_with("</svg>"),
            "{text}"
        );
        assert!(text.contains("route changed") && !text.contains("annotation changed"));
        assert!(text.contains("Resident memory") && text.contains("milliseconds"));
        assert!(text.matches("<polyline").count() >= 2);
    }

    #[test]
    fn growth_is_drawn_a_panel_for_each_measure() {
        let measure = |name: &str| Growth {
            measure: name.to_owned(),
            size: "sidecars".to_owned(),
            points: vec![(1_000.0, 190.0), (4_000.0, 400.0)],
        };
        let text = growth(&[measure("peak, MiB"), measure("CPU, ms"), measure("bytes")]).unwrap();
        assert!(text.matches("<polyline").count() >= 3, "{text}");
        assert_eq!(text.matches("<circle").count(), 6);
        assert!(text.contains("peak, MiB") && text.contains("CPU, ms"));
    }

    #[test]
    fn a_report_of_nothing_is_drawn_too() {
        let mut report = report();
        report.phases.clear();
        report.memory.clear();
        let text = svg(&report).unwrap();
        assert!(text.contains("</svg>") && !text.contains("Resident memory"));
    }
}
