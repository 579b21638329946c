//! A graph under construction that knows its parameters and its precision.

use super::Init;
use super::quantized::{Place, Quantizing};
use crate::gpu::Gpu;
use crate::graph::{Graph, Var};
use crate::kernels::unary;
use crate::quant::Quantization;
use crate::tensor::{DType, Shape, TensorType};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};

/// In what a model computes. Parameters of norms, biases and the heads' answers are f32 in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats in memory, sums in 32 bits.
    F16,
}

impl Precision {
    /// The element type of activations and of the weights of linear layers and convolutions.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }

    /// Whether a device can compute so.
    ///
    /// # Errors
    /// [`Error::Usage`] when it can't.
    pub fn check(self, gpu: &Gpu) -> Result<()> {
        if self == Self::F16 && !gpu.capabilities().f16 {
            return Err(Error::Usage(format!("{} has no 16-bit floats; use --precision f32", gpu.info().name)));
        }
        Ok(())
    }
}

/// What a model wants under one parameter name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamSpec {
    /// Its shape, in this crate's layout.
    pub shape: Shape,
    /// How it starts when there is no checkpoint.
    pub init: Init,
    /// Whether it is a statistic that no training changes: PyTorch's buffers.
    pub buffer: bool,
}

/// What a network for training has beside one for inference.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// The share of elements that are dropped where the model drops, from 0 to below 1.
    pub dropout: f32,
    /// What decides which: the graph's input `seed`, u32 `[1]`, another in every step.
    pub seed: Var,
}

/// A [`Graph`] under construction, to which it dereferences, with the list of what it wants as parameters.
#[derive(Clone, Debug)]
pub struct Net {
    graph: Graph,
    precision: Precision,
    specs: BTreeMap<String, ParamSpec>,
    casts: HashMap<Var, Var>,
    training: Option<Training>,
    quantization: Option<(Quantization, Quantizing)>,
    places: Vec<Place>,
    taps: BTreeMap<String, Var>,
    is_open: bool,
}

impl Net {
    /// An empty network.
    pub fn new(precision: Precision) -> Self {
        Self::beside(Graph::new(), precision)
    }

    /// A network in a graph that has others already.
    pub fn beside(graph: Graph, precision: Precision) -> Self {
        Self {
            graph,
            precision,
            specs: BTreeMap::new(),
            casts: HashMap::new(),
            training: None,
            quantization: None,
            places: Vec::new(),
            taps: BTreeMap::new(),
            is_open: false,
        }
    }

    /// The same with quantizers where the configuration has them.
    pub fn with_quantization(self, quantization: Option<&Quantization>, doing: Quantizing) -> Self {
        Self { quantization: quantization.map(|q| (q.clone(), doing)), ..self }
    }

    /// The same made of parts that all can be looked at: attention writes its maps, which its fused kernel never does.
    pub fn opened(self) -> Self {
        Self { is_open: true, ..self }
    }

    /// See [`Net::opened`].
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Names a value inside the network, in the current scope, for those who want to look at it or learn from it. It costs nothing
    /// until it is used.
    pub fn tap(&mut self, name: &str, var: Var) {
        let name = self.graph.path(name);
        self.taps.insert(name, var);
    }

    /// What was named, by full name.
    pub fn taps(&self) -> &BTreeMap<String, Var> {
        &self.taps
    }

    /// The low bits of the network, and what it does with them.
    pub fn quantization(&self) -> Option<&(Quantization, Quantizing)> {
        self.quantization.as_ref()
    }

    /// The quantizers of a network that only observes.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    pub(super) fn place(&mut self, place: Place) {
        self.places.push(place);
    }

    /// An empty network for training: made of nodes that have gradients, and with dropout. Its first input is `seed`, u32 `[1]`.
    pub fn for_training(precision: Precision, dropout: f32) -> Self {
        let mut net = Self::new(precision);
        let seed = net.input("seed", TensorType::new([1], DType::U32));
        net.training = Some(Training { dropout, seed });
        net
    }

    /// What is there for training; `None` when the network is for inference.
    pub fn training(&self) -> Option<Training> {
        self.training
    }

    /// In what the network computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What the network wants, by full name.
    pub fn specs(&self) -> &BTreeMap<String, ParamSpec> {
        &self.specs
    }

    /// The graph, and what it wants.
    pub fn into_parts(self) -> (Graph, BTreeMap<String, ParamSpec>) {
        (self.graph, self.specs)
    }

    /// Runs `build` with a name pushed on the scope, which prefixes parameters and nodes made inside it.
    pub fn scoped<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.graph.enter(name);
        let result = build(self);
        self.graph.leave();
        result
    }

    /// An f32 parameter, by its name in the current scope; asking twice gives the same value.
    ///
    /// # Panics
    /// When asked again with another shape.
    #[track_caller]
    pub fn param(&mut self, name: &str, shape: impl AsRef<[usize]>, init: Init) -> Var {
        self.register(name, shape, init, false)
    }

    /// As [`Net::param`], for a statistic that no training changes.
    ///
    /// # Panics
    /// When asked again with another shape.
    #[track_caller]
    pub fn buffer(&mut self, name: &str, shape: impl AsRef<[usize]>, init: Init) -> Var {
        self.register(name, shape, init, true)
    }

    /// A parameter in the element type that the network computes in: the weight of a matrix product or a convolution.
    ///
    /// # Panics
    /// When asked again with another shape.
    #[track_caller]
    pub fn weight(&mut self, name: &str, shape: impl AsRef<[usize]>, init: Init) -> Var {
        let param = self.param(name, shape, init);
        let dtype = self.precision.dtype();
        let graph = &mut self.graph;
        *self.casts.entry(param).or_insert_with(|| unary::cast(graph, param, dtype))
    }

    #[track_caller]
    fn register(&mut self, name: &str, shape: impl AsRef<[usize]>, init: Init, buffer: bool) -> Var {
        let (name, ty) = (self.graph.path(name), TensorType::f32(shape));
        let var = self.graph.param(&name, ty);
        self.specs.insert(name, ParamSpec { shape: ty.shape, init, buffer });
        var
    }
}

impl Deref for Net {
    type Target = Graph;

    fn deref(&self) -> &Graph {
        &self.graph
    }
}

impl DerefMut for Net {
    fn deref_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }
}
