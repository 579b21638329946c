//! A compiled graph: buffers, pipelines and bind groups made once, replayed in one compute pass.

use super::compile::{bind, choose_kernels, grow, linked, place, slice_of};
use super::memory::{self, MemoryPlan, Place, Sharing};
use super::params::padded;
use super::{Graph, Origin, Params, Values, Var};
use crate::Result;
use crate::gpu::{Dispatch, Gpu, Pipeline, ReadBack};
use crate::tensor::Host;
use std::collections::HashMap;
use std::fmt;
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use wgpu::{BindGroup, Buffer, CommandBuffer, ComputePass};

/// Words written behind every buffer of a guarded plan: a kernel that writes past its end destroys them.
const GUARD_WORDS: usize = 64;
const GUARD: u32 = 0xA5A5_5A5A;

/// Kernel launches that are encoded and submitted first: few, so that the device begins soon, and enough to keep it busy while the next are
/// encoded. `qdetr bench model --preset detr-resnet50 --precision f16 --bits 4-4-8` took 2.37 ms with 96 and 2.10 with 16 for one picture, 8.35
/// and 7.9 for eight (H100, 2026-11-26); from 4 to 16 are alike.
const FIRST_STEPS: usize = 16;
/// Kernel launches that are encoded and submitted together behind those: enough to outlast what a submission costs.
const STEPS_A_SUBMIT: usize = 96;

/// A segment of a run that is encoded and not yet submitted.
#[derive(Debug)]
pub struct Encoded {
    buffers: Vec<CommandBuffer>,
    dispatches: usize,
}

/// How to compile a plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// Which of an op's kernels to take: the `n`-th best, or the last when there are fewer. `None` is the normal choice: the best or, on a
    /// device opened with [`Options::tuned`](crate::gpu::Options::tuned), the one that was measured to be faster.
    pub variant: Option<usize>,
    /// Every value keeps a buffer of its own that the host can read: for tracing.
    pub keep_all: bool,
    /// Put guard words behind every scratch and output buffer: for checking.
    pub guards: bool,
}

impl PlanOptions {
    /// Guard words stand behind a value, where there may be another one side by side.
    fn sharing(self) -> Sharing {
        match self {
            Self { keep_all: true, .. } => Sharing::Never,
            Self { guards: true, .. } => Sharing::InTurn,
            _ => Sharing::SideBySide,
        }
    }
}

/// Scratch buffers that plans share: only one of them runs at a time. Compile the largest plan first.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) buffers: Vec<Buffer>,
    pub(super) replaced: usize,
}

impl Scratch {
    /// How many buffers have been replaced by larger ones so far. Plans compiled before a replacement keep the old buffers
    /// alive: compile them again.
    pub fn replaced(&self) -> usize {
        self.replaced
    }
}

/// A range of a buffer that a value lives in.
#[derive(Clone, Debug)]
pub struct Slice {
    pub(super) buffer: Buffer,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Inputs, parameters and outputs that live in buffers from outside of the plan, by name: trainable parameters, their
/// gradients and moments in their [`Arena`](super::Arena)s. The host neither writes nor reads them through the plan.
pub type Links = HashMap<String, Slice>;

/// One kernel launch, ready.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) bind_group: BindGroup,
    pub(super) dispatch: Dispatch,
}

impl Step {
    pub(super) fn encode(&self, pass: &mut ComputePass<'_>) {
        let [x, y, z] = self.dispatch.groups;
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Bytes on the device, by kind.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct MemoryReport {
    /// Parameters, shared by all plans of the model.
    pub params: usize,
    /// Scratch buffers, shared by all plans.
    pub scratch: usize,
    /// Inputs, outputs and their staging.
    pub io: usize,
    /// The most scratch bytes alive at one node: the floor of `scratch`.
    pub live: usize,
}

impl MemoryReport {
    /// All bytes.
    pub fn total(&self) -> usize {
        self.params + self.scratch + self.io
    }
}

/// A compiled graph.
#[derive(Debug)]
pub struct Plan {
    gpu: Gpu,
    graph: Graph,
    pub(super) steps: Vec<Step>,
    buffers: HashMap<Var, Slice>,
    memory: MemoryPlan,
    report: MemoryReport,
    segments: Vec<Segment>,
    guards: bool,
}

/// A part of a run between two turns of the host: its steps, and the outputs that they compute.
#[derive(Debug)]
struct Segment {
    steps: Range<usize>,
    outputs: Vec<(String, Var)>,
    read_back: ReadBack,
}

impl Plan {
    /// Compiles a graph: chooses kernels, plans memory, compiles pipelines, makes bind groups.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] with what would be needed, [`crate::Error::Driver`] when a shader is refused.
    ///
    /// # Panics
    /// When a parameter is missing from `params`, or an output of the graph is not computed by a node.
    pub fn compile(gpu: &Gpu, graph: &Graph, params: &Params, scratch: &mut Scratch, options: PlanOptions) -> Result<Self> {
        Self::compile_linked(gpu, graph, params, &Links::new(), scratch, options)
    }

    /// As [`Plan::compile`], with some inputs and outputs living in buffers from outside.
    ///
    /// # Errors
    /// As [`Plan::compile`].
    ///
    /// # Panics
    /// As [`Plan::compile`], and when a link is too small for its value.
    pub fn compile_linked(
        gpu: &Gpu,
        graph: &Graph,
        params: &Params,
        links: &Links,
        scratch: &mut Scratch,
        options: PlanOptions,
    ) -> Result<Self> {
        let dispatches = choose_kernels(gpu, graph, options);
        let memory = memory::plan(graph, &memory::lives(graph), options.sharing());
        let guard = if options.guards { GUARD_WORDS * 4 } else { 0 };
        let mut own = Scratch::default();
        let scratch = if options.guards || options.keep_all { &mut own } else { scratch };
        grow(gpu, scratch, &memory.slots, guard)?;
        let mut buffers = linked(graph, links);
        let mut io = 0;
        for (i, value) in graph.values().iter().enumerate() {
            let var = Var(i);
            if graph.storage(var) != var || buffers.contains_key(&var) {
                continue;
            }
            if let Some(slice) = place(gpu, value, var, &memory, scratch, params, guard, &mut io)? {
                buffers.insert(var, slice);
            }
        }
        let pipelines = gpu.compile(&dispatches.iter().collect::<Vec<_>>())?;
        let steps = bind(gpu, graph, dispatches, pipelines, &buffers)?;
        let (segments, staging) = segments(gpu, graph, links)?;
        let report = MemoryReport { params: params.bytes(), scratch: memory.slots.iter().sum(), io: io + staging, live: memory.live_bytes };
        let plan = Self { gpu: gpu.clone(), graph: graph.clone(), steps, buffers, memory, report, segments, guards: options.guards };
        gpu.take_failure()?;
        Ok(plan)
    }

    /// The graph that was compiled.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The device it was compiled for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes on the device.
    pub fn memory(&self) -> MemoryReport {
        self.report
    }

    /// Kernel launches of one run.
    pub fn dispatches(&self) -> usize {
        self.steps.len()
    }

    /// Writes an input; to be done between runs.
    ///
    /// # Panics
    /// When the graph has no such input, or one of another type.
    pub fn write(&self, name: &str, host: &Host) {
        let input = self.graph.inputs().find(|(n, _)| *n == name);
        let (_, var) = input.unwrap_or_else(|| panic!("the graph has no input `{name}`"));
        assert_eq!(host.ty(), self.graph.ty(var), "input `{name}`");
        // An input that no node reads has no buffer.
        if let Some(slice) = self.buffers.get(&var) {
            self.gpu.queue().write_buffer(&slice.buffer, 0, &padded(host));
        }
    }

    /// Submits one run: each segment's steps, then the copies of its outputs for [`Plan::read`]. Allocates and compiles nothing.
    ///
    /// # Errors
    /// A failure of the device since the last wait.
    pub fn run(&self) -> Result<()> {
        (0..self.segments.len()).try_for_each(|segment| self.run_segment(segment))
    }

    /// Submits one segment of a run: see [`Graph::next_segment`]. In several parts, so that the device begins with the first
    /// while the next is encoded.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn run_segment(&self, segment: usize) -> Result<()> {
        self.parts(segment).try_for_each(|part| self.submit(Encoded { dispatches: part.len(), buffers: vec![self.encode(segment, part)] }))
    }

    /// Encodes a segment for [`Plan::submit`], while the device is busy with what was submitted before.
    pub fn encode_segment(&self, segment: usize) -> Encoded {
        let buffers = self.parts(segment).map(|part| self.encode(segment, part)).collect();
        Encoded { buffers, dispatches: self.segments[segment].steps.len() }
    }

    /// Submits what was encoded.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn submit(&self, encoded: Encoded) -> Result<()> {
        self.gpu.queue().submit(encoded.buffers);
        self.gpu.counters().add_submit();
        self.gpu.counters().add_dispatches(encoded.dispatches);
        self.gpu.take_failure()
    }

    /// The steps of a segment in parts; at least one.
    fn parts(&self, segment: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.segments[segment].steps.clone();
        let first = (start + FIRST_STEPS).min(end);
        let rest = (first..end).step_by(STEPS_A_SUBMIT).map(move |at| at..(at + STEPS_A_SUBMIT).min(end));
        iter::once(start..first).chain(rest)
    }

    /// Steps in one compute pass, then, behind the last of the segment, the copies of its outputs.
    fn encode(&self, segment: usize, steps: Range<usize>) -> CommandBuffer {
        let segment = &self.segments[segment];
        let is_last = steps.end == segment.steps.end;
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("run") });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("run"), timestamp_writes: None });
            for step in &self.steps[steps] {
                step.encode(&mut pass);
            }
        }
        let mut offset = 0;
        for &(_, var) in segment.outputs.iter().filter(|_| is_last) {
            let bytes = self.graph.ty(var).bytes() as u64;
            let slice = slice_of(&self.graph, &self.buffers, var);
            encoder.copy_buffer_to_buffer(&slice.buffer, slice.offset, segment.read_back.buffer(), offset, Some(bytes));
            offset += bytes;
        }
        encoder.finish()
    }

    /// Waits for the last run and reads all outputs: one read-back for each segment that has outputs.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn read(&self) -> Result<Values> {
        let mut values = Values::new();
        for segment in 0..self.segments.len() {
            values.extend(self.read_segment(segment)?);
        }
        Ok(values)
    }

    /// Waits for a segment and reads its outputs.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn read_segment(&self, segment: usize) -> Result<Values> {
        let segment = &self.segments[segment];
        if segment.outputs.is_empty() {
            return Ok(Values::new());
        }
        segment.read_back.read(&self.gpu, |bytes| {
            let mut offset = 0;
            let take = |(name, var): &(String, Var)| {
                let ty = self.graph.ty(*var);
                let host = Host::from_bytes(ty, &bytes[offset..]);
                offset += ty.bytes();
                (name.clone(), host)
            };
            segment.outputs.iter().map(take).collect()
        })
    }

    /// Writes the inputs, runs, and reads the outputs.
    ///
    /// # Errors
    /// As [`Plan::run`] and [`Plan::read`].
    pub fn call(&self, inputs: &Values) -> Result<Values> {
        for (name, host) in inputs {
            self.write(name, host);
        }
        self.run()?;
        self.read()
    }

    /// Reads any value of a plan compiled with `keep_all`.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn peek(&self, var: Var) -> Result<Host> {
        let (ty, slice) = (self.graph.ty(var), slice_of(&self.graph, &self.buffers, var));
        let bytes = self.copy_out(&slice, ty.bytes().next_multiple_of(4) as u64)?;
        Ok(Host::from_bytes(ty, &bytes))
    }

    /// Fills every buffer that kernels write with a pattern and, in a plan with guards, puts the guard words behind each.
    pub fn poison(&self, pattern: u32) {
        for (_, slice) in self.written() {
            let words = (slice.size / 4) as usize;
            let mut content = vec![pattern; words];
            if self.guards {
                content[words.saturating_sub(GUARD_WORDS)..].fill(GUARD);
            }
            self.gpu.queue().write_buffer(&slice.buffer, slice.offset, bytemuck::cast_slice(&content));
        }
    }

    /// Whether all guard words are as [`Plan::poison`] left them; for plans compiled with `guards`.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn guards_intact(&self) -> Result<bool> {
        for (_, slice) in self.written() {
            let bytes = self.copy_out(slice, slice.size)?;
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
            if words[words.len() - GUARD_WORDS..].iter().any(|&w| w != GUARD) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn written(&self) -> impl Iterator<Item = (Var, &Slice)> {
        let is_written = |v: &Var| matches!(self.graph.values()[v.0].origin, Origin::Node { .. });
        self.buffers.iter().map(|(&v, s)| (v, s)).filter(move |(v, _)| is_written(v))
    }

    fn copy_out(&self, slice: &Slice, bytes: u64) -> Result<Vec<u8>> {
        let staging = ReadBack::new(&self.gpu, bytes as usize)?;
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&slice.buffer, slice.offset, staging.buffer(), 0, Some(bytes));
        self.gpu.queue().submit([encoder.finish()]);
        staging.read(&self.gpu, <[u8]>::to_vec)
    }
}

/// The plan as text: one line a step with op, kernel, grid, types, slots and scope, then the memory.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |v: Var| match self.memory.place_of.get(&self.graph.storage(v)) {
            Some(Place { slot, offset: 0 }) => format!("{}@{slot}", self.graph.ty(v)),
            Some(Place { slot, offset }) => format!("{}@{slot}+{offset}", self.graph.ty(v)),
            None => self.graph.ty(v).to_string(),
        };
        let places = |vars: &[Var]| vars.iter().map(|&v| place(v)).collect::<Vec<_>>().join(", ");
        for (i, (node, step)) in self.graph.nodes().iter().zip(&self.steps).enumerate() {
            let (kernel, groups) = (step.dispatch.source.name, step.dispatch.groups);
            writeln!(
                f,
                "{i:4} {:12} {kernel:24} {groups:?} {} <- {}  {}",
                node.op.name(),
                places(&node.outputs),
                places(&node.inputs),
                node.scope
            )?;
        }
        let m = self.report;
        writeln!(f, "memory: {} bytes = params {} + scratch {} (live {}) + io {}", m.total(), m.params, m.scratch, m.live, m.io)
    }
}

/// The parts of a run, and the bytes of their staging buffers.
fn segments(gpu: &Gpu, graph: &Graph, links: &Links) -> Result<(Vec<Segment>, usize)> {
    let count = graph.nodes().iter().map(|n| n.segment + 1).max().unwrap_or(1);
    let mut staging = 0;
    let mut first = 0;
    let mut segments = Vec::new();
    for index in 0..count {
        let last = first + graph.nodes()[first..].iter().take_while(|n| n.segment == index).count();
        let computed_here = |var: Var| match graph.values()[graph.root(var).0].origin {
            Origin::Node { node, .. } => (first..last).contains(&node),
            _ => index == 0,
        };
        let outputs = graph.outputs().iter().filter(|(name, var)| computed_here(**var) && !links.contains_key(*name));
        let outputs: Vec<(String, Var)> = outputs.map(|(name, &var)| (name.clone(), var)).collect();
        let bytes = outputs.iter().map(|(_, var)| graph.ty(*var).bytes()).sum();
        staging += bytes;
        segments.push(Segment { steps: first..last, outputs, read_back: ReadBack::new(gpu, bytes)? });
        first = last;
    }
    Ok((segments, staging))
}
