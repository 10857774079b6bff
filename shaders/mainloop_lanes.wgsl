// The mainloop for a processor that plays a GPU: there a subgroup is one vector register, workgroup memory is memory
// like any other, and a barrier parks every thread. So nothing is shared but registers: each lane reads a row of its
// own, and the subgroup's queries go from lane to lane. Gives what mainloop.wgsl gives, for the same tile of 64 × 64.
//
// Maths: sixteen products are added in a tree six additions deep. Their sums are added four at a time and these in f32,
// or where COMPENSATED is 1 each with what its addition loses. So no sum rounds more often than mainloop.wgsl's.
// Memory: `queries` and `keys`, arrays of vec4<f32> that the file which includes this one declares, row after row of
// `vectors` vectors, a multiple of four.
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
fn by_element(a: u32, b: u32, c: u32, d: u32) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(keys[a], keys[b], keys[c], keys[d]));
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
    let query = min(first_row + row_of(thread.x % 8u, thread), rows - 1u) * vectors;
    let key0 = min(first_column + column_of(0u, thread), columns - 1u) * vectors;
    let key1 = min(first_column + column_of(1u, thread), columns - 1u) * vectors;
    let key2 = min(first_column + column_of(2u, thread), columns - 1u) * vectors;
    let key3 = min(first_column + column_of(3u, thread), columns - 1u) * vectors;

    for (var first = 0u; first < vectors; first += 16u) {
        var sums: array<vec4<f32>, 8>;
        let end = min(first + 16u, vectors);
        for (var v = first; v < end; v += 4u) {
            let a = queries[query + v];
            let b = queries[query + v + 1u];
            let c = queries[query + v + 2u];
            let d = queries[query + v + 3u];
            let stage = Stage(
                by_element(key0 + v, key1 + v, key2 + v, key3 + v),
                by_element(key0 + v + 1u, key1 + v + 1u, key2 + v + 1u, key3 + v + 1u),
                by_element(key0 + v + 2u, key1 + v + 2u, key2 + v + 2u, key3 + v + 2u),
                by_element(key0 + v + 3u, key1 + v + 3u, key2 + v + 3u, key3 + v + 3u),
            );
            // The language wants the lane as a constant.
            let products = array<vec4<f32>, 8>(
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
