// The canonical dot product of two scaled rows, by one thread. The twin of canonical.cuh.
//
// Maths: lane l of sixteen sums the products of elements l, l + 16, … in order; where a row is f32, each element counts
// as two parts of 12 bits, their products in the order high·high, high·low, low·high, low·low; then lanes are added
// pairwise at distance 8, 4, 2, 1. All products are exact, so it does not matter whether they are fused with the sums.
// Memory: `queries` and `keys`, arrays of vec4<f32> that the file which includes this one declares: row after row of
// `vectors` vectors each.
// Constants: SPLIT, 1 where a row of either side is f32.

fn add_products(sum: vec4<f32>, x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
    if SPLIT == 0u {
        return sum + x * y;
    }
    let x_high = high_part(x);
    let y_high = high_part(y);
    let x_low = low_part(x, x_high);
    let y_low = low_part(y, y_high);
    var total = sum + x_high * y_high;
    total += x_high * y_low;
    total += x_low * y_high;
    total += x_low * y_low;
    return total;
}

fn canonical_dot(query: u32, key: u32, vectors: u32) -> f32 {
    var a = vec4<f32>(0.0);
    var b = vec4<f32>(0.0);
    var c = vec4<f32>(0.0);
    var d = vec4<f32>(0.0);
    let x = query * vectors;
    let y = key * vectors;
    for (var i = 0u; i < vectors; i += 4u) {
        a = add_products(a, queries[x + i], keys[y + i]);
        b = add_products(b, queries[x + i + 1u], keys[y + i + 1u]);
        c = add_products(c, queries[x + i + 2u], keys[y + i + 2u]);
        d = add_products(d, queries[x + i + 3u], keys[y + i + 3u]);
    }
    a += c;
    b += d;
    a += b;
    let pair = a.xy + a.zw;
    return pair.x + pair.y;
}

/// The same where the threads of a subgroup ask for one query; canonical_lanes.wgsl reads it once for all of them.
fn canonical_dot_of(query: u32, key: u32, vectors: u32, _thread: u32) -> f32 {
    return canonical_dot(query, key, vectors);
}
