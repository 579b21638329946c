//! Heat maps over pictures: where the cells of a coarse grid have most.

use super::mix;
use image::{Rgb, RgbImage};

/// Values of the cells of a grid that lies on a picture from its top left corner.
#[derive(Clone, Copy, Debug)]
pub struct Heat<'a> {
    /// At least 0, row by row.
    pub values: &'a [f32],
    /// Cells in a row.
    pub columns: usize,
    /// Width and height of a cell in pixels of the picture.
    pub cell: [f32; 2],
}

/// From nothing to most: black, violet, red, orange, pale yellow.
const RAMP: [[f32; 3]; 5] = [[0.0, 0.0, 4.0], [87.0, 16.0, 110.0], [188.0, 55.0, 84.0], [249.0, 142.0, 9.0], [252.0, 255.0, 164.0]];
/// How bright the picture stays where there is nothing, and how much of it is covered where there is most.
const DIMMED: f32 = 0.55;
const COVER: f32 = 0.85;

/// Draws a heat map over a picture, which it leaves dim and grey; its colours end at the largest value.
pub fn heat(image: &mut RgbImage, heat: Heat<'_>) {
    let most = heat.values.iter().copied().fold(0.0, f32::max);
    if heat.columns == 0 || most <= 0.0 {
        return;
    }
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        let share = (heat.at([x as f32 + 0.5, y as f32 + 0.5]) / most).clamp(0.0, 1.0);
        let grey = DIMMED * super::luma(*pixel);
        // The root makes the faint visible.
        *pixel = mix(Rgb([grey as u8; 3]), ramp(share), COVER * share.sqrt());
    }
}

impl Heat<'_> {
    /// The value at a place in pixels, between the centres of cells in proportion.
    fn at(&self, place: [f32; 2]) -> f32 {
        let rows = self.values.len() / self.columns;
        let [(left, right, across), (top, bottom, down)] =
            [(0, self.columns), (1, rows)].map(|(axis, cells)| between(place[axis] / self.cell[axis] - 0.5, cells));
        let value = |row: usize, column: usize| self.values[row * self.columns + column];
        let along = |row: usize| value(row, left) * (1.0 - across) + value(row, right) * across;
        along(top) * (1.0 - down) + along(bottom) * down
    }
}

/// The cells before and behind a place, and how far it is from the first to the second.
fn between(place: f32, cells: usize) -> (usize, usize, f32) {
    let place = place.clamp(0.0, (cells - 1) as f32);
    let before = place.floor();
    (before as usize, (before as usize + 1).min(cells - 1), place - before)
}

fn ramp(share: f32) -> Rgb<u8> {
    let (before, behind, far) = between(share * (RAMP.len() - 1) as f32, RAMP.len());
    Rgb(std::array::from_fn(|c| (RAMP[before][c] * (1.0 - far) + RAMP[behind][c] * far).round() as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_warmest_where_there_is_most() {
        let mut image = RgbImage::from_pixel(60, 40, Rgb([100, 100, 100]));
        let values = [0.0, 0.0, 0.0, 0.0, 0.5, 0.0];
        heat(&mut image, Heat { values: &values, columns: 3, cell: [20.0, 20.0] });
        let red = |x, y| image.get_pixel(x, y).0[0];
        assert!(red(29, 30) > 200 && red(29, 30) > red(29, 20) && red(29, 20) > red(29, 9), "{:?}", image.get_pixel(29, 30));
        assert_eq!(image.get_pixel(5, 5), &Rgb([55, 55, 55]));
    }

    #[test]
    fn values_lie_between_those_of_the_cells_around() {
        let map = Heat { values: &[0.0, 1.0, 2.0, 3.0], columns: 2, cell: [10.0, 10.0] };
        let near = |place: [f32; 2], value: f32| assert!((map.at(place) - value).abs() < 1e-5, "{place:?}: {}", map.at(place));
        [([5.0, 5.0], 0.0), ([10.0, 10.0], 1.5), ([0.0, 19.0], 2.0), ([15.0, 10.0], 2.0), ([99.0, 99.0], 3.0)]
            .into_iter()
            .for_each(|(place, value)| near(place, value));
    }

    #[test]
    fn nothing_leaves_the_picture_alone() {
        let grey = RgbImage::from_pixel(3, 3, Rgb([7, 8, 9]));
        for values in [&[][..], &[0.0, 0.0]] {
            let mut image = grey.clone();
            heat(&mut image, Heat { values, columns: values.len(), cell: [1.0, 1.0] });
            assert_eq!(image, grey);
        }
        heat(&mut RgbImage::new(0, 0), Heat { values: &[1.0], columns: 1, cell: [1.0, 1.0] });
    }
}
