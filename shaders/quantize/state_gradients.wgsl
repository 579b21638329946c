#import common/index.wgsl
#import common/reduce.wgsl

// The gradients of the step sizes and zero points of many quantizers, from the sums that their backwards left: scale · the sum of
// columns 0 and 2 over the parts, each written to its place in the arena of gradients. LANES invocations a step size, which has a
// row of the table: (its first sum, sums from part to part, parts, bits of the scale), (place of d_alpha or NONE, of d_zp or NONE, 0, 0).

const NONE = 0xffffffffu;

struct Params {
    rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> gradients: array<f32>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let index = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    let row = min(index, p.rows - 1u);
    let source = table[2u * row];
    var sum = vec2<f32>();
    for (var part = lane; part < source.z; part += LANES) {
        sum += sums[source.x + part * source.y].xz;
    }
    let scale = bitcast<f32>(source.w);
    let d_alpha = reduce_sum(local, sum.x) * scale;
    let d_zp = reduce_sum(local, sum.y) * scale;
    if lane == 0u && index < p.rows {
        let place = table[2u * row + 1u];
        if place.x != NONE {
            gradients[place.x] = d_alpha;
        }
        if place.y != NONE {
            gradients[place.y] = d_zp;
        }
    }
}
