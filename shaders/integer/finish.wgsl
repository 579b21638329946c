#import common/epilogue.wgsl
#import common/rounded.wgsl
#import common/sums_of_codes.wgsl

// From integer sums to the result [m, n], n a multiple of 4: activation(scale[n] · S + shift[n] + residual), with the product
// rounded before it is added. A piece says where the residual is, another what is stored.

@group(0) @binding(3) var<storage, read> scale: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> shift: array<vec4<f32>>;

// The nearest floats.
fn floats_of(sums: vec4<i32>) -> vec4<f32> {
    if ARE_SMALL {
        return floats_of_small(sums);
    }
    if IN_PARTS {
        return nearest_floats(sums);
    }
    return vec4<f32>(sums);
}

// What the results of four neighbouring channels have in common.
struct Channels {
    scale: vec4<f32>,
    shift: vec4<f32>,
    // The states of the quantizers behind them, which are read here, before anything is stored.
    step: vec4<f32>,
    next_step: vec4<f32>,
}

// Of columns `column`..`column + 4`.
fn channels_at(column: u32) -> Channels {
    let channel = (product * p.n + column) / 4u;
    var channels = Channels();
    if HAS_SCALE {
        channels.scale = scale[channel];
    }
    if HAS_SHIFT {
        channels.shift = shift[channel];
    }
    channels.step = step_of(channel);
    channels.next_step = next_step();
    return channels;
}

fn finished(channels: Channels, sums: vec4<i32>, added: vec4<f32>) -> vec4<f32> {
    var v = floats_of(sums);
    if HAS_SCALE {
        v = rounded4(v * channels.scale, p.n >> 31u);
    }
    if HAS_SHIFT {
        v += channels.shift;
    }
    if HAS_RESIDUAL {
        v += added;
    }
    return activate(v);
}

// Where the results of columns `column`..`column + 4` are.
fn result_at(row: u32, column: u32) -> u32 {
    return (product * p.m + row) * (p.n / 4u) + column / 4u;
}

// Stores the results of columns `column`..`column + 4`.
fn store_sums(row: u32, column: u32, sums: vec4<i32>) {
    if row < p.m && column < p.n {
        finish(row, column, sums, vec4<f32>(residual_at(result_at(row, column))));
    }
}

fn finish(row: u32, column: u32, sums: vec4<i32>, added: vec4<f32>) {
    let channels = channels_at(column);
    store(result_at(row, column), finished(channels, sums, added), channels);
}
