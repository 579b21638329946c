//! Which GPU: enumeration, the order of preference, and the user's word.

use crate::{Error, Result};
use wgpu::{Adapter, AdapterInfo, Backends, DeviceType, Instance};

/// The back ends this crate runs on. wgpu also lists a GL adapter for the same GPU, with far fewer features: never that one.
const BACKENDS: Backends = Backends::VULKAN.union(Backends::METAL).union(Backends::DX12);

/// The environment variable that chooses a GPU when no flag does.
const GPU_VARIABLE: &str = "QDETR_GPU";

/// A choice among the machine's GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// `QDETR_GPU` when set, otherwise the best: discrete, integrated, virtual, software, in this order.
    #[default]
    Best,
    /// By index in [`adapters`], by PCI bus id (`0000:01:00.0`), or by a part of the name, in any case.
    Named(String),
}

impl From<Option<String>> for Select {
    fn from(name: Option<String>) -> Self {
        name.map_or(Self::Best, Self::Named)
    }
}

fn instance() -> Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    // Software and old drivers are often not fully conformant; `qdetr check` tells whether they compute correctly.
    descriptor.flags |= wgpu::InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER;
    if std::env::var_os("QDETR_STRICT_WEBGPU").is_some() {
        descriptor.flags |= wgpu::InstanceFlags::STRICT_WEBGPU_COMPLIANCE;
    }
    Instance::new(descriptor)
}

/// All adapters of Vulkan, Metal and DX12, best first; the order, and so the index, is stable.
pub fn adapters() -> Vec<Adapter> {
    let mut all = pollster::block_on(instance().enumerate_adapters(BACKENDS));
    all.sort_by_key(|a| rank(a.get_info().device_type));
    all
}

fn rank(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// The adapter that the user wants.
pub(super) fn choose(select: &Select) -> Result<Adapter> {
    let wanted = match select {
        Select::Named(name) => Some(name.clone()),
        Select::Best => std::env::var(GPU_VARIABLE).ok().filter(|name| !name.is_empty()),
    };
    let mut all = adapters();
    if all.is_empty() {
        return Err(Error::Adapter(
            "found no Vulkan, Metal or DX12 adapter; install your GPU's driver, or a software one (Debian, Ubuntu: `apt-get install mesa-vulkan-drivers`)"
                .into(),
        ));
    }
    let index = wanted.as_deref().map_or(Ok(0), |name| find(name, &all))?;
    Ok(all.swap_remove(index))
}

fn find(name: &str, all: &[Adapter]) -> Result<usize> {
    let infos: Vec<AdapterInfo> = all.iter().map(Adapter::get_info).collect();
    find_in(name, &infos).ok_or_else(|| {
        let list: Vec<String> = infos.iter().enumerate().map(|(i, info)| format!("{i}: {} ({:?})", info.name, info.backend)).collect();
        Error::Usage(format!("no GPU matches `{name}`; give an index, a PCI id or a part of a name of: {}", list.join(", ")))
    })
}

fn find_in(name: &str, infos: &[AdapterInfo]) -> Option<usize> {
    if let Ok(index) = name.parse::<usize>() {
        return (index < infos.len()).then_some(index);
    }
    let lower = name.to_lowercase();
    let by_bus = infos.iter().position(|i| !i.device_pci_bus_id.is_empty() && i.device_pci_bus_id.to_lowercase() == lower);
    by_bus.or_else(|| infos.iter().position(|i| !lower.is_empty() && i.name.to_lowercase().contains(&lower)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_discrete_integrated_virtual_software() {
        let mut kinds = [DeviceType::Cpu, DeviceType::VirtualGpu, DeviceType::DiscreteGpu, DeviceType::Other, DeviceType::IntegratedGpu];
        kinds.sort_by_key(|&k| rank(k));
        assert_eq!(kinds[0], DeviceType::DiscreteGpu);
        assert_eq!(kinds[1], DeviceType::IntegratedGpu);
        assert_eq!(kinds[2], DeviceType::VirtualGpu);
        assert_eq!(kinds[4], DeviceType::Cpu);
    }

    #[test]
    fn an_adapter_is_found_by_index_bus_or_name() {
        let info = |name: &str, bus: &str| AdapterInfo {
            name: name.into(),
            device_pci_bus_id: bus.into(),
            ..AdapterInfo::new(DeviceType::DiscreteGpu, wgpu::Backend::Vulkan)
        };
        let all = [info("NVIDIA H100", "0000:01:00.0"), info("llvmpipe (LLVM 15)", "")];
        assert_eq!(find_in("1", &all), Some(1));
        assert_eq!(find_in("2", &all), None);
        assert_eq!(find_in("0000:01:00.0", &all), Some(0));
        assert_eq!(find_in("LLVMpipe", &all), Some(1));
        assert_eq!(find_in("radeon", &all), None);
        assert_eq!(find_in("", &all), None);
    }
}
