// The loop of mainloop_tall_lanes.wgsl for canonical dot products: gives what canonical.wgsl gives. For calls that want so
// many keys that scoring all of them costs less than scanning them and scoring those that pass one by one.
//
// Maths: of the sixteen sums of a pair, those of elements 4q, … 4q + 3 are taken in one walk over the rows; walks q = 0, 2,
// 1, 3 follow one another, so that their sums can be added as they come: (0 + 2) + (1 + 3) is the tree's upper half. A
// sum that begins at zero gains no rounding from it.
// Constants: SPLIT.

/// The elements of a vector of each of the thread's four keys: element i of all keys is column i.
struct KeyParts {
    high: mat4x4<f32>,
    low: mat4x4<f32>,
}

/// Four sums of each of eight queries with the four keys: sum i is column i.
struct Sums {
    rows: array<mat4x4<f32>, 8>,
}

fn key_parts(keys: vec4<u32>) -> KeyParts {
    let x = by_element(keys);
    if SPLIT == 0u {
        return KeyParts(x, mat4x4<f32>());
    }
    let high = mat4x4<f32>(high_part(x[0]), high_part(x[1]), high_part(x[2]), high_part(x[3]));
    let low = mat4x4<f32>(low_part(x[0], high[0]), low_part(x[1], high[1]), low_part(x[2], high[2]), low_part(x[3], high[3]));
    return KeyParts(high, low);
}

fn with_element(sum: vec4<f32>, x_high: f32, x_low: f32, y_high: vec4<f32>, y_low: vec4<f32>) -> vec4<f32> {
    var total = sum + x_high * y_high;
    if SPLIT == 1u {
        total += x_high * y_low;
        total += x_low * y_high;
        total += x_low * y_low;
    }
    return total;
}

fn with_vector(sums: mat4x4<f32>, x_high: vec4<f32>, x_low: vec4<f32>, y: KeyParts) -> mat4x4<f32> {
    return mat4x4<f32>(
        with_element(sums[0], x_high.x, x_low.x, y.high[0], y.low[0]),
        with_element(sums[1], x_high.y, x_low.y, y.high[1], y.low[1]),
        with_element(sums[2], x_high.z, x_low.z, y.high[2], y.low[2]),
        with_element(sums[3], x_high.w, x_low.w, y.high[3], y.low[3]),
    );
}

/// The sums with the products of a vector of each of the subgroup's eight queries, of which each lane reads one.
fn with_vectors(sums: Sums, query: u32, y: KeyParts) -> Sums {
    let x = query_vector(query);
    var high = x;
    var low = vec4<f32>(0.0);
    if SPLIT == 1u {
        high = high_part(x);
        low = low_part(x, high);
    }
    // The language wants the lane as a constant.
    return Sums(array<mat4x4<f32>, 8>(
        with_vector(sums.rows[0], subgroupBroadcast(high, 0u), subgroupBroadcast(low, 0u), y),
        with_vector(sums.rows[1], subgroupBroadcast(high, 1u), subgroupBroadcast(low, 1u), y),
        with_vector(sums.rows[2], subgroupBroadcast(high, 2u), subgroupBroadcast(low, 2u), y),
        with_vector(sums.rows[3], subgroupBroadcast(high, 3u), subgroupBroadcast(low, 3u), y),
        with_vector(sums.rows[4], subgroupBroadcast(high, 4u), subgroupBroadcast(low, 4u), y),
        with_vector(sums.rows[5], subgroupBroadcast(high, 5u), subgroupBroadcast(low, 5u), y),
        with_vector(sums.rows[6], subgroupBroadcast(high, 6u), subgroupBroadcast(low, 6u), y),
        with_vector(sums.rows[7], subgroupBroadcast(high, 7u), subgroupBroadcast(low, 7u), y),
    ));
}

fn added(a: Sums, b: Sums) -> Sums {
    return Sums(array<mat4x4<f32>, 8>(
        a.rows[0] + b.rows[0],
        a.rows[1] + b.rows[1],
        a.rows[2] + b.rows[2],
        a.rows[3] + b.rows[3],
        a.rows[4] + b.rows[4],
        a.rows[5] + b.rows[5],
        a.rows[6] + b.rows[6],
        a.rows[7] + b.rows[7],
    ));
}

fn all_sixteen(sums: mat4x4<f32>) -> vec4<f32> {
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

fn tile_of(sums: Sums) -> Tile {
    return Tile(array<vec4<f32>, 8>(
        all_sixteen(sums.rows[0]),
        all_sixteen(sums.rows[1]),
        all_sixteen(sums.rows[2]),
        all_sixteen(sums.rows[3]),
        all_sixteen(sums.rows[4]),
        all_sixteen(sums.rows[5]),
        all_sixteen(sums.rows[6]),
        all_sixteen(sums.rows[7]),
    ));
}

/// The tile whose first row and column are these. Rows behind the last repeat it. All threads of the group call it.
fn mainloop_tall(
    first_row: u32,
    first_column: u32,
    rows: u32,
    columns: u32,
    vectors: u32,
    thread: vec3<u32>,
) -> Tall {
    var total0: Sums;
    var total1: Sums;
    var total2: Sums;
    var total3: Sums;
    let query0 = query_from(first_row, rows, vectors, thread_of_tile(0u, thread));
    let query1 = query_from(first_row, rows, vectors, thread_of_tile(1u, thread));
    let query2 = query_from(first_row, rows, vectors, thread_of_tile(2u, thread));
    let query3 = query_from(first_row, rows, vectors, thread_of_tile(3u, thread));
    let keys = keys_from(first_column, columns, vectors, thread);
    for (var odd = 0u; odd < 2u; odd++) {
        var half0: Sums;
        var half1: Sums;
        var half2: Sums;
        var half3: Sums;
        for (var upper = 0u; upper < 2u; upper++) {
            var sums0: Sums;
            var sums1: Sums;
            var sums2: Sums;
            var sums3: Sums;
            for (var v = odd + 2u * upper; v < vectors; v += 4u) {
                let y = key_parts(keys + v);
                sums0 = with_vectors(sums0, query0 + v, y);
                sums1 = with_vectors(sums1, query1 + v, y);
                sums2 = with_vectors(sums2, query2 + v, y);
                sums3 = with_vectors(sums3, query3 + v, y);
            }
            half0 = added(half0, sums0);
            half1 = added(half1, sums1);
            half2 = added(half2, sums2);
            half3 = added(half3, sums3);
        }
        total0 = added(total0, half0);
        total1 = added(total1, half1);
        total2 = added(total2, half2);
        total3 = added(total3, half3);
    }
    return Tall(array<Tile, 4>(tile_of(total0), tile_of(total1), tile_of(total2), tile_of(total3)));
}
