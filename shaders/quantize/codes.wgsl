#import common/index.wgsl
#import common/quantized.wgsl

// code = round(clamp(x · (1 / alpha) + Z, low, high)) - offset. A workgroup takes 4 · GROUP words of four codes, an invocation every
// GROUP-th of them: its four loads are under way together, and each is next to those of its neighbours. The step size of element i
// is number (i / inner) % groups.

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

fn write_piece(word: u32, piece: Piece) {
    if word < p.words {
        codes[word] = codes_under(piece.x, piece.inverse, piece.zero, p.low, p.high, p.offset, p.words >> 31u);
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
    // Written out: what is past the end is read as the last and not written.
    let a = read_piece(min(first, last));
    let b = read_piece(min(first + GROUP, last));
    let c = read_piece(min(first + 2u * GROUP, last));
    let d = read_piece(min(first + 3u * GROUP, last));
    write_piece(first, a);
    write_piece(first + GROUP, b);
    write_piece(first + 2u * GROUP, c);
    write_piece(first + 3u * GROUP, d);
}
