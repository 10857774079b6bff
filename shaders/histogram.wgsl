// How many scores fall into each bin. The twin of histogram.cu.
//
// Maths: an approximate score s, clamped as the canonical one saturates, lies at s · `per_unit` − `offset` bins from the
// first edge. Where that is within `margin` of an edge the pair is noted, and the host asks for its canonical score.
// Memory: `counts` holds below, `bins` bins and above, for all queries together or where PER_ROW is 1 for each. `unsure`
// holds the number of pairs too near an edge, then their rows and columns. Vector 2 of a gate is `per_unit`, `offset`,
// `margin`, 0. Else as scan.wgsl says.
// Constants: COMPENSATED = 0, LISTS, PER_ROW.
// Threads: those of the mainloop, a tile of 64 × 64; groups: tiles of columns in x, of rows in y.
#include "score.wgsl"

struct Parameters {
    first_group: u32,
    rows: u32,
    columns: u32,
    vectors: u32,
    first: u32,
    end: u32,
    base: u32,
    bins: u32,
    unsure_capacity: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> gates: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> columns: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> tables: array<u32>;
@group(0) @binding(6) var<storage, read_write> counts: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> unsure: array<atomic<u32>>;

/// Bins of all queries together are counted by the workgroup first where they are no more than this.
const LOCAL_BINS = 512u;

var<workgroup> local_counts: array<atomic<u32>, LOCAL_BINS>;

#include "mainloop.wgsl" where LANES = 0
#include "mainloop_lanes.wgsl" where LANES = 8
#include "scan.wgsl"

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn histogram(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first_row = group.y * TILE;
    let first_column = parameters.first + (group.x + parameters.first_group) * TILE;
    find_lists(first_row, parameters.base + first_column, thread);
    let tile = mainloop(first_row, first_column, parameters.rows, parameters.columns, parameters.vectors, thread);
    let bins = f32(parameters.bins);
    let slots = parameters.bins + 2u;
    let local = PER_ROW == 0u && slots <= LOCAL_BINS;
    let index = thread.y * THREADS_X + thread.x;
    if local {
        for (var slot = index; slot < slots; slot += THREADS_X * THREADS_Y) {
            atomicStore(&local_counts[slot], 0u);
        }
    }
    workgroupBarrier();

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
                let place = atomicAdd(&unsure[0], 1u);
                if place < parameters.unsure_capacity {
                    atomicStore(&unsure[1u + 2u * place], row);
                    atomicStore(&unsure[2u + 2u * place], column);
                }
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

    workgroupBarrier();
    if local {
        for (var slot = index; slot < slots; slot += THREADS_X * THREADS_Y) {
            let counted = atomicLoad(&local_counts[slot]);
            if counted > 0u {
                atomicAdd(&counts[slot], counted);
            }
        }
    }
}
