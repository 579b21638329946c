//! Composing WGSL and reading back what it declares.
//!
//! A shader is a file in `shaders/`, embedded by [`wgsl!`](crate::wgsl). It may begin with lines `#import name.wgsl` that
//! name files of `shaders/common/`; these are put before it, once each. The host adds `alias` and `const` lines (element
//! types, tile sizes) and, for kernels with exchangeable pieces, further files. That is the whole language: no conditionals;
//! a variant that differs in more than types and numbers is a file of its own.
//!
//! Why not `naga_oil` or `wesl`: tried on a cooperative-matrix kernel with one import. `naga_oil` 0.23 (on naga 30) fails to build
//! the composed module, and takes no `enable` line behind an import; `wesl` 0.4, the newest for this Rust, does not know
//! `coopLoadT`. Concatenation is all that these shaders need.
//!
//! One dialect trap: naga 30 knows subgroup operations without, and rejects, the `enable subgroups;` line that the
//! WGSL standard (and Dawn) demands. No shader here uses subgroup operations, so that one text serves both; kernels on matrices of
//! bytes, which leave as SPIR-V, have a subgroup's barrier.

use super::{Dispatch, Tier};
use naga::front::wgsl;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A WGSL file that is part of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Path below `shaders/`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// Embeds a file of `shaders/` as a [`Source`].
#[macro_export]
macro_rules! wgsl {
    ($name:literal) => {
        $crate::gpu::shader::Source { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name)) }
    };
}

/// The files that others import.
pub const COMMON: &[Source] = &[
    wgsl!("common/index.wgsl"),
    wgsl!("common/codes.wgsl"),
    wgsl!("common/differences.wgsl"),
    wgsl!("common/dropout.wgsl"),
    wgsl!("common/epilogue.wgsl"),
    wgsl!("common/finished.wgsl"),
    wgsl!("common/gaussian.wgsl"),
    wgsl!("common/integer_scale.wgsl"),
    wgsl!("common/normal.wgsl"),
    wgsl!("common/quantized.wgsl"),
    wgsl!("common/reciprocal.wgsl"),
    wgsl!("common/reduce.wgsl"),
    wgsl!("common/reduce_pair.wgsl"),
    wgsl!("common/result.wgsl"),
    wgsl!("common/rounded.wgsl"),
    wgsl!("common/straight_through.wgsl"),
    wgsl!("common/sums_of_codes.wgsl"),
    wgsl!("common/transposed.wgsl"),
];

/// How a binding is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The parameter struct.
    Uniform,
    /// A storage buffer that is only read.
    Read,
    /// A storage buffer that is written.
    ReadWrite,
}

/// What a composed shader declares: the truth that the host is checked against.
#[derive(Clone, Debug)]
pub struct Reflection {
    /// Access of each binding of group 0, by binding number without holes.
    pub bindings: Vec<Access>,
    /// Bytes of the struct at binding 0.
    pub params_size: usize,
    /// Workgroup size of the entry point `main`.
    pub workgroup: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_memory: usize,
}

/// The whole text of a dispatch's shader.
///
/// # Panics
/// When an import names no file of `shaders/common/`: a mistake in a shader of this crate.
pub fn compose(dispatch: &Dispatch) -> String {
    let mut text = String::new();
    if dispatch.f16 {
        text.push_str("enable f16;\n");
    }
    if dispatch.tier == Tier::Matrix {
        text.push_str("enable wgpu_cooperative_matrix;\n");
    }
    text.push_str(&format!("const PRODUCTS_ARE_ROUNDED = {};\n", dispatch.bytes));
    text.push_str(&dispatch.prelude);
    let mut imported = Vec::new();
    for source in dispatch.parts.iter().chain([&dispatch.source]) {
        append(source, &mut imported, &mut text);
    }
    text
}

/// A number, in hex, for the texts of kernels: what is kept about them between runs holds for these alone. Another release of Rust may give
/// another one.
pub(crate) fn fingerprint<'a>(kernels: impl IntoIterator<Item = &'a Dispatch>) -> String {
    let mut hasher = DefaultHasher::new();
    kernels.into_iter().for_each(|kernel| compose(kernel).hash(&mut hasher));
    format!("{:016x}", hasher.finish())
}

fn append(source: &Source, imported: &mut Vec<&'static str>, text: &mut String) {
    for name in source.text.lines().filter_map(|line| line.strip_prefix("#import ")) {
        let name = name.trim();
        let common = COMMON.iter().find(|s| s.name == name);
        let common = common.unwrap_or_else(|| panic!("{}: imports `{name}`, which is not in shaders/common", source.name));
        if !imported.contains(&common.name) {
            imported.push(common.name);
            append(common, imported, text);
        }
    }
    for line in source.text.lines().filter(|line| !line.starts_with("#import ")) {
        text.push_str(line);
        text.push('\n');
    }
}

/// Parses a composed shader and reads its bindings, parameter size and workgroup.
///
/// # Errors
/// naga's message, with the place in the composed text.
pub fn reflect(text: &str) -> Result<(naga::Module, Reflection), String> {
    let module = wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let entry = module.entry_points.iter().find(|e| e.name == "main").ok_or("no entry point `main`")?;
    let mut bindings = Vec::new();
    let (mut params_size, mut workgroup_memory) = (0, 0);
    for (_, variable) in module.global_variables.iter() {
        let size = module.types[variable.ty].inner.size(module.to_ctx()) as usize;
        match variable.space {
            naga::AddressSpace::WorkGroup => workgroup_memory += size,
            naga::AddressSpace::Uniform => params_size = size,
            _ => {}
        }
        let Some(binding) = &variable.binding else { continue };
        let access = match variable.space {
            naga::AddressSpace::Uniform => Access::Uniform,
            naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => Access::ReadWrite,
            naga::AddressSpace::Storage { .. } => Access::Read,
            other => return Err(format!("binding {} is in {other:?}", binding.binding)),
        };
        bindings.push((binding.binding as usize, access));
    }
    bindings.sort_by_key(|b| b.0);
    if bindings.iter().enumerate().any(|(i, b)| i != b.0) {
        return Err(format!("bindings {bindings:?} have holes"));
    }
    let workgroup = entry.workgroup_size;
    let bindings = bindings.into_iter().map(|b| b.1).collect();
    Ok((module, Reflection { bindings, params_size, workgroup, workgroup_memory }))
}
