// Two boxes and what the generalized IoU is made of.

// Areas below this count as none. In pictures they are far below any pixel; their reciprocals are finite.
const NO_AREA = 1e-24;

struct Overlap {
    a: vec4<f32>,
    b: vec4<f32>,
    // Width and height of the intersection, negative where the boxes are apart, and of the smallest box around both.
    inner: vec2<f32>,
    outer: vec2<f32>,
    intersection: f32,
    union_area: f32,
    hull: f32,
}

fn corners(box: vec4<f32>) -> vec4<f32> {
    return vec4(box.xy - 0.5 * box.zw, box.xy + 0.5 * box.zw);
}

fn area(box: vec4<f32>) -> f32 {
    return (box.z - box.x) * (box.w - box.y);
}

fn ratio(part: f32, whole: f32) -> f32 {
    if whole < NO_AREA {
        return 0.0;
    }
    return part / whole;
}

// The overlap of two boxes cxcywh.
fn overlap(p: vec4<f32>, t: vec4<f32>) -> Overlap {
    let a = corners(p);
    let b = corners(t);
    let inner = min(a.zw, b.zw) - max(a.xy, b.xy);
    let outer = max(a.zw, b.zw) - min(a.xy, b.xy);
    let shared_size = max(inner, vec2(0.0));
    let intersection = shared_size.x * shared_size.y;
    return Overlap(a, b, inner, outer, intersection, area(a) + area(b) - intersection, outer.x * outer.y);
}
