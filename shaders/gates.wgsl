// The gates of a tile, where each thread decides about each of its scores in turn. gates_lanes.wgsl is the same for
// software devices.

/// One for the rule that rejects a score; nothing where the canonical score must decide.
fn rejecting(row: u32, column: u32, gate: Gate, score: f32) -> vec4<u32> {
    let limits = gate.limits;
    if any(abs(vec4<f32>(score) - limits) <= vec4<f32>(bitcast<f32>(gate.units.y))) {
        note_unsure(row, column);
        return vec4<u32>(0u);
    }
    let below = score < limits.x;
    let above = score > limits.y;
    let margin = !above && score > limits.z;
    let ratio = !above && !margin && score > limits.w;
    return select(vec4<u32>(0u), vec4<u32>(1u), vec4<bool>(below, above && !below, margin && !below, ratio && !below));
}

fn gate_tile(first_row: u32, first_column: u32, thread: vec3<u32>) {
    let tile = mainloop(first_row, first_column, parameters.rows, parameters.columns, parameters.vectors, thread);
    for (var i = 0u; i < HELD_ROWS; i++) {
        let row = first_row + row_of(i, thread);
        let gate = gate_of(row);
        if gate.band.w == 0.0 {
            continue;
        }
        var rejected = vec4<u32>(0u);
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            let column = first_column + column_of(j, thread);
            if column >= parameters.end {
                continue;
            }
            let score_column = columns[column];
            if score_column.x == NO_KEY {
                continue;
            }
            let score = (tile.rows[i][j] * gate.band.x) * bitcast<f32>(score_column.x);
            let inside = score >= gate.band.y && score <= gate.band.z;
            if COUNT == 0u && !(inside && (DRAW != 0u || score >= gate.needed)) {
                continue;
            }
            if excluded(row_of(i, thread), gate.own, parameters.base + column, score_column.y) {
                continue;
            }
            if COUNT == 1u {
                rejected += rejecting(row, column, gate, score);
            }
            var passes = inside && score >= gate.needed;
            var draw = 0;
            if DRAW != 0u && inside {
                draw = draw_of(gate, score, column);
                passes = passes || draw >= gate.least_draw;
            }
            if passes {
                admit(row, column, gate, score, draw);
            }
        }
        if COUNT == 1u {
            for (var rule = 0u; rule < 4u; rule++) {
                if rejected[rule] > 0u {
                    atomicAdd(&unsure[1u + 4u * row + rule], rejected[rule]);
                }
            }
        }
    }
}
