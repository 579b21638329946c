//! What all runs of an ablation found together: mean and spread over seeds, by method and bits.

use super::{Method, RealValued, Record};
use crate::draw::dots::{Chart, Point};
use crate::eval::Summary;
use crate::quant::Bits;
use serde::Serialize;
use std::fmt::Write;

/// Mean and spread of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, of the whole that these are a sample of; none of a single number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Self { mean, deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) }
    }

    /// In percent, as papers have it: `41.3 ± 0.2`.
    fn percent(self) -> String {
        let deviation = self.deviation.map(|d| format!(" ± {:.1}", 100.0 * d)).unwrap_or_default();
        format!("{:.1}{deviation}", 100.0 * self.mean)
    }
}

/// A method in some bits, over all seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// The method.
    pub method: Method,
    /// The bits.
    pub bits: Bits,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// AP of the models behind the last epoch.
    #[serde(rename = "AP")]
    pub ap: Spread,
    /// Their AP at an IoU of 0.5.
    #[serde(rename = "AP50")]
    pub ap50: Spread,
    /// AP of the best evaluations.
    #[serde(rename = "best_AP")]
    pub best_ap: Spread,
    /// The share of the AP between baseline and float model that the method regains; none where the baseline lost nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_closed: Option<f64>,
}

/// All of an ablation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// The float model that all runs start from.
    pub real_valued: Summary,
    /// Methods in their order, for each of the bits, the most first.
    pub cells: Vec<Cell>,
    #[serde(skip)]
    records: Vec<Record>,
}

impl Table {
    /// The table of what was found so far.
    pub fn new(real: &RealValued, records: &[Record]) -> Self {
        let mut records = records.to_vec();
        records.sort_by_key(|r| (std::cmp::Reverse(order(r.variant.bits)), r.variant.method, r.variant.seed));
        let rows = records.chunk_by(|a, b| (a.variant.bits, a.variant.method) == (b.variant.bits, b.variant.method));
        let mut cells: Vec<Cell> = rows.map(Cell::new).collect();
        let baselines: Vec<(Bits, f64)> = cells.iter().filter(|c| c.method == Method::Baseline).map(|c| (c.bits, c.ap.mean)).collect();
        for cell in cells.iter_mut().filter(|cell| cell.method > Method::Baseline) {
            let baseline = baselines.iter().find(|(bits, _)| *bits == cell.bits);
            let gap = baseline.map(|(_, ap)| (real.summary.ap - ap, cell.ap.mean - ap));
            cell.gap_closed = gap.filter(|(gap, _)| *gap > 0.0).map(|(gap, gain)| gain / gap);
        }
        Self { real_valued: real.summary.clone(), cells, records }
    }

    /// The bits that there are results of, the most first.
    fn bits(&self) -> Vec<Bits> {
        let mut bits: Vec<Bits> = self.cells.iter().map(|cell| cell.bits).collect();
        bits.dedup();
        bits
    }

    fn methods(&self) -> Vec<Method> {
        Method::ALL.into_iter().filter(|&method| self.cells.iter().any(|cell| cell.method == method)).collect()
    }

    fn cell(&self, method: Method, bits: Bits) -> Option<&Cell> {
        self.cells.iter().find(|cell| (cell.method, cell.bits) == (method, bits))
    }

    /// The tables as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Ablation\n\n");
        let real = &self.real_valued;
        let seeds: std::collections::BTreeSet<u64> = self.cells.iter().flat_map(|cell| cell.seeds.iter().copied()).collect();
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let _ = writeln!(
            text,
            "COCO's average precision in percent, on the validation pictures. Mean ± standard deviation over the seeds {}; behind a cell in \
             brackets, the number of its seeds where it has fewer.\n",
            seeds.join(", ")
        );
        let all = seeds.len();
        self.write(&mut text, all, "AP behind the last epoch", Some(real.ap), &|cell| Some(cell.ap.percent()));
        self.write(&mut text, all, "AP50 behind the last epoch", Some(real.ap50), &|cell| Some(cell.ap50.percent()));
        let gap = |cell: &Cell| cell.gap_closed.map(|gap| format!("{:.0} %", 100.0 * gap));
        self.write(
            &mut text,
            all,
            "Share of the gap between baseline and real-valued that is closed, of AP behind the last epoch",
            None,
            &gap,
        );
        let best = "AP of the best evaluation, which was chosen by looking at the validation pictures";
        self.write(&mut text, all, best, None, &|cell| Some(cell.best_ap.percent()));
        text
    }

    /// One table: methods down, bits across.
    fn write(&self, text: &mut String, seeds: usize, title: &str, real: Option<f64>, show: &dyn Fn(&Cell) -> Option<String>) {
        let (bits, methods) = (self.bits(), self.methods());
        let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
        let _ = write!(text, "## {title}\n\n{}", row("method", bits.iter().map(Bits::to_string).collect()));
        text.push_str(&row("---", vec!["---:".to_owned(); bits.len()]));
        if let Some(real) = real {
            text.push_str(&row("Real-valued", vec![format!("{:.1}", 100.0 * real); bits.len()]));
        }
        for method in methods {
            let cell = |&bits: &Bits| {
                let cell = self.cell(method, bits)?;
                let fewer = if cell.seeds.len() < seeds { format!(" ({})", cell.seeds.len()) } else { String::new() };
                Some(format!("{}{fewer}", show(cell)?))
            };
            let cells: Vec<Option<String>> = bits.iter().map(cell).collect();
            if cells.iter().any(Option::is_some) {
                text.push_str(&row(method.title(), cells.into_iter().map(|c| c.unwrap_or_else(|| "–".into())).collect()));
            }
        }
        text.push('\n');
    }

    /// A dot for every run, behind its last epoch.
    pub fn chart(&self) -> Chart {
        let (bits, methods) = (self.bits(), self.methods());
        let place = |record: &Record| {
            let group = bits.iter().position(|&b| b == record.variant.bits)?;
            let series = methods.iter().position(|&m| m == record.variant.method)?;
            Some(Point { group, series, value: 100.0 * record.last.ap })
        };
        Chart {
            title: "AP behind the last epoch, in percent; a dot is a seed, a bar their mean".into(),
            groups: bits.iter().map(Bits::to_string).collect(),
            series: methods.iter().map(|m| m.title().to_owned()).collect(),
            points: self.records.iter().filter_map(place).collect(),
            line: Some(("real-valued".into(), 100.0 * self.real_valued.ap)),
        }
    }

    /// A line for every run, the float model's first.
    pub fn csv(&self) -> String {
        csv(&self.real_valued, &self.records)
    }
}

impl Cell {
    fn new(records: &[Record]) -> Self {
        let of = |value: fn(&Record) -> f64| Spread::of(&records.iter().map(value).collect::<Vec<_>>());
        let variant = records[0].variant;
        Self {
            method: variant.method,
            bits: variant.bits,
            seeds: records.iter().map(|r| r.variant.seed).collect(),
            ap: of(|r| r.last.ap),
            ap50: of(|r| r.last.ap50),
            best_ap: of(|r| r.best.ap),
            gap_closed: None,
        }
    }
}

fn order(bits: Bits) -> (u32, u32, u32) {
    (bits.weights, bits.activations, bits.attention)
}

fn csv(real: &Summary, records: &[Record]) -> String {
    let numbers = |summary: &Summary| summary.numbers().map(|(_, value)| value.to_string()).join(",");
    let names = real.numbers().map(|(name, _)| name).join(",");
    let mut text = format!("method,bits,seed,steps,seconds,{names},best_AP,best_epoch\nreal-valued,,,,,{},,\n", numbers(real));
    for Record { variant, steps, seconds, last, best, .. } in records {
        let (method, bits, seed) = (variant.method.name(), variant.bits, variant.seed);
        let _ = writeln!(text, "{method},{bits},{seed},{steps},{seconds:.1},{},{},{}", numbers(last), best.ap, best.epoch + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Best;
    use crate::train::ablation::Variant;
    use serde_json::Value;

    fn summary(ap: f64) -> Summary {
        let json = format!(
            "{{\"AP\":{ap},\"AP50\":{},\"AP75\":0,\"APs\":-1,\"APm\":0,\"APl\":0,\"AR1\":0,\"AR10\":0,\"AR100\":0,\"ARs\":0,\"ARm\":0,\"ARl\":0,\"per_class\":[]}}",
            1.5 * ap
        );
        serde_json::from_str(&json).unwrap()
    }

    fn record(method: Method, bits: &str, seed: u64, ap: f64) -> Record {
        let variant = Variant { method, bits: bits.parse().unwrap(), seed };
        let best = Best { epoch: 1, ap: ap + 0.01 };
        Record { variant, steps: 10, seconds: 2.0, last: summary(ap), best, settings: Value::Null }
    }

    fn table() -> Table {
        let real = RealValued { summary: summary(0.5), settings: Value::Null };
        let records = [
            record(Method::QDetr, "4-4-8", 2, 0.46),
            record(Method::Baseline, "2-2-8", 1, 0.1),
            record(Method::Baseline, "4-4-8", 1, 0.39),
            record(Method::Baseline, "4-4-8", 2, 0.41),
            record(Method::QDetr, "4-4-8", 1, 0.48),
            record(Method::Lsq, "4-4-8", 1, 0.3),
        ];
        Table::new(&real, &records)
    }

    #[test]
    fn tables_are_means_and_spreads_by_method_and_bits() {
        let text = table().markdown();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        let expected = [
            "| method | 4-4-8 | 2-2-8 |",
            "| --- | ---: | ---: |",
            "| Real-valued | 50.0 | 50.0 |",
            "| LSQ | 30.0 (1) | – |",
            "| Baseline (LSQ+) | 40.0 ± 1.4 | 10.0 (1) |",
            "| Q-DETR (+ DA + FQM) | 47.0 ± 1.4 | – |",
        ];
        assert_eq!(lines[..6], expected);
        assert!(text.contains("| Q-DETR (+ DA + FQM) | 70 % | – |\n") && !text.contains("| LSQ | –"), "{text}");
        assert!(text.contains("seeds 1, 2;") && text.contains("| LSQ | 31.0 (1) | – |"), "{text}");
    }

    #[test]
    fn a_baseline_that_lost_nothing_leaves_no_gap() {
        let real = RealValued { summary: summary(0.5), settings: Value::Null };
        let records = [record(Method::Baseline, "4-4-8", 1, 0.5), record(Method::Da, "4-4-8", 1, 0.6)];
        assert_eq!(Table::new(&real, &records).cells[1].gap_closed, None);
        assert_eq!(Table::new(&real, &records[1..]).cells[0].gap_closed, None);
        assert_eq!(Table::new(&real, &[]).cells, []);
    }

    #[test]
    fn a_run_is_a_line_of_the_list() {
        let text = table().csv();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 8);
        assert!(lines[1].starts_with("real-valued,,,,,0.5,0.75,0,-1,"), "{}", lines[1]);
        assert!(lines[2].starts_with("lsq,4-4-8,1,10,2.0,0.3,") && lines[2].ends_with(",0.31,2"), "{}", lines[2]);
        assert!(lines.iter().all(|line| line.matches(',').count() == lines[0].matches(',').count()), "{text}");
    }

    #[test]
    fn every_run_is_a_dot() {
        let chart = table().chart();
        assert_eq!((chart.points.len(), chart.groups.len(), chart.series.len()), (6, 2, 3));
        assert_eq!(chart.points[0], Point { group: 0, series: 0, value: 30.0 });
    }
}
