// The canonical dot products of one scaled row and eight others, for a processor that plays a GPU: see
// mainloop_lanes.wgsl. Gives what canonical.wgsl gives; the query, the same for all lanes of a subgroup, is read once for
// all of them. All threads of the subgroup call it.

/// A vector in parts of 12 bits.
struct Parts {
    high: vec4<f32>,
    low: vec4<f32>,
}

fn parts_of(x: vec4<f32>) -> Parts {
    if SPLIT == 0u {
        return Parts(x, vec4<f32>(0.0));
    }
    let high = high_part(x);
    return Parts(high, low_part(x, high));
}

fn add_products(sum: vec4<f32>, x_high: vec4<f32>, x_low: vec4<f32>, y: Parts) -> vec4<f32> {
    var total = sum + x_high * y.high;
    if SPLIT == 1u {
        total += x_high * y.low;
        total += x_low * y.high;
        total += x_low * y.low;
    }
    return total;
}

fn canonical_dot_of(query: u32, key: u32, vectors: u32, thread: u32) -> f32 {
    var a = vec4<f32>(0.0);
    var b = vec4<f32>(0.0);
    var c = vec4<f32>(0.0);
    var d = vec4<f32>(0.0);
    let x = query * vectors + thread % 4u;
    let y = key * vectors;
    for (var i = 0u; i < vectors; i += 4u) {
        let own = parts_of(query_vector(x + i));
        // The language wants the lane as a constant.
        a = add_products(a, subgroupBroadcast(own.high, 0u), subgroupBroadcast(own.low, 0u), parts_of(key_vector(y + i)));
        b = add_products(b, subgroupBroadcast(own.high, 1u), subgroupBroadcast(own.low, 1u), parts_of(key_vector(y + i + 1u)));
        c = add_products(c, subgroupBroadcast(own.high, 2u), subgroupBroadcast(own.low, 2u), parts_of(key_vector(y + i + 2u)));
        d = add_products(d, subgroupBroadcast(own.high, 3u), subgroupBroadcast(own.low, 3u), parts_of(key_vector(y + i + 3u)));
    }
    a += c;
    b += d;
    a += b;
    let pair = a.xy + a.zw;
    return pair.x + pair.y;
}
