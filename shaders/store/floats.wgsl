// The result as floats.

@group(0) @binding(AT_Y) var<storage, read_write> y: array<wide_y>;

fn store(i: u32, v: wide) {
    y[i] = wide_y(v);
}
