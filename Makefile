# Two commands for a machine that has Rust and git: `make demo` and `make test`.

QDETR = cargo run --release --quiet --
PHOTOS = assets/images/bear.jpg assets/images/locomotive.jpg assets/images/pizza.jpg

# Debian and Ubuntu: as root, or with sudo.
INSTALL = sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update && $$sudo apt-get install -y --no-install-recommends

# A Vulkan driver that runs on the CPU, for machines where a command finds no GPU.
DRIVER = { \
	command -v apt-get >/dev/null || { echo "no GPU found: install its driver for Vulkan, Metal or DX12"; exit 1; }; \
	echo "no GPU found: installing Mesa's software driver"; \
	$(INSTALL) libvulkan1 mesa-vulkan-drivers; }

# Mesa's device-selection layer complains where there is no desktop session; we choose devices ourselves.
export NODEVICE_SELECT = 1

.PHONY: demo test linker

# The ImageNet backbone looks at three photos, then the built-in detector, in 4 bits and trained by this crate, counts blood cells and draws them.
demo: linker
	cargo build --release
	@$(QDETR) info >/dev/null 2>&1 || $(DRIVER)
	@$(QDETR) info
	@$(QDETR) classify $(PHOTOS)
	@$(QDETR) detect assets/images/bccd/*.jpg --out out/demo
	@echo "drawn in out/demo"

# All tests, on the best GPU there is; a software one will do.
test: linker
	cargo test --no-run
	@cargo test --quiet --test harness a_right_kernel_is_green >/dev/null 2>&1 || $(DRIVER)
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run && cargo test --quiet --doc; else cargo test --quiet; fi

linker:
	@command -v cc >/dev/null || { $(INSTALL) gcc libc6-dev; }
