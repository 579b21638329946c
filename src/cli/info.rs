//! `qdetr info`: the machine's GPUs as this program sees them.

use super::DeviceArgs;
use super::output::{bytes, print, print_json};
use clap::Args;
use qdetr::Result;
use qdetr::gpu::{Capabilities, adapters, cache_folder};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use wgpu::{Adapter, AdapterInfo, DeviceType};

/// Arguments of `qdetr info`.
#[derive(Args)]
pub(crate) struct Info {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    adapters: Vec<Listed>,
    /// Index of the adapter that is used.
    used: Option<usize>,
    /// The best kernels that are used on it.
    tier: qdetr::gpu::Tier,
    /// Device memory held by this process: wgpu does not tell how much there is.
    memory_held_bytes: Option<u64>,
    /// Where compiled pipelines are kept.
    cache: Option<PathBuf>,
}

/// One adapter.
#[derive(Serialize)]
struct Listed {
    index: usize,
    name: String,
    kind: &'static str,
    backend: &'static str,
    driver: String,
    pci: Option<String>,
    capabilities: Capabilities,
    limits: Limits,
}

/// The limits that models meet first.
#[derive(Serialize)]
struct Limits {
    buffer_bytes: u64,
    binding_bytes: u64,
    storage_buffers: u32,
    workgroups_per_dimension: u32,
}

impl Info {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let gpu = device.open()?;
        let all = adapters();
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            used: all.iter().position(|a| is_same(&a.get_info(), gpu.info())),
            adapters: all.iter().enumerate().map(|(i, a)| Listed::new(i, a)).collect(),
            tier: gpu.capabilities().tier,
            memory_held_bytes: gpu.device().generate_allocator_report().map(|r| r.total_reserved_bytes),
            cache: cache_folder(),
        };
        if self.json {
            print_json(&report)?
        } else {
            print(report)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Two equal cards differ in their bus ids; software adapters have none, but differ in name.
fn is_same(a: &AdapterInfo, b: &AdapterInfo) -> bool {
    (&a.name, &a.device_pci_bus_id, a.backend) == (&b.name, &b.device_pci_bus_id, b.backend)
}

impl Listed {
    fn new(index: usize, adapter: &Adapter) -> Self {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        Self {
            index,
            kind: kind(info.device_type),
            backend: info.backend.to_str(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            name: info.name,
            pci: Some(info.device_pci_bus_id).filter(|id| !id.is_empty()),
            capabilities: Capabilities::of(adapter),
            limits: Limits {
                buffer_bytes: limits.max_buffer_size,
                binding_bytes: limits.max_storage_buffer_binding_size,
                storage_buffers: limits.max_storage_buffers_per_shader_stage,
                workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            },
        }
    }
}

fn kind(device_type: DeviceType) -> &'static str {
    match device_type {
        DeviceType::DiscreteGpu => "discrete",
        DeviceType::IntegratedGpu => "integrated",
        DeviceType::VirtualGpu => "virtual",
        DeviceType::Cpu => "software",
        DeviceType::Other => "other",
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for adapter in &self.adapters {
            let used = if self.used == Some(adapter.index) { "   <- used" } else { "" };
            writeln!(f, "{}: {} ({}, {}){used}", adapter.index, adapter.name, adapter.kind, adapter.backend)?;
            write!(f, "{adapter}")?;
        }
        writeln!(f, "tier      {} (choose with --tier)", self.tier)?;
        writeln!(
            f,
            "memory    {} held now; how much there is, wgpu does not tell",
            self.memory_held_bytes.map_or("unknown".into(), bytes)
        )?;
        match &self.cache {
            Some(folder) => writeln!(f, "cache     {}", folder.display()),
            None => writeln!(f, "cache     none"),
        }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (can, limits) = (&self.capabilities, &self.limits);
        let yes = |b: bool| if b { "yes" } else { "no" };
        writeln!(f, "   driver    {}", self.driver)?;
        writeln!(f, "   pci       {}", self.pci.as_deref().unwrap_or("none"))?;
        writeln!(
            f,
            "   can       f16 {}, cooperative matrices {}, of bytes {}, timestamps {}, subgroups of {} to {}",
            yes(can.f16),
            yes(can.matrix),
            yes(can.byte_matrix),
            yes(can.timestamps),
            can.subgroup.0,
            can.subgroup.1
        )?;
        writeln!(
            f,
            "   buffers   {}, a binding {}, {} a kernel",
            bytes(limits.buffer_bytes),
            bytes(limits.binding_bytes),
            limits.storage_buffers
        )?;
        let memory = bytes(can.workgroup_memory.into());
        writeln!(f, "   workgroup {} invocations, {memory}, {} a dimension", can.invocations, limits.workgroups_per_dimension)
    }
}
