// Nothing before the quantizer learns: only its step sizes do.
fn write_d_x(at: u32, v: wide) {}
