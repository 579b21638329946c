//! What a matrix product or a convolution does to a sum before it stores it:
//! `y = activation(scale[n] · sum + shift[n] + residual)`.
//!
//! The folded frozen batch norm is scale and shift, a bias is a shift, a skip connection is the residual: none of them
//! costs a pass over memory of its own.

use crate::tensor::{Host, TensorType};

/// The function at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activation {
    /// None.
    #[default]
    None,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
}

impl Activation {
    /// The function itself.
    pub fn eval(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            Self::Relu6 => x.clamp(0.0, 6.0),
        }
    }
}

/// Which parts an op has. The present ones are its last inputs, in this order: scale `[N]` f32, shift `[N]` f32, residual
/// with the type of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Epilogue {
    /// Multiply by a scale per output channel.
    pub scale: bool,
    /// Add a shift per output channel.
    pub shift: bool,
    /// Add a tensor of the output's shape.
    pub residual: bool,
    /// Then apply this.
    pub activation: Activation,
}

impl Epilogue {
    /// Only a bias, if any.
    pub fn bias(bias: bool) -> Self {
        Self { shift: bias, ..Self::default() }
    }

    /// Number of inputs that the epilogue adds to its op.
    pub fn inputs(self) -> usize {
        usize::from(self.scale) + usize::from(self.shift) + usize::from(self.residual)
    }

    /// Indices of scale, shift and residual among the inputs of an op whose epilogue starts at input `first`.
    pub fn indices(self, first: usize) -> [Option<usize>; 3] {
        let mut next = first;
        [self.scale, self.shift, self.residual].map(|present| {
            present.then(|| {
                next += 1;
                next - 1
            })
        })
    }

    /// The input bound at each of the three places: absent ones are bound to input 0 and never read.
    pub(crate) fn bindings(self, first: usize) -> [usize; 3] {
        self.indices(first).map(|i| i.unwrap_or(0))
    }

    /// Checks the types of the epilogue's inputs.
    ///
    /// # Panics
    /// When they do not fit an output of type `y`.
    #[track_caller]
    pub(crate) fn check(self, op: &str, first: usize, inputs: &[TensorType], y: TensorType) {
        assert_eq!(inputs.len(), first + self.inputs(), "{op} {self:?}: found {} inputs", inputs.len());
        let [scale, shift, residual] = self.indices(first);
        let vector = TensorType::f32([y.shape.last()]);
        for (name, index) in [("scale", scale), ("shift", shift)] {
            assert!(index.is_none_or(|i| inputs[i] == vector), "{op}: {name} must be {vector}, found {inputs:?}");
        }
        assert!(residual.is_none_or(|i| inputs[i] == y), "{op}: the residual must be {y}, found {inputs:?}");
    }

    /// The twin: applies the epilogue to sums of shape `[.., n]`, in place.
    pub(crate) fn reference(self, first: usize, inputs: &[&Host], sums: &mut [f32], n: usize) {
        let part = |index: Option<usize>| index.map(|i| inputs[i].to_f32());
        let [scale, shift, residual] = self.indices(first).map(part);
        for (i, y) in sums.iter_mut().enumerate() {
            let scale = scale.as_ref().map_or(1.0, |s| s[i % n]);
            let shift = shift.as_ref().map_or(0.0, |s| s[i % n]);
            let residual = residual.as_ref().map_or(0.0, |r| r[i]);
            *y = self.activation.eval(*y * scale + shift + residual);
        }
    }

    /// `const` lines for `common/epilogue.wgsl`.
    pub(crate) fn constants(self, dispatch: crate::gpu::Dispatch) -> crate::gpu::Dispatch {
        dispatch
            .flag("HAS_SCALE", self.scale)
            .flag("HAS_SHIFT", self.shift)
            .flag("HAS_RESIDUAL", self.residual)
            .constant("ACTIVATION", self.activation as usize)
    }
}
