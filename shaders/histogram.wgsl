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

const KEYS = 2u;
#include "wide.wgsl" where LANES = 8
#include "mainloop.wgsl" where LANES = 0
#include "mainloop_tall_lanes.wgsl" where LANES = 8
#include "scan.wgsl"

fn counts_locally() -> bool {
    return PER_ROW == 0u && parameters.bins + 2u <= LOCAL_BINS;
}

/// Notes that the canonical score must decide where a pair is counted.
fn note_unsure(row: u32, column: u32) {
    let place = atomicAdd(&unsure[0], 1u);
    if place < parameters.unsure_capacity {
        atomicStore(&unsure[1u + 2u * place], row);
        atomicStore(&unsure[2u + 2u * place], column);
    }
}

#include "histogram_threads.wgsl" where LANES = 0
#include "histogram_lanes.wgsl" where LANES = 8

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn histogram(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first_row = group.y * TILE;
    let first_column = parameters.first + (group.x + parameters.first_group) * TILE;
    find_lists(first_row, parameters.base + first_column, thread);
    let slots = parameters.bins + 2u;
    let local = counts_locally();
    let index = thread.y * THREADS_X + thread.x;
    if local {
        for (var slot = index; slot < slots; slot += THREADS_X * THREADS_Y) {
            atomicStore(&local_counts[slot], 0u);
        }
    }
    workgroupBarrier();

    count_tile(first_row, first_column, thread);

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
