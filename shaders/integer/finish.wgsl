#import common/finished.wgsl

// From integer sums to the result [m, n], n a multiple of 4. A piece says what the residual is, another what is stored.

@group(0) @binding(3) var<storage, read> scale: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> shift: array<vec4<f32>>;

// What the results of four neighbouring channels have in common.
struct Channels {
    scale: vec4<f32>,
    shift: vec4<f32>,
    // The states of the quantizers behind them, which are read here, before anything is stored.
    step: vec4<f32>,
    next_step: vec4<f32>,
    // That of a residual of codes.
    residual_step: vec4<f32>,
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
    channels.residual_step = residual_step();
    return channels;
}

// Where the results of columns `column`..`column + 4` are.
fn result_at(row: u32, column: u32) -> u32 {
    return (product * p.m + row) * (p.n / 4u) + column / 4u;
}

// Stores the results of columns `column`..`column + 4`.
fn store_sums(row: u32, column: u32, sums: vec4<i32>) {
    if row < p.m && column < p.n {
        finish(row, column, sums, added_by(residual_at(result_at(row, column)), residual_step()));
    }
}

fn finish(row: u32, column: u32, sums: vec4<i32>, added: vec4<f32>) {
    let channels = channels_at(column);
    store(result_at(row, column), finished(channels.scale, channels.shift, sums, added), channels);
}
