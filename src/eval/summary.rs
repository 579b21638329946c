//! The results of an evaluation, as numbers, as JSON with the usual names, and as a table.

use super::voc::Rule;
use serde::{Deserialize, Serialize};
use std::fmt;

/// COCO's twelve numbers, in 0..=1; −1 where there was nothing to find. They serialize by their usual names: `AP`, `AP50`, …
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Average precision over classes and the IoU thresholds 0.5, 0.55, …, 0.95.
    #[serde(rename = "AP")]
    pub ap: f64,
    /// At IoU 0.5.
    #[serde(rename = "AP50")]
    pub ap50: f64,
    /// At IoU 0.75.
    #[serde(rename = "AP75")]
    pub ap75: f64,
    /// Of objects of at most 32² square pixels.
    #[serde(rename = "APs")]
    pub ap_small: f64,
    /// Of objects of 32² to 96² square pixels.
    #[serde(rename = "APm")]
    pub ap_medium: f64,
    /// Of objects of at least 96² square pixels.
    #[serde(rename = "APl")]
    pub ap_large: f64,
    /// Average recall over classes and thresholds with one detection an image and class.
    #[serde(rename = "AR1")]
    pub ar1: f64,
    /// With 10 detections.
    #[serde(rename = "AR10")]
    pub ar10: f64,
    /// With 100 detections.
    #[serde(rename = "AR100")]
    pub ar100: f64,
    /// With 100 detections, of small objects.
    #[serde(rename = "ARs")]
    pub ar_small: f64,
    /// Of medium objects.
    #[serde(rename = "ARm")]
    pub ar_medium: f64,
    /// Of large objects.
    #[serde(rename = "ARl")]
    pub ar_large: f64,
    /// The classes, by rising id.
    pub per_class: Vec<ClassAp>,
}

/// One class under COCO's evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassAp {
    /// The id of the annotations.
    pub id: i64,
    /// The name.
    pub name: String,
    /// How many objects there are, crowds not counted.
    pub objects: usize,
    /// Average precision over the IoU thresholds; none without objects.
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
    /// At IoU 0.5.
    #[serde(rename = "AP50")]
    pub ap50: Option<f64>,
}

impl Summary {
    /// The twelve numbers with their names, in pycocotools' order.
    pub fn numbers(&self) -> [(&'static str, f64); 12] {
        [
            ("AP", self.ap),
            ("AP50", self.ap50),
            ("AP75", self.ap75),
            ("APs", self.ap_small),
            ("APm", self.ap_medium),
            ("APl", self.ap_large),
            ("AR1", self.ar1),
            ("AR10", self.ar10),
            ("AR100", self.ar100),
            ("ARs", self.ar_small),
            ("ARm", self.ar_medium),
            ("ARl", self.ar_large),
        ]
    }
}

impl fmt::Display for Summary {
    /// The twelve numbers in two rows, then a row for each class that has objects.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.numbers().chunks(6) {
            let cells: Vec<_> = row.iter().map(|(name, value)| format!("{name:>5} {value:6.3}")).collect();
            writeln!(f, "{}", cells.join("  "))?;
        }
        let rows: Vec<_> = self.per_class.iter().filter(|c| c.objects > 0 || c.ap.is_some()).collect();
        let width = name_width(rows.iter().map(|c| c.name.as_str()));
        writeln!(f, "\n{:<width$}  objects      AP    AP50", "class")?;
        for c in rows {
            writeln!(f, "{:<width$}  {:>7}  {}  {}", c.name, c.objects, number(c.ap), number(c.ap50))?;
        }
        Ok(())
    }
}

/// Average precision at IoU 0.5 as PASCAL VOC's devkit computes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VocSummary {
    /// Which of VOC's two rules.
    pub metric: Rule,
    /// The mean over the classes that have objects, in 0..=1; −1 where none has.
    #[serde(rename = "mAP")]
    pub map: f64,
    /// The classes, by rising id.
    pub per_class: Vec<VocClassAp>,
}

/// One class under VOC's evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VocClassAp {
    /// The id of the annotations.
    pub id: i64,
    /// The name.
    pub name: String,
    /// How many objects there are, difficult ones not counted.
    pub objects: usize,
    /// Average precision; none without objects.
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
}

impl fmt::Display for VocSummary {
    /// The mean, then a row for each class that has objects.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mAP {:.3} ({})", self.map, self.metric)?;
        let rows: Vec<_> = self.per_class.iter().filter(|c| c.ap.is_some()).collect();
        let width = name_width(rows.iter().map(|c| c.name.as_str()));
        writeln!(f, "\n{:<width$}  objects      AP", "class")?;
        for c in rows {
            writeln!(f, "{:<width$}  {:>7}  {}", c.name, c.objects, number(c.ap))?;
        }
        Ok(())
    }
}

fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|n| n.chars().count()).max().unwrap_or(0).clamp(5, 40)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| format!("{:>6}", "-"), |v| format!("{v:6.3}"))
}
