#import common/index.wgsl

// l1[r] = weight[r] · |p − t|₁ and giou[r] = weight[r] · (1 − GIoU(p, t)), one invocation a row; exactly 0 where the weight is 0.

struct Params {
    rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> predicted: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> wanted: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> l1: array<f32>;
@group(0) @binding(5) var<storage, read_write> giou: array<f32>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(id, groups, GROUP);
    if row >= p.rows {
        return;
    }
    let w = weight[row];
    var distance = 0.0;
    var apart = 0.0;
    if w != 0.0 {
        let d = abs(predicted[row] - wanted[row]);
        distance = w * (d.x + d.y + d.z + d.w);
        let o = overlap(predicted[row], wanted[row]);
        let iou = ratio(o.intersection, o.union_area);
        apart = w * (1.0 - (iou - ratio(o.hull - o.union_area, o.hull)));
    }
    l1[row] = distance;
    giou[row] = apart;
}
