// The loop of mainloop.wgsl by subgroups of 32 threads that multiply matrices of 8 × 8 numbers of f32 together.
//
// Maths: each dot product is one chain of as many multiply-adds as there are elements; of eight of them that are multiplied
// at once, nobody says the order.
// Memory: stages of 16 elements of each side go through workgroup memory, rows 20 elements apart, and the products to the
// threads that hold them.
// Constants: COMPENSATED = 0.
// Threads: subgroup s, threads 32s, … 32s + 31 of the group, multiplies rows 16 · (s % 4), … + 15 and columns
// 32 · (s / 4), … + 31 of the tile.

const STAGE = 4u;
const PITCH = 20u;

var<workgroup> query_stage: array<f32, 1280>;
var<workgroup> key_stage: array<f32, 1280>;
var<workgroup> products: array<f32, 4096>;

fn put_stage(to: u32, query: vec4<f32>, key: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        query_stage[to + i] = query[i];
        key_stage[to + i] = key[i];
    }
}

/// The products that a thread holds of a row of the tile.
fn held_products(i: u32, thread: vec3<u32>) -> vec4<f32> {
    let at = row_of(i, thread) * TILE;
    return vec4<f32>(products[at + column_of(0u, thread)], products[at + column_of(1u, thread)],
        products[at + column_of(2u, thread)], products[at + column_of(3u, thread)]);
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
    // Two rows of four matrices.
    var a = coop_mat8x8<f32, C>();
    var b = coop_mat8x8<f32, C>();
    var c = coop_mat8x8<f32, C>();
    var d = coop_mat8x8<f32, C>();
    var e = coop_mat8x8<f32, C>();
    var f = coop_mat8x8<f32, C>();
    var g = coop_mat8x8<f32, C>();
    var h = coop_mat8x8<f32, C>();

    let index = thread.y * 16u + thread.x;
    let row = index / STAGE;
    let vector = index % STAGE;
    let from_query = min(first_row + row, rows - 1u) * vectors + vector;
    let from_key = min(first_column + row, columns - 1u) * vectors + vector;
    let part = index / 32u;
    let down = (part % 4u) * 16u;
    let across = (part / 4u) * 32u;
    for (var first = 0u; first < vectors; first += STAGE) {
        workgroupBarrier();
        put_stage(row * PITCH + vector * 4u, queries[from_query + first], keys[from_key + first]);
        workgroupBarrier();
        for (var k = 0u; k < 16u; k += 8u) {
            let upper = coopLoadT<coop_mat8x8<f32, A>>(&query_stage[down * PITCH + k], PITCH);
            let lower = coopLoadT<coop_mat8x8<f32, A>>(&query_stage[(down + 8u) * PITCH + k], PITCH);
            let x = coopLoad<coop_mat8x8<f32, B>>(&key_stage[across * PITCH + k], PITCH);
            let y = coopLoad<coop_mat8x8<f32, B>>(&key_stage[(across + 8u) * PITCH + k], PITCH);
            let z = coopLoad<coop_mat8x8<f32, B>>(&key_stage[(across + 16u) * PITCH + k], PITCH);
            let w = coopLoad<coop_mat8x8<f32, B>>(&key_stage[(across + 24u) * PITCH + k], PITCH);
            a = coopMultiplyAdd(upper, x, a);
            b = coopMultiplyAdd(upper, y, b);
            c = coopMultiplyAdd(upper, z, c);
            d = coopMultiplyAdd(upper, w, d);
            e = coopMultiplyAdd(lower, x, e);
            f = coopMultiplyAdd(lower, y, f);
            g = coopMultiplyAdd(lower, z, g);
            h = coopMultiplyAdd(lower, w, h);
        }
    }
    let upper_at = down * TILE + across;
    let lower_at = upper_at + 8u * TILE;
    coopStoreT(a, &products[upper_at], TILE);
    coopStoreT(b, &products[upper_at + 8u], TILE);
    coopStoreT(c, &products[upper_at + 16u], TILE);
    coopStoreT(d, &products[upper_at + 24u], TILE);
    coopStoreT(e, &products[lower_at], TILE);
    coopStoreT(f, &products[lower_at + 8u], TILE);
    coopStoreT(g, &products[lower_at + 16u], TILE);
    coopStoreT(h, &products[lower_at + 24u], TILE);
    workgroupBarrier();
    return Tile(array<vec4<f32>, 4>(
        held_products(0u, thread),
        held_products(1u, thread),
        held_products(2u, thread),
        held_products(3u, thread),
    ));
}
