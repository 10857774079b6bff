// Counts the scores of a tile on a processor that plays a GPU: see scan_lanes.wgsl. Where there are few bins each lane
// counts in memory of its own, whose counts are joined in the end; an atomic addition costs as much as ten others.

#include "scan_lanes.wgsl"

/// Slots that a lane counts in memory of its own, where there are no more.
const OWN_SLOTS = 128u;

var<private> own_counts: array<u32, OWN_SLOTS>;
/// Where the thread's scores are counted, row by row; NO_KEY where they are not.
var<private> slots_of: array<u32, 32>;
/// One bit for each score too near an edge.
var<private> near: u32;

/// What a lane has read of a query.
struct Query {
    band: vec4<f32>,
    own: vec4<u32>,
    scale: vec4<f32>,
}

fn find_slots(i: u32, dots: vec4<f32>, read: Query, across: Across) {
    let band = subgroupShuffle(read.band, i);
    let scale = subgroupShuffle(read.scale, i);
    let held = held_of(i, across, subgroupShuffle(read.own, i), band.w);
    let bins = f32(parameters.bins);
    let score = clamp((dots * band.x) * across.factors, vec4<f32>(-band.w), vec4<f32>(band.w));
    let at = score * scale.x - scale.y;
    let whole = floor(at);
    let fraction = at - whole;
    let near_edge = !((fraction >= vec4<f32>(scale.z)) & (fraction <= vec4<f32>(1.0 - scale.z)));
    let outside = (at < vec4<f32>(-scale.z)) | (at > vec4<f32>(bins + scale.z));
    let unsure_here = held & near_edge & !outside;
    near |= bits_of(unsure_here) << (4u * i);
    let slot = vec4<u32>(vec4<i32>(clamp(whole, vec4<f32>(-1.0), vec4<f32>(bins))) + 1);
    let found = select(vec4<u32>(NO_KEY), slot, held & !unsure_here);
    slots_of[4u * i] = found.x;
    slots_of[4u * i + 1u] = found.y;
    slots_of[4u * i + 2u] = found.z;
    slots_of[4u * i + 3u] = found.w;
}

/// The sums over all lanes of eight words of each: lane i gets that of word i.
fn joined(words: array<u32, 8>, lane: u32) -> u32 {
    var four: array<u32, 4>;
    for (var i = 0u; i < 4u; i++) {
        let upper = (lane & 4u) != 0u;
        let sent = subgroupShuffle(select(words[i + 4u], words[i], upper), lane ^ 4u);
        four[i] = select(words[i], words[i + 4u], upper) + sent;
    }
    var two: array<u32, 2>;
    for (var i = 0u; i < 2u; i++) {
        let upper = (lane & 2u) != 0u;
        let sent = subgroupShuffle(select(four[i + 2u], four[i], upper), lane ^ 2u);
        two[i] = select(four[i], four[i + 2u], upper) + sent;
    }
    let upper = (lane & 1u) != 0u;
    return select(two[0], two[1], upper) + subgroupShuffle(select(two[1], two[0], upper), lane ^ 1u);
}

/// Counts in memory of the lane, then in the workgroup's.
fn count_apart(lane: u32) {
    own_counts = array<u32, OWN_SLOTS>();
    for (var n = 0u; n < 32u; n++) {
        let slot = slots_of[n];
        if slot != NO_KEY {
            own_counts[slot] += 1u;
        }
    }
    for (var first = 0u; first < parameters.bins + 2u; first += 8u) {
        var words: array<u32, 8>;
        for (var i = 0u; i < 8u; i++) {
            words[i] = own_counts[first + i];
        }
        let sum = joined(words, lane);
        if sum > 0u {
            atomicAdd(&local_counts[first + lane], sum);
        }
    }
}

fn count_part(tile: Tile, first_row: u32, first_column: u32, thread: vec3<u32>) {
    let lane = thread.x % 8u;
    let own_row = first_row + row_of(lane, thread);
    let at = min(own_row, parameters.rows - 1u) * GATE_VECTORS;
    var read = Query(bitcast<vec4<f32>>(gates[at]), gates[at + 1u], bitcast<vec4<f32>>(gates[at + 2u]));
    if own_row >= parameters.rows {
        read.band.w = 0.0;
    }
    let across = across_tile(first_column, thread);
    strike_lists(own_row < parameters.rows, parameters.base + first_column, thread);
    near = 0u;
    // One by one, so that places in arrays are constants.
    find_slots(0u, tile.rows[0], read, across);
    find_slots(1u, tile.rows[1], read, across);
    find_slots(2u, tile.rows[2], read, across);
    find_slots(3u, tile.rows[3], read, across);
    find_slots(4u, tile.rows[4], read, across);
    find_slots(5u, tile.rows[5], read, across);
    find_slots(6u, tile.rows[6], read, across);
    find_slots(7u, tile.rows[7], read, across);
    let local = counts_locally();
    let apart = local && parameters.bins + 2u <= OWN_SLOTS;
    if apart {
        count_apart(lane);
    }
    // Begins where the lane has not counted yet.
    var n = select(0u, 32u, apart);
    while n < 32u {
        let slot = slots_of[n];
        if slot != NO_KEY {
            if local {
                atomicAdd(&local_counts[slot], 1u);
            } else {
                let counters = select(0u, first_row + row_of(n / 4u, thread), PER_ROW == 1u) * (parameters.bins + 2u);
                atomicAdd(&counts[counters + slot], 1u);
            }
        }
        n += 1u;
    }
    while subgroupAny(near != 0u) {
        if near != 0u {
            let marked = firstTrailingBit(near);
            near &= near - 1u;
            note_unsure(first_row + row_of(marked / 4u, thread), first_column + column_of(marked % 4u, thread));
        }
    }
}

fn count_tile(first_row: u32, first_column: u32, thread: vec3<u32>) {
    let tall = mainloop_tall(first_row, first_column, parameters.rows, parameters.columns, parameters.vectors, thread);
    // One by one, so that places in arrays are constants.
    count_part(tall.tiles[0], first_row, first_column, thread_of_tile(0u, thread));
    count_part(tall.tiles[1], first_row, first_column, thread_of_tile(1u, thread));
    count_part(tall.tiles[2], first_row, first_column, thread_of_tile(2u, thread));
    count_part(tall.tiles[3], first_row, first_column, thread_of_tile(3u, thread));
}
