// Puts the keys that pass a tile's gates into the pools: see gates_lanes.wgsl. They are few: scores are marked first, and
// those that are marked are written in a loop that ends when no lane has one left.

var<private> scores: array<f32, 32>;
var<private> draws: array<i32, 32>;
// One bit for each score of the thread, row by row: keys that pass.
var<private> passing: u32;

fn begin_rows(_own_row: u32) {
    passing = 0u;
}

/// Marks the keys of row i that pass. `held`: those that the query may have.
fn take_row(i: u32, gate: Gate, score: vec4<f32>, held: vec4<bool>, across: Across) {
    let inside = held & (score >= vec4<f32>(gate.band.y)) & (score <= vec4<f32>(gate.band.z));
    var passes = score >= vec4<f32>(gate.needed);
    for (var j = 0u; j < 4u; j++) {
        scores[4u * i + j] = score[j];
    }
    if DRAW != 0u {
        let drawn = vec4<i32>(
            draw_of(gate, score.x, across.columns.x),
            draw_of(gate, score.y, across.columns.y),
            draw_of(gate, score.z, across.columns.z),
            draw_of(gate, score.w, across.columns.w),
        );
        passes = passes | (drawn >= vec4<i32>(gate.least_draw));
        for (var j = 0u; j < 4u; j++) {
            draws[4u * i + j] = drawn[j];
        }
    }
    passing |= bits_of(inside & passes) << (4u * i);
}

fn end_of_rows(own: Gate, first_row: u32, first_column: u32, thread: vec3<u32>) {
    while subgroupAny(passing != 0u) {
        let n = min(firstTrailingBit(passing), 31u);
        let gate = gate_from(own, n / 4u);
        if passing != 0u {
            passing &= passing - 1u;
            let row = first_row + row_of(n / 4u, thread);
            admit(row, first_column + column_of(n % 4u, thread), gate, scores[n], draws[n]);
        }
    }
}
