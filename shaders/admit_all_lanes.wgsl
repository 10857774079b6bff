// Puts all keys of a tile into the pools with their canonical ranks, 0 for those that the query may not have: see
// gates_lanes.wgsl. Each has a place of its own behind those that were chosen before, in the order of the step's keys, so
// that nobody counts.

// Of the row that the lane has read: the ends of its band as ordered words, and its first place in the pool.
var<private> own_band: vec2<u32>;
var<private> own_first: u32;

fn begin_rows(own_row: u32) {
    let row = min(own_row, parameters.rows - 1u);
    own_band = gates[row * GATE_VECTORS + 4u].xy;
    let chosen = atomicLoad(&state[4u * row + 3u]);
    own_first = row * parameters.capacity * POOL_WORDS + chosen;
    // The host leaves room for the step.
    if own_row < parameters.rows {
        atomicStore(&state[4u * row + 2u], chosen + parameters.end - parameters.first);
    } else {
        own_first = NO_KEY;
    }
}

/// Writes row i. `held`: the keys that the query may have.
fn take_row(i: u32, _gate: Gate, score: vec4<f32>, held: vec4<bool>, across: Across) {
    let first = subgroupShuffle(own_first, i);
    let band = subgroupShuffle(own_band, i);
    let own = clamp(score, vec4<f32>(-1.0), vec4<f32>(1.0));
    let rank = vec4<u32>(ordered(own.x), ordered(own.y), ordered(own.z), ordered(own.w));
    let inside = held & (rank >= vec4<u32>(band.x)) & (rank <= vec4<u32>(band.y));
    let ranks = select(vec4<u32>(0u), rank, inside);
    for (var j = 0u; j < 4u; j++) {
        if first != NO_KEY && across.columns[j] < parameters.end {
            let to = first + across.columns[j] - parameters.first;
            pool[to] = parameters.base + across.columns[j];
            pool[to + parameters.capacity] = ranks[j];
        }
    }
}

fn end_of_rows(_own: Gate, _first_row: u32, _first_column: u32, _thread: vec3<u32>) {}
