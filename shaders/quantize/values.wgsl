#import common/index.wgsl

// value = alpha · (code - z0). A workgroup takes 4 · GROUP words of four codes, as quantize/codes.wgsl does. The step size of element
// i is number (i / inner) % groups.

struct Params {
    n: u32,
    words: u32,
    inner: u32,
    groups: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
@group(0) @binding(2) var<storage, read> state: array<vec4<f32>>;

fn write_word(word: u32, v: u32) {
    if word < p.words {
        write_piece(word, vec4<f32>(unpack4xI8(v)));
    }
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = flat_group(group, groups) * (4u * GROUP) + local;
    let last = p.words - 1u;
    let a = codes[min(first, last)];
    let b = codes[min(first + GROUP, last)];
    let c = codes[min(first + 2u * GROUP, last)];
    let d = codes[min(first + 3u * GROUP, last)];
    write_word(first, a);
    write_word(first + GROUP, b);
    write_word(first + 2u * GROUP, c);
    write_word(first + 3u * GROUP, d);
}
