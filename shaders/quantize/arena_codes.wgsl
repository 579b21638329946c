#import common/index.wgsl
#import common/quantized.wgsl

// The codes of many tensors that lie in one arena, and the values alpha · (code - z0) that they stand for. A workgroup takes a block of
// BLOCK codes of one tensor, an invocation a word of four. What the block is of, in the table: (its first element in the arena,
// how many elements it has, the number of the first one in its tensor, neighbours that share a step size), (the tensor's first state,
// its last state, bits, and 256 if signed, its first value). A block of 0 bits lies between two tensors.

struct Params {
    blocks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> arena: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> states: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> values: array<element_y4>;

@compute @workgroup_size(BLOCK / 4)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = flat_group(group, groups);
    if block >= p.blocks {
        return;
    }
    let source = table[2u * block];
    let target_ = table[2u * block + 1u];
    let first = 4u * local;
    let bits = target_.z & 255u;
    if bits == 0u || first >= source.y {
        codes[block * (BLOCK / 4u) + local] = 0u;
        return;
    }
    let x = arena[(source.x + first) / 4u];
    // A state for each of the four elements, as columns.
    var s: mat4x4<f32>;
    for (var j = 0u; j < 4u; j++) {
        s[j] = states[min(target_.x + (source.z + first + j) / source.w, target_.y)];
    }
    s = transpose(s);
    let half = f32(1u << (bits - 1u));
    let low = select(0.0, -half, target_.z > 255u);
    let offset = low + half;
    let valid = vec4<u32>(first, first + 1u, first + 2u, first + 3u) < vec4<u32>(source.y);
    let word = codes_under(x, s[1], s[2], low, low + 2.0 * half - 1.0, offset, p.blocks >> 31u);
    let bytes = select(vec4<u32>(), vec4<u32>(0xffu, 0xff00u, 0xff0000u, 0xff000000u), valid);
    codes[block * (BLOCK / 4u) + local] = word & (bytes.x | bytes.y | bytes.z | bytes.w);
    let v = s[0] * (vec4<f32>(unpack4xI8(word)) - s[3]);
    values[(target_.w + first) / 4u] = element_y4(select(vec4<f32>(), v, valid));
}
