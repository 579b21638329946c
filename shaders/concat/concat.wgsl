#import common/index.wgsl

// y = the inputs one after the other; one invocation a number or a vec4 of numbers. Inputs that are not there end where the
// last one does.

struct Params {
    // where each input ends in y
    end0: u32,
    end1: u32,
    end2: u32,
    end3: u32,
    end4: u32,
    end5: u32,
    end6: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x0: array<wide>;
@group(0) @binding(2) var<storage, read> x1: array<wide>;
@group(0) @binding(3) var<storage, read> x2: array<wide>;
@group(0) @binding(4) var<storage, read> x3: array<wide>;
@group(0) @binding(5) var<storage, read> x4: array<wide>;
@group(0) @binding(6) var<storage, read> x5: array<wide>;
@group(0) @binding(7) var<storage, read> x6: array<wide>;
@group(0) @binding(8) var<storage, read_write> y: array<wide>;

fn element(i: u32) -> wide {
    if i < p.end0 {
        return x0[i];
    }
    if i < p.end1 {
        return x1[i - p.end0];
    }
    if i < p.end2 {
        return x2[i - p.end1];
    }
    if i < p.end3 {
        return x3[i - p.end2];
    }
    if i < p.end4 {
        return x4[i - p.end3];
    }
    if i < p.end5 {
        return x5[i - p.end4];
    }
    return x6[i - p.end5];
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.end6 {
        y[i] = element(i);
    }
}
