//! The course of a run as a picture: loss, learning rate, average precision.

use crate::draw::FONT;
use crate::{Error, Result, files};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use std::path::Path;

const WIDTH: u32 = 1000;
const HEIGHT: u32 = 1050;
/// The name that our font has among plotters' fonts.
const FONT_NAME: &str = "qdetr";
/// Points of one line: more than a picture can show are averaged.
const MOST_POINTS: usize = 1000;

/// Okabe and Ito's blue and vermilion, as in [`crate::draw`].
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const PALE: RGBColor = RGBColor(186, 212, 230);

/// What the curves are of.
#[derive(Default)]
pub(super) struct Curves {
    /// Step, loss and learning rate.
    steps: Vec<(u64, f32, f32)>,
    /// Steps before an evaluation, AP and AP50.
    scores: Vec<(u64, [f64; 2])>,
}

/// A line of a chart.
struct Line {
    name: &'static str,
    color: RGBColor,
    /// Pixels: points that stand alone shall be seen.
    dots: u32,
    points: Vec<(f32, f32)>,
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Curves {
    pub(super) fn add_step(&mut self, step: u64, loss: f32, lr: f32) {
        self.steps.push((step, loss, lr));
    }

    pub(super) fn add_scores(&mut self, step: u64, ap_and_ap50: [f64; 2]) {
        self.scores.push((step, ap_and_ap50));
    }

    /// Adds what a line of the log tells, if it tells something of these.
    pub(super) fn add_line(&mut self, line: &serde_json::Value) {
        let (number, step) = (|value: &serde_json::Value| value.as_f64(), line["step"].as_u64());
        if let (Some(step), Some(loss), Some(lr)) = (step, number(&line["losses"]["total"]), number(&line["lr"])) {
            self.add_step(step, loss as f32, lr as f32);
        }
        if let (Some(step), Some(ap), Some(ap50)) = (step, number(&line["validation"]["AP"]), number(&line["validation"]["AP50"])) {
            self.add_scores(step, [ap, ap50]);
        }
    }

    /// Writes the picture, a PNG; the one before stays until it is complete.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut pixels = vec![0; (WIDTH * HEIGHT * 3) as usize];
        self.draw(&mut pixels).map_err(|e| Error::format(path, format!("cannot be drawn: {e}")))?;
        files::write_whole(path, |file| {
            let encoder = PngEncoder::new(file);
            encoder.write_image(&pixels, WIDTH, HEIGHT, ExtendedColorType::Rgb8).map_err(std::io::Error::other)
        })
    }

    fn draw(&self, pixels: &mut [u8]) -> Drawn {
        register_font(FONT_NAME, FontStyle::Normal, FONT).map_err(|_| "the embedded font is none")?;
        let root = BitMapBackend::with_buffer(pixels, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let end = self.steps.last().map_or(1, |&(step, ..)| step + 1) as f32;
        let areas = root.split_evenly((3, 1));
        chart(&areas[0], "loss by step", end, self.losses())?;
        let rates = self.steps.iter().map(|&(step, _, lr)| (step as f32, lr));
        chart(&areas[1], "learning rate by step", end, vec![line("", BLUE, thinned(rates))])?;
        let score = |which: usize| self.scores.iter().map(|&(step, ap)| (step as f32, ap[which].max(0.0) as f32)).collect();
        let dotted = |name, color, points| Line { dots: 3, ..line(name, color, points) };
        let end = self.scores.last().map_or(end, |&(step, _)| end.max(step as f32));
        chart(&areas[2], "average precision by step", end, vec![dotted("AP50", VERMILION, score(1)), dotted("AP", BLUE, score(0))])?;
        root.present()?;
        Ok(())
    }

    /// The loss of every step, and the mean over a fiftieth of the run around each.
    fn losses(&self) -> Vec<Line> {
        let count = self.steps.len();
        let reach = (count / 100).max(2);
        let mut sums = vec![0.0];
        sums.extend(self.steps.iter().scan(0.0, |sum, &(_, loss, _)| {
            *sum += f64::from(loss);
            Some(*sum)
        }));
        let around = |(i, &(step, ..)): (usize, &(u64, f32, f32))| {
            // As far to both sides, so that the ends do not lean.
            let reach = reach.min(i).min(count - 1 - i);
            let (from, to) = (i - reach, i + reach + 1);
            (step as f32, ((sums[to] - sums[from]) / (to - from) as f64) as f32)
        };
        let smooth = thinned(self.steps.iter().enumerate().map(around));
        let each = thinned(self.steps.iter().map(|&(step, loss, _)| (step as f32, loss)));
        vec![line("each step", PALE, each), line("mean around it", BLUE, smooth)]
    }
}

fn line(name: &'static str, color: RGBColor, points: Vec<(f32, f32)>) -> Line {
    Line { name, color, dots: 0, points }
}

/// The means of equal numbers of points in a row, where there are too many.
fn thinned(points: impl Iterator<Item = (f32, f32)>) -> Vec<(f32, f32)> {
    let points: Vec<_> = points.collect();
    let mean = |part: &[(f32, f32)]| {
        let (x, y) = part.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0, y + p.1));
        (x / part.len() as f32, y / part.len() as f32)
    };
    points.chunks(points.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

/// A chart from 0 to a little above its highest point.
fn chart(area: &Area<'_>, title: &str, end: f32, lines: Vec<Line>) -> Drawn {
    let highest = lines.iter().flat_map(|line| &line.points).fold(0f32, |most, p| most.max(p.1));
    let top = if highest > 0.0 { 1.05 * highest } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT_NAME, 22))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    let (whole, short) = (|v: &f32| format!("{v:.0}"), |v: &f32| short(*v));
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.12)).label_style((FONT_NAME, 15)).x_labels(8).y_labels(6);
    mesh.x_label_formatter(&whole).y_label_formatter(&short).draw()?;
    let falls = lines.iter().any(|line| line.points.first().zip(line.points.last()).is_some_and(|(first, last)| last.1 < first.1));
    let has_names = lines.iter().any(|line| !line.name.is_empty());
    for Line { name, color, dots, points } in lines {
        let series = chart.draw_series(LineSeries::new(points, color.filled().stroke_width(2)).point_size(dots))?;
        series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
    }
    if has_names {
        let mut names = chart.configure_series_labels();
        names.background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.2)).label_font((FONT_NAME, 15));
        names.position(if falls { SeriesLabelPosition::UpperRight } else { SeriesLabelPosition::LowerRight }).draw()?;
    }
    Ok(())
}

/// A number for an axis: losses and precisions as they are, small rates with their power of ten.
fn short(v: f32) -> String {
    if v == 0.0 || v >= 0.01 { format!("{}", (v * 1000.0).round() / 1000.0) } else { format!("{v:.1e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_nothing_of_a_step_and_of_many_are_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.png");
        for steps in [0, 1, 5000] {
            let mut curves = Curves::default();
            (0..steps).for_each(|i| curves.add_step(i, 20.0 / (1.0 + i as f32 * 0.01) + (i as f32).sin(), 1e-4));
            (0..steps.div_ceil(1000)).for_each(|i| curves.add_scores(1000 * i, [0.1 * i as f64, 0.2 * i as f64]));
            curves.write(&path).unwrap();
            let picture = image::open(&path).unwrap().to_rgb8();
            assert_eq!(picture.dimensions(), (WIDTH, HEIGHT));
            let of = |RGBColor(r, g, b): RGBColor| picture.pixels().filter(|p| p.0 == [r, g, b]).count();
            assert_eq!(of(BLUE) > 300, steps > 1, "{steps}: {}", of(BLUE));
        }
    }

    #[test]
    fn too_many_points_are_averaged() {
        let many = thinned((0..2500).map(|i| (i as f32, 2.0 * i as f32)));
        assert_eq!((many.len(), many[0], many[833]), (834, (1.0, 2.0), (2499.0, 4998.0)));
        assert_eq!(thinned([(1.0, 5.0)].into_iter()), [(1.0, 5.0)]);
    }

    #[test]
    fn numbers_of_an_axis_are_short() {
        assert_eq!([0.0, 12.5, 0.05, 1e-4].map(short), ["0", "12.5", "0.05", "1.0e-4"]);
    }
}
