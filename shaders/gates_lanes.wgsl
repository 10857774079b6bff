// The gates of a tile for a processor that plays a GPU: see scan_lanes.wgsl. Each lane reads one row's gate for all of
// the subgroup.

#include "scan_lanes.wgsl"

// One bit for each score of the thread, row by row: keys that lie too near a limit to be counted.
var<private> near: u32;
// The keys that each rule rejects, a byte a rule, of the row that the thread has read.
var<private> rejected: u32;

/// The gate that lane i has read.
fn gate_from(own: Gate, i: u32) -> Gate {
    return Gate(
        subgroupShuffle(own.band, i),
        subgroupShuffle(own.own, i),
        subgroupShuffle(own.units, i),
        subgroupShuffle(own.limits, i),
        subgroupShuffle(own.needed, i),
        subgroupShuffle(own.least_draw, i),
    );
}

/// Counts the keys of row i that the rules reject, and marks those too near a limit.
fn count_row(i: u32, gate: Gate, score: vec4<f32>, held: vec4<bool>, lane: u32) {
    let error = vec4<f32>(bitcast<f32>(gate.units.y));
    let at_lo = abs(score - gate.limits.x) <= error;
    let at_hi = abs(score - gate.limits.y) <= error;
    let at_margin = abs(score - gate.limits.z) <= error;
    let at_ratio = abs(score - gate.limits.w) <= error;
    let unsure_here = held & ((at_lo | at_hi) | (at_margin | at_ratio));
    near |= bits_of(unsure_here) << (4u * i);
    let counted = held & !unsure_here;
    let below = score < vec4<f32>(gate.limits.x);
    let above = score > vec4<f32>(gate.limits.y);
    let margin = !above & (score > vec4<f32>(gate.limits.z));
    let ratio = !above & !margin & (score > vec4<f32>(gate.limits.w));
    let upper = counted & !below;
    let own = sum_of(counted & below) + (sum_of(upper & above) << 8u) + (sum_of(upper & margin) << 16u)
        + (sum_of(upper & ratio) << 24u);
    // A row has 32 columns here, so that no byte overflows.
    let all = subgroupAdd(own);
    rejected = select(rejected, all, lane == i);
}

#include "admit_passing_lanes.wgsl" where CANONICAL = 0
#include "admit_all_lanes.wgsl" where CANONICAL = 1

fn gate_row(i: u32, dots: vec4<f32>, own: Gate, across: Across, thread: vec3<u32>) {
    let gate = gate_from(own, i);
    let score = (dots * gate.band.x) * across.factors;
    let held = held_of(i, across, gate.own, gate.band.w);
    take_row(i, gate, score, held, across);
    if COUNT == 1u {
        count_row(i, gate, score, held, thread.x % 8u);
    }
}

/// Notes the pairs that are too near a limit, and counts what the rules reject of the row that the lane has read.
fn end_of_count(own_row: u32, own: Gate, first_row: u32, first_column: u32, thread: vec3<u32>) {
    while subgroupAny(near != 0u) {
        if near != 0u {
            let n = firstTrailingBit(near);
            near &= near - 1u;
            note_unsure(first_row + row_of(n / 4u, thread), first_column + column_of(n % 4u, thread));
        }
    }
    if own.band.w != 0.0 {
        for (var rule = 0u; rule < 4u; rule++) {
            let keys = (rejected >> (8u * rule)) & 255u;
            if keys > 0u {
                atomicAdd(&unsure[1u + 4u * own_row + rule], keys);
            }
        }
    }
}

fn gate_part(tile: Tile, first_row: u32, first_column: u32, thread: vec3<u32>) {
    let own_row = first_row + row_of(thread.x % 8u, thread);
    let own = gate_of(own_row);
    let across = across_tile(first_column, thread);
    strike_lists(own_row < parameters.rows, parameters.base + first_column, thread);
    near = 0u;
    rejected = 0u;
    begin_rows(own_row);
    // One by one, so that places in arrays are constants.
    gate_row(0u, tile.rows[0], own, across, thread);
    gate_row(1u, tile.rows[1], own, across, thread);
    gate_row(2u, tile.rows[2], own, across, thread);
    gate_row(3u, tile.rows[3], own, across, thread);
    gate_row(4u, tile.rows[4], own, across, thread);
    gate_row(5u, tile.rows[5], own, across, thread);
    gate_row(6u, tile.rows[6], own, across, thread);
    gate_row(7u, tile.rows[7], own, across, thread);
    end_of_rows(own, first_row, first_column, thread);
    if COUNT == 1u {
        end_of_count(own_row, own, first_row, first_column, thread);
    }
}

fn gate_tile(first_row: u32, first_column: u32, thread: vec3<u32>) {
    let tall = mainloop_tall(first_row, first_column, parameters.rows, parameters.columns, parameters.vectors, thread);
    // One by one, so that places in arrays are constants.
    gate_part(tall.tiles[0], first_row, first_column, thread_of_tile(0u, thread));
    gate_part(tall.tiles[1], first_row, first_column, thread_of_tile(1u, thread));
    gate_part(tall.tiles[2], first_row, first_column, thread_of_tile(2u, thread));
    gate_part(tall.tiles[3], first_row, first_column, thread_of_tile(3u, thread));
}
