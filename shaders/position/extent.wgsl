#import common/index.wgsl
#import common/reduce.wgsl

// How wide and high the image in a padded batch is, in cells: the valid pixels of its first row and of its first column times a
// factor, `repeat` times. A workgroup takes an image.

struct Params {
    images: u32,
    height: u32,
    width: u32,
    repeat: u32,
    // cells of a pixel
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec2<f32>>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let index = flat_group(group, groups);
    let image = min(index, p.images - 1u);
    var counts = vec2<f32>();
    for (var x = local; x < p.width; x += GROUP) {
        counts.x += select(0.0, 1.0, valid(image, 0u, x) != 0u);
    }
    for (var y = local; y < p.height; y += GROUP) {
        counts.y += select(0.0, 1.0, valid(image, y, 0u) != 0u);
    }
    let extent = vec2<f32>(reduce_sum(local, counts.x), reduce_sum(local, counts.y)) * p.scale;
    for (var i = local; i < p.repeat && index < p.images; i += GROUP) {
        y[image * p.repeat + i] = extent;
    }
}
