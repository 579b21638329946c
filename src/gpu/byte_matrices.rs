//! Cooperative matrices of bytes, which WGSL cannot name: whether a device has them, and SPIR-V that uses them.
//!
//! Tensor cores multiply signed bytes into i32 twice as fast as halves into f32, and exactly. Vulkan offers that as matrices of
//! 16 × 32 and 32 × 16 bytes; naga 30 knows only squares of floats. So kernels for them are written, and validated, with
//! `coop_mat16x16<f32, ..>`, whose rows are as long as 16 words on paper, and [`retype`] makes bytes of the operands and i32 of the
//! sums in the SPIR-V that naga writes. Memory stays as declared: a matrix may be loaded from an array of any scalars or vectors.

use wgpu::{Adapter, Features};

/// Whether the driver lists 16 × 16 × 32 products of signed bytes, i32 sums, of a subgroup, and takes SPIR-V from us.
pub(super) fn are_offered(adapter: &Adapter) -> bool {
    adapter.features().contains(Features::PASSTHROUGH_SHADERS) && vulkan::lists_bytes(adapter)
}

/// As for wgpu itself: where there is Vulkan.
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
mod vulkan {
    use ash::vk;
    use wgpu::Adapter;
    use wgpu::hal::api::Vulkan;

    pub(super) fn lists_bytes(adapter: &Adapter) -> bool {
        // SAFETY: the adapter of the back end is only asked, and only while it is held.
        let Some(vulkan) = (unsafe { adapter.as_hal::<Vulkan>() }) else { return false };
        let (instance, device) = (vulkan.shared_instance(), vulkan.raw_physical_device());
        let mut halves_and_bytes = vk::PhysicalDeviceShaderFloat16Int8Features::default();
        let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut halves_and_bytes);
        // SAFETY: the physical device is of this instance, which wgpu opened for Vulkan 1.1 or later.
        unsafe { instance.raw_instance().get_physical_device_features2(device, &mut features) };
        let list = ash::khr::cooperative_matrix::Instance::new(instance.entry(), instance.raw_instance());
        // SAFETY: callers ask adapters with wgpu's feature of cooperative matrices, that is with the extension that this function is of.
        let listed = unsafe { list.get_physical_device_cooperative_matrix_properties(device) };
        halves_and_bytes.shader_int8 == vk::TRUE && listed.is_ok_and(|all| all.iter().any(is_of_bytes))
    }

    fn is_of_bytes(p: &vk::CooperativeMatrixPropertiesKHR<'_>) -> bool {
        let (byte, sum) = (vk::ComponentTypeKHR::SINT8, vk::ComponentTypeKHR::SINT32);
        (p.m_size, p.n_size, p.k_size) == (16, 16, 32)
            && [p.a_type, p.b_type, p.c_type, p.result_type] == [byte, byte, sum, sum]
            && p.scope == vk::ScopeKHR::SUBGROUP
    }
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
mod vulkan {
    pub(super) fn lists_bytes(_: &wgpu::Adapter) -> bool {
        false
    }
}

/// The SPIR-V of a kernel for matrices of bytes, with the run-time checks of wgpu or, as for all kernels of this crate, without.
///
/// # Errors
/// naga's message.
pub(super) fn spirv(module: &naga::Module, checked: bool) -> Result<Vec<u32>, String> {
    use naga::back::spv;
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(module).map_err(|e| format!("{e:?}"))?;
    let policy = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let options = spv::Options {
        // Drivers with cooperative matrices have Vulkan 1.3, and so SPIR-V 1.6.
        lang_version: (1, 6),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..spv::Options::default()
    };
    let words = spv::write_vec(module, &info, &options, None).map_err(|e| e.to_string())?;
    Ok(retype(&words))
}

/// Numbers of the SPIR-V specification.
mod op {
    pub(super) const CAPABILITY: u32 = 17;
    pub(super) const TYPE_VOID: u32 = 19;
    pub(super) const TYPE_INT: u32 = 21;
    pub(super) const TYPE_ARRAY: u32 = 28;
    pub(super) const CONSTANT: u32 = 43;
    pub(super) const DECORATE: u32 = 71;
    pub(super) const CONTROL_BARRIER: u32 = 224;
    pub(super) const TYPE_COOPERATIVE_MATRIX: u32 = 4456;
    pub(super) const COOPERATIVE_MATRIX_MUL_ADD: u32 = 4459;
    pub(super) const F_MUL: u32 = 133;
    pub(super) const VECTOR_TIMES_SCALAR: u32 = 142;
    /// The decoration that forbids to compute a product and a sum with one rounding.
    pub(super) const NO_CONTRACTION: u32 = 42;
    /// The capability of 8-bit integers.
    pub(super) const INT8: u32 = 39;
    /// The decoration of an array's element size.
    pub(super) const ARRAY_STRIDE: u32 = 6;
    /// That both operands, the addend and the result of a product are signed.
    pub(super) const ALL_SIGNED: u32 = 0b1111;
    /// The scope of a subgroup.
    pub(super) const SUBGROUP: u32 = 3;
}

const HEADER: usize = 5;

/// The instructions of a module, each with its first word.
fn instructions(words: &[u32]) -> impl Iterator<Item = &[u32]> {
    let mut rest = &words[HEADER..];
    std::iter::from_fn(move || {
        let length = (*rest.first()? >> 16) as usize;
        let (instruction, behind) = rest.split_at(length);
        rest = behind;
        Some(instruction)
    })
}

fn opcode(instruction: &[u32]) -> u32 {
    instruction[0] & 0xffff
}

fn first_word(opcode: u32, length: usize) -> u32 {
    (length as u32) << 16 | opcode
}

/// Turns cooperative matrices of 16 × 16 floats into operands of 16 × 32 and 32 × 16 signed bytes and sums of 16 × 16 i32, and forbids to contract
/// products into sums, for which other kernels have barriers (`shaders/common/rounded.wgsl`).
///
/// # Panics
/// When the module is not one that naga writes for such a kernel.
fn retype(words: &[u32]) -> Vec<u32> {
    let find = |is: &dyn Fn(&[u32]) -> bool| instructions(words).find(|i| is(i)).map(|i| i[1]);
    let unsigned = find(&|i| opcode(i) == op::TYPE_INT && i[2..] == [32, 0]).expect("a kernel counts in u32");
    let signed = find(&|i| opcode(i) == op::TYPE_INT && i[2..] == [32, 1]).expect("sums are finished as i32");
    let constant = |id: u32| instructions(words).find(|i| opcode(i) == op::CONSTANT && i[2] == id).map(|i| i[3]);
    // Arrays in workgroup memory: naga gives them a layout, which Vulkan forbids there.
    let arrays: Vec<u32> = instructions(words).filter(|i| opcode(i) == op::TYPE_ARRAY).map(|i| i[1]).collect();
    // What a subgroup has written to workgroup memory it reads behind its own barrier, for which naga names other memory.
    let is_of_subgroup = |i: &[u32]| constant(i[1]) == Some(op::SUBGROUP);
    let wide = instructions(words).find(|i| opcode(i) == op::CONTROL_BARRIER && !is_of_subgroup(i)).map(|i| i[3]);
    let is_product = |i: &&[u32]| [op::F_MUL, op::VECTOR_TIMES_SCALAR].contains(&opcode(i));
    let products: Vec<u32> = instructions(words).filter(is_product).map(|i| i[2]).collect();
    let (byte, long) = (words[3], words[3] + 1);

    let mut out = words[..HEADER].to_vec();
    out[3] += 2;
    let (mut has_capability, mut has_types, mut has_long) = (false, false, false);
    for i in instructions(words) {
        if opcode(i) != op::CAPABILITY && !std::mem::replace(&mut has_capability, true) {
            out.extend([first_word(op::CAPABILITY, 2), op::INT8]);
        }
        if opcode(i) == op::TYPE_VOID || opcode(i) == op::TYPE_INT || opcode(i) == op::TYPE_COOPERATIVE_MATRIX {
            // i32 comes first, because the type of the sums may stand before where naga has it.
            if !std::mem::replace(&mut has_types, true) {
                // Decorations end where types begin.
                products.iter().for_each(|&id| out.extend([first_word(op::DECORATE, 3), id, op::NO_CONTRACTION]));
                out.extend([first_word(op::TYPE_INT, 4), byte, 8, 1, first_word(op::TYPE_INT, 4), signed, 32, 1]);
            }
        }
        match opcode(i) {
            op::TYPE_INT if i[1] == signed => {}
            op::DECORATE if i[2] == op::ARRAY_STRIDE && arrays.contains(&i[1]) => {}
            op::TYPE_COOPERATIVE_MATRIX => {
                if !std::mem::replace(&mut has_long, true) {
                    out.extend([first_word(op::CONSTANT, 4), unsigned, long, 32]);
                }
                let [start, id, _, scope, rows, columns, role] = *i else { panic!("a matrix type of {} words", i.len()) };
                out.extend(match constant(role) {
                    Some(0) => [start, id, byte, scope, rows, long, role],
                    Some(1) => [start, id, byte, scope, long, columns, role],
                    Some(2) => [start, id, signed, scope, rows, columns, role],
                    other => panic!("matrices are operands or sums, not {other:?}"),
                });
            }
            op::CONTROL_BARRIER if is_of_subgroup(i) => {
                out.extend([i[0], i[1], i[2], wide.expect("a workgroup stages its operands together")]);
            }
            op::COOPERATIVE_MATRIX_MUL_ADD => {
                out.push(first_word(op::COOPERATIVE_MATRIX_MUL_ADD, i.len() + 1));
                out.extend(&i[1..]);
                out.push(op::ALL_SIGNED);
            }
            _ => out.extend(i),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::shader;

    const KERNEL: &str = "
        enable wgpu_cooperative_matrix;
        @group(0) @binding(0) var<storage, read_write> y: array<i32>;
        var<workgroup> sh: array<vec4<f32>, 64>;
        @compute @workgroup_size(32)
        fn main(@builtin(local_invocation_index) lane: u32) {
            sh[lane] = bitcast<vec4<f32>>(vec4<u32>(lane));
            workgroupBarrier();
            let x = coopLoadT<coop_mat16x16<f32, A>>(&sh[0], 2u);
            let w = coopLoad<coop_mat16x16<f32, B>>(&sh[32], 2u);
            let sums = coopMultiplyAdd(x, w, coop_mat16x16<f32, C>());
            workgroupBarrier();
            coopStoreT(sums, &sh[0], 4u);
            subgroupBarrier();
            y[lane] = bitcast<vec4<i32>>(sh[lane]).x;
        }";

    fn all(words: &[u32], opcode: u32) -> Vec<&[u32]> {
        instructions(words).filter(|i| self::opcode(i) == opcode).collect()
    }

    #[test]
    fn operands_become_bytes_and_sums_i32() {
        let (module, _) = shader::reflect(KERNEL).unwrap();
        let words = spirv(&module, false).unwrap();
        let constant = |id: u32| all(&words, op::CONSTANT).into_iter().find(|i| i[2] == id).unwrap()[3];
        let element = |id: u32| all(&words, op::TYPE_INT).into_iter().find(|i| i[1] == id).unwrap()[2..].to_vec();
        let mut types: Vec<_> = all(&words, op::TYPE_COOPERATIVE_MATRIX)
            .into_iter()
            .map(|i| (constant(i[6]), element(i[2]), [constant(i[4]), constant(i[5])]))
            .collect();
        types.sort();
        assert_eq!(types, [(0, vec![8, 1], [16, 32]), (1, vec![8, 1], [32, 16]), (2, vec![32, 1], [16, 16])]);
        let products = all(&words, op::COOPERATIVE_MATRIX_MUL_ADD);
        assert!(products.len() == 1 && products[0].last() == Some(&op::ALL_SIGNED));
        assert_eq!(all(&words, op::CAPABILITY).into_iter().filter(|i| i[1] == op::INT8).count(), 1);
    }

    #[test]
    fn every_name_is_defined_once_below_the_bound_and_before_its_use_in_a_type() {
        let (module, _) = shader::reflect(KERNEL).unwrap();
        let words = spirv(&module, true).unwrap();
        assert_eq!(instructions(&words).map(<[u32]>::len).sum::<usize>() + HEADER, words.len());
        let mut defined = std::collections::HashSet::new();
        for i in instructions(&words) {
            let (name, uses): (u32, &[u32]) = match opcode(i) {
                op::TYPE_INT => (i[1], &[]),
                op::CONSTANT => (i[2], &i[1..2]),
                op::TYPE_COOPERATIVE_MATRIX => (i[1], &i[2..]),
                _ => continue,
            };
            assert!(uses.iter().all(|u| defined.contains(u)), "{i:?}");
            assert!(defined.insert(name) && name < words[3], "{i:?}");
        }
    }

    #[test]
    fn the_barrier_of_a_subgroup_is_one_for_workgroup_memory() {
        let (module, _) = shader::reflect(KERNEL).unwrap();
        let words = spirv(&module, false).unwrap();
        let constant = |id: u32| all(&words, op::CONSTANT).into_iter().find(|i| i[2] == id).unwrap()[3];
        let barriers: Vec<_> = all(&words, op::CONTROL_BARRIER).into_iter().map(|i| [1, 2, 3].map(|at| constant(i[at]))).collect();
        // Scopes of execution and memory, and the semantics: acquire and release of workgroup memory.
        assert_eq!(barriers, [[2, 2, 0x108], [2, 2, 0x108], [3, 3, 0x108]]);
    }

    #[test]
    fn no_product_may_be_contracted() {
        let line = "y[lane] = bitcast<vec4<i32>>(sh[lane]).x;";
        let floats = "let v = sh[lane]; y[lane] = i32(v.x * v.y + v.z) + i32((v * v.w + v).x) + i32((v * v + v).y);";
        let (module, _) = shader::reflect(&KERNEL.replace(line, floats)).unwrap();
        let words = spirv(&module, false).unwrap();
        let mut products: Vec<u32> =
            [op::F_MUL, op::VECTOR_TIMES_SCALAR].into_iter().flat_map(|op| all(&words, op)).map(|i| i[2]).collect();
        let mut kept: Vec<u32> = all(&words, op::DECORATE).into_iter().filter(|i| i[2] == op::NO_CONTRACTION).map(|i| i[1]).collect();
        products.sort_unstable();
        kept.sort_unstable();
        assert_eq!((products.len(), &kept), (3, &products));
        // Decorations stand before types.
        let place = |is: &dyn Fn(&[u32]) -> bool| instructions(&words).position(is).unwrap();
        assert!(place(&|i| i[0] & 0xffff == op::DECORATE && i[2] == op::NO_CONTRACTION) < place(&|i| opcode(i) == op::TYPE_INT));
    }

    #[test]
    #[should_panic(expected = "a kernel counts in u32")]
    fn what_is_no_such_kernel_is_refused() {
        retype(&[0x0723_0203, 0x0001_0600, 0, 1, 0]);
    }
}
