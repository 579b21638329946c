//! The portability audit: every shader of the op table, in every variant that a device could choose, is valid WGSL, fits
//! the limits it promises, agrees with its host side, and can be written as SPIR-V, HLSL and MSL.
//!
//! What this proves and what not: naga, which wgpu uses on every back end, accepts and translates the text. Execution is
//! tested where there is a device (Vulkan, software or not); on DX12 and Metal nothing of this crate was ever executed.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities as Allowed, ModuleInfo, ValidationFlags, Validator};
use qdetr::gpu::shader::{Access, COMMON, Reflection, compose, reflect};
use qdetr::gpu::{Capabilities, Dispatch, Tier, Words};
use qdetr::graph::check::Case;
use qdetr::kernels::TABLE;
use qdetr::tensor::{Host, TensorType};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// WebGPU's default limits, those of the specification.
const STORAGE_BUFFERS: usize = 8;
const WORKGROUP_MEMORY: usize = 16 << 10;
const INVOCATIONS: u32 = 256;
const GROUPS: u32 = 65_535;

/// The kinds of devices that kernels are chosen for.
fn devices() -> Vec<(&'static str, Capabilities)> {
    let half = Capabilities { f16: true, ..Capabilities::WEBGPU };
    let gpu = Capabilities { workgroup_memory: 48 << 10, invocations: 1024, subgroup: (32, 32), tier: Tier::Packed, ..half };
    let matrix = Capabilities { matrix: true, tier: Tier::Matrix, ..gpu };
    let bytes = Capabilities { byte_matrix: true, ..matrix };
    vec![
        ("webgpu", Capabilities::WEBGPU),
        ("webgpu with f16", half),
        ("packed", gpu),
        ("matrix", matrix),
        ("matrix of bytes", bytes),
        ("matrix, told to be portable", Capabilities { tier: Tier::Portable, ..bytes }),
        ("matrix, told to be packed", Capabilities { tier: Tier::Packed, ..bytes }),
    ]
}

/// One kernel of one case on one kind of device.
struct Variant {
    device: Capabilities,
    /// Op, attributes and types, for messages.
    case: String,
    op: &'static str,
    /// Whether a tensor of the case is f16.
    half: bool,
    outputs: usize,
    dispatch: Dispatch,
    text: String,
}

impl Variant {
    fn source(&self) -> &'static str {
        self.dispatch.source.name
    }
}

fn types(hosts: &[Host]) -> Vec<TensorType> {
    hosts.iter().map(Host::ty).collect()
}

/// All variants of all cases; asserts on the way that every device has a kernel for what it can hold, the last a portable one.
fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    let cases: Vec<Case> = TABLE.par_iter().flat_map(|family| (family.cases)()).collect();
    for case in cases {
        let inputs = types(&case.inputs);
        let outputs = case.op.outputs(&inputs);
        for (name, device) in devices().into_iter().filter(|(_, d)| d.f16 || !case.needs_f16()) {
            let kernels = case.op.kernels(&inputs, &outputs, &device);
            assert!(kernels.iter().all(|k| device.allows(k.tier)), "{name}: a kernel of {} leaves the device's tier", case.name());
            let last = kernels.last().unwrap_or_else(|| panic!("{name}: no kernel for {}", case.name()));
            assert_eq!(last.tier, Tier::Portable, "{name}: the last resort for {} is not portable", case.name());
            all.extend(kernels.into_iter().map(|dispatch| Variant {
                device,
                case: case.name(),
                op: case.op.name(),
                half: case.needs_f16(),
                outputs: outputs.len(),
                text: compose(&dispatch),
                dispatch,
            }));
        }
    }
    all
}

/// Each text once, with the tier and the f16 need of the first variant that has it.
fn texts(variants: &[Variant]) -> Vec<(&str, &Dispatch)> {
    let unique: BTreeMap<&str, &Dispatch> = variants.iter().map(|v| (v.text.as_str(), &v.dispatch)).collect();
    unique.into_iter().collect()
}

fn fail_if_any(failures: Vec<String>, of: usize) {
    assert!(of >= 8, "only {of} shaders were looked at");
    assert!(failures.is_empty(), "{} of {of}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_variant_is_valid_and_becomes_spirv_hlsl_and_msl() {
    let variants = variants();
    let texts = texts(&variants);
    let failures = texts.par_iter().filter_map(|(text, dispatch)| {
        let name = dispatch.source.name;
        translate(text, dispatch).err().map(|what| format!("{name} ({:?} tier): {what}", dispatch.tier))
    });
    fail_if_any(failures.collect(), texts.len());
}

fn translate(text: &str, dispatch: &Dispatch) -> Result<(), String> {
    let (module, reflection) = reflect(text)?;
    let mut allowed = Allowed::empty();
    allowed.set(Allowed::SHADER_FLOAT16, dispatch.f16);
    // unpack2x16float: every back end of ours has it, wgpu withholds it only from GLES.
    allowed |= Allowed::SHADER_FLOAT16_IN_FLOAT32;
    allowed.set(Allowed::COOPERATIVE_MATRIX, dispatch.tier == Tier::Matrix);
    allowed.set(Allowed::SUBGROUP | Allowed::SUBGROUP_BARRIER, dispatch.bytes);
    let info = Validator::new(ValidationFlags::all(), allowed).validate(&module).map_err(|e| e.emit_to_string(text))?;
    for version in [(1, 3), (1, 6)] {
        let options = spv::Options { lang_version: version, ..spv::Options::default() };
        spv::write_vec(&module, &info, &options, None).map_err(|e| format!("SPIR-V {version:?}: {e}"))?;
    }
    for version in [(2, 4), (3, 0)] {
        to_msl(&module, &info, &reflection, version).map_err(|e| format!("MSL {version:?}: {e}"))?;
    }
    let model = if dispatch.f16 { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 };
    match (to_hlsl(&module, &info, model), dispatch.tier) {
        // DX12 has no cooperative matrices, so wgpu never offers them there and such a variant is never chosen.
        (Err(_), Tier::Matrix) => Ok(()),
        (Ok(()), Tier::Matrix) => Err("naga writes cooperative matrices as HLSL now: drop the exemption here".into()),
        (result, _) => result.map_err(|e| format!("HLSL {model:?}: {e}")),
    }
}

fn to_hlsl(module: &naga::Module, info: &ModuleInfo, shader_model: hlsl::ShaderModel) -> Result<(), String> {
    let options = hlsl::Options { shader_model, ..hlsl::Options::default() };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| e.to_string())?;
    written.entry_point_names.into_iter().try_for_each(|name| name.map(|_| ()).map_err(|e| e.to_string()))
}

fn to_msl(module: &naga::Module, info: &ModuleInfo, reflection: &Reflection, lang_version: (u8, u8)) -> Result<(), String> {
    let slot = |(i, access): (usize, &Access)| {
        let mutable = *access == Access::ReadWrite;
        let target = msl::BindTarget { buffer: Some(i as u8), mutable, ..msl::BindTarget::default() };
        (naga::ResourceBinding { group: 0, binding: i as u32 }, target)
    };
    let resources = reflection.bindings.iter().enumerate().map(slot).collect();
    let entry = msl::EntryPointResources { resources, sizes_buffer: Some(30), ..msl::EntryPointResources::default() };
    let options = msl::Options {
        lang_version,
        fake_missing_bindings: false,
        per_entry_point_map: [("main".to_owned(), entry)].into(),
        ..msl::Options::default()
    };
    let (_, written) = msl::write_string(module, info, &options, &msl::PipelineOptions::default()).map_err(|e| e.to_string())?;
    written.entry_point_names.into_iter().try_for_each(|name| name.map(|_| ()).map_err(|e| e.to_string()))
}

#[test]
fn every_dispatch_agrees_with_its_shader_and_keeps_the_limits() {
    let variants = variants();
    let known: BTreeMap<&str, (naga::Module, Reflection)> = texts(&variants)
        .into_par_iter()
        .map(|(text, d)| (text, reflect(text).unwrap_or_else(|e| panic!("{}: {e}", d.source.name))))
        .collect();
    let failures: BTreeSet<String> = variants.iter().flat_map(|v| disagreements(v, &known[v.text.as_str()])).collect();
    fail_if_any(failures.into_iter().collect(), variants.len());
}

/// Everything that is wrong between a dispatch and what its shader declares.
fn disagreements(variant: &Variant, (module, found): &(naga::Module, Reflection)) -> Vec<String> {
    let dispatch = &variant.dispatch;
    let mut wrong = Vec::new();
    let mut check = |right: bool, what: String| {
        if !right {
            wrong.push(format!("{} [{}]: {what}", variant.case, variant.source()));
        }
    };
    let inputs = dispatch.inputs.iter().map(|_| Access::Read);
    let outputs = (0..variant.outputs).map(|_| Access::ReadWrite);
    let expected: Vec<Access> = [Access::Uniform].into_iter().chain(inputs).chain(outputs).collect();
    check(found.bindings == expected, format!("declares {:?}, the host binds {expected:?}", found.bindings));
    let given = 4 * dispatch.params.len();
    check(found.params_size == given, format!("`Params` has {} bytes, the host gives {given}", found.params_size));
    check(is_packed_words(module), "`Params` is not a struct of 4-byte scalars without gaps".into());
    check(dispatch.groups.iter().all(|g| (1..=GROUPS).contains(g)), format!("a grid of {:?} workgroups", dispatch.groups));
    let (memory, invocations) = match dispatch.tier {
        Tier::Portable | Tier::Packed => (WORKGROUP_MEMORY, INVOCATIONS),
        Tier::Matrix => (variant.device.workgroup_memory as usize, variant.device.invocations),
    };
    let storage = found.bindings.iter().filter(|&&a| a != Access::Uniform).count();
    check(storage <= STORAGE_BUFFERS, format!("{storage} storage buffers; WebGPU allows {STORAGE_BUFFERS}"));
    check(found.workgroup_memory <= memory, format!("{} bytes of workgroup memory of {memory}", found.workgroup_memory));
    let [x, y, z] = found.workgroup;
    let fits = x * y * z <= invocations && x.max(y) <= invocations && z <= 64;
    check(fits, format!("workgroups of {:?}; {invocations} invocations are allowed", found.workgroup));
    check(variant.device.f16 || !dispatch.f16, "uses f16 on a device without".into());
    check(dispatch.f16 || !variant.text.contains("f16"), "its text says f16, its dispatch does not".into());
    wrong
}

/// Whether the uniform struct is what the host writes: 4-byte scalars, one after another.
fn is_packed_words(module: &naga::Module) -> bool {
    let uniform = module.global_variables.iter().find(|(_, v)| v.space == naga::AddressSpace::Uniform);
    let Some((_, variable)) = uniform else { return false };
    let naga::TypeInner::Struct { members, .. } = &module.types[variable.ty].inner else { return false };
    let is_word = |member: &naga::StructMember| matches!(module.types[member.ty].inner, naga::TypeInner::Scalar(s) if s.width == 4 && s.kind != naga::ScalarKind::Bool);
    members.iter().enumerate().all(|(i, member)| is_word(member) && member.offset as usize == 4 * i)
}

#[test]
fn every_variant_with_extensions_has_a_plain_twin() {
    let variants = variants();
    let plain: BTreeSet<&str> = variants.iter().filter(|v| v.dispatch.tier == Tier::Portable && !v.dispatch.f16).map(|v| v.op).collect();
    let portable: BTreeSet<&str> = variants.iter().filter(|v| v.dispatch.tier == Tier::Portable).map(|v| v.case.as_str()).collect();
    let (mut extended, mut missing) = (0, BTreeSet::new());
    for v in variants.iter().filter(|v| v.dispatch.tier != Tier::Portable || v.dispatch.f16) {
        extended += 1;
        // f16 tensors need f16 in the shader: there the twin is the same op on f32 tensors.
        let same_case = portable.contains(v.case.as_str());
        if !plain.contains(v.op) || !same_case || (v.dispatch.f16 && !v.half && v.dispatch.tier == Tier::Portable) {
            missing.insert(format!("{} [{}]", v.case, v.source()));
        }
    }
    fail_if_any(missing.into_iter().collect(), extended);
}

#[test]
fn every_shader_file_is_used_by_a_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files = BTreeSet::new();
    list(&folder, &folder, &mut files);
    let mut used = BTreeSet::new();
    for variant in variants() {
        for source in variant.dispatch.parts.iter().chain([&variant.dispatch.source]) {
            used.insert(source.name.to_owned());
            imports(source.text, &mut used);
        }
    }
    let unused: Vec<_> = files.difference(&used).collect();
    assert!(unused.is_empty(), "no case of the op table uses {unused:?}");
    let unknown: Vec<_> = used.difference(&files).collect();
    assert!(unknown.is_empty(), "not in shaders/: {unknown:?}");
}

fn imports(text: &str, used: &mut BTreeSet<String>) {
    for name in text.lines().filter_map(|line| line.strip_prefix("#import ")) {
        if let Some(common) = COMMON.iter().find(|s| s.name == name.trim()) {
            used.insert(common.name.to_owned());
            imports(common.text, used);
        }
    }
}

fn list(folder: &Path, root: &Path, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the folder of shaders") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, root, files);
        } else {
            let name = path.strip_prefix(root).expect("below the folder").to_string_lossy().replace('\\', "/");
            files.insert(name);
        }
    }
}

/// naga takes subgroup operations only without `enable subgroups;`, the standard only with it: one text cannot serve both.
/// Cooperative matrices belong to a subgroup too, but find it by the index in the workgroup. Kernels on matrices of bytes are no text for
/// others: they become SPIR-V here, and may let a subgroup wait for itself.
#[test]
fn no_shader_uses_subgroup_operations() {
    let variants = variants();
    let texts = texts(&variants);
    let uses = |text: &str, bytes: bool| {
        let text = if bytes { text.replace("subgroupBarrier();", "") } else { text.to_owned() };
        text.lines().any(|line| uses_subgroups(line.split("//").next().unwrap_or("")))
    };
    let with = texts.iter().filter(|(text, dispatch)| uses(text, dispatch.bytes));
    fail_if_any(with.map(|(_, d)| d.source.name.to_owned()).collect(), texts.len());
}

fn uses_subgroups(code: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_operation =
        |w: &str| w.strip_prefix("subgroup").is_some_and(|rest| rest.starts_with(char::is_uppercase)) || w.starts_with("quad");
    let builtins = ["subgroups", "subgroup_size", "subgroup_invocation_id", "subgroup_id", "num_subgroups"];
    code.split(|c| !is_word(c)).any(|w| builtins.contains(&w) || is_operation(w))
}

#[test]
fn subgroup_operations_are_recognized() {
    for code in ["enable subgroups;", "x = subgroupAdd(x);", "@builtin(subgroup_size) n: u32", "quadSwapX(y)"] {
        assert!(uses_subgroups(code), "{code}");
    }
    assert!(!uses_subgroups("let subgroup = lane / 32u; // subgroup"));
}

/// The audit itself: what it must find, it finds.
#[test]
fn the_audit_sees_each_kind_of_mistake() {
    let good = variants().into_iter().find(|v| v.op == "unary" && !v.half).expect("a case of unary");
    let audit = |change: fn(&mut Variant)| {
        let mut variant = Variant { case: good.case.clone(), dispatch: good.dispatch.clone(), text: good.text.clone(), ..good };
        change(&mut variant);
        let reflected = reflect(&variant.text).expect("it parses");
        disagreements(&variant, &reflected).join("\n")
    };
    assert_eq!(audit(|_| {}), "");
    assert!(audit(|v| v.dispatch.params = Words::of([1, 2])).contains("the host gives 8"));
    assert!(audit(|v| v.dispatch.inputs.push(0)).contains("the host binds"));
    assert!(audit(|v| v.outputs = 2).contains("the host binds"));
    assert!(audit(|v| v.dispatch.groups = [65_536, 1, 1]).contains("65536"));
    assert!(audit(|v| v.dispatch.f16 = true).contains("on a device without"));
    assert!(audit(|v| v.text = v.text.replace("GROUP = 256u", "GROUP = 512u")).contains("[512, 1, 1]"));
    assert!(audit(|v| v.text.push_str("var<workgroup> big: array<vec4<f32>, 1025>;")).contains("16400 bytes"));
    let broken = good.text.replace("fn main(", "fn main(@builtin(subgroup_size) lanes: u32, ");
    assert!(translate(&broken, &good.dispatch).is_err());
}

/// f16 shaders must say so in their first line, and no others.
#[test]
fn extensions_are_enabled_where_they_are_used() {
    let variants = variants();
    let wrong = |v: &&Variant| {
        let half = v.text.lines().any(|l| l == "enable f16;");
        let matrix = v.text.lines().any(|l| l == "enable wgpu_cooperative_matrix;");
        half != v.dispatch.f16 || matrix != (v.dispatch.tier == Tier::Matrix)
    };
    fail_if_any(variants.iter().filter(wrong).map(|v| v.case.clone()).collect(), variants.len());
}

/// Otherwise the audit would look at half of the shaders.
#[test]
fn every_op_of_the_table_has_cases_in_f32() {
    let variants = variants();
    let in_f32: BTreeSet<&str> = variants.iter().filter(|v| !v.half).map(|v| v.op).collect();
    let all: BTreeSet<&str> = variants.iter().map(|v| v.op).collect();
    assert_eq!(in_f32, all);
}

/// wgpu offers only WebGPU's features and limits in this mode: what asks for more cannot be opened or compiled.
#[test]
fn the_portable_tier_runs_under_strict_webgpu_compliance() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qdetr"));
    command.args(["check", "--json", "--quick"]).env("QDETR_STRICT_WEBGPU", "1").env("QDETR_CACHE", "");
    let output = command.output().expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&report["tier"], &report["failures"]), (&"portable".into(), &0.into()));
    for family in TABLE {
        let found = report["families"].as_array().into_iter().flatten().find(|f| f["name"] == family.name);
        let kernels = found.and_then(|f| f["kernels"].as_u64()).unwrap_or(0);
        assert!(kernels > 0, "nothing of {} ran: {report}", family.name);
    }
}
