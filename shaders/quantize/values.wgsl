#import common/index.wgsl

// value = alpha · (code - z0); one invocation a word of four codes. The step size of element i is number (i / inner) % groups.

struct Params {
    n: u32,
    words: u32,
    inner: u32,
    groups: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
@group(0) @binding(2) var<storage, read> state: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let word = flat_index(id, groups, GROUP);
    if word < p.words {
        write_piece(word, vec4<f32>(unpack4xI8(codes[word])));
    }
}
