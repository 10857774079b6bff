// The loop of mainloop_tall_lanes.wgsl. Gives the same sums as mainloop_lanes.wgsl where COMPENSATED is 0.

/// The tile whose first row and column are these. Rows behind the last repeat it. All threads of the group call it.
fn mainloop_tall(
    first_row: u32,
    first_column: u32,
    rows: u32,
    columns: u32,
    vectors: u32,
    thread: vec3<u32>,
) -> Tall {
    var total0: array<vec4<f32>, 8>;
    var total1: array<vec4<f32>, 8>;
    var total2: array<vec4<f32>, 8>;
    var total3: array<vec4<f32>, 8>;
    let query0 = query_from(first_row, rows, vectors, thread_of_tile(0u, thread));
    let query1 = query_from(first_row, rows, vectors, thread_of_tile(1u, thread));
    let query2 = query_from(first_row, rows, vectors, thread_of_tile(2u, thread));
    let query3 = query_from(first_row, rows, vectors, thread_of_tile(3u, thread));
    let keys = keys_from(first_column, columns, vectors, thread);
    for (var first = 0u; first < vectors; first += 16u) {
        var sums0: array<vec4<f32>, 8>;
        var sums1: array<vec4<f32>, 8>;
        var sums2: array<vec4<f32>, 8>;
        var sums3: array<vec4<f32>, 8>;
        let end = min(first + 16u, vectors);
        for (var v = first; v < end; v += 4u) {
            let stage = stage_at(keys + v);
            let products0 = products_at(query0 + v, stage);
            for (var i = 0u; i < 8u; i++) {
                sums0[i] += products0[i];
            }
            let products1 = products_at(query1 + v, stage);
            for (var i = 0u; i < 8u; i++) {
                sums1[i] += products1[i];
            }
            let products2 = products_at(query2 + v, stage);
            for (var i = 0u; i < 8u; i++) {
                sums2[i] += products2[i];
            }
            let products3 = products_at(query3 + v, stage);
            for (var i = 0u; i < 8u; i++) {
                sums3[i] += products3[i];
            }
        }
        for (var i = 0u; i < 8u; i++) {
            total0[i] += sums0[i];
            total1[i] += sums1[i];
            total2[i] += sums2[i];
            total3[i] += sums3[i];
        }
    }
    return Tall(array<Tile, 4>(Tile(total0), Tile(total1), Tile(total2), Tile(total3)));
}
