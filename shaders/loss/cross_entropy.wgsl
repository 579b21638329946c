#import common/index.wgsl
#import common/reduce.wgsl

// loss[r] = weight[r] · (log Σ exp x[r, c] − x[r, wanted[r]]), LANES invocations a row; exactly 0 where the weight is 0.

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> wanted: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    // A row past the end is empty.
    let columns = select(0u, p.columns, row < p.rows);
    var most = -3.4e38;
    for (var c = lane; c < columns; c += LANES) {
        most = max(most, x[row * p.columns + c]);
    }
    let largest = reduce_max(local, most);
    var sum = 0.0;
    for (var c = lane; c < columns; c += LANES) {
        sum += exp(x[row * p.columns + c] - largest);
    }
    let total = reduce_sum(local, sum);
    if lane == 0u && row < p.rows {
        var v = 0.0;
        if weight[row] != 0.0 {
            v = weight[row] * (largest - x[row * p.columns + wanted[row]] + log(total));
        }
        loss[row] = v;
    }
}
