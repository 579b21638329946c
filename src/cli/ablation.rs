//! `qdetr ablation`: one schedule over methods, bits and seeds, and the table of what each found.

use super::bits::method;
use super::model::read;
use super::output::{print, print_json};
use super::train::ready_or_file;
use super::training::{DataArgs, ScheduleArgs, Show, fit_to_data, from_pictures, weigh_distillation};
use super::{DeviceArgs, start};
use clap::Args;
use qdetr::data::{Dataset, image};
use qdetr::gpu::Gpu;
use qdetr::graph::Values;
use qdetr::models::config::Alignment;
use qdetr::models::{CalibrationMethod, ModelConfig};
use qdetr::quant::{Bits, Preset, Quantization};
use qdetr::train::ablation::{self, Method, RealValued, Record, Settings, Standing, Table, Variant, fingerprint, set_fingerprint};
use qdetr::train::{Job, Outcome, Teacher, TrainConfig, evaluate, run};
use qdetr::{Error, Result, draw, files};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Arguments of `qdetr ablation`.
///
/// A run that is finished is not done again, and one that was interrupted goes on: repeat the command until all are done. Several
/// processes with other --bits, --seeds or --methods can share one --out; a last call with all of them writes the tables.
#[derive(Args)]
pub(crate) struct Ablation {
    #[command(flatten)]
    data: DataArgs,
    /// A configuration in JSON, or the name of a ready-made one, as of `qdetr train`; it says how each part works where it is on
    #[arg(long, value_name = "FILE|NAME")]
    config: String,
    /// The float model that all runs start from
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The float model whose queries are imitated [default: that of --from]
    #[arg(long, value_name = "FILE")]
    teacher: Option<PathBuf>,
    /// Weight of the distance to the teacher [default: 2.5]
    #[arg(long)]
    lambda: Option<f32>,
    /// Keep a query when it covers an object more than this share of what the best query does [default: 0.6]
    #[arg(long)]
    tau: Option<f32>,
    /// Where queries are aligned by the methods that do [default: co-attention]
    #[arg(long, value_enum)]
    alignment: Option<Alignment>,
    /// Low bits of weights, activations and attention; several behind commas
    #[arg(long, value_name = "W-A-ATTENTION", value_delimiter = ',', default_value = "4-4-8")]
    bits: Vec<Bits>,
    /// Which layers have them [default: compact]
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// What is trained; several behind commas [default: all]
    #[arg(long, value_enum, value_name = "METHOD", value_delimiter = ',', default_values_t = Method::ALL, hide_default_value = true)]
    methods: Vec<Method>,
    /// Of everything random; several behind commas
    #[arg(long, value_name = "SEED", value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// How step sizes start: lsq, min-max, mse, percentile or percentile:P; from the first pictures
    #[arg(long, value_name = "METHOD", default_value = "mse")]
    calibration: String,
    /// Stop after so many seconds, in the middle of a run if need be; the same command goes on from there
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<f64>,
    /// Print which runs there are and how far they have come; train nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// The folder for the tables, and of a folder for each run
    #[arg(long, value_name = "FOLDER", default_value = "runs/ablation")]
    out: PathBuf,
}

/// What all runs have in common.
struct Common {
    config: TrainConfig,
    calibration: CalibrationMethod,
    train: Dataset,
    validation: Dataset,
    float: (ModelConfig, Values),
    /// Where a method wants one.
    teacher: Option<Teacher>,
}

/// A run, before it begins or goes on.
struct Planned {
    variant: Variant,
    folder: PathBuf,
    config: TrainConfig,
    settings: Value,
    standing: Standing,
}

impl Ablation {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let begin = Instant::now();
        let common = self.common()?;
        // All of them before the first one begins: what is refused shall be refused at once.
        let planned = self.plan(&common)?;
        if self.dry_run {
            self.report(&DryRun { epochs: common.config.epochs, runs: planned.iter().map(Begun::of).collect() })?;
            return Ok(ExitCode::SUCCESS);
        }
        let gpu = device.open_for(common.config.precision, true)?;
        let real = self.real_valued(&gpu, &common)?;
        eprintln!("real-valued: AP {:.3}, AP50 {:.3}", real.summary.ap, real.summary.ap50);
        let (records, failed) = self.work(&gpu, &common, &planned, begin)?;
        let is_done = |run: &&Planned| records.iter().any(|record| record.variant == run.variant);
        let unfinished = planned.iter().filter(|run| !is_done(run)).map(|run| run.variant.to_string()).collect();
        let table = Table::new(&real, &records);
        self.write(&table)?;
        self.report(&Ended { table, unfinished, out: self.out.clone() })?;
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn common(&self) -> Result<Common> {
        let calibration = method(&self.calibration).map_err(|what| Error::Usage(format!("--calibration {}: {what}", self.calibration)))?;
        let mut config = self.config()?;
        let train = self.data.training()?;
        let Some(validation) = self.data.validation(&train)? else {
            return Err(Error::Usage("an ablation needs pictures to be judged on: name them with --val".into()));
        };
        fit_to_data(&mut config, &train);
        config.validate()?;
        let float = self.float(&train)?;
        let teacher = self.methods.iter().any(|method| method.distills()).then(|| self.teacher(&config, &float)).transpose()?;
        Ok(Common { config, calibration, train, validation, float, teacher })
    }

    /// Whose queries are imitated.
    fn teacher(&self, config: &TrainConfig, (model, params): &(ModelConfig, Values)) -> Result<Teacher> {
        let named = self.teacher.as_deref().map(read).transpose()?;
        let (model, params) = named.unwrap_or_else(|| (model.clone(), params.clone()));
        let teacher = Teacher { config: model, params };
        teacher.check(&config.model, &config.distilling())?;
        Ok(teacher)
    }

    /// The configuration, with what the command line says otherwise.
    fn config(&self) -> Result<TrainConfig> {
        let mut config = ready_or_file(&self.config)?;
        self.schedule.over(&mut config);
        config.model.alignment = self.alignment.unwrap_or(config.model.alignment);
        weigh_distillation(&mut config, self.lambda, self.tau);
        if let Some(preset) = self.preset {
            let configured = config.model.quantization.take().unwrap_or_else(|| Quantization::new(self.bits[0]));
            config.model.quantization = Some(Quantization { preset, ..configured });
        }
        Ok(config)
    }

    /// The model that all runs start from.
    fn float(&self, train: &Dataset) -> Result<(ModelConfig, Values)> {
        let (config, params) = read(&self.from)?;
        let path = self.from.display();
        if let Some(quantization) = &config.quantization {
            return Err(Error::Usage(format!("--from {path} is of {quantization}: an ablation starts from a model of floats")));
        }
        if config.alignment != Alignment::None {
            return Err(Error::Usage(format!(
                "--from {path} aligns its queries: an ablation starts from a model without any of its parts"
            )));
        }
        let (theirs, ours) = (config.classes, train.categories.len());
        if theirs != ours {
            return Err(Error::Usage(format!("--from {path} knows {theirs} classes, the pictures have {ours}: train it on these first")));
        }
        Ok((config, params))
    }

    fn plan(&self, common: &Common) -> Result<Vec<Planned>> {
        let [train, validation] = [&common.train, &common.validation].map(set_fingerprint);
        let start = fingerprint(&common.float.1);
        let teacher = common.teacher.as_ref().map(|teacher| fingerprint(&teacher.params));
        let plan = |variant: Variant| {
            let config = variant.configure(&common.config);
            config.validate()?;
            let (calibration, start) = (self.calibration.clone(), start.clone());
            let teacher = teacher.clone().filter(|_| variant.method.distills());
            let settings = Settings { config, calibration, start, teacher, train: train.clone(), validation: validation.clone() };
            let (folder, value) = (self.out.join(variant.to_string()), settings.value());
            let standing = ablation::standing(&folder, &value)?;
            Ok(Planned { variant, folder, config: settings.config, settings: value, standing })
        };
        Variant::all(&self.methods, &self.bits, &self.seeds).into_iter().map(plan).collect()
    }

    fn real_valued(&self, gpu: &Gpu, common: &Common) -> Result<RealValued> {
        let (model, params) = &common.float;
        let settings = json!({
            "model": fingerprint(params), "validation": set_fingerprint(&common.validation), "sizes": common.config.sizes
        });
        let find = || evaluate(gpu, model, params.clone(), &common.validation, &common.config);
        ablation::real_valued(&self.out, &settings, find)
    }

    /// Does what is to be done, until time is over; returns all that is finished then, and whether a run failed.
    fn work(&self, gpu: &Gpu, common: &Common, planned: &[Planned], begin: Instant) -> Result<(Vec<Record>, bool)> {
        let (mut records, mut failed) = (Vec::new(), false);
        for (i, run) in planned.iter().enumerate() {
            if let Standing::Finished(record) = &run.standing {
                records.push((**record).clone());
                continue;
            }
            let left = self.max_seconds.map(|most| most - begin.elapsed().as_secs_f64());
            if left.is_some_and(|left| left <= 0.0) {
                continue;
            }
            eprintln!("run {} of {}: {}", i + 1, planned.len(), run.variant);
            match self.train(gpu, common, run, left) {
                Ok(outcome) if outcome.out_of_time => {}
                Ok(outcome) => records.push(ablation::finish(&run.folder, run.variant, outcome, &run.settings)?),
                // That this one does not converge says nothing about the others.
                Err(error @ Error::NotFinite(_)) => {
                    eprintln!("error: {}: {error}", run.variant);
                    failed = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((records, failed))
    }

    /// Begins a run or goes on with it.
    fn train(&self, gpu: &Gpu, common: &Common, planned: &Planned, max_seconds: Option<f64>) -> Result<Outcome> {
        let (mut config, out) = (planned.config.clone(), planned.folder.clone());
        let resume = planned.standing == Standing::Begun;
        if !resume {
            ablation::begin(&out, &planned.settings)?;
        }
        let start = if resume { start::resumed(&mut config, &out)? } else { start::anew(&mut config, Some(&self.from))? };
        let mut show = Show::new();
        let calibration = (common.calibration, self.data.strictness());
        let start = from_pictures(gpu, &mut config, start, &common.train, calibration, &mut show)?;
        let job = Job {
            config,
            train: common.train.clone(),
            validation: Some(common.validation.clone()),
            start,
            teacher: common.teacher.clone().filter(|_| planned.variant.method.distills()),
            out,
            max_seconds,
            resume,
            plain: false,
            threads: self.data.threads(),
            strictness: self.data.strictness(),
        };
        let outcome = run(gpu, &job, &mut |event| show.event(&event));
        show.end();
        outcome
    }

    /// Writes the tables and the picture.
    fn write(&self, table: &Table) -> Result<()> {
        for (name, text) in [("ablation.csv", table.csv()), ("ablation.md", table.markdown())] {
            files::write_whole(self.out.join(name), |file| file.write_all(text.as_bytes()))?;
        }
        image::write(self.out.join("ablation.png"), &draw::dots::draw(&table.chart()))
    }

    fn report(&self, report: &(impl Serialize + fmt::Display)) -> Result<()> {
        if self.json { print_json(report) } else { print(report) }
    }
}

/// What was found.
#[derive(Serialize)]
struct Ended {
    #[serde(flatten)]
    table: Table,
    /// Runs that are still to be done.
    unfinished: Vec<String>,
    out: PathBuf,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table.markdown())?;
        if !self.unfinished.is_empty() {
            writeln!(f, "unfinished: {}; repeat the command to go on", self.unfinished.join(", "))?;
        }
        writeln!(f, "see {}", self.out.display())
    }
}

/// What would be done.
#[derive(Serialize)]
struct DryRun {
    epochs: u64,
    runs: Vec<Begun>,
}

/// How far a run has come.
#[derive(Serialize)]
struct Begun {
    run: String,
    standing: &'static str,
    #[serde(rename = "AP", skip_serializing_if = "Option::is_none")]
    ap: Option<f64>,
}

impl Begun {
    fn of(run: &Planned) -> Self {
        let (standing, ap) = match &run.standing {
            Standing::New => ("new", None),
            Standing::Begun => ("begun", None),
            Standing::Finished(record) => ("finished", Some(record.last.ap)),
        };
        Self { run: run.variant.to_string(), standing, ap }
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs of {} epochs", self.runs.len(), self.epochs)?;
        for Begun { run, standing, ap } in &self.runs {
            let ap = ap.map(|ap| format!(", AP {ap:.3}")).unwrap_or_default();
            writeln!(f, "{run:20} {standing}{ap}")?;
        }
        Ok(())
    }
}
