#import common/index.wgsl
#import common/quantized.wgsl

// code = round(clamp(x · (1 / alpha) + Z, low, high)) - offset; one invocation a word of four codes. The step size of element i is
// number (i / inner) % groups.

struct Params {
    n: u32,
    words: u32,
    inner: u32,
    groups: u32,
    low: f32,
    high: f32,
    offset: f32,
}

struct Piece {
    x: vec4<f32>,
    inverse: vec4<f32>,
    zero: vec4<f32>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let word = flat_index(id, groups, GROUP);
    if word >= p.words {
        return;
    }
    let piece = read_piece(word);
    codes[word] = codes_under(piece.x, piece.inverse, piece.zero, p.low, p.high, p.offset, p.words >> 31u);
}
