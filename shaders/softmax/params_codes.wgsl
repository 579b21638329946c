// What a softmax that gives codes is of: its rows, its quantizer, and which of the quantizer's states is a row's.

struct Params {
    rows: u32,
    pieces: u32,
    rows_of_mask: u32,
    keys: u32,
    pitch: u32,
    rows_of_state: u32,
    states: u32,
    low: f32,
    high: f32,
    offset: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(AT_CODES) var<storage, read_write> codes: array<u32>;

fn state_of_row(row: u32) -> vec4<f32> {
    return state[row / p.rows_of_state % p.states];
}
