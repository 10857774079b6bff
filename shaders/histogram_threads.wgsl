// Counts the scores of a tile, each thread its own in turn. histogram_lanes.wgsl is the same for software devices.

fn count_tile(first_row: u32, first_column: u32, thread: vec3<u32>) {
    let tile = mainloop(first_row, first_column, parameters.rows, parameters.columns, parameters.vectors, thread);
    let bins = f32(parameters.bins);
    let local = counts_locally();
    for (var i = 0u; i < HELD_ROWS; i++) {
        let row = first_row + row_of(i, thread);
        if row >= parameters.rows {
            continue;
        }
        let band = bitcast<vec4<f32>>(gates[row * GATE_VECTORS]);
        if band.w == 0.0 {
            continue;
        }
        let own = gates[row * GATE_VECTORS + 1u];
        let scale = bitcast<vec4<f32>>(gates[row * GATE_VECTORS + 2u]);
        let counters = select(0u, row, PER_ROW == 1u) * (parameters.bins + 2u);
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            let column = first_column + column_of(j, thread);
            if column >= parameters.end {
                continue;
            }
            let score_column = columns[column];
            if score_column.x == NO_KEY {
                continue;
            }
            if excluded(row_of(i, thread), own, parameters.base + column, score_column.y) {
                continue;
            }
            let score = clamp((tile.rows[i][j] * band.x) * bitcast<f32>(score_column.x), -band.w, band.w);
            let at = score * scale.x - scale.y;
            let whole = floor(at);
            let fraction = at - whole;
            let near_edge = !(fraction >= scale.z && fraction <= 1.0 - scale.z);
            let outside = at < -scale.z || at > bins + scale.z;
            if near_edge && !outside {
                note_unsure(row, column);
            } else {
                let slot = u32(i32(clamp(whole, -1.0, bins)) + 1);
                if local {
                    atomicAdd(&local_counts[slot], 1u);
                } else {
                    atomicAdd(&counts[counters + slot], 1u);
                }
            }
        }
    }
}
