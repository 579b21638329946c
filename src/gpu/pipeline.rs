//! Compiled shaders, cached in memory by their composed text and on disk by the driver.

use super::shader::{self, Access, Reflection};
use super::{Dispatch, Gpu, byte_matrices};
use crate::files::{read_text, write_whole};
use crate::{Error, Result};
use rayon::prelude::*;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use wgpu::{AdapterInfo, BindGroupLayout, BindingType, BufferBindingType, ComputePipeline, Device, PipelineCache, ShaderModule};

/// The most that is read of a proof.
const MAX_PROOF: u64 = 1 << 12;

/// A compiled compute shader and the layout of its one bind group.
#[derive(Debug)]
pub struct Pipeline {
    /// The wgpu pipeline.
    pub pipeline: ComputePipeline,
    /// The layout of group 0.
    pub layout: BindGroupLayout,
    /// What the shader declares.
    pub reflection: Reflection,
}

impl Gpu {
    /// The pipelines of many dispatches, compiled on all cores, each text once.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver refuses a shader.
    ///
    /// # Panics
    /// When a shader of this crate does not parse or disagrees with its dispatch: a programmer's mistake.
    pub fn compile(&self, dispatches: &[&Dispatch]) -> Result<Vec<Arc<Pipeline>>> {
        let texts: Vec<String> = dispatches.iter().map(|d| shader::compose(d)).collect();
        let missing = self.unknown(&texts, dispatches);
        let compiled: Vec<Arc<Pipeline>> = missing.par_iter().map(|(text, d)| build(self, text, d).map(Arc::new)).collect::<Result<_>>()?;
        if !compiled.is_empty() {
            self.disk().save();
        }
        let mut known = self.pipelines().lock().unwrap_or_else(PoisonError::into_inner);
        for ((text, _), pipeline) in missing.into_iter().zip(compiled) {
            known.insert(text.to_owned(), pipeline);
        }
        Ok(texts.iter().map(|t| known[t].clone()).collect())
    }

    /// The texts that no pipeline exists for, each once.
    fn unknown<'a>(&self, texts: &'a [String], dispatches: &[&'a Dispatch]) -> Vec<(&'a str, &'a Dispatch)> {
        let known = self.pipelines().lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = std::collections::HashSet::new();
        let mut missing = Vec::new();
        for (text, dispatch) in texts.iter().zip(dispatches) {
            if !known.contains_key(text) && seen.insert(text) {
                missing.push((text.as_str(), *dispatch));
            }
        }
        missing
    }
}

fn build(gpu: &Gpu, text: &str, dispatch: &Dispatch) -> Result<Pipeline> {
    let name = dispatch.source.name;
    let (module, reflection) = shader::reflect(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let device = gpu.device();
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = if dispatch.bytes { byte_module(gpu, name, &module, &reflection) } else { shader_module(gpu, name, module) };
    let layout = bind_group_layout(device, name, &reflection);
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions { constants: &[], zero_initialize_workgroup_memory: false },
        cache: gpu.disk().cache.as_ref(),
    });
    gpu.counters().add_pipeline();
    match pollster::block_on(scope.pop()) {
        None => Ok(Pipeline { pipeline, layout, reflection }),
        Some(error) => Err(Error::Driver(format!("shader {name}: {error}"))),
    }
}

fn shader_module(gpu: &Gpu, name: &str, module: naga::Module) -> ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Naga(Cow::Owned(module)) };
    if gpu.checked() {
        return gpu.device().create_shader_module(descriptor);
    }
    // SAFETY: the shaders of this crate index within buffers whose sizes the host derived from the same shapes, and
    // their loops end; the op table is run with checks on and with guard words around every buffer in the tests.
    unsafe { gpu.device().create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// A kernel on matrices of bytes, as SPIR-V. Its bindings have no holes, so that their numbers are those that wgpu gives them.
fn byte_module(gpu: &Gpu, name: &str, module: &naga::Module, reflection: &Reflection) -> ShaderModule {
    let spirv = byte_matrices::spirv(module, gpu.checked()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let [x, y, z] = reflection.workgroup;
    let main = wgpu::PassthroughShaderEntryPoint { name: "main".into(), workgroup_size: (x, y, z) };
    let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
        label: Some(name),
        entry_points: Cow::Owned(vec![main]),
        spirv: Some(Cow::Owned(spirv)),
        ..Default::default()
    };
    // SAFETY: naga validated the module and wrote it; of matrices only the types differ. For indices and loops see above.
    unsafe { gpu.device().create_shader_module_passthrough(descriptor) }
}

fn bind_group_layout(device: &Device, label: &str, reflection: &Reflection) -> BindGroupLayout {
    let entry = |(i, access): (usize, &Access)| wgpu::BindGroupLayoutEntry {
        binding: i as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: BindingType::Buffer {
            ty: match access {
                Access::Uniform => BufferBindingType::Uniform,
                Access::Read => BufferBindingType::Storage { read_only: true },
                Access::ReadWrite => BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = reflection.bindings.iter().enumerate().map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries })
}

/// Where compiled pipelines are kept between runs: `QDETR_CACHE`, or the platform's cache folder. `None` when there is no
/// home, or `QDETR_CACHE` is empty: then nothing is kept.
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let folder = variable("QDETR_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("qdetr")))
        .or_else(|| variable("LOCALAPPDATA").map(|p| p.join("qdetr")))
        .or_else(|| variable("HOME").map(|p| p.join(".cache").join("qdetr")));
    folder.filter(|p| !p.as_os_str().is_empty())
}

/// The driver's pipeline cache and its file. A cache that cannot be read or written costs time, never a run.
#[derive(Debug)]
pub(crate) struct DiskCache {
    cache: Option<PipelineCache>,
    path: Option<PathBuf>,
    /// Bytes that the file has: a cache that did not grow is not written again.
    length: AtomicUsize,
}

impl DiskCache {
    pub(super) fn open(device: &Device, info: &AdapterInfo, disabled: bool) -> Self {
        if disabled || !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return Self { cache: None, path: None, length: AtomicUsize::new(0) };
        }
        let path = cache_folder().zip(wgpu::util::pipeline_cache_key(info)).map(|(folder, key)| folder.join(key));
        let data = path.as_ref().and_then(|p| std::fs::read(p).ok());
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("qdetr"), data: data.as_deref(), fallback: true };
        // SAFETY: the data is what `get_data` gave for an adapter and driver of the same key; wgpu checks its header, and
        // falls back to an empty cache when it does not fit.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Self { cache: Some(cache), path, length: AtomicUsize::new(data.map_or(0, |data| data.len())) }
    }

    fn save(&self) {
        let (Some(cache), Some(path)) = (&self.cache, &self.path) else { return };
        let Some(data) = cache.get_data() else { return };
        if self.length.swap(data.len(), Ordering::Relaxed) != data.len() {
            keep(path, &data);
        }
    }

    /// Whether this was the last proof to be kept.
    pub(crate) fn is_proved(&self, proof: &str) -> bool {
        self.proof().and_then(|path| read_text(&path, MAX_PROOF).ok()).is_some_and(|kept| kept.trim_end() == proof)
    }

    /// Keeps a line beside the cache.
    pub(crate) fn keep_proof(&self, proof: &str) {
        if let Some(path) = self.proof() {
            keep(&path, format!("{proof}\n").as_bytes());
        }
    }

    fn proof(&self) -> Option<PathBuf> {
        self.path.as_ref().map(|path| path.with_extension("proved"))
    }
}

/// Writes a file of the cache whole, or not at all.
fn keep(path: &Path, data: &[u8]) {
    if path.parent().is_none_or(|folder| std::fs::create_dir_all(folder).is_ok()) {
        let _ = write_whole(path, |file| file.write_all(data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_kept_and_holds_for_itself_alone() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DiskCache { cache: None, path: Some(folder.path().join("new/cache_of_a_card")), length: AtomicUsize::new(0) };
        assert!(!open().is_proved("a card, kernels 7"));
        open().keep_proof("a card, kernels 7");
        assert!(open().is_proved("a card, kernels 7") && !open().is_proved("a card, kernels 8"));
        open().keep_proof("a card, kernels 8");
        assert!(open().is_proved("a card, kernels 8") && !open().is_proved("a card, kernels 7"));
        std::fs::write(folder.path().join("new/cache_of_a_card.proved"), vec![b'7'; 1 << 20]).unwrap();
        assert!(!open().is_proved("a card, kernels 8"));
        let none = DiskCache { cache: None, path: None, length: AtomicUsize::new(0) };
        none.keep_proof("a card");
        assert!(!none.is_proved("a card"));
    }
}
