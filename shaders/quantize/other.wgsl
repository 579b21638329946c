// Another gradient of x.

@group(0) @binding(4) var<storage, read> other: array<wide_x>;

fn other_at(at: u32) -> wide {
    return wide(other[at]);
}
