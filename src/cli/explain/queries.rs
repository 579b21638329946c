//! The queries of the decoder's attention to the picture: how they are distributed, layer by layer and model by model (Q-DETR, figures 1
//! and 5).

use super::Eye;
use qdetr::data::image::RgbImage;
use qdetr::draw::{Panel, grid, histogram};
use qdetr::models::distribution::histogram as shares;
use qdetr::models::{Distribution, Look};
use serde::Serialize;
use std::fmt;

const BINS: usize = 92;
/// Histograms end so many deviations from 0, or from the mean.
const REACH: f64 = 4.0;

/// The queries of a model on all pictures.
pub(super) struct Queries {
    layers: Vec<Layer>,
}

/// Those of one layer.
struct Layer {
    number: usize,
    queries: Vec<f32>,
    /// The same behind distribution alignment, where there is one.
    aligned: Vec<f32>,
}

/// How the queries of a layer are distributed.
#[derive(Serialize)]
pub(super) struct QueryReport {
    model: &'static str,
    layer: usize,
    /// Whether these are behind distribution alignment.
    aligned: bool,
    #[serde(flatten)]
    distribution: Distribution,
}

/// First, middle and last layer of so many; fewer when there are fewer.
pub(super) fn rows(layers: usize) -> Vec<usize> {
    let mut rows = vec![0, (layers - 1) / 2, layers - 1];
    rows.dedup();
    rows
}

impl Queries {
    /// None yet, of so many layers of a model, those that correspond to the rows of a picture.
    pub(super) fn new(layers: usize, rows: usize) -> Self {
        let number = |row: usize| if rows < 2 { layers - 1 } else { row * (layers - 1) / (rows - 1) };
        let layer = |row| Layer { number: number(row), queries: Vec::new(), aligned: Vec::new() };
        Self { layers: (0..rows).map(layer).collect() }
    }

    /// Takes what was seen into account.
    pub(super) fn add(&mut self, look: &Look) {
        for layer in &mut self.layers {
            let seen = &look.layers[layer.number];
            layer.queries.extend_from_slice(&seen.queries.to_f32());
            seen.aligned.iter().for_each(|aligned| layer.aligned.extend_from_slice(&aligned.to_f32()));
        }
    }
}

impl Layer {
    /// The queries, and those behind alignment where there are some.
    fn parts(&self) -> impl Iterator<Item = (bool, &[f32])> {
        [(false, &self.queries[..]), (true, &self.aligned[..])].into_iter().filter(|(_, values)| !values.is_empty())
    }
}

/// The numbers of all models and layers.
pub(super) fn report(eyes: &[Eye]) -> Vec<QueryReport> {
    let of_layer = |eye: &Eye, layer: &Layer| {
        let (model, number) = (eye.role, layer.number);
        let report =
            move |(aligned, values): (bool, &[f32])| QueryReport { model, layer: number, aligned, distribution: Distribution::of(values) };
        layer.parts().map(report).collect::<Vec<_>>()
    };
    eyes.iter().flat_map(|eye| eye.queries.layers.iter().flat_map(move |layer| of_layer(eye, layer))).collect()
}

/// Histograms: layers down, models across, those behind alignment beside those before. All of a row have one range.
pub(super) fn draw(eyes: &[Eye], rows: usize) -> RgbImage {
    let panels: Vec<Vec<Panel>> = (0..rows).map(|row| draw_row(eyes, row)).collect();
    grid(&panels)
}

fn draw_row(eyes: &[Eye], row: usize) -> Vec<Panel> {
    let mut parts = Vec::new();
    for (series, eye) in eyes.iter().enumerate() {
        let layer = &eye.queries.layers[row];
        for (aligned, values) in layer.parts() {
            let behind = if aligned { ", aligned" } else { "" };
            parts.push((series, format!("{}, layer {}{behind}", eye.title, layer.number), values, Distribution::of(values)));
        }
    }
    let end = parts.iter().map(|(.., d)| d.mean.abs() + REACH * d.deviation).fold(f64::MIN_POSITIVE, f64::max);
    let shares: Vec<Vec<f64>> = parts.iter().map(|(_, _, values, _)| shares(values, (-end, end), BINS)).collect();
    let top = shares.iter().flatten().copied().fold(0.0, f64::max);
    let panel = |((series, title, _, d), shares): (&(usize, String, &[f32], Distribution), &Vec<f64>)| {
        let lines = lines(d);
        let image = histogram::draw(&histogram::Histogram { shares, range: (-end, end), top, lines: &lines, series: *series });
        Panel { title: title.clone(), image }
    };
    parts.iter().zip(&shares).map(panel).collect()
}

fn lines(d: &Distribution) -> Vec<String> {
    let entropy = d.entropy.zip(d.entropy_of_shape).map(|(all, shape)| format!("entropy {all:.2} bits, of its shape {shape:.2}"));
    [format!("mean {:.2}, deviation {:.2}", d.mean, d.deviation)].into_iter().chain(entropy).collect()
}

impl fmt::Display for QueryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, layer, aligned, distribution } = self;
        let what = if *aligned { "aligned queries" } else { "queries" };
        writeln!(f, "{model:9} layer {layer} {what:15} {}", lines(distribution).join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_first_middle_and_last() {
        assert_eq!([6, 3, 2, 1].map(rows), [vec![0, 2, 5], vec![0, 1, 2], vec![0, 1], vec![0]]);
        let numbers = |layers, rows| Queries::new(layers, rows).layers.iter().map(|layer| layer.number).collect::<Vec<_>>();
        assert_eq!([numbers(6, 3), numbers(3, 3), numbers(2, 3), numbers(4, 1)], [vec![0, 2, 5], vec![0, 1, 2], vec![0, 0, 1], vec![3]]);
    }
}
