#import common/reduce_pair.wgsl
#import common/rounded.wgsl

// What the backwards of quantizers share. With u = x · (1 / alpha) + Z, q its code, d the gradient of alpha · (q - Z), and inside where
// low <= u <= high:
//   d_x = inside ? d : 0,
//   d_alpha = Σ d · (inside ? q - u : q - Z),   d_zp = Σ d · (inside ? 0 : -alpha)   over a step size's elements.

var<private> alpha_sum: wide;
var<private> outside_sum: wide;

// d_x of a piece of x under the state s; its terms are added to the sums of this invocation. `zero` is that of the rounding barrier.
fn straight_through(x_: wide, d: wide, s: vec4<f32>, low: f32, high: f32, zero: u32) -> wide {
    let product = lanes_of(rounded4(vec4<f32>(x_ * s.y), zero));
    let u = product + wide(s.z);
    let q = round(clamp(u, wide(low), wide(high)));
    let inside = (u >= wide(low)) & (u <= wide(high));
    alpha_sum += d * (q - select(wide(s.z), u, inside));
    outside_sum += select(d, wide(), inside);
    return select(wide(), d, inside);
}

// The sums of the invocations that share a step size, in the columns of its state.
fn state_sums(local: u32, s: vec4<f32>) -> vec4<f32> {
    let sums = reduce_pair(local, vec2<f32>(sum_of(alpha_sum), sum_of(outside_sum)));
    return vec4<f32>(sums.x, 0.0, -s.x * sums.y, 0.0);
}
