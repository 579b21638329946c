#import common/index.wgsl
#import common/quantized.wgsl

// Codes of what other codes stand for: round(clamp(alpha · (code - z0) · (1 / alpha') + Z', low, high)) - offset. A workgroup takes 4 · GROUP
// words of four codes, as quantize/codes.wgsl does. With a STEP above 1 every STEP-th pixel of every STEP-th row is taken, and nothing else read.

struct Params {
    words: u32,
    // Of a pixel, in words; of the result, and of the image, in pixels.
    channels: u32,
    width: u32,
    height: u32,
    from_width: u32,
    from_height: u32,
    low: f32,
    high: f32,
    offset: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
@group(0) @binding(2) var<storage, read> from_state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

// The word that a word of the result is made from; of the last one for words past the end.
fn word_at(word: u32) -> u32 {
    let at = min(word, p.words - 1u);
    if STEP == 1u {
        return codes[at];
    }
    let pixel = at / p.channels;
    let row = pixel / p.width;
    let from_row = row / p.height * p.from_height + row % p.height * STEP;
    return codes[(from_row * p.from_width + pixel % p.width * STEP) * p.channels + at % p.channels];
}

// What is read of values that were stored: rounded to 16 bits where that is their type.
fn stored(word: u32, from_step: vec4<f32>) -> vec4<f32> {
    let v = values_of(word, from_step);
    if HALF {
        return halves(v, p.words >> 31u);
    }
    return v;
}

fn recode(word: u32, v: u32) {
    if word < p.words {
        let step = state[0];
        let u = stored(v, from_state[0]);
        y[word] = codes_under(u, vec4<f32>(step.y), vec4<f32>(step.z), p.low, p.high, p.offset, p.words >> 31u);
    }
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = flat_group(group, groups) * (4u * GROUP) + local;
    let a = word_at(first);
    let b = word_at(first + GROUP);
    let c = word_at(first + 2u * GROUP);
    let d = word_at(first + 3u * GROUP);
    recode(first, a);
    recode(first + GROUP, b);
    recode(first + 2u * GROUP, c);
    recode(first + 3u * GROUP, d);
}
