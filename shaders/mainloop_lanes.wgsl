// The mainloop for a processor that plays a GPU: there a subgroup is one vector register, workgroup memory is memory
// like any other, and a barrier parks every thread. So nothing is shared but registers: each lane reads a row of its
// own, and the subgroup's queries go from lane to lane. Gives what mainloop.wgsl gives, for the same tile of 64 × 64.
//
// Maths: sixteen products are added in a tree six additions deep. Their sums are added four at a time and these in f32,
// or where COMPENSATED is 1 each with what its addition loses. So no sum rounds more often than mainloop.wgsl's.
// Memory: rows by wide.wgsl, one after the other, of `vectors` vectors each, a multiple of four.
// Constants: COMPENSATED.
// Threads: 16 × 8, in subgroups of eight along x. Thread (x, y) holds rows 8y, … 8y + 7 and of the half of the columns
// that its subgroup is, every eighth: four.

const TILE = 64u;
const HELD_ROWS = 8u;
const HELD_COLUMNS = 4u;

/// The thread's dot products: row i, column j.
struct Tile {
    rows: array<vec4<f32>, 8>,
}

/// The row of the tile that the thread's row i is.
fn row_of(i: u32, thread: vec3<u32>) -> u32 {
    return thread.y * 8u + i;
}

/// The column of the tile that the thread's column j is.
fn column_of(j: u32, thread: vec3<u32>) -> u32 {
    return (thread.x / 8u) * 32u + j * 8u + thread.x % 8u;
}

/// The rows of the tile about which a thread reads what it is to know: of the subgroup's eight, each lane one.
const READ_ROWS = 1u;

fn read_row(_i: u32, thread: vec3<u32>) -> u32 {
    return row_of(thread.x % 8u, thread);
}

/// What was read about the thread's row i.
fn of_row(read: array<vec4<u32>, READ_ROWS>, i: u32) -> vec4<u32> {
    return subgroupShuffle(read[0], i);
}

/// Sixteen elements of the thread's four keys: element 4i + j of all keys is keys i, column j.
struct Stage {
    first: mat4x4<f32>,
    second: mat4x4<f32>,
    third: mat4x4<f32>,
    fourth: mat4x4<f32>,
}

fn four_products(x: vec4<f32>, keys: mat4x4<f32>) -> vec4<f32> {
    return (x.x * keys[0] + x.y * keys[1]) + (x.z * keys[2] + x.w * keys[3]);
}

/// Sixteen elements of a query times those of the keys.
fn sixteen_products(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, stage: Stage) -> vec4<f32> {
    return (four_products(a, stage.first) + four_products(b, stage.second))
        + (four_products(c, stage.third) + four_products(d, stage.fourth));
}

/// What the addition of b to a loses, where the sum was rounded to `sum`.
fn lost(a: vec4<f32>, b: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    let part = sum - a;
    return (a - (sum - part)) + (b - part);
}

/// Four vectors of four keys, by element.
fn by_element(keys: vec4<u32>) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(key_vector(keys.x), key_vector(keys.y), key_vector(keys.z), key_vector(keys.w)));
}

/// Where the thread's four keys begin. Rows behind the last repeat it.
fn keys_from(first_column: u32, columns: u32, vectors: u32, thread: vec3<u32>) -> vec4<u32> {
    let column = first_column + column_of(0u, thread);
    return min(vec4<u32>(column, column + 8u, column + 16u, column + 24u), vec4<u32>(columns - 1u)) * vectors;
}

/// Sixteen elements of the four keys whose vectors are these.
fn stage_at(keys: vec4<u32>) -> Stage {
    return Stage(by_element(keys), by_element(keys + 1u), by_element(keys + 2u), by_element(keys + 3u));
}

/// Where the row begins that the lane reads for its subgroup. Rows behind the last repeat it.
fn query_from(first_row: u32, rows: u32, vectors: u32, thread: vec3<u32>) -> u32 {
    return min(first_row + row_of(thread.x % 8u, thread), rows - 1u) * vectors;
}

/// Sixteen elements of the subgroup's eight queries, of which each lane reads those from `query` on, times those of the
/// keys.
fn products_at(query: u32, stage: Stage) -> array<vec4<f32>, 8> {
    let a = query_vector(query);
    let b = query_vector(query + 1u);
    let c = query_vector(query + 2u);
    let d = query_vector(query + 3u);
    // The language wants the lane as a constant.
    return array<vec4<f32>, 8>(
        sixteen_products(subgroupBroadcast(a, 0u), subgroupBroadcast(b, 0u), subgroupBroadcast(c, 0u),
            subgroupBroadcast(d, 0u), stage),
        sixteen_products(subgroupBroadcast(a, 1u), subgroupBroadcast(b, 1u), subgroupBroadcast(c, 1u),
            subgroupBroadcast(d, 1u), stage),
        sixteen_products(subgroupBroadcast(a, 2u), subgroupBroadcast(b, 2u), subgroupBroadcast(c, 2u),
            subgroupBroadcast(d, 2u), stage),
        sixteen_products(subgroupBroadcast(a, 3u), subgroupBroadcast(b, 3u), subgroupBroadcast(c, 3u),
            subgroupBroadcast(d, 3u), stage),
        sixteen_products(subgroupBroadcast(a, 4u), subgroupBroadcast(b, 4u), subgroupBroadcast(c, 4u),
            subgroupBroadcast(d, 4u), stage),
        sixteen_products(subgroupBroadcast(a, 5u), subgroupBroadcast(b, 5u), subgroupBroadcast(c, 5u),
            subgroupBroadcast(d, 5u), stage),
        sixteen_products(subgroupBroadcast(a, 6u), subgroupBroadcast(b, 6u), subgroupBroadcast(c, 6u),
            subgroupBroadcast(d, 6u), stage),
        sixteen_products(subgroupBroadcast(a, 7u), subgroupBroadcast(b, 7u), subgroupBroadcast(c, 7u),
            subgroupBroadcast(d, 7u), stage),
    );
}

/// The tile whose first row and column are these. Rows behind the last repeat it. All threads of the group call it.
fn mainloop(
    first_row: u32,
    first_column: u32,
    rows: u32,
    columns: u32,
    vectors: u32,
    thread: vec3<u32>,
) -> Tile {
    var total: array<vec4<f32>, 8>;
    var rest: array<vec4<f32>, 8>;
    let query = query_from(first_row, rows, vectors, thread);
    let keys = keys_from(first_column, columns, vectors, thread);
    for (var first = 0u; first < vectors; first += 16u) {
        var sums: array<vec4<f32>, 8>;
        let end = min(first + 16u, vectors);
        for (var v = first; v < end; v += 4u) {
            let products = products_at(query + v, stage_at(keys + v));
            for (var i = 0u; i < 8u; i++) {
                if COMPENSATED == 1u {
                    let sum = total[i] + products[i];
                    rest[i] += lost(total[i], products[i], sum);
                    total[i] = sum;
                } else {
                    sums[i] += products[i];
                }
            }
        }
        if COMPENSATED == 0u {
            for (var i = 0u; i < 8u; i++) {
                total[i] += sums[i];
            }
        }
    }
    if COMPENSATED == 1u {
        for (var i = 0u; i < 8u; i++) {
            total[i] += rest[i];
        }
    }
    return Tile(total);
}
