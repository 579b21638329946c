//! Checking and timing of one kernel.

use super::Times;
use super::subject::Subject;
use qdetr::Result;
use qdetr::gpu::{Capabilities, Dispatch, Gpu, shader};
use qdetr::graph::check::{Case, check_case};
use qdetr::graph::{Graph, Op, Params, Plan, PlanOptions, Scratch, Values};
use qdetr::kernels::TABLE;
use qdetr::tensor::{Host, TensorType};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wgpu::DeviceType;

/// Runs before those that count.
const WARM_UP: usize = 3;
/// How long hardware is kept busy before that: an idle GPU has a fraction of its clock, and needs a while to get it back. (On an H100,
/// behind 100 ms of runs that were each waited for, a product had a fifth of the speed that it has when the card is busy.)
const WARM_TIME: Duration = Duration::from_millis(300);
/// Runs that are submitted in that time before one is waited for, so that there is no gap.
const AT_ONCE: usize = 8;

/// Times kernels on a device, each text compiled once and each kernel checked once.
pub(crate) struct Bench {
    pub(crate) gpu: Gpu,
    runs: usize,
    cases: Cases,
    /// Milliseconds to compile, by text.
    compiled: BTreeMap<String, f64>,
    /// What is wrong with a kernel, if anything, by its label and element width.
    checked: BTreeMap<(String, bool), Option<String>>,
}

impl Bench {
    pub(crate) fn new(gpu: Gpu, runs: usize) -> Self {
        let cases = Cases::of(*gpu.capabilities());
        Self { gpu, runs, cases, compiled: BTreeMap::new(), checked: BTreeMap::new() }
    }

    /// The kernels that this device has for a subject, best first.
    pub(crate) fn kernels(&self, subject: &Subject) -> Vec<Dispatch> {
        kernels(&*subject.op, &subject.types, self.gpu.capabilities())
    }

    /// Whose clock [`Bench::time`] reads; the host's counts submitting and waiting too.
    pub(crate) fn clock(&self) -> &'static str {
        if self.gpu.capabilities().timestamps { "the GPU's timestamps" } else { "the host's clock" }
    }

    /// See [`Cases::with`].
    pub(super) fn cases_with(&self, op: &str, fits: impl Fn(usize, &Dispatch) -> bool) -> impl Iterator<Item = (&Case, usize)> {
        self.cases.with(op, fits)
    }

    /// What is wrong with a kernel on the smallest case of the op table that it computes; `None` when it is right.
    pub(crate) fn check(&mut self, op: &str, kernel: &Dispatch) -> Result<Option<String>> {
        let key = (format!("{op} {}", label(kernel)), kernel.f16);
        if let Some(known) = self.checked.get(&key) {
            return Ok(known.clone());
        }
        let wrong = match self.cases.first(op, kernel) {
            None => Some("no case of the op table runs this kernel".to_owned()),
            Some((case, index)) => check_case(&self.gpu, case)?.swap_remove(index).result.err(),
        };
        self.checked.insert(key, wrong.clone());
        Ok(wrong)
    }

    /// Milliseconds that the kernel's text took to compile, the first time.
    pub(super) fn compile_ms(&mut self, kernel: &Dispatch) -> Result<f64> {
        let text = shader::compose(kernel);
        if let Some(&known) = self.compiled.get(&text) {
            return Ok(known);
        }
        let started = Instant::now();
        self.gpu.compile(&[kernel])?;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        self.compiled.insert(text, ms);
        Ok(ms)
    }

    /// Microseconds of an op's `variant`-th kernel: by the GPU's timestamps or, where it has none, by the host's clock.
    pub(crate) fn time(&self, op: &Arc<dyn Op>, inputs: &[Host], variant: usize) -> Result<Times> {
        let mut graph = Graph::new();
        let vars: Vec<_> = inputs.iter().enumerate().map(|(i, host)| graph.input(&i.to_string(), host.ty())).collect();
        graph.apply_all(op.clone(), &vars);
        let params = Params::upload(&self.gpu, &Values::new())?;
        let options = PlanOptions { variant: Some(variant), ..PlanOptions::default() };
        let plan = Plan::compile(&self.gpu, &graph, &params, &mut Scratch::default(), options)?;
        inputs.iter().enumerate().for_each(|(i, host)| plan.write(&i.to_string(), host));
        let run = || if self.gpu.capabilities().timestamps { Ok(plan.profile()?[0].time_us) } else { self.time_on_host(&plan) };
        let started = Instant::now();
        while self.gpu.info().device_type != DeviceType::Cpu && started.elapsed() < WARM_TIME {
            (0..AT_ONCE).try_for_each(|_| plan.run())?;
            self.gpu.wait()?;
        }
        (0..WARM_UP).try_for_each(|_| run().map(|_| ()))?;
        Ok(Times::of((0..self.runs).map(|_| run()).collect::<Result<_>>()?))
    }

    fn time_on_host(&self, plan: &Plan) -> Result<f64> {
        let started = Instant::now();
        plan.run()?;
        self.gpu.wait()?;
        Ok(started.elapsed().as_secs_f64() * 1e6)
    }
}

/// The kernels of an op on a device, best first.
fn kernels(op: &dyn Op, types: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
    let mut kernels = op.kernels(types, &op.outputs(types), device);
    kernels.retain(|k| device.allows(k.tier));
    kernels
}

/// The op table's cases that a device can hold, by op, smallest first.
struct Cases {
    device: Capabilities,
    by_op: BTreeMap<&'static str, Vec<Case>>,
}

impl Cases {
    fn of(device: Capabilities) -> Self {
        let mut by_op: BTreeMap<_, Vec<Case>> = BTreeMap::new();
        for case in TABLE.iter().flat_map(|family| (family.cases)()).filter(|case| device.f16 || !case.needs_f16()) {
            by_op.entry(case.op.name()).or_default().push(case);
        }
        let size = |case: &Case| case.inputs.iter().map(|h| h.shape().len()).sum::<usize>();
        by_op.values_mut().for_each(|cases| cases.sort_by_key(size));
        Self { device, by_op }
    }

    /// The cases of an op with a kernel on this device that `fits`, and which of its kernels that is.
    fn with(&self, op: &str, fits: impl Fn(usize, &Dispatch) -> bool) -> impl Iterator<Item = (&Case, usize)> {
        self.by_op.get(op).into_iter().flatten().filter_map(move |case| {
            let types: Vec<TensorType> = case.inputs.iter().map(Host::ty).collect();
            let kernels = kernels(&*case.op, &types, &self.device);
            Some((case, kernels.iter().enumerate().position(|(i, k)| fits(i, k))?))
        })
    }

    /// The smallest case that a kernel computes.
    fn first(&self, op: &str, kernel: &Dispatch) -> Option<(&Case, usize)> {
        let same = |_, k: &Dispatch| label(k) == label(kernel) && k.f16 == kernel.f16 && k.tier == kernel.tier;
        self.with(op, same).next()
    }
}

/// A kernel's file, the pieces that it is composed of, its tile and, on cooperative matrices, the k of a slice.
pub(crate) fn label(kernel: &Dispatch) -> String {
    let stem = |name: &'static str| name.trim_end_matches(".wgsl").rsplit('/').next().unwrap_or_default();
    let tile = |line: &'_ str| {
        line.strip_prefix("const TILE_")
            .or_else(|| line.strip_prefix("const SLICE_K"))
            .and_then(|rest| rest.split_once(" = "))
            .map(|(_, n)| n.trim_end_matches("u;").to_owned())
    };
    let tile: Vec<String> = kernel.prelude.lines().filter_map(tile).collect();
    let parts = kernel.parts.iter().map(|part| stem(part.name).to_owned());
    let variant: Vec<String> = parts.chain((!tile.is_empty()).then(|| tile.join("x"))).collect();
    let name = kernel.source.name.trim_end_matches(".wgsl");
    if variant.is_empty() { name.to_owned() } else { format!("{name} ({})", variant.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::subjects::{Sizes, subjects};
    use super::*;
    use qdetr::gpu::Tier;
    use qdetr::graph::ids;
    use qdetr::nn::Precision;
    use std::collections::BTreeSet;

    /// Otherwise it could not be checked before it is timed.
    #[test]
    fn every_kernel_that_real_sizes_choose_has_a_case_in_the_op_table() {
        let half = Capabilities { f16: true, ..Capabilities::WEBGPU };
        let packed = Capabilities { workgroup_memory: 48 << 10, invocations: 1024, subgroup: (32, 32), tier: Tier::Packed, ..half };
        let matrix = Capabilities { matrix: true, byte_matrix: true, tier: Tier::Matrix, ..packed };
        let mut missing = BTreeSet::new();
        for (precision, device) in [(Precision::F32, Capabilities::WEBGPU), (Precision::F16, packed), (Precision::F16, matrix)] {
            let cases = Cases::of(device);
            for subject in subjects(Sizes { batch: 2, precision, quick: false }, &device).unwrap() {
                for kernel in kernels(&*subject.op, &subject.types, &device) {
                    if cases.first(subject.op.name(), &kernel).is_none() {
                        missing.insert(format!("{}: {} on {}", subject.op.name(), label(&kernel), ids(&subject.types)));
                    }
                }
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
