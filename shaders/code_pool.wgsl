#import common/index.wgsl

// y[b, oy, ox, c] = the largest code in the window, pixels outside the image left out. One invocation a word of four codes or a vec4 of
// words, `wide`; p.pieces counts them in a pixel.
//
// Of words that begin with a code, the largest begins with the largest code; what is behind it decides between equal ones alone. So each
// word is compared in four places, and nothing is unpacked.

struct Params {
    n: u32,
    height: u32,
    width: u32,
    pieces: u32,
    out_height: u32,
    out_width: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide>;
@group(0) @binding(2) var<storage, read_write> y: array<wide>;

// What the signs of codes become so that codes are in the order of unsigned numbers, and back.
const SIGNS = 0x80808080u;
const FIRST = 0xff000000u;

// The coordinate of a window's tap; outside the image that of the border, which the window has too.
fn tap(at: u32, k: u32, extent: u32) -> u32 {
    return min(max(at * STRIDE + k, PADDING) - PADDING, extent - 1u);
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let piece = i % p.pieces;
    let ox = i / p.pieces % p.out_width;
    let row = i / (p.pieces * p.out_width);
    let oy = row % p.out_height;
    let image = row / p.out_height * p.height;
    var a = wide(0u);
    var b = wide(0u);
    var c = wide(0u);
    var d = wide(0u);
    for (var ky = 0u; ky < KERNEL; ky++) {
        let from_row = (image + tap(oy, ky, p.height)) * p.width;
        for (var kx = 0u; kx < KERNEL; kx++) {
            let word = x[(from_row + tap(ox, kx, p.width)) * p.pieces + piece] ^ wide(SIGNS);
            a = max(a, word);
            b = max(b, word << wide(8u));
            c = max(c, word << wide(16u));
            d = max(d, word << wide(24u));
        }
    }
    let first = wide(FIRST);
    let largest = (a & first) | ((b & first) >> wide(8u)) | ((c & first) >> wide(16u)) | (d >> wide(24u));
    y[i] = largest ^ wide(SIGNS);
}
