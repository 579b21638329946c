#import common/gaussian.wgsl
#import common/index.wgsl
#import common/reduce.wgsl

// Masked softmax attention, plainly: a workgroup takes one query of one head, an invocation one key of every tile of GROUP
// keys, then some channels of the result. Any head dimension. The same meaning of masks and of PRIOR as in
// tiled.wgsl.

const MASKED = -1e30;

struct Params {
    batch: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    // channels of a head
    depth: u32,
    // 1 / sqrt(head dimension)
    scale: f32,
    columns: u32,
    inverse_columns: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<element>;
@group(0) @binding(2) var<storage, read> k: array<element>;
@group(0) @binding(3) var<storage, read> v: array<element>;
@group(0) @binding(4) var<storage, read> mask: array<u32>;
// [B, queries, heads] each
@group(0) @binding(5) var<storage, read> centre: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> inverse_width: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> y: array<element>;

var<workgroup> weights: array<f32, GROUP>;

// Of query `row`, a query and its head, with a key of its image.
fn score(row: u32, first_key: u32, key: u32) -> f32 {
    if HAS_MASK {
        if mask[first_key + key] == 0u {
            return MASKED;
        }
    }
    let q_start = row * p.depth;
    let k_start = ((first_key + key) * p.heads + row % p.heads) * p.depth;
    var product = 0.0;
    for (var c = 0u; c < p.depth; c++) {
        product += f32(q[q_start + c]) * f32(k[k_start + c]);
    }
    product *= p.scale;
    if PRIOR {
        product += gaussian(centre[row], inverse_width[row], cell_of(key, p.columns, p.inverse_columns));
    }
    return product;
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    // Groups behind the end of a folded grid compute the last row once more and write nothing.
    let count = p.batch * p.queries * p.heads;
    let index = flat_group(group, groups);
    let row = min(index, count - 1u);
    let head = row % p.heads;
    let first_key = row / (p.heads * p.queries) * p.keys;
    let q_start = row * p.depth;

    // Of the channels local, local + GROUP, ... of the head.
    var sum: array<f32, CHANNELS>;
    for (var i = 0u; i < CHANNELS; i++) {
        sum[i] = 0.0;
    }
    var top = MASKED;
    var total = 0.0;
    for (var tile = 0u; tile < p.keys; tile += GROUP) {
        let inside = tile + local < p.keys;
        let mine = select(MASKED, score(row, first_key, min(tile + local, p.keys - 1u)), inside);
        let new_top = max(top, reduce_max(local, mine));
        let weight = select(0.0, exp(mine - new_top), inside);
        weights[local] = weight;
        let shrink = exp(top - new_top);
        // The barriers of the sum also publish the weights.
        total = total * shrink + reduce_sum(local, weight);
        top = new_top;
        let end = min(GROUP, p.keys - tile);
        for (var i = 0u; i < CHANNELS; i++) {
            let c = local + i * GROUP;
            if c < p.depth {
                var tile_sum = 0.0;
                for (var j = 0u; j < end; j++) {
                    tile_sum += weights[j] * f32(v[((first_key + tile + j) * p.heads + head) * p.depth + c]);
                }
                sum[i] = sum[i] * shrink + tile_sum;
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < CHANNELS; i++) {
        let c = local + i * GROUP;
        if c < p.depth && index < count {
            y[q_start + c] = element(sum[i] / total);
        }
    }
}
