//! What the integration tests share: one device per process, opened with wgpu's run-time checks on.

use qdetr::gpu::{Gpu, Options};
use std::sync::LazyLock;

/// The device of this process. A machine without one fails the tests: install `mesa-vulkan-drivers`.
pub(crate) fn gpu() -> &'static Gpu {
    static GPU: LazyLock<Gpu> = LazyLock::new(|| {
        let options = Options { checked: true, no_disk_cache: true, ..Options::default() };
        Gpu::open(&options).expect("the tests need a Vulkan, Metal or DX12 adapter; a software one will do")
    });
    &GPU
}
