#import common/index.wgsl

// The sine position encoding of DETR from a mask of valid pixels, an invocation for EACH pairs (sin, cos) of channels: the first half
// of a token's pairs is for y, the second for x. Every invocation counts its own column or row of the mask: a few dozen
// cached reads, once per run.

const TWO_PI = 6.2831853;
const LOG2_TEMPERATURE = 13.287712;

struct Params {
    // pairs in all
    n: u32,
    height: u32,
    width: u32,
    // pairs for y, and as many for x
    frequencies: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<element_y>;

// Valid pixels among the first `part` and among all of a line of the mask.
fn count(start: u32, step: u32, part: u32, all: u32) -> vec2<f32> {
    var counts = vec2<f32>();
    for (var i = 0u; i < all; i++) {
        let one = select(0.0, 1.0, mask[start + i * step] != 0u);
        counts += vec2<f32>(select(0.0, one, i < part), one);
    }
    return counts;
}

// (sin, cos) of an angle of a few turns. WGSL promises only 2^-11 for its own; position encodings want more.
fn sin_cos(angle: f32) -> vec2<f32> {
    let quarter = round(angle * 0.63661977);
    // π/2 in two parts: the first has few bits, so that its multiples are exact.
    let r = (angle - quarter * 1.5703125) - quarter * 0.00048382679;
    let r2 = r * r;
    let s = r + r * r2 * (-0.16666667 + r2 * (0.0083333310 + r2 * (-0.00019840874 + r2 * 2.7525562e-6)));
    let c = 1.0 + r2 * (-0.5 + r2 * (0.041666638 + r2 * (-0.0013888378 + r2 * 2.4760495e-5)));
    switch u32(quarter) % 4u {
        case 0u: {
            return vec2<f32>(s, c);
        }
        case 1u: {
            return vec2<f32>(c, -s);
        }
        case 2u: {
            return vec2<f32>(-s, -c);
        }
        default: {
            return vec2<f32>(-c, s);
        }
    }
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP) * EACH;
    if i >= p.n {
        return;
    }
    let pair = i % (2u * p.frequencies);
    let token = i / (2u * p.frequencies);
    let column = token % p.width;
    let row = token / p.width % p.height;
    let image = token / (p.width * p.height) * p.width * p.height;
    var counts: vec2<f32>;
    if pair < p.frequencies {
        counts = count(image + column, p.width, row + 1u, p.height);
    } else {
        counts = count(image + row * p.width, 1u, column + 1u, p.width);
    }
    let position = counts.x / (counts.y + 1e-6) * TWO_PI;
    for (var j = 0u; j < EACH; j++) {
        let frequency = f32((pair + j) % p.frequencies) / f32(p.frequencies);
        let both = sin_cos(position / exp2(frequency * LOG2_TEMPERATURE));
        y[2u * (i + j)] = element_y(both.x);
        y[2u * (i + j) + 1u] = element_y(both.y);
    }
}
