// The correctly rounded 1 / x of a normal x from 2^-126 to 2^126: what the host's division gives. WGSL's own division may be 2.5
// units off. With x = m · 2^e and a 24-bit m, the quotient 2^47 / m has 24 bits, found one by one. It cannot lie halfway
// between two of them: m would have to divide 2^48, and powers of two are taken out before.

fn reciprocal(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let exponent = bits >> 23u;
    let m = (bits & 0x7fffffu) | 0x800000u;
    if m == 0x800000u {
        return bitcast<f32>((254u - exponent) << 23u);
    }
    var rest = 0x800000u;
    var quotient = 0u;
    for (var i = 0u; i < 24u; i++) {
        rest *= 2u;
        let fits = rest >= m;
        rest -= select(0u, m, fits);
        quotient = quotient * 2u + select(0u, 1u, fits);
    }
    quotient += select(0u, 1u, rest * 2u > m);
    return bitcast<f32>(((253u - exponent) << 23u) | (quotient & 0x7fffffu));
}
