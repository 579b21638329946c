#import common/index.wgsl
#import common/codes.wgsl

// The pixels that a network sees, from bytes: a table has the value of every byte in every channel, and behind these that of padding. An
// invocation takes three words of four bytes, which are four pixels: a place is found by slow divisions, its neighbours by counting.

struct Params {
    n: u32,
    words: u32,
    height: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bytes: array<u32>;
@group(0) @binding(2) var<storage, read> source: array<u32>;

// The row of the table that is behind those of bytes.
const PADDING = 256u;

struct Place {
    image: u32,
    row: u32,
    column: u32,
}

fn place_of(pixel: u32) -> Place {
    let row = pixel / p.width;
    return Place(row / p.height, row % p.height, pixel % p.width);
}

fn next(place: Place) -> Place {
    if place.column + 1u < p.width {
        return Place(place.image, place.row, place.column + 1u);
    }
    if place.row + 1u < p.height {
        return Place(place.image, place.row + 1u, 0u);
    }
    return Place(place.image + 1u, 0u, 0u);
}

struct Pixel {
    r: element_y,
    g: element_y,
    b: element_y,
}

// The values of a pixel. A place behind the last picture may be asked for: what comes of it is not stored.
fn pixel_at(place: Place, r: u32, g: u32, b: u32) -> Pixel {
    let image = min(place.image, p.n / (3u * p.height * p.width) - 1u);
    if valid(image, place.row, place.column) == 0u {
        return Pixel(look_up(3u * PADDING), look_up(3u * PADDING + 1u), look_up(3u * PADDING + 2u));
    }
    return Pixel(look_up(3u * r), look_up(3u * g + 1u), look_up(3u * b + 2u));
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let first = 3u * flat_index(id, groups, GROUP);
    if first >= p.words {
        return;
    }
    let last = p.words - 1u;
    let w0 = bytes[first];
    let w1 = bytes[min(first + 1u, last)];
    let w2 = bytes[min(first + 2u, last)];
    let at_a = place_of(first / 3u * 4u);
    let at_b = next(at_a);
    let at_c = next(at_b);
    let at_d = next(at_c);
    let a = pixel_at(at_a, byte_of(w0, 0u), byte_of(w0, 1u), byte_of(w0, 2u));
    let b = pixel_at(at_b, byte_of(w0, 3u), byte_of(w1, 0u), byte_of(w1, 1u));
    let c = pixel_at(at_c, byte_of(w1, 2u), byte_of(w1, 3u), byte_of(w2, 0u));
    let d = pixel_at(at_d, byte_of(w2, 1u), byte_of(w2, 2u), byte_of(w2, 3u));
    write_piece(first, element_y4(a.r, a.g, a.b, b.r));
    if first < last {
        write_piece(first + 1u, element_y4(b.g, b.b, c.r, c.g));
    }
    if first + 1u < last {
        write_piece(first + 2u, element_y4(c.b, d.r, d.g, d.b));
    }
}
