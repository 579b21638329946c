// A rounding barrier. A compiler may compute a * b + c with one rounding or with two, as it likes; behind `rounded` a product
// has its own rounding everywhere, as on the host. Where the result decides between codes, this makes it the same on every
// device. `zero` is 0 whenever the shader runs, which the compiler does not know: `p.n >> 31u` of a count in the parameters. Kernels that
// leave as SPIR-V of ours have it forbidden there (gpu/byte_matrices.rs), and PRODUCTS_ARE_ROUNDED says so.

fn rounded(x: f32, zero: u32) -> f32 {
    if PRODUCTS_ARE_ROUNDED {
        return x;
    }
    return bitcast<f32>(bitcast<u32>(x) ^ zero);
}

fn rounded4(x: vec4<f32>, zero: u32) -> vec4<f32> {
    if PRODUCTS_ARE_ROUNDED {
        return x;
    }
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ vec4<u32>(zero));
}
