@group(0) @binding(3) var<storage, read_write> y: array<element_x2>;

fn write_y(row: u32, piece: u32, v: vec4<f32>) {
    let pairs = p.pitch / 2u;
    let at = piece * 2u;
    y[row * pairs + at] = element_x2(v.xy);
    if at + 1u < pairs {
        y[row * pairs + at + 1u] = element_x2(v.zw);
    }
}
