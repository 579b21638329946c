//! What a device can do, reduced to what kernels ask.

use super::byte_matrices;
use serde::Serialize;
use std::fmt;
use wgpu::{Adapter, CooperativeScalarType, Features};

/// Kernel tiers, from the plainest to the most demanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// WebGPU's baseline: runs everywhere.
    Portable,
    /// Packed 4×8-bit integer dot products.
    Packed,
    /// Cooperative matrices, the cross-vendor name of tensor cores.
    Matrix,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Packed => "packed",
            Self::Matrix => "matrix",
        })
    }
}

/// What kernels may use on a device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Capabilities {
    /// 16-bit floats in shaders and buffers.
    pub f16: bool,
    /// 16×16×16 cooperative matrices, f16 in and f32 accumulated, asked from the adapter's own list, on subgroups of 32 lanes.
    pub matrix: bool,
    /// 16×16×32 cooperative matrices of signed bytes and i32 sums beside them, which take a driver that reads SPIR-V.
    pub byte_matrix: bool,
    /// Timestamps at pass boundaries.
    pub timestamps: bool,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Invocations of one workgroup.
    pub invocations: u32,
    /// Lanes of a subgroup, smallest and largest; 0 when the device does not say.
    pub subgroup: (u32, u32),
    /// The best tier that may be used: what the device has, or less when the user asks for less.
    pub tier: Tier,
}

impl Capabilities {
    /// Those that WebGPU guarantees, the least a device of ours has.
    pub const WEBGPU: Self = Self {
        f16: false,
        matrix: false,
        byte_matrix: false,
        timestamps: false,
        workgroup_memory: 16 << 10,
        invocations: 256,
        subgroup: (0, 0),
        tier: Tier::Portable,
    };

    /// Those of an adapter.
    pub fn of(adapter: &Adapter) -> Self {
        let (features, limits, info) = (adapter.features(), adapter.limits(), adapter.get_info());
        let f16 = features.contains(Features::SHADER_F16);
        let subgroup = (info.subgroup_min_size, info.subgroup_max_size);
        let matrix =
            f16 && features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) && subgroup == (32, 32) && has_matrix_shape(adapter);
        Self {
            f16,
            matrix,
            byte_matrix: matrix && byte_matrices::are_offered(adapter),
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits.max_compute_invocations_per_workgroup,
            subgroup,
            tier: if matrix { Tier::Matrix } else { Tier::Packed },
        }
    }

    /// The device features to ask for.
    pub(super) fn features(&self) -> Features {
        let mut wanted = Features::empty();
        wanted.set(Features::SHADER_F16, self.f16);
        wanted.set(Features::EXPERIMENTAL_COOPERATIVE_MATRIX, self.matrix);
        wanted.set(Features::PASSTHROUGH_SHADERS, self.byte_matrix);
        wanted.set(Features::TIMESTAMP_QUERY, self.timestamps);
        wanted
    }

    /// Whether a kernel of this tier may run.
    pub fn allows(&self, tier: Tier) -> bool {
        tier <= self.tier && (tier != Tier::Matrix || self.matrix)
    }

    /// Whether kernels on cooperative matrices of bytes may run.
    pub fn allows_bytes(&self) -> bool {
        self.byte_matrix && self.allows(Tier::Matrix)
    }
}

/// The one shape our kernels are written for. Drivers list what they have; the feature bit alone promises nothing.
fn has_matrix_shape(adapter: &Adapter) -> bool {
    adapter.cooperative_matrix_properties().iter().any(|p| {
        (p.m_size, p.n_size, p.k_size) == (16, 16, 16) && p.ab_type == CooperativeScalarType::F16 && p.cr_type == CooperativeScalarType::F32
    })
}
