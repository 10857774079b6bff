// The third kernel of top-k: keeps the best keys of each query's pool. See top_k.wgsl for what the buffers hold. The
// twin of choose.cu. Keys that stay close ranks, in any order.
//
// `prune` comes before the canonical ranks: of the keys that scans let pass since the last `choose`, whose ranks are then
// the smallest scores and draw keys that they can have, the n-th largest is a threshold for the scans that follow; and
// where `drops` is 1, the keys that cannot be among the best are dropped, as that many others are better for certain.
// Two errors lie between the smallest and the largest score that a key can have; PRUNE_ROUNDING is what is rounded here.
// CUDA has no twin of it.
//
// `gather` comes last: it writes the keys that stay of each pool side by side into `gathered`, a pool of `most` places, so
// that the host need not read the room between them. CUDA has no twin of it.
//
// Constants: DRAW.
// Threads: a group for each query, queries in y.
#include "score.wgsl"

struct Parameters {
    capacity: u32,
    hardest: u32,
    drawn: u32,
    drops: u32,
    most: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read_write> state: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> pool: array<u32>;
/// As scan.wgsl says; `prune` reads the errors and writes the threshold.
@group(0) @binding(3) var<storage, read_write> gates: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> gathered: array<u32>;

const POOL_WORDS = select(2u, 3u, DRAW != 0u);
const NO_RANK = 0xFFFFFFFFu;
const GATE_VECTORS = 5u;
/// 2⁻²⁰
const PRUNE_ROUNDING = 9.5367431640625e-7;

#include "nth.wgsl" where LANES = 0
#include "nth_lanes.wgsl" where LANES = 8

@compute @workgroup_size(THREADS_X)
fn choose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y;
    let thread = local.x;
    let capacity = parameters.capacity;
    let start = row * capacity * POOL_WORDS;
    let count = common_word(min(state[row].z, capacity), thread);
    let hard = last_of(parameters.hardest, start, start + capacity, count, thread);
    var drawn = Last(NO_RANK, NO_RANK, true);
    if DRAW != 0u {
        drawn = last_of(parameters.drawn, start, start + 2u * capacity, count, thread);
    }
    begin_places(thread);
    for (var first = 0u; first < count; first += THREADS_X) {
        let i = first + thread;
        var key = 0u;
        var rank = 0u;
        var draw = 0u;
        if i < count {
            key = pool[start + i];
            rank = pool[start + capacity + i];
            if DRAW != 0u {
                draw = pool[start + 2u * capacity + i];
            }
        }
        end_of_access();
        let keeps = rank != 0u && (stays(hard, rank, key) || (DRAW != 0u && stays(drawn, draw, key)));
        let to = start + next_place(keeps);
        if keeps {
            pool[to] = key;
            pool[to + capacity] = rank;
            if DRAW != 0u {
                pool[to + 2u * capacity] = draw;
            }
        }
        end_of_access();
    }
    let kept = places();
    if thread == 0u {
        let worst = select(0u, hard.rank, hard.known);
        let worst_draw = select(0u, drawn.rank, drawn.known);
        state[row] = vec4<u32>(worst, worst_draw, kept, kept);
    }
}

/// Whether a key that can have this draw key at least may still be drawn.
fn may_be_drawn(draw: u32, threshold: u32, error: i32) -> bool {
    // The most that it can have is twice the error more.
    let once = max(i32(threshold ^ 0x80000000u), error - 2147483647) - error;
    return i32(draw ^ 0x80000000u) >= max(once, error - 2147483647) - error;
}

@compute @workgroup_size(THREADS_X)
fn prune(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y;
    let thread = local.x;
    let capacity = parameters.capacity;
    let kept = common_word(state[row].w, thread);
    let count = common_word(min(state[row].z, capacity), thread) - kept;
    let start = row * capacity * POOL_WORDS + kept;
    let units = gates[row * GATE_VECTORS + 2u];
    let hard = nth_rank(parameters.hardest, start, start + capacity, count, thread);
    var drawn = 0u;
    if DRAW != 0u {
        drawn = nth_rank(parameters.drawn, start, start + 2u * capacity, count, thread);
    }
    if thread == 0u {
        // Thresholds only rise.
        gates[row * GATE_VECTORS + 4u].z = max(gates[row * GATE_VECTORS + 4u].z, hard);
        if DRAW != 0u {
            state[row].y = max(state[row].y, drawn);
        }
    }
    if parameters.drops == 0u {
        return;
    }
    let least = from_ordered(hard) - 2.0 * bitcast<f32>(units.y) - PRUNE_ROUNDING;
    begin_places(thread);
    for (var first = 0u; first < count; first += THREADS_X) {
        let i = first + thread;
        var key = 0u;
        var rank = 0u;
        var draw = 0u;
        if i < count {
            key = pool[start + i];
            rank = pool[start + capacity + i];
            if DRAW != 0u {
                draw = pool[start + 2u * capacity + i];
            }
        }
        var stays = parameters.hardest > 0u && (hard == 0u || from_ordered(rank) >= least);
        if DRAW != 0u {
            stays = stays || drawn == 0u || may_be_drawn(draw, drawn, i32(units.w));
        }
        stays = i < count && (stays || rank == 0u);
        end_of_access();
        let to = start + next_place(stays);
        if stays {
            pool[to] = key;
            pool[to + capacity] = rank;
            if DRAW != 0u {
                pool[to + 2u * capacity] = draw;
            }
        }
        end_of_access();
    }
    let left = places();
    if thread == 0u {
        state[row].z = kept + left;
    }
}

@compute @workgroup_size(THREADS_X)
fn gather(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y;
    let kept = min(state[row].w, parameters.most);
    let own_pool = row * parameters.capacity * POOL_WORDS;
    let own_gathered = row * parameters.most * POOL_WORDS;
    for (var i = local.x; i < kept; i += THREADS_X) {
        for (var word = 0u; word < POOL_WORDS; word++) {
            gathered[own_gathered + word * parameters.most + i] = pool[own_pool + word * parameters.capacity + i];
        }
    }
}
