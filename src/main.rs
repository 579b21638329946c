//! The `qdetr` command.

mod cli;

fn main() -> std::process::ExitCode {
    quiet_the_driver();
    cli::main()
}

/// Where there is no desktop session, Mesa's device-selection layer prints `error: XDG_RUNTIME_DIR is invalid or not set`
/// for each adapter it lists. We choose devices ourselves, so the layer may stay out.
fn quiet_the_driver() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() && std::env::var_os("MESA_VK_DEVICE_SELECT").is_none() {
        // SAFETY: this is the first statement of `main`; no other thread runs that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
