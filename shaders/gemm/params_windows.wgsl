#import common/result.wgsl

// The geometry of a convolution as a GEMM: row m is an output pixel, k runs over (ky, kx, channel).

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
    // k of one split, a multiple of the tile's; at least p.k when there is one
    split_k: u32,
    height: u32,
    width: u32,
    channels: u32,
    group_channels: u32,
    out_height: u32,
    out_width: u32,
    kernel_width: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
    inverse_group_channels: f32,
    inverse_kernel_width: f32,
}

@group(0) @binding(0) var<uniform> p: Params;

// The window of one output pixel: where it begins, in pixels and as a flat index, possibly in the padding.
struct RowX {
    offset: i32,
    y: i32,
    x: i32,
}

// One k: how far from a window's beginning, in pixels and as a flat index.
struct Place {
    offset: i32,
    y: i32,
    x: i32,
}

// A coordinate that is outside of every image, whatever place is added.
const OUTSIDE = -0x40000000;

fn row_x(row: u32, group: u32) -> RowX {
    if row >= p.m {
        return RowX(0, OUTSIDE, OUTSIDE);
    }
    let pixels = p.out_height * p.out_width;
    let b = row / pixels;
    let pixel = row - b * pixels;
    let oy = pixel / p.out_width;
    let ox = pixel - oy * p.out_width;
    let y = i32(oy * p.stride) - i32(p.padding);
    let x = i32(ox * p.stride) - i32(p.padding);
    let first = (i32(b * p.height) + y) * i32(p.width) + x;
    return RowX(first * i32(p.channels) + i32(group * p.group_channels), y, x);
}

// n / d by a multiplication with 1/d: exact for n below 2^21, as the host asserts.
fn quotient(n: u32, inverse: f32) -> u32 {
    return u32((f32(n) + 0.5) * inverse);
}

fn place_of(k: u32) -> Place {
    if k >= p.k {
        return Place(0, OUTSIDE, OUTSIDE);
    }
    let tap = quotient(k, p.inverse_group_channels);
    let channel = k - tap * p.group_channels;
    let ky = quotient(tap, p.inverse_kernel_width);
    let kx = tap - ky * p.kernel_width;
    let y = i32(ky * p.dilation);
    let x = i32(kx * p.dilation);
    return Place((y * i32(p.width) + x) * i32(p.channels) + i32(channel), y, x);
}

fn is_inside(row: RowX, place: Place) -> bool {
    // A negative coordinate is a huge unsigned one.
    return u32(row.y + place.y) < p.height && u32(row.x + place.x) < p.width;
}
