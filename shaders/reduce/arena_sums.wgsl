#import common/index.wgsl

// The sums of many tensors' parts, each written to its place in the arena of gradients. A workgroup takes a block of columns, a vec4 each,
// with some invocations a column, `stripes`, a power of two: each adds up every so many parts, then a tree in a fixed order joins them.
// What the block is of, in the table: (its first number in the first part, numbers from part to part, parts, its first gradient),
// (how many numbers, bits of the scale, stripes, 0).

struct Params {
    blocks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> gradients: array<vec4<f32>>;

var<workgroup> cells: array<vec4<f32>, GROUP>;

@compute @workgroup_size(GROUP)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let block = flat_group(group, groups);
    let row = table[2u * min(block, p.blocks - 1u)];
    let more = table[2u * min(block, p.blocks - 1u) + 1u];
    let columns = GROUP / more.z;
    let column = local % columns;
    let stripe = local / columns;
    let inside = block < p.blocks && 4u * column < more.x;
    var sum = vec4<f32>();
    if inside {
        for (var part = stripe; part < row.z; part += more.z) {
            sum += parts[(row.x + part * row.y) / 4u + column];
        }
    }
    cells[local] = sum;
    workgroupBarrier();
    for (var half = MOST_STRIPES / 2u; half > 0u; half /= 2u) {
        if half < more.z && stripe < half {
            cells[local] += cells[local + half * columns];
        }
        workgroupBarrier();
    }
    if stripe == 0u && inside {
        gradients[row.w / 4u + column] = cells[local] * bitcast<f32>(more.y);
    }
}
