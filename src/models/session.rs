//! A network on a device, at any input size: a plan is made when a size first comes, as bytes or as floats, and all plans share
//! parameters and scratch.

use super::{BatchSize, Given};
use crate::data::Pictures;
use crate::gpu::Gpu;
use crate::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, fold, fuse_for, within};
use crate::tensor::{DType, Host};
use crate::{Error, Result};
use std::borrow::Cow;
use std::fmt;

/// Plans kept, those used last: each holds its inputs, its outputs and its bind groups.
const KEPT: usize = 8;

type Build = dyn Fn(Given) -> Graph + Send;

/// See the module.
pub struct Session {
    gpu: Gpu,
    build: Box<Build>,
    values: Values,
    params: Params,
    scratch: Scratch,
    /// Bytes of the device that a plan may take.
    memory: Option<usize>,
    /// The one used last is last.
    plans: Vec<(Given, Plan)>,
}

impl Session {
    /// A session of the network that `build` gives for a size and an entry, with the values of its parameters: f32, or stored as f16.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn new(gpu: &Gpu, values: Values, build: impl Fn(Given) -> Graph + Send + 'static) -> Result<Self> {
        let values: Values = values.into_iter().map(|(name, host)| (name, host.cast(DType::F32))).collect();
        let params = Params::upload(gpu, &Values::new())?;
        Ok(Self { gpu: gpu.clone(), build: Box::new(build), values, params, scratch: Scratch::default(), memory: None, plans: Vec::new() })
    }

    /// The same, of which every plan takes at most so many bytes of the device, parameters and inputs included: where it would take more,
    /// the first layers run on parts of the batch, which takes longer.
    pub fn with_memory(self, bytes: Option<usize>) -> Self {
        Self { memory: bytes, ..self }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The plan for a size and an entry, compiled now if there is none: its memory is known and held from here on, before any run.
    ///
    /// # Errors
    /// As [`Plan::compile`]; [`Error::OutOfMemory`] where no plan takes as few bytes as [`Session::with_memory`] allows.
    ///
    /// # Panics
    /// When a parameter of the network has no value.
    pub fn plan(&mut self, given: Given) -> Result<&Plan> {
        let known = self.plans.iter().position(|(g, _)| *g == given);
        let entry = match known {
            Some(i) => self.plans.remove(i),
            None => (given, self.compile(given)?),
        };
        if self.plans.len() == KEPT {
            self.plans.remove(0);
        }
        self.plans.push(entry);
        Ok(&self.plans[self.plans.len() - 1].1)
    }

    /// Writes the inputs, runs, and reads the results back.
    ///
    /// # Errors
    /// As [`Session::plan`], and failures of the device.
    ///
    /// # Panics
    /// When an input is not of the type that the network has at this size.
    pub fn call<'a>(&mut self, given: Given, inputs: impl IntoIterator<Item = (&'a str, &'a Host)>) -> Result<Values> {
        let plan = self.plan(given)?;
        for (name, host) in inputs {
            plan.write(name, host);
        }
        plan.run()?;
        plan.read()
    }

    /// The same for the pictures of a batch, as they are given.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn answer(&mut self, pictures: &Pictures) -> Result<Values> {
        self.call((BatchSize::of(pictures), pictures.entry()), pictures.inputs())
    }

    fn compile(&mut self, given: Given) -> Result<Plan> {
        let graph = self.fused(given);
        let folded = fold(&graph, &|_| false);
        let missing = folded.evaluate(&self.values, &|name| !self.params.contains(name));
        if !missing.is_empty() {
            self.params = self.params.extend(&self.gpu, &missing)?;
        }
        let replaced = self.scratch.replaced();
        let graph = self.within_memory(&folded.graph, given)?;
        let plan = Plan::compile(&self.gpu, &graph, &self.params, &mut self.scratch, PlanOptions::default())?;
        if self.scratch.replaced() > replaced {
            // Older plans would keep the smaller scratch alive.
            self.plans.clear();
        }
        Ok(plan)
    }

    /// The graph, or another one that takes no more memory than allowed.
    fn within_memory<'a>(&self, graph: &'a Graph, (size, entry): Given) -> Result<Cow<'a, Graph>> {
        let Some(bytes) = self.memory else { return Ok(Cow::Borrowed(graph)) };
        let of = |images| fold(&self.fused((BatchSize { images, ..size }, entry)), &|_| false).graph;
        within(graph, size.images, bytes, of).map_err(|least| {
            let advice = "allow more, or give fewer pictures at once";
            Error::OutOfMemory(format!("a batch of {size} takes {least} bytes at least, {bytes} are allowed; {advice}"))
        })
    }

    fn fused(&self, given: Given) -> Graph {
        fuse_for(&(self.build)(given), self.gpu.capabilities())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plans: Vec<Given> = self.plans.iter().map(|(given, _)| *given).collect();
        f.debug_struct("Session").field("plans", &plans).finish_non_exhaustive()
    }
}
