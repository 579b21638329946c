//! Compiling a plan: which kernels, where values lie, what each launch is bound to.

use super::memory::MemoryPlan;
use super::params::padded;
use super::plan::{Scratch, Slice, Step};
use super::{Graph, Links, Origin, Params, PlanOptions, Var, node_name};
use crate::gpu::{Dispatch, Gpu, Pipeline};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;
use wgpu::{BindGroup, BindGroupDescriptor, BindGroupEntry, Buffer, BufferBinding, BufferUsages};

pub(super) fn choose_kernels(gpu: &Gpu, graph: &Graph, options: PlanOptions) -> Vec<Dispatch> {
    let choose = |node: &super::Node| {
        let (inputs, outputs) = (graph.types(&node.inputs), graph.types(&node.outputs));
        let mut kernels = node.op.kernels(&inputs, &outputs, gpu.capabilities());
        kernels.retain(|k| gpu.capabilities().allows(k.tier));
        assert!(!kernels.is_empty(), "{}: no kernel for {} on this device", node.op.name(), super::ids(&inputs));
        let tuned = || gpu.choice(|| node_name(&*node.op, &inputs), &kernels);
        let index = options.variant.map_or_else(tuned, |n| n.min(kernels.len() - 1));
        kernels.swap_remove(index)
    };
    graph.nodes().iter().map(choose).collect()
}

/// The values that live in buffers from outside.
#[track_caller]
pub(super) fn linked(graph: &Graph, links: &Links) -> HashMap<Var, Slice> {
    let params = graph.params().iter().map(|(name, &var)| (name.as_str(), var));
    let outputs = graph.outputs().iter().map(|(name, &var)| (name.as_str(), graph.storage(var)));
    let named = graph.inputs().chain(params).chain(outputs);
    let find = |(name, var): (&str, Var)| {
        let slice = links.get(name)?;
        assert!(slice.size as usize >= graph.ty(var).bytes(), "`{name}` is linked to {} bytes, it is {}", slice.size, graph.ty(var));
        Some((var, slice.clone()))
    };
    named.filter_map(find).collect()
}

/// Makes sure that there is a scratch buffer of sufficient size for every slot. Slots come largest first.
pub(super) fn grow(gpu: &Gpu, scratch: &mut Scratch, slots: &[usize], guard: usize) -> Result<()> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let limit = gpu.limits().max_storage_buffer_binding_size as usize;
    for (i, &bytes) in slots.iter().enumerate() {
        if bytes > limit {
            let most = "use a smaller image or batch";
            return Err(Error::OutOfMemory(format!("an activation takes {bytes} bytes; one binding of this device holds {limit}; {most}")));
        }
        match scratch.buffers.get_mut(i) {
            None => scratch.buffers.push(gpu.buffer("scratch", bytes + guard, usage)?),
            Some(buffer) if (buffer.size() as usize) < bytes + guard => {
                *buffer = gpu.buffer("scratch", bytes + guard, usage)?;
                scratch.replaced += 1;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The buffer range of a value; `None` for views, which live in another value's.
#[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename the arguments")]
pub(super) fn place(
    gpu: &Gpu,
    value: &super::Value,
    var: Var,
    memory: &MemoryPlan,
    scratch: &Scratch,
    params: &Params,
    guard: usize,
    io: &mut usize,
) -> Result<Option<Slice>> {
    let bytes = value.ty.bytes();
    let whole = |buffer: Buffer, bytes: usize| Some(Slice { size: buffer.size().min(bytes.max(16) as u64), buffer, offset: 0 });
    Ok(match &value.origin {
        Origin::View { .. } => None,
        Origin::Input(name) => {
            *io += bytes;
            whole(gpu.buffer(name, bytes, BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC)?, bytes)
        }
        Origin::Param(name) => {
            let (buffer, offset) = params.find(name, value.ty);
            Some(Slice { buffer: buffer.clone(), offset, size: bytes.max(16) as u64 })
        }
        Origin::Constant(host) => {
            *io += bytes;
            let buffer = gpu.buffer("constant", bytes, BufferUsages::STORAGE | BufferUsages::COPY_DST)?;
            gpu.queue().write_buffer(&buffer, 0, &padded(host));
            whole(buffer, bytes)
        }
        Origin::Node { .. } => match memory.place_of.get(&var) {
            Some(place) => {
                let (buffer, offset) = (scratch.buffers[place.slot].clone(), place.offset as u64);
                Some(Slice { size: (buffer.size() - offset).min((bytes + guard).max(16) as u64), buffer, offset })
            }
            None => {
                *io += bytes;
                let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
                whole(gpu.buffer("output", bytes + guard, usage)?, bytes + guard)
            }
        },
    })
}

/// Where a value lies, which may be in the buffer of another.
pub(super) fn slice_of(graph: &Graph, buffers: &HashMap<Var, Slice>, var: Var) -> Slice {
    let (storage, offset) = graph.place(var);
    let whole = buffers[&storage].clone();
    if offset == 0 {
        return whole;
    }
    Slice { offset: whole.offset + offset as u64, size: graph.ty(var).bytes() as u64, ..whole }
}

pub(super) fn bind(
    gpu: &Gpu,
    graph: &Graph,
    dispatches: Vec<Dispatch>,
    pipelines: Vec<Arc<Pipeline>>,
    buffers: &HashMap<Var, Slice>,
) -> Result<Vec<Step>> {
    let align = gpu.limits().min_uniform_buffer_offset_alignment as usize;
    let mut words = Vec::new();
    let mut offsets = Vec::new();
    for (dispatch, pipeline) in dispatches.iter().zip(&pipelines) {
        check_params(dispatch, pipeline);
        offsets.push(words.len());
        words.extend(dispatch.params.bytes());
        words.resize(words.len().next_multiple_of(align), 0);
    }
    let uniforms = gpu.buffer("kernel parameters", words.len(), BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
    gpu.queue().write_buffer(&uniforms, 0, &words);
    let mut steps = Vec::new();
    for (((node, dispatch), pipeline), offset) in graph.nodes().iter().zip(dispatches).zip(pipelines).zip(offsets) {
        let params = Slice { buffer: uniforms.clone(), offset: offset as u64, size: dispatch.params.bytes().len() as u64 };
        let inputs = dispatch.inputs.iter().map(|&i| slice_of(graph, buffers, node.inputs[i]));
        let outputs = node.outputs.iter().map(|&v| slice_of(graph, buffers, v));
        let slices: Vec<Slice> = std::iter::once(params).chain(inputs).chain(outputs).collect();
        assert_eq!(slices.len(), pipeline.reflection.bindings.len(), "{}: bindings of {}", node.op.name(), dispatch.source.name);
        let bind_group = bind_group(gpu, dispatch.source.name, &pipeline, &slices);
        steps.push(Step { pipeline, bind_group, dispatch });
    }
    Ok(steps)
}

#[track_caller]
fn check_params(dispatch: &Dispatch, pipeline: &Pipeline) {
    let (name, declared) = (dispatch.source.name, pipeline.reflection.params_size);
    assert_eq!(
        declared,
        dispatch.params.len() * 4,
        "{name}: `Params` has {declared} bytes, the host gives {} words",
        dispatch.params.len()
    );
}

fn bind_group(gpu: &Gpu, label: &str, pipeline: &Pipeline, slices: &[Slice]) -> BindGroup {
    let entry = |(i, slice): (usize, &Slice)| BindGroupEntry {
        binding: i as u32,
        resource: wgpu::BindingResource::Buffer(BufferBinding {
            buffer: &slices[i].buffer,
            offset: slice.offset,
            size: std::num::NonZeroU64::new(slice.size),
        }),
    };
    let entries: Vec<_> = slices.iter().enumerate().map(entry).collect();
    gpu.counters().add_bind_group();
    gpu.device().create_bind_group(&BindGroupDescriptor { label: Some(label), layout: &pipeline.layout, entries: &entries })
}
