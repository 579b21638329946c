//! One kernel launch as plain data.

use super::{Tier, shader::Source};
use crate::tensor::DType;
use std::fmt::Write;

/// Most workgroups along one dimension of a grid that WebGPU guarantees.
pub(crate) const MAX_GROUPS: usize = 65_535;

/// A kernel launch: which shader, composed how, with which parameters, over which grid.
///
/// Binding 0 is the uniform [`Dispatch::params`]; then come the inputs in the order of [`Dispatch::inputs`], then the outputs.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The WGSL file.
    pub source: Source,
    /// Further WGSL pieces that this variant chooses, put before the file.
    pub parts: Vec<Source>,
    /// `alias` and `const` lines that this variant chooses, put before all else.
    pub prelude: String,
    /// Words of the uniform struct `Params`.
    pub params: Words,
    /// For each input binding, which input of the op it is. An optional input that is absent is bound to another one
    /// and never read.
    pub inputs: Vec<usize>,
    /// Workgroups in x, y, z.
    pub groups: [u32; 3],
    /// What the shader needs of the device.
    pub tier: Tier,
    /// Whether the shader uses f16.
    pub f16: bool,
    /// Whether the shader's cooperative matrices are of bytes: see [`Dispatch::on_bytes`].
    pub bytes: bool,
}

impl Dispatch {
    /// A dispatch of a portable shader over all `inputs` of an op; the grid is set by one of the `over_*` methods.
    pub fn new(source: Source, inputs: usize) -> Self {
        Self {
            source,
            parts: Vec::new(),
            prelude: String::new(),
            params: Words::default(),
            inputs: (0..inputs).collect(),
            groups: [1; 3],
            tier: Tier::Portable,
            f16: false,
            bytes: false,
        }
    }

    /// `alias NAME = type; alias NAME4 = vec4<type>;`
    pub fn element(mut self, name: &str, dtype: DType) -> Self {
        self.f16 |= dtype == DType::F16;
        let _ = writeln!(self.prelude, "alias {name} = {0};\nalias {name}4 = vec4<{0}>;", dtype.wgsl());
        self
    }

    /// `alias NAME = type;` or, for a `width` of 2 or 4, `alias NAME = vec4<type>;` and so: for shaders that are written once for all.
    ///
    /// # Panics
    /// When `width` is none of 1, 2 and 4.
    pub fn wide(mut self, name: &str, dtype: DType, width: usize) -> Self {
        self.f16 |= dtype == DType::F16;
        let _ = match width {
            1 => writeln!(self.prelude, "alias {name} = {};", dtype.wgsl()),
            2 | 4 => writeln!(self.prelude, "alias {name} = vec{width}<{}>;", dtype.wgsl()),
            _ => panic!("{name}: a width of {width} is none of 1, 2 and 4"),
        };
        self
    }

    /// `const NAME = value;` as `u32`.
    pub fn constant(mut self, name: &str, value: usize) -> Self {
        let _ = writeln!(self.prelude, "const {name} = {value}u;");
        self
    }

    /// `const NAME = value;` as `bool`.
    pub fn flag(mut self, name: &str, value: bool) -> Self {
        let _ = writeln!(self.prelude, "const {name} = {value};");
        self
    }

    /// A WGSL piece that this variant chooses.
    pub fn part(mut self, part: Source) -> Self {
        self.parts.push(part);
        self
    }

    /// The uniform parameters.
    pub fn params(mut self, params: Words) -> Self {
        self.params = params;
        self
    }

    /// The tier the shader needs.
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self
    }

    /// Matrices that the text declares as `coop_mat16x16<f32, ..>` are 16 × 32 and 32 × 16 signed bytes, and i32 sums: what tensor
    /// cores have and WGSL cannot name.
    pub fn on_bytes(mut self) -> Self {
        self.bytes = true;
        self.tier(Tier::Matrix)
    }

    /// Which op input stands at each input binding.
    pub fn bind(mut self, inputs: impl Into<Vec<usize>>) -> Self {
        self.inputs = inputs.into();
        self
    }

    /// A flat grid of at least `items` invocations in workgroups of `group`, folded into x and y so that no dimension
    /// passes WebGPU's 65,535. The shader finds its index with `common/index.wgsl`.
    pub fn over_items(self, items: usize, group: usize) -> Self {
        self.over_groups(items.div_ceil(group))
    }

    /// A flat grid of at least `groups` workgroups, folded as in [`Dispatch::over_items`].
    pub fn over_groups(mut self, groups: usize) -> Self {
        let y = groups.div_ceil(MAX_GROUPS);
        self.groups = grid([groups.div_ceil(y), y, 1]);
        self
    }

    /// A grid of workgroups as given.
    ///
    /// # Panics
    /// When a dimension passes WebGPU's 65,535.
    pub fn over_grid(mut self, groups: [usize; 3]) -> Self {
        self.groups = grid(groups);
        self
    }
}

#[track_caller]
fn grid(groups: [usize; 3]) -> [u32; 3] {
    groups.map(|g| {
        assert!((1..=MAX_GROUPS).contains(&g), "a grid of {groups:?} workgroups leaves 1..={MAX_GROUPS}");
        g as u32
    })
}

/// The content of a uniform struct of `u32` and `f32` members.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Words(Vec<u32>);

impl Words {
    /// Words from `u32` members.
    ///
    /// # Panics
    /// When a value leaves 32 bits.
    #[track_caller]
    pub fn of(values: impl AsRef<[usize]>) -> Self {
        let word = |&v: &usize| u32::try_from(v).unwrap_or_else(|_| panic!("parameter {v} leaves 32 bits"));
        Self(values.as_ref().iter().map(word).collect())
    }

    /// Appends `u32` members.
    ///
    /// # Panics
    /// As [`Words::of`].
    #[track_caller]
    pub fn also(mut self, values: impl AsRef<[usize]>) -> Self {
        self.0.extend(Self::of(values).0);
        self
    }

    /// Appends a `u32` member that may be any of its values.
    pub fn word(mut self, value: u32) -> Self {
        self.0.push(value);
        self
    }

    /// Appends an `f32` member.
    pub fn float(mut self, value: f32) -> Self {
        self.0.push(value.to_bits());
        self
    }

    /// The bytes of the struct, padded to the 16 that uniform structs come in.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut words = self.0.clone();
        words.resize(words.len().next_multiple_of(4).max(4), 0);
        bytemuck::cast_slice(&words).to_vec()
    }

    /// Number of members.
    #[expect(clippy::len_without_is_empty, reason = "no kernel is without parameters")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
