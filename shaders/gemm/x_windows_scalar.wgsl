#import common/gemm_windows.wgsl

// The left operand of a convolution: windows of an image [B, H, W, C], any number of channels.

@group(0) @binding(1) var<storage, read> x: array<element_x>;

struct Tap {
    places: array<Place, 4>,
}

fn tap_x(k: u32) -> Tap {
    return Tap(array<Place, 4>(place_of(k), place_of(k + 1u), place_of(k + 2u), place_of(k + 3u)));
}

fn element_of_x(row: RowX, place: Place) -> element_x {
    if is_inside(row, place) {
        return x[row.offset + place.offset];
    }
    return element_x();
}

fn load_x(row: RowX, tap: Tap) -> element_x4 {
    return element_x4(
        element_of_x(row, tap.places[0]),
        element_of_x(row, tap.places[1]),
        element_of_x(row, tap.places[2]),
        element_of_x(row, tap.places[3]),
    );
}
