#import common/index.wgsl

// parts[w] = (Σ x², how many x are not finite) over the w-th CHUNK vec4s of x, a workgroup each, in a fixed order. Infinities and
// NaNs are known by their bits, since WGSL lets a compiler assume that there are none, and count 0 in the sum.

struct Params {
    n: u32,
    parts: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<vec2<f32>>;

var<workgroup> sums: array<f32, GROUP>;
var<workgroup> counts: array<u32, GROUP>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let part = flat_group(group, groups);
    let end = min((part + 1u) * CHUNK, p.n);
    var sum = 0.0;
    var count = vec4(0u);
    if part < p.parts {
        for (var i = part * CHUNK + local; i < end; i += GROUP) {
            let wild = (bitcast<vec4<u32>>(x[i]) & vec4(0x7f800000u)) == vec4(0x7f800000u);
            let v = select(x[i], vec4(0.0), wild);
            sum += dot(v, v);
            count += select(vec4(0u), vec4(1u), wild);
        }
    }
    sums[local] = sum;
    counts[local] = count.x + count.y + count.z + count.w;
    workgroupBarrier();
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        if local < half {
            sums[local] += sums[local + half];
            counts[local] += counts[local + half];
        }
        workgroupBarrier();
    }
    if local == 0u && part < p.parts {
        parts[part] = vec2(sums[0], f32(counts[0]));
    }
}
