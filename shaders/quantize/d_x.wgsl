@group(0) @binding(AT_SUMS - 1u) var<storage, read_write> d_x: array<wide_x>;

fn write_d_x(at: u32, v: wide) {
    d_x[at] = wide_x(v);
}
