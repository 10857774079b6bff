// The mainloop: a tile of dot products of scaled rows, 64 queries × 64 keys, held in registers. The twin of
// mainloop.cuh; mainloop_lanes.wgsl is the same for software devices. The loop itself is mainloop_threads.wgsl's, or
// mainloop_matrices.wgsl's where subgroups multiply matrices.
//
// Memory: `queries` and `keys`, arrays of vec4<f32> that the file which includes this one declares, row after row of
// `vectors` vectors.
// Constants: COMPENSATED, MATRICES (1 only where COMPENSATED is 0).
// Threads: 16 × 16. Thread (x, y) holds rows y, y + 16, … and columns x, x + 16, … of the tile: four of each.

const TILE = 64u;
const HELD_ROWS = 4u;
const HELD_COLUMNS = 4u;

/// The thread's dot products: row i, column j.
struct Tile {
    rows: array<vec4<f32>, 4>,
}

/// The row of the tile that the thread's row i is.
fn row_of(i: u32, thread: vec3<u32>) -> u32 {
    return thread.y + 16u * i;
}

/// The column of the tile that the thread's column j is.
fn column_of(j: u32, thread: vec3<u32>) -> u32 {
    return thread.x + 16u * j;
}

/// The rows of the tile about which a thread reads what it is to know: all that it holds.
const READ_ROWS = HELD_ROWS;

fn read_row(i: u32, thread: vec3<u32>) -> u32 {
    return row_of(i, thread);
}

/// What was read about the thread's row i.
fn of_row(read: array<vec4<u32>, READ_ROWS>, i: u32) -> vec4<u32> {
    var all = read;
    return all[i];
}

#include "mainloop_threads.wgsl" where MATRICES = 0
#include "mainloop_matrices.wgsl" where MATRICES = 1
