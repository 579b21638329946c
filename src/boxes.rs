//! Boxes: their forms, areas and overlaps, on `f32` and `f64`.
//!
//! Three forms are in use, always as `[T; 4]`:
//!
//! | form | elements | where |
//! | --- | --- | --- |
//! | `xyxy` | left, top, right, bottom | overlaps, pictures, the ground truth of a training image |
//! | `cxcywh` | centre x, centre y, width, height | what DETR predicts, normalized by the image size |
//! | `xywh` | left, top, width, height | COCO's JSON files |
//!
//! Coordinates are continuous: the first pixel covers `0..1`, a box from 0 to 1 is one pixel wide. A NaN in a box
//! makes every overlap with it NaN; it is never hidden.

use std::ops::{Add, Div, Mul, Sub};

/// `f32` or `f64`.
pub trait Real:
    Copy + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + private::Sealed
{
    /// 0
    const ZERO: Self;
    /// ½
    const HALF: Self;
    /// The smaller of two, as IEEE 754 `minNum`: a NaN loses.
    fn min(self, other: Self) -> Self;
    /// The larger of two, as IEEE 754 `maxNum`: a NaN loses.
    fn max(self, other: Self) -> Self;
}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const HALF: Self = 0.5;
            fn min(self, other: Self) -> Self {
                <$t>::min(self, other)
            }
            fn max(self, other: Self) -> Self {
                <$t>::max(self, other)
            }
        }
    };
}
real!(f32);
real!(f64);

/// `[cx, cy, w, h]` to `[cx − w/2, cy − h/2, cx + w/2, cy + h/2]`.
pub fn cxcywh_to_xyxy<T: Real>([cx, cy, w, h]: [T; 4]) -> [T; 4] {
    let (w, h) = (w * T::HALF, h * T::HALF);
    [cx - w, cy - h, cx + w, cy + h]
}

/// `[x0, y0, x1, y1]` to `[(x0 + x1)/2, (y0 + y1)/2, x1 − x0, y1 − y0]`.
pub fn xyxy_to_cxcywh<T: Real>([x0, y0, x1, y1]: [T; 4]) -> [T; 4] {
    [(x0 + x1) * T::HALF, (y0 + y1) * T::HALF, x1 - x0, y1 - y0]
}

/// `[x, y, w, h]` to `[x, y, x + w, y + h]`.
pub fn xywh_to_xyxy<T: Real>([x, y, w, h]: [T; 4]) -> [T; 4] {
    [x, y, x + w, y + h]
}

/// `[x0, y0, x1, y1]` to `[x0, y0, x1 − x0, y1 − y0]`.
pub fn xyxy_to_xywh<T: Real>([x0, y0, x1, y1]: [T; 4]) -> [T; 4] {
    [x0, y0, x1 - x0, y1 - y0]
}

/// The part of an `xyxy` box that lies within `0..width`, `0..height`. A box that lies outside comes back with no area.
pub fn clip<T: Real>([x0, y0, x1, y1]: [T; 4], width: T, height: T) -> [T; 4] {
    let within = |v: T, end: T| v.max(T::ZERO).min(end);
    [within(x0, width), within(y0, height), within(x1, width), within(y1, height)]
}

/// `(x1 − x0) · (y1 − y0)` of an `xyxy` box.
pub fn area<T: Real>([x0, y0, x1, y1]: [T; 4]) -> T {
    (x1 - x0) * (y1 - y0)
}

/// Intersection over union of two `xyxy` boxes: `|a ∩ b| / |a ∪ b|`, in 0..=1; 0 for two boxes without area.
pub fn iou<T: Real>(a: [T; 4], b: [T; 4]) -> T {
    let (intersection, union) = overlap(a, b);
    ratio(intersection, union)
}

/// Generalized intersection over union of two `xyxy` boxes: `IoU − (|h| − |a ∪ b|) / |h|` with `h` the smallest box around
/// both (Rezatofighi et al., CVPR 2019), in −1..=1. It falls with the distance of boxes that do not meet, where the IoU is
/// flat.
pub fn giou<T: Real>(a: [T; 4], b: [T; 4]) -> T {
    let (intersection, union) = overlap(a, b);
    let hull = area([a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]);
    ratio(intersection, union) - ratio(hull - union, hull)
}

/// Areas of the intersection and of the union.
fn overlap<T: Real>(a: [T; 4], b: [T; 4]) -> (T, T) {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(T::ZERO);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(T::ZERO);
    let intersection = width * height;
    (intersection, area(a) + area(b) - intersection)
}

/// `part / whole`, and 0 where both are 0: boxes without area overlap nothing.
fn ratio<T: Real>(part: T, whole: T) -> T {
    if whole == T::ZERO { T::ZERO } else { part / whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: [f64; 4] = [0.0, 0.0, 1.0, 1.0];

    fn any_box() -> impl Strategy<Value = [f64; 4]> {
        (-50.0..50.0, -50.0..50.0, 0.01..40.0, 0.01..40.0).prop_map(|(x, y, w, h)| [x, y, x + w, y + h])
    }

    #[test]
    fn forms_convert_as_written() {
        assert_eq!(cxcywh_to_xyxy([2.0f32, 3.0, 2.0, 4.0]), [1.0, 1.0, 3.0, 5.0]);
        assert_eq!(xyxy_to_cxcywh([1.0f32, 1.0, 3.0, 5.0]), [2.0, 3.0, 2.0, 4.0]);
        assert_eq!(xywh_to_xyxy([1.0f64, 2.0, 3.0, 4.0]), [1.0, 2.0, 4.0, 6.0]);
        assert_eq!(xyxy_to_xywh([1.0f64, 2.0, 4.0, 6.0]), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn overlaps_have_the_values_worked_out_by_hand() {
        let half = [0.5, 0.0, 1.5, 1.0];
        assert_eq!(iou(UNIT, half), 0.5 / 1.5);
        assert_eq!(giou(UNIT, half), 0.5 / 1.5); // the hull is the union
        let apart = [2.0, 0.0, 3.0, 1.0];
        assert_eq!(iou(UNIT, apart), 0.0);
        assert_eq!(giou(UNIT, apart), -1.0 / 3.0);
        let corner = [1.0, 1.0, 2.0, 2.0];
        assert_eq!(giou(UNIT, corner), -0.5);
    }

    #[test]
    fn boxes_without_area_overlap_nothing() {
        let point = [0.5f32, 0.5, 0.5, 0.5];
        assert_eq!(iou(point, point), 0.0);
        assert_eq!(giou(point, point), 0.0);
        assert_eq!(iou(point, [0.0, 0.0, 1.0, 1.0]), 0.0);
    }

    #[test]
    fn a_nan_is_not_hidden() {
        for i in 0..4 {
            let mut bad = UNIT;
            bad[i] = f64::NAN;
            assert!(iou(bad, UNIT).is_nan() && iou(UNIT, bad).is_nan() && giou(UNIT, bad).is_nan(), "element {i}");
        }
    }

    #[test]
    fn clipping_keeps_what_is_inside() {
        assert_eq!(clip([-5.0f32, 2.0, 30.0, 8.0], 20.0, 10.0), [0.0, 2.0, 20.0, 8.0]);
        assert_eq!(area(clip([25.0f32, 2.0, 30.0, 8.0], 20.0, 10.0)), 0.0);
    }

    proptest! {
        #[test]
        fn overlaps_are_symmetric_and_bounded(a in any_box(), b in any_box()) {
            let (i, g) = (iou(a, b), giou(a, b));
            prop_assert!((i - iou(b, a)).abs() < 1e-12 && (g - giou(b, a)).abs() < 1e-12);
            prop_assert!((0.0..=1.0 + 1e-12).contains(&i) && (-1.0..=i + 1e-12).contains(&g));
        }

        #[test]
        fn a_box_overlaps_itself_entirely(a in any_box()) {
            prop_assert!((iou(a, a) - 1.0).abs() < 1e-9 && (giou(a, a) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn conversions_are_inverse(a in any_box()) {
            for (x, y) in a.into_iter().zip(cxcywh_to_xyxy(xyxy_to_cxcywh(a))) {
                prop_assert!((x - y).abs() < 1e-9);
            }
            for (x, y) in a.into_iter().zip(xywh_to_xyxy(xyxy_to_xywh(a))) {
                prop_assert!((x - y).abs() < 1e-9);
            }
        }
    }
}
