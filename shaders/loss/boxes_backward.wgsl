#import common/index.wgsl

// The gradient of loss/boxes.wgsl with respect to the predicted boxes, one invocation a row. Where two edges coincide, each
// box has half of the slope: so two equal boxes have none.

struct Params {
    rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> predicted: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> wanted: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> d_l1: array<f32>;
@group(0) @binding(5) var<storage, read> d_giou: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_predicted: array<vec4<f32>>;

// How much of min(a, b) moves with a.
fn share_of_min(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    return select(select(vec2(0.0), vec2(0.5), a == b), vec2(1.0), a < b);
}

// The gradient of 1 − GIoU = 2 − I/U − U/H with respect to the predicted corners: areas times reciprocals of areas, each
// guarded by itself, since the square of a small area is 0.
fn d_corners(o: Overlap) -> vec4<f32> {
    var per_union = 0.0;
    var per_hull = 0.0;
    if o.union_area >= NO_AREA {
        per_union = 1.0 / o.union_area;
    }
    if o.hull >= NO_AREA {
        per_hull = 1.0 / o.hull;
    }
    let iou = o.intersection * per_union;
    let filled = o.union_area * per_hull;
    let d_area = iou * per_union - per_hull;
    let d_intersection = -per_union - d_area;
    let d_hull = filled * per_hull;

    let size = o.a.zw - o.a.xy;
    let shared_size = max(o.inner, vec2(0.0));
    let overlaps = select(vec2(0.0), vec2(1.0), o.inner >= vec2(0.0));
    let inner_slope = d_intersection * overlaps * shared_size.yx;
    let outer_slope = d_hull * o.outer.yx;
    let own_slope = d_area * size.yx;
    let low = share_of_min(o.a.xy, o.b.xy);
    let high = share_of_min(o.a.zw, o.b.zw);
    let d_low = -own_slope - inner_slope * (1.0 - low) - outer_slope * low;
    let d_high = own_slope + inner_slope * high + outer_slope * (1.0 - high);
    return vec4(d_low, d_high);
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(id, groups, GROUP);
    if row >= p.rows {
        return;
    }
    let w = weight[row];
    var d = vec4(0.0);
    if w != 0.0 {
        let edges = w * d_giou[row] * d_corners(overlap(predicted[row], wanted[row]));
        d = w * d_l1[row] * sign(predicted[row] - wanted[row]);
        d += vec4(edges.xy + edges.zw, 0.5 * (edges.zw - edges.xy));
    }
    d_predicted[row] = d;
}
