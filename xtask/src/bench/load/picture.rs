//! The points as an SVG: a panel for each number of connections, one for latency by size, one for throughput.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::points::{Points, Spot};
use super::{Args, SUBJECTS};

/// Panels beside each other, and the pixels of one.
const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (480, 360);

const COLOURS: [RGBColor; 2] = [RGBColor(0, 90, 181), RGBColor(220, 110, 20)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line of a panel.
struct Curve {
    label: String,
    colour: RGBColor,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

pub(super) fn draw(path: &Path, args: &Args, points: &Points) -> Result<()> {
    let panels = args.connections.len() + if args.sizes.is_empty() { 0 } else { 2 };
    let rows = panels.div_ceil(COLUMNS);
    let size = (PANEL.0 * COLUMNS.min(panels) as u32, PANEL.1 * rows as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let areas = root.split_evenly((rows, COLUMNS.min(panels)));
    let mut areas = areas.iter();
    for (connections, area) in args.connections.iter().zip(&mut areas) {
        let plural = if *connections == 1 { "" } else { "s" };
        let title = format!("{connections} connection{plural}, {} B, {}", args.size, args.device.name());
        panel(area, &title, ["offered messages/s", "µs since due"], &by_load(args, points, *connections))?;
    }
    if let Some(area) = areas.next().filter(|_| !args.sizes.is_empty()) {
        panel(area, "one message at a time", ["bytes per message", "µs"], &latency_by_size(args, points))?;
    }
    if let Some(area) = areas.next().filter(|_| !args.sizes.is_empty()) {
        panel(
            area,
            "many at a time",
            ["bytes per message", "Gbit/s each way"],
            &speed_by_size(args, points),
        )?;
    }
    root.present().map_err(failed)
}

fn by_load(args: &Args, points: &Points, connections: usize) -> Vec<Curve> {
    let peak = Spot::Peak { connections };
    percentiles(|subject, key| {
        let peak = points.median(subject, peak, "msgs_per_s");
        let at = |share: &u32| {
            let spot = Spot::Load { connections, share: *share };
            (peak * f64::from(*share) / 100.0, points.median(subject, spot, key) / 1000.0)
        };
        args.shares.iter().map(at).collect()
    })
}

fn latency_by_size(args: &Args, points: &Points) -> Vec<Curve> {
    percentiles(|subject, key| {
        let at = |size: &usize| {
            (*size as f64, points.median(subject, Spot::Latency { size: *size }, key) / 1000.0)
        };
        args.sizes.iter().map(at).collect()
    })
}

fn speed_by_size(args: &Args, points: &Points) -> Vec<Curve> {
    let curve = |(subject, colour): (&str, RGBColor)| {
        let at = |size: &usize| {
            let spot = Spot::throughput(*size);
            (*size as f64, points.median(subject, spot, "msgs_per_s") * *size as f64 * 8.0 / 1e9)
        };
        let points = args.sizes.iter().map(at).collect();
        Curve { label: subject.to_owned(), colour, dashed: false, points }
    };
    SUBJECTS.into_iter().zip(COLOURS).map(curve).collect()
}

/// Median and 99th percentile of both subjects.
fn percentiles(values: impl Fn(&str, &str) -> Vec<(f64, f64)>) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (subject, colour) in SUBJECTS.into_iter().zip(COLOURS) {
        for (name, key, dashed) in [("p50", "p50_ns", false), ("p99", "p99_ns", true)] {
            let label = format!("{subject} {name}");
            curves.push(Curve { label, colour, dashed, points: values(subject, key) });
        }
    }
    curves
}

/// Both axes are logarithmic: loads, sizes and latencies span decades.
fn panel(area: &Area<'_>, title: &str, axes: [&str; 2], curves: &[Curve]) -> Result<()> {
    let known = |point: &&(f64, f64)| point.0 > 0.0 && point.1 > 0.0 && (point.0 + point.1).is_finite();
    let all = || curves.iter().flat_map(|curve| curve.points.iter().filter(known));
    let [x, y] = [range(all().map(|point| point.0)), range(all().map(|point| point.1))];
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d((x.0..x.1).log_scale(), (y.0..y.1).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(axes[0])
        .y_desc(axes[1])
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(RGBColor(235, 235, 235))
        .draw()
        .map_err(failed)?;
    for Curve { label, colour, dashed, points } in curves {
        let (colour, points) = (*colour, points.iter().filter(known).copied());
        let style = colour.stroke_width(2);
        let drawn = if *dashed {
            chart.draw_series(DashedLineSeries::new(points.clone(), 5, 4, style)).map_err(failed)?
        } else {
            chart.draw_series(LineSeries::new(points.clone(), style)).map_err(failed)?
        };
        let thin = if *dashed { 1 } else { 2 };
        drawn
            .label(label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(thin)));
        chart.draw_series(points.map(|at| Circle::new(at, 2, colour.filled()))).map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()
        .map_err(failed)
}

/// The decades from the least to the greatest, so that both ends have a label. Never empty, so that a panel without
/// points is still one.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (1.0, 10.0);
    }
    let (below, above) = (low.log10().floor(), high.log10().ceil());
    (10_f64.powf(below), 10_f64.powf(above.max(below + 1.0)))
}

/// `20k`, `1.5M`, `0.25`
fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let text = if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let texts = [0.25, 1.0, 12.4, 1500.0, 20_000.0, 1e6].map(short);
        assert_eq!(texts, ["0.25", "1", "12", "1.5k", "20k", "1M"]);
    }

    #[test]
    fn axes_span_whole_decades() {
        for (values, expected) in [
            (vec![15.0, 75.0], (10.0, 100.0)),
            (vec![0.5, 1200.0], (0.1, 10_000.0)),
            (vec![10.0, 10.0], (10.0, 100.0)),
            (vec![], (1.0, 10.0)),
        ] {
            let (low, high) = range(values.into_iter());
            assert!((low / expected.0 - 1.0).abs() < 1e-9 && (high / expected.1 - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_panel_is_drawn_with_points_and_without() {
        let path = std::env::temp_dir().join(format!("demi-picture-{}.svg", std::process::id()));
        let root = SVGBackend::new(&path, (960, 360)).into_drawing_area();
        let areas = root.split_evenly((1, 2));
        let points = vec![(10.0, 1.0), (100.0, 2.0), (f64::NAN, 3.0), (1000.0, 0.0)];
        let curve = Curve { label: "ours".into(), colour: COLOURS[0], dashed: true, points };
        panel(&areas[0], "some", ["x", "y"], &[curve]).unwrap();
        panel(&areas[1], "none", ["x", "y"], &[]).unwrap();
        root.present().unwrap();
        drop((areas, root));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.contains("some") && text.contains("ours") && text.contains("none"));
        assert_eq!(text.matches("<circle").count(), 2, "what is not known, or zero, is left out");
    }
}
