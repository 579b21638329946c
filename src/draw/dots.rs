//! Dot plots: numbers of several series in several groups, each number a dot and each mean a bar across its dots. The scale need not start
//! at 0, so that small differences are seen.

use super::canvas::{Rect, fill};
use super::text::Pen;
use super::{BLACK, COLORS, WHITE};
use image::{Rgb, RgbImage};

const SIZE: (u32, u32) = (1280, 640);
const LEFT: i32 = 80;
const RIGHT: i32 = 1260;
const TOP: i32 = 84;
const BOTTOM: i32 = 590;
const GRID: Rgb<u8> = Rgb([225, 225, 225]);
const LINE: Rgb<u8> = Rgb([110, 110, 110]);
/// Half the width of a dot, and of a mean's bar.
const DOT: i32 = 4;
const BAR: i32 = 18;
/// Lines of the scale, about.
const TICKS: f64 = 8.0;

/// What a plot shows.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above the plot.
    pub title: String,
    /// Names below the axis.
    pub groups: Vec<String>,
    /// Names of the colours.
    pub series: Vec<String>,
    /// The numbers.
    pub points: Vec<Point>,
    /// A line across all groups.
    pub line: Option<(String, f64)>,
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Which of the chart's groups it belongs to.
    pub group: usize,
    /// Which of its series.
    pub series: usize,
    /// Itself.
    pub value: f64,
}

/// From numbers to rows of pixels.
#[derive(Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// A scale over all finite values, from and to a multiple of a round step.
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let raw = ((high - low) / TICKS).max(1e-3);
        let decade = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|s| *s >= raw).unwrap_or(10.0 * decade);
        // Half a step of air, so that no dot lies on the frame.
        Self { low: ((low - step / 2.0) / step).floor() * step, high: ((high + step / 2.0) / step).ceil() * step, step }
    }

    fn at(self, value: f64) -> i32 {
        BOTTOM - ((value - self.low) / (self.high - self.low) * f64::from(BOTTOM - TOP)).round() as i32
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(move |i| self.low + i as f64 * self.step)
    }
}

/// Draws a plot.
pub fn draw(chart: &Chart) -> RgbImage {
    let mut image = RgbImage::from_pixel(SIZE.0, SIZE.1, WHITE);
    let pen = Pen::new(18.0);
    let line = chart.line.as_ref().map(|(_, value)| *value);
    let scale = Scale::over(chart.points.iter().map(|p| p.value).chain(line));
    let digits = (-scale.step.log10().floor()).max(0.0) as usize;
    for tick in scale.ticks() {
        let y = scale.at(tick);
        fill(&mut image, Rect { left: LEFT, top: y, right: RIGHT, bottom: y + 1 }, GRID);
        let text = format!("{tick:.digits$}");
        pen.write_at(&mut image, &text, LEFT - 10 - pen.width(&text), y - pen.height() / 2, BLACK);
    }
    pen.write_at(&mut image, &chart.title, LEFT, 8, BLACK);
    legend(&mut image, &pen, chart);
    if let Some((name, value)) = &chart.line {
        let y = scale.at(*value);
        fill(&mut image, Rect { left: LEFT, top: y - 1, right: RIGHT, bottom: y + 1 }, LINE);
        let text = format!("{name} {value:.1}");
        pen.write_at(&mut image, &text, RIGHT - pen.width(&text), y + 3, LINE);
    }
    for (group, name) in chart.groups.iter().enumerate() {
        let (left, right, _) = column(chart, group, 0);
        fill(&mut image, Rect { left, top: TOP, right: left + 1, bottom: BOTTOM }, GRID);
        pen.write_at(&mut image, name, (left + right - pen.width(name)) / 2, BOTTOM + 10, BLACK);
        for series in 0..chart.series.len() {
            dots(&mut image, &pen, chart, scale, (group, series));
        }
    }
    image
}

/// Left and right end of a group, and the middle of one of its series.
fn column(chart: &Chart, group: usize, series: usize) -> (i32, i32, i32) {
    let (groups, series_count) = (chart.groups.len().max(1) as i32, chart.series.len().max(1) as i32);
    let width = (RIGHT - LEFT) / groups;
    let left = LEFT + group as i32 * width;
    (left, left + width, left + (2 * series as i32 + 1) * width / (2 * series_count))
}

/// The numbers of one series in one group, and their mean.
fn dots(image: &mut RgbImage, pen: &Pen, chart: &Chart, scale: Scale, (group, series): (usize, usize)) {
    let values: Vec<f64> =
        chart.points.iter().filter(|p| (p.group, p.series) == (group, series) && p.value.is_finite()).map(|p| p.value).collect();
    if values.is_empty() {
        return;
    }
    let (x, color) = (column(chart, group, series).2, COLORS[(series + 4) % COLORS.len()]);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let y = scale.at(mean);
    let bar = Rect { left: x - BAR, top: y - 2, right: x + BAR, bottom: y + 2 };
    fill(image, bar.grown(1), BLACK);
    fill(image, bar, color);
    for &value in &values {
        let y = scale.at(value);
        let dot = Rect { left: x - DOT, top: y - DOT, right: x + DOT, bottom: y + DOT };
        fill(image, dot.grown(1), BLACK);
        fill(image, dot, color);
    }
    let text = format!("{mean:.1}");
    let lowest = values.iter().map(|&v| scale.at(v)).fold(y, i32::max);
    pen.write_at(image, &text, x - pen.width(&text) / 2, lowest + DOT + 2, BLACK);
}

fn legend(image: &mut RgbImage, pen: &Pen, chart: &Chart) {
    let mut left = LEFT;
    for (i, name) in chart.series.iter().enumerate() {
        let dot = Rect { left, top: 48 - DOT, right: left + 2 * DOT, bottom: 48 + DOT };
        fill(image, dot.grown(1), BLACK);
        fill(image, dot, COLORS[(i + 4) % COLORS.len()]);
        pen.write_at(image, name, left + 3 * DOT, 37, BLACK);
        left += pen.width(name) + 40;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_means_and_the_line_are_where_they_belong() {
        let point = |group, series, value| Point { group, series, value };
        let chart = Chart {
            title: "a".into(),
            groups: vec!["4-4-8".into(), "2-2-8".into()],
            series: vec!["x".into(), "y".into()],
            points: vec![point(0, 0, 40.0), point(0, 0, 44.0), point(1, 1, 20.0)],
            line: Some(("whole".into(), 60.0)),
        };
        let (image, scale) = (draw(&chart), Scale { low: 15.0, high: 65.0, step: 5.0 });
        let at = |group, series, value: f64| image.get_pixel(column(&chart, group, series).2 as u32, scale.at(value) as u32);
        assert_eq!([at(0, 0, 40.0), at(0, 0, 44.0), at(0, 0, 42.0), at(1, 1, 20.0)], [&COLORS[4], &COLORS[4], &COLORS[4], &COLORS[5]]);
        assert_eq!((at(1, 0, 60.0), at(1, 0, 20.0)), (&LINE, &GRID));
    }

    #[test]
    fn scales_are_round_and_hold_all_values() {
        for values in [vec![], vec![0.5], vec![20.0, 60.0], vec![-3.0, 1e-4], vec![f64::NAN, 7.0]] {
            let scale = Scale::over(values.iter().copied());
            let ticks: Vec<f64> = scale.ticks().collect();
            assert!((2..16).contains(&ticks.len()), "{values:?}: {ticks:?}");
            let inside = |v: &&f64| v.is_finite();
            assert!(values.iter().filter(inside).all(|&v| scale.low < v && v < scale.high), "{values:?}: {ticks:?}");
        }
    }

    #[test]
    fn a_chart_of_nothing_is_empty() {
        let nothing = Point { group: 9, series: 9, value: f64::NAN };
        for points in [vec![], vec![nothing]] {
            draw(&Chart { title: String::new(), groups: vec![], series: vec![], points, line: None });
        }
    }
}
