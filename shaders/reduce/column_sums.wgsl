#import common/index.wgsl

// y[part, c] = scale · the sum of x[r, c] over the rows r of the part. A workgroup takes COLUMNS columns of one part, GROUP / COLUMNS
// invocations a column: each adds up every so many rows, then a tree in a fixed order joins them. Columns are numbers or vec4s of them.

struct Params {
    rows: u32,
    columns: u32,
    parts: u32,
    chunk: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read_write> y: array<wide_y>;

const STRIPES = GROUP / COLUMNS;

var<workgroup> cells: array<wide, GROUP>;

@compute @workgroup_size(GROUP)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let blocks = (p.columns + COLUMNS - 1u) / COLUMNS;
    let index = flat_group(group, groups);
    let part = index / blocks;
    let column = index % blocks * COLUMNS + local % COLUMNS;
    let stripe = local / COLUMNS;
    let inside = column < p.columns && part < p.parts;
    var sum = wide();
    if inside {
        let end = min((part + 1u) * p.chunk, p.rows);
        for (var row = part * p.chunk + stripe; row < end; row += STRIPES) {
            sum += wide(x[row * p.columns + column]);
        }
    }
    cells[local] = sum;
    workgroupBarrier();
    for (var half = STRIPES / 2u; half > 0u; half /= 2u) {
        if stripe < half {
            cells[local] += cells[local + half * COLUMNS];
        }
        workgroupBarrier();
    }
    if stripe == 0u && inside {
        y[part * p.columns + column] = wide_y(cells[local] * p.scale);
    }
}
