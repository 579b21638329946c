@group(0) @binding(3) var<storage, read_write> y: array<element_x>;

fn write_y(row: u32, piece: u32, v: vec4<f32>) {
    let column = piece * 4u;
    let at = row * p.pitch + column;
    y[at] = element_x(v.x);
    if column + 1u < p.pitch {
        y[at + 1u] = element_x(v.y);
    }
    if column + 2u < p.pitch {
        y[at + 2u] = element_x(v.z);
    }
    if column + 3u < p.pitch {
        y[at + 3u] = element_x(v.w);
    }
}
