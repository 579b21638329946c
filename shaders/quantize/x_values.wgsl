@group(0) @binding(1) var<storage, read> x: array<wide_x>;

fn x_at(at: u32) -> wide {
    return wide(x[at]);
}
