//! The command line: one file a subcommand. What it does not know about is how anything is computed.
//!
//! Results go to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 101 a bug of ours.

mod ablation;
mod bench;
mod bits;
mod check;
mod classify;
mod completions;
mod detect;
mod eval;
mod explain;
mod export;
mod forward;
mod info;
mod inspect;
mod model;
mod output;
mod pictures;
mod plan;
mod quantize;
mod start;
mod trace;
mod train;
mod training;
mod tune;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use output::is_closed_pipe;
use qdetr::gpu::{Gpu, Options, Select, Tier, Tuned};
use qdetr::nn::Precision;
use qdetr::{Result, kernels};
use std::process::ExitCode;

/// Detection transformers on any GPU: Vulkan, Metal or DX12.
#[derive(Parser)]
#[command(name = "qdetr", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find objects on photos
    Detect(detect::Detect),
    /// Name what a photo shows, with the built-in ImageNet backbone
    Classify(classify::Classify),
    /// List the GPUs, what they can do, and which one would be used
    Info(info::Info),
    /// Does this GPU compute correctly? Runs every kernel against its CPU twin
    Check(check::Check),
    /// Train a detector on annotated pictures
    Train(Box<train::Train>),
    /// Train one schedule over methods, bits and seeds, and write what each found as a table
    Ablation(Box<ablation::Ablation>),
    /// Turn a float model into one of low bits, without training
    Quantize(quantize::Quantize),
    /// Write a trained model of low bits as the small file that it is used from
    Export(export::Export),
    /// Show what a model file holds: layers, bits, sizes, and the operations of a run
    Inspect(inspect::Inspect),
    /// Show what a model's queries are like, what they attend to and what comes of it, beside other models
    Explain(explain::Explain),
    /// Average precision of detections against annotations, as COCO and PASCAL VOC compute it
    Eval(eval::Eval),
    /// Measure speed and memory
    Bench(bench::Bench),
    /// Time all kernels of a model on this GPU, and keep which are faster than the default for --tuned
    Tune(tune::Tune),
    /// Run a network on tensors from a file and write its answers to a file, for comparison with PyTorch
    Forward(forward::Forward),
    /// Print what a run does, step by step, and its memory
    Plan(plan::Plan),
    /// Compare a whole network on this GPU with the CPU twins, node by node
    Trace(trace::Trace),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Which GPU, and how much of it.
#[derive(Args)]
pub(crate) struct DeviceArgs {
    /// The GPU: an index of `qdetr info`, a PCI id, or a part of its name [default: $QDETR_GPU, else the best]
    #[arg(long, global = true, value_name = "GPU")]
    gpu: Option<String>,
    /// The best kernels to use [default: the best that the GPU has]
    #[arg(long, global = true)]
    tier: Option<Tier>,
    /// Use the kernels that `qdetr tune` found to be faster on this GPU: floats may differ in their last bits
    #[arg(long, global = true, action = ArgAction::SetTrue, env = "QDETR_TUNED", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    tuned: bool,
}

impl DeviceArgs {
    pub(crate) fn select(&self) -> Select {
        self.gpu.clone().into()
    }

    /// What the device is opened with. In `QDETR_STRICT_WEBGPU` it gets WebGPU's default limits and no extensions.
    pub(crate) fn options(&self) -> Options {
        let webgpu_only = std::env::var_os("QDETR_STRICT_WEBGPU").is_some();
        let tuned = if self.tuned { Tuned::file() } else { None };
        Options { select: self.select(), tier: self.tier, webgpu_only, tuned, ..Options::default() }
    }

    /// Opens the device.
    pub(crate) fn open(&self) -> Result<Gpu> {
        Gpu::open(&self.options())
    }

    /// Opens the GPU for a model, which may run on codes. Without a `--tier`, kernels that need extensions prove themselves first; where the driver
    /// computes them wrongly, the tier below is used, with a warning.
    pub(crate) fn open_for(&self, precision: Precision, codes: bool) -> Result<Gpu> {
        self.prove(self.open()?, precision, codes)
    }

    /// The opened GPU, when its kernels for a model have proved themselves, or without those that have not.
    pub(crate) fn prove(&self, gpu: Gpu, precision: Precision, codes: bool) -> Result<Gpu> {
        // Floats of 32 bits alone use none of them.
        if self.tier.is_some() || (precision == Precision::F32 && !codes) {
            return Ok(gpu);
        }
        let Some(wrong) = kernels::prove(&gpu)? else { return Ok(gpu) };
        eprintln!("warning: this driver computes cooperative matrices wrongly, going on without them ({wrong})");
        Gpu::open(&Options { tier: Some(Tier::Packed), ..self.options() })
    }
}

/// Parses, runs, prints the error.
pub(crate) fn main() -> ExitCode {
    say_panics_in_one_line();
    let cli = Cli::parse();
    match cli.command.run(&cli.device) {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// A panic is a bug of ours: users get a sentence, developers set `RUST_BACKTRACE`.
fn say_panics_in_one_line() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            return default_hook(panic);
        }
        let payload = panic.payload();
        let what = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        let place = panic.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        let what = what.unwrap_or("unknown").replace('\n', " ");
        eprintln!("error: this is a bug in qdetr: {what}{place}; please report it, with the command that led here");
    }));
}

impl Command {
    fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        match self {
            Self::Detect(args) => args.run(device),
            Self::Classify(args) => args.run(device),
            Self::Bench(args) => args.run(device),
            Self::Tune(args) => args.run(device),
            Self::Forward(args) => args.run(device),
            Self::Plan(args) => args.run(device),
            Self::Trace(args) => args.run(device),
            Self::Explain(args) => args.run(device),
            Self::Info(args) => args.run(device),
            Self::Check(args) => args.run(device),
            Self::Train(args) => args.run(device),
            Self::Ablation(args) => args.run(device),
            Self::Quantize(args) => args.run(device),
            Self::Export(args) => args.run(),
            Self::Inspect(args) => args.run(),
            Self::Eval(args) => args.run(),
            Self::Completions(args) => args.run(),
        }
    }
}
