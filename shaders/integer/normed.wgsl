#import common/finished.wgsl
#import common/normal.wgsl

// What a product of codes [m, n] is of whose rows are normalized, beside its operands and sums: what the channels have in common, and how a
// row is made and stored.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    freedom: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
// Scale, shift and the norm's weight and bias of all channels, four a vector, and behind them the states of the quantizers.
@group(0) @binding(3) var<storage, read> constants: array<vec4<f32>>;

// The zero of a rounding barrier.
fn no_bits() -> u32 {
    return p.n >> 31u;
}

// Vectors of results.
fn words() -> u32 {
    return p.m * (p.n / 4u);
}

fn state_of(quantizer: u32, i: u32) -> vec4<f32> {
    return constant_at(p.n + quantizer);
}

fn result_at(row: u32, vector: u32) -> u32 {
    return row * (p.n / 4u) + vector;
}

// What the product by itself would store of a vector of channels.
fn value_of(vector: u32, sums: vec4<i32>, added: vec4<f32>) -> vec4<f32> {
    return as_stored(finished(constant_at(vector), constant_at(p.n / 4u + vector), sums, added));
}

fn store_normal(row: u32, vector: u32, v: vec4<f32>, mean: f32, r: f32, added: element_addend4) {
    let weight = constant_at(p.n / 4u * 2u + vector);
    let bias = constant_at(p.n / 4u * 3u + vector);
    store_with(result_at(row, vector), normal(v, mean, r, weight, bias), added);
}
