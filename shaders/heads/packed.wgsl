#import common/index.wgsl

// y[m, n] = factor * sum over k of (left[m, k] - its zero) * (right[n, k] - its zero), for every head of every image, on codes: four
// multiply-adds an instruction, in i32. The zeros are taken off at the end, by the sums of each row's codes of either operand:
// what the codes' products are more than the differences' is a number for each row and one for each column. What is missing of the
// right operand counts as its zero, so that whatever stands in its place in the left one adds nothing.
//
// A workgroup computes TILE_M x TILE_N results, an invocation ROWS x COLUMNS of them. SPLIT invocations share the sums of the same
// results: each multiplies its part of every slice of QUADS times sixteen k. The left slice lies in workgroup memory as its rows do,
// sixteen codes a vector; the right one word by word, in vectors of four columns. The next slice travels while one is multiplied.
//
// Sums wrap around within 32 bits; what is left in the end fits.

const COLUMN_BLOCKS = COLUMNS / 4u;
const LANES_N = TILE_N / COLUMNS;
const LANES_M = TILE_M / ROWS;
const PLACES = LANES_M * LANES_N;
const LANES = PLACES * SPLIT;
const SHARE = QUADS / SPLIT;
const SLICE = QUADS * 16u;
// Odd, so that rows begin in different banks.
const STRIDE_LEFT = QUADS | 1u;
const BLOCKS_N = TILE_N / 4u;
const STRIDE_RIGHT = BLOCKS_N + 1u;
const LOADS_LEFT = (TILE_M * QUADS + LANES - 1u) / LANES;
const LOADS_RIGHT = (RIGHT_BLOCKS + LANES - 1u) / LANES;
// Parts of a column's sum of codes.
const PARTS_RIGHT = RIGHT_BLOCKS / BLOCKS_N;

var<workgroup> sh_left: array<vec4<u32>, TILE_M * STRIDE_LEFT>;
var<workgroup> sh_right: array<vec4<u32>, QUADS * 4u * STRIDE_RIGHT>;
var<workgroup> sh_left_sums: array<i32, TILE_M * QUADS>;

// The slice that is under way, and the sums of what has passed.
var<private> next_left: array<vec4<u32>, LOADS_LEFT>;
var<private> next_right: array<RightBlock, LOADS_RIGHT>;
var<private> left_sums: array<i32, LOADS_LEFT>;
var<private> right_sums: array<vec4<i32>, LOADS_RIGHT>;

fn dots(left: u32, right: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(
        dot4I8Packed(left, right.x),
        dot4I8Packed(left, right.y),
        dot4I8Packed(left, right.z),
        dot4I8Packed(left, right.w),
    );
}

// The sum of sixteen codes.
fn sum_of_codes(sixteen: vec4<u32>) -> i32 {
    let sums = dots(ONES, sixteen);
    return sums.x + sums.y + sums.z + sums.w;
}

fn fetch(lane: u32, k: u32, left_start: u32, right_start: u32, tile_row: u32, tile_column: u32) {
    for (var i = 0u; i < LOADS_LEFT; i++) {
        let slot = lane + i * LANES;
        let row = tile_row + slot / QUADS;
        let at = k + slot % QUADS * 16u;
        let exists = slot < TILE_M * QUADS && row < p.m && at < p.k;
        next_left[i] = load_left(select(0u, left_start + row * p.left_row + at, exists), min(p.k - select(0u, at, exists), 16u));
    }
    for (var i = 0u; i < LOADS_RIGHT; i++) {
        next_right[i] = load_block(lane + i * LANES, k, right_start, tile_column);
    }
}

fn stage(lane: u32) {
    for (var i = 0u; i < LOADS_LEFT; i++) {
        let slot = lane + i * LANES;
        if slot < TILE_M * QUADS {
            sh_left[slot / QUADS * STRIDE_LEFT + slot % QUADS] = next_left[i];
            left_sums[i] += sum_of_codes(next_left[i]);
        }
    }
    for (var i = 0u; i < LOADS_RIGHT; i++) {
        let slot = lane + i * LANES;
        if slot < RIGHT_BLOCKS {
            right_sums[i] += stage_block(slot, next_right[i]);
        }
    }
}

// Leaves the sum of each row's codes at sh_left_sums[row * QUADS], and of each four columns' at sh_right[block].
fn add_up_codes(lane: u32) {
    for (var i = 0u; i < LOADS_LEFT; i++) {
        let slot = lane + i * LANES;
        if slot < TILE_M * QUADS {
            sh_left_sums[slot] = left_sums[i];
        }
    }
    for (var i = 0u; i < LOADS_RIGHT; i++) {
        let slot = lane + i * LANES;
        if slot < RIGHT_BLOCKS {
            sh_right[part_of(slot) * BLOCKS_N + block_of(slot)] = bitcast<vec4<u32>>(right_sums[i]);
        }
    }
    workgroupBarrier();
    for (var row = lane; row < TILE_M; row += LANES) {
        var sum = 0;
        for (var sixteen = 0u; sixteen < QUADS; sixteen++) {
            sum += sh_left_sums[row * QUADS + sixteen];
        }
        sh_left_sums[row * QUADS] = sum;
    }
    for (var block = lane; block < BLOCKS_N; block += LANES) {
        var sum = vec4<u32>();
        for (var part = 0u; part < PARTS_RIGHT; part++) {
            sum += sh_right[part * BLOCKS_N + block];
        }
        sh_right[block] = sum;
    }
    workgroupBarrier();
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(workgroup, workgroups);
    let tile_column = flat % p.tiles_n * TILE_N;
    let tile_row = flat / p.tiles_n % p.tiles_m * TILE_M;
    let group = flat / (p.tiles_n * p.tiles_m);
    if group >= p.batch * p.heads {
        return;
    }
    let image = group / p.heads;
    let head = group % p.heads;
    let left_start = image * p.left_batch + head * p.left_head;
    let right_start = image * p.right_batch + head * p.right_head;
    let place = lane % PLACES;
    let split = lane / PLACES;
    let lane_n = place % LANES_N;
    let lane_m = place / LANES_N;
    prepare(head);
    find_no_word();
    var sums: array<vec4<i32>, ROWS * COLUMN_BLOCKS>;
    fetch(lane, 0u, left_start, right_start, tile_row, tile_column);
    for (var k = 0u; k < p.k; k += SLICE) {
        stage(lane);
        workgroupBarrier();
        if k + SLICE < p.k {
            fetch(lane, k + SLICE, left_start, right_start, tile_row, tile_column);
        }
        for (var q = 0u; q < SHARE; q++) {
            let sixteen = split * SHARE + q;
            var rows: array<vec4<u32>, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                rows[i] = sh_left[(lane_m + i * LANES_M) * STRIDE_LEFT + sixteen];
            }
            for (var j = 0u; j < COLUMN_BLOCKS; j++) {
                let at = sixteen * 4u * STRIDE_RIGHT + j * LANES_N + lane_n;
                let a = sh_right[at];
                let b = sh_right[at + STRIDE_RIGHT];
                let c = sh_right[at + 2u * STRIDE_RIGHT];
                let d = sh_right[at + 3u * STRIDE_RIGHT];
                for (var i = 0u; i < ROWS; i++) {
                    var sum = sums[i * COLUMN_BLOCKS + j];
                    sum += dots(rows[i].x, a);
                    sum += dots(rows[i].y, b);
                    sum += dots(rows[i].z, c);
                    sum += dots(rows[i].w, d);
                    sums[i * COLUMN_BLOCKS + j] = sum;
                }
            }
        }
        workgroupBarrier();
    }
    add_up_codes(lane);
    // The left slice's memory carries the parts of the sums.
    for (var other = 1u; other < SPLIT; other++) {
        if split == other {
            for (var i = 0u; i < ROWS * COLUMN_BLOCKS; i++) {
                sh_left[i * PLACES + place] = bitcast<vec4<u32>>(sums[i]);
            }
        }
        workgroupBarrier();
        if split == 0u {
            for (var i = 0u; i < ROWS * COLUMN_BLOCKS; i++) {
                sums[i] += bitcast<vec4<i32>>(sh_left[i * PLACES + place]);
            }
        }
        workgroupBarrier();
    }
    if split > 0u {
        return;
    }
    let zero_left = i32(zeros.x);
    let zero_right = i32(zeros.y);
    let multiplied = (p.k + SLICE - 1u) / SLICE * SLICE;
    let y_start = image * p.y_batch + head * p.y_head;
    for (var j = 0u; j < COLUMN_BLOCKS; j++) {
        let block = j * LANES_N + lane_n;
        let column = tile_column + block * 4u;
        let of_columns = vec4<i32>(i32(multiplied) * zero_left * zero_right) - zero_left * bitcast<vec4<i32>>(sh_right[block]);
        for (var i = 0u; i < ROWS; i++) {
            let tile_place = lane_m + i * LANES_M;
            let row = tile_row + tile_place;
            if row < p.m && column < p.columns_y {
                let total = sums[i * COLUMN_BLOCKS + j] + of_columns - zero_right * sh_left_sums[tile_place * QUADS];
                let at = y_start + row * p.y_row + column;
                write_y(at, finished(as_floats(total), image, row, head, column, at), p.columns_y - column);
            }
        }
    }
}

// The nearest floats of sums, which f32 holds exactly if SMALL.
fn as_floats(total: vec4<i32>) -> vec4<f32> {
    if SMALL {
        return vec4<f32>(total);
    }
    return floats_of(total);
}
