//! GPU time of every step, by timestamps at pass boundaries.

use super::{Graph, Params, Plan, PlanOptions, Scratch, Values};
use crate::gpu::{Gpu, ReadBack};
use crate::kernels::unary::relu;
use crate::tensor::TensorType;
use crate::{Error, Result};
use wgpu::{BufferUsages, ComputePassTimestampWrites, QuerySetDescriptor, QueryType};

/// Most queries a set may have.
const MAX_QUERIES: usize = 4096;

/// Steps of [`least_step_us`].
const LEAST_STEPS: usize = 64;

/// Microseconds of the least that a step can be, timed as [`Plan::profile`] does: one number read, one written, each step waiting for the
/// one before. It is in the time of every step, and a run in which steps overlap has less of it.
///
/// # Errors
/// As [`Plan::profile`].
pub fn least_step_us(gpu: &Gpu) -> Result<f64> {
    let mut graph = Graph::new();
    let mut x = graph.input("x", TensorType::f32([1]));
    for _ in 0..LEAST_STEPS {
        x = relu(&mut graph, x);
    }
    graph.output("y", x);
    let plan = Plan::compile(gpu, &graph, &Params::upload(gpu, &Values::new())?, &mut Scratch::default(), PlanOptions::default())?;
    plan.run()?;
    gpu.wait()?;
    let mut times: Vec<f64> = plan.profile()?.iter().map(|step| step.time_us).collect();
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The time of one step.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepTime {
    /// The op.
    pub op: &'static str,
    /// The shader file.
    pub kernel: &'static str,
    /// Where in the model.
    pub scope: String,
    /// The types of its first output, as text.
    pub output: String,
    /// GPU time in microseconds.
    pub time_us: f64,
    /// Arithmetic operations.
    pub operations: u64,
    /// Bytes of all inputs and outputs, each once.
    pub bytes: u64,
}

impl Plan {
    /// Runs once with a pass and two timestamps per step. Slower as a whole than [`Plan::run`]; the sum of the steps is not
    /// the time of a run, which overlaps them.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the device has no timestamps, otherwise a failure of the device.
    pub fn profile(&self) -> Result<Vec<StepTime>> {
        if !self.gpu().capabilities().timestamps {
            return Err(Error::Adapter(format!("{} has no timestamp queries", self.gpu().info().name)));
        }
        let mut times = Vec::new();
        for first in (0..self.steps.len()).step_by(MAX_QUERIES / 2) {
            let last = (first + MAX_QUERIES / 2).min(self.steps.len());
            times.extend(self.time_steps(first..last)?);
        }
        let nodes = self.graph().nodes().iter().zip(&self.steps).zip(times);
        Ok(nodes.map(|((node, step), time_us)| self.describe(node, step.dispatch.source.name, time_us)).collect())
    }

    fn describe(&self, node: &super::Node, kernel: &'static str, time_us: f64) -> StepTime {
        let (inputs, outputs) = (self.graph().types(&node.inputs), self.graph().types(&node.outputs));
        StepTime {
            op: node.op.name(),
            kernel,
            scope: node.scope.clone(),
            output: outputs[0].to_string(),
            time_us,
            operations: node.op.operations(&inputs, &outputs),
            bytes: inputs.iter().chain(&outputs).map(|t| t.bytes() as u64).sum(),
        }
    }

    fn time_steps(&self, range: std::ops::Range<usize>) -> Result<Vec<f64>> {
        let (gpu, count) = (self.gpu(), range.len() * 2);
        let queries =
            gpu.device().create_query_set(&QuerySetDescriptor { label: Some("step times"), ty: QueryType::Timestamp, count: count as u32 });
        let resolved = gpu.buffer("step times", count * 8, BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC)?;
        let staging = ReadBack::new(gpu, count * 8)?;
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (i, step) in self.steps[range].iter().enumerate() {
            let timestamp_writes = Some(ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * i as u32),
                end_of_pass_write_index: Some(2 * i as u32 + 1),
            });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("step"), timestamp_writes });
            step.encode(&mut pass);
        }
        encoder.resolve_query_set(&queries, 0..count as u32, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, staging.buffer(), 0, Some(count as u64 * 8));
        gpu.queue().submit([encoder.finish()]);
        let period = f64::from(gpu.queue().get_timestamp_period());
        staging.read(gpu, |bytes| {
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(bytes);
            ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period / 1e3).collect()
        })
    }
}
