//! Roofline plots (Williams et al., CACM 2009): how fast kernels compute, over how much they compute for each byte.

use super::canvas::{Rect, fill};
use super::text::Pen;
use super::{BLACK, COLORS, WHITE};
use image::{Rgb, RgbImage};

const SIZE: (u32, u32) = (1280, 800);
const LEFT: i32 = 90;
const RIGHT: i32 = 1250;
const TOP: i32 = 60;
const BOTTOM: i32 = 730;
const GRID: Rgb<u8> = Rgb([225, 225, 225]);
const ROOF: Rgb<u8> = Rgb([110, 110, 110]);
/// Half the width of a point.
const DOT: i32 = 4;

/// What a plot shows.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Above the plot.
    pub title: String,
    /// The memory's rate in GB/s.
    pub gb_s: f64,
    /// The roofs of arithmetic, by name, in TFLOP/s.
    pub peaks: Vec<(&'a str, f64)>,
    /// What the series of points are called.
    pub series: Vec<String>,
    /// The kernels.
    pub points: Vec<Point>,
}

/// A kernel.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Operations for each byte; above 0.
    pub intensity: f64,
    /// Its rate; above 0.
    pub tflop_s: f64,
    /// Which of the chart's series it belongs to.
    pub series: usize,
}

/// An axis that counts decades.
#[derive(Clone, Copy)]
struct Axis {
    /// Powers of ten at both ends.
    decades: (i32, i32),
    /// Pixels there.
    pixels: (i32, i32),
}

impl Axis {
    /// An axis over all positive numbers among `values`, in whole decades.
    fn over(values: impl Iterator<Item = f64>, pixels: (i32, i32)) -> Self {
        let logs = values.filter(|v| *v > 0.0 && v.is_finite()).map(f64::log10);
        let (low, high) = logs.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let decades = if low > high { (0, 1) } else { (low.floor() as i32, (high.ceil() as i32).max(low.floor() as i32 + 1)) };
        Self { decades, pixels }
    }

    fn at(self, value: f64) -> i32 {
        let (low, high) = self.decades;
        let part = (value.max(f64::MIN_POSITIVE).log10() - f64::from(low)) / f64::from(high - low);
        let (start, end) = self.pixels;
        start + (part.clamp(0.0, 1.0) * f64::from(end - start)).round() as i32
    }

    fn value(self, pixel: i32) -> f64 {
        let (low, high) = self.decades;
        let part = f64::from(pixel - self.pixels.0) / f64::from(self.pixels.1 - self.pixels.0);
        10f64.powf(f64::from(low) + part * f64::from(high - low))
    }

    fn ticks(self) -> impl Iterator<Item = i32> {
        self.decades.0..=self.decades.1
    }
}

/// Draws a chart. What has no operations or no time has no place on it.
pub fn draw(chart: &Chart<'_>) -> RgbImage {
    let mut image = RgbImage::from_pixel(SIZE.0, SIZE.1, WHITE);
    let ridges = chart.peaks.iter().map(|(_, peak)| peak * 1e3 / chart.gb_s);
    let x = Axis::over(chart.points.iter().map(|p| p.intensity).chain(ridges), (LEFT, RIGHT));
    let y = Axis::over(chart.points.iter().map(|p| p.tflop_s).chain(chart.peaks.iter().map(|p| p.1)), (BOTTOM, TOP));
    let pen = Pen::new(18.0);
    grid(&mut image, &pen, x, y);
    // Side by side, for roofs may be of one height.
    let mut right = RIGHT;
    for (name, peak) in &chart.peaks {
        roof(&mut image, x, y, chart.gb_s, *peak);
        let name = format!("{name}: {peak:.3}");
        right -= pen.width(&name) + 20;
        pen.write_at(&mut image, &name, right, y.at(*peak) - pen.height() - 2, BLACK);
    }
    for point in &chart.points {
        mark(&mut image, x.at(point.intensity), y.at(point.tflop_s), COLORS[(point.series + 4) % COLORS.len()]);
    }
    pen.write_at(&mut image, &format!("{}; memory {:.0} GB/s", chart.title, chart.gb_s), LEFT, 8, BLACK);
    let mut left = LEFT;
    for (i, series) in chart.series.iter().enumerate() {
        mark(&mut image, left + DOT, 44, COLORS[(i + 4) % COLORS.len()]);
        pen.write_at(&mut image, series, left + 3 * DOT, 33, BLACK);
        left += pen.width(series) + 40;
    }
    image
}

/// Lines and numbers of the decades, and what the axes are.
fn grid(image: &mut RgbImage, pen: &Pen, x: Axis, y: Axis) {
    for decade in x.ticks() {
        let at = x.at(10f64.powi(decade));
        fill(image, Rect { left: at, top: TOP, right: at + 1, bottom: BOTTOM }, GRID);
        pen.write_at(image, &format!("1e{decade}"), at - 20, BOTTOM + 6, BLACK);
    }
    for decade in y.ticks() {
        let at = y.at(10f64.powi(decade));
        fill(image, Rect { left: LEFT, top: at, right: RIGHT, bottom: at + 1 }, GRID);
        pen.write_at(image, &format!("1e{decade}"), 20, at - pen.height() / 2, BLACK);
    }
    pen.write_at(image, "operations for each byte", (LEFT + RIGHT) / 2 - 100, BOTTOM + 34, BLACK);
    pen.write_at(image, "TFLOP/s", 8, 33, BLACK);
}

/// `min(peak, rate of the memory · intensity)`, column by column, without gaps where it is steep.
fn roof(image: &mut RgbImage, x: Axis, y: Axis, gb_s: f64, peak: f64) {
    let height = |column: i32| y.at(peak.min(gb_s * x.value(column) / 1e3));
    for column in LEFT..RIGHT {
        let (this, next) = (height(column), height(column + 1));
        fill(image, Rect { left: column, top: this.min(next) - 1, right: column + 1, bottom: this.max(next) + 1 }, ROOF);
    }
}

fn mark(image: &mut RgbImage, x: i32, y: i32, color: Rgb<u8>) {
    let dot = Rect { left: x - DOT, top: y - DOT, right: x + DOT, bottom: y + DOT };
    fill(image, dot.grown(1), BLACK);
    fill(image, dot, color);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_roofs_are_where_they_belong() {
        let points = vec![Point { intensity: 1.0, tflop_s: 0.1, series: 0 }, Point { intensity: 100.0, tflop_s: 10.0, series: 1 }];
        let chart = Chart { title: "a".into(), gb_s: 1000.0, peaks: vec![("f32", 10.0)], series: vec!["b".into()], points };
        let image = draw(&chart);
        // Two decades each way: the first point is in the lower left corner, the second in the upper right one.
        assert_eq!(image.get_pixel(LEFT as u32, BOTTOM as u32), &COLORS[4]);
        assert_eq!(image.get_pixel(RIGHT as u32, TOP as u32), &COLORS[5]);
        // At an intensity of 1, the memory allows 1 TFLOP/s; from 10 on, the roof is flat.
        assert_eq!(image.get_pixel(LEFT as u32, ((TOP + BOTTOM) / 2) as u32), &ROOF);
        assert_eq!(image.get_pixel(((LEFT + 2 * RIGHT) / 3) as u32, TOP as u32), &ROOF);
    }

    #[test]
    fn a_chart_of_nothing_is_empty() {
        let nothing = Point { intensity: 0.0, tflop_s: f64::NAN, series: 9 };
        for points in [vec![], vec![nothing]] {
            draw(&Chart { title: String::new(), gb_s: 0.0, peaks: vec![("x", 0.0)], series: vec![], points });
        }
    }
}
