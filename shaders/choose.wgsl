// The third kernel of top-k: keeps the best keys of each query's pool. See top_k.wgsl for what the buffers hold. The
// twin of choose.cu.
//
// Maths: the n-th largest rank is found eight bits at a time: the counts of the next eight bits of the ranks that share
// the bits found so far say which eight bits come next. Where more keys than are wanted share that rank, the same search
// over their numbers, complemented, finds the last one that stays. Keys that stay close ranks, in any order.
//
// `prune` comes before the canonical ranks: of the keys that the last scan let pass, whose ranks are then the smallest
// scores that they can have, it drops those that cannot be among the best, as that many others are better for certain.
// Two errors lie between the smallest and the largest score that a key can have; PRUNE_ROUNDING is what is rounded here.
// CUDA has no twin of it.
//
// Constants: DRAW.
// Threads: a group for each query, queries in y.
#include "score.wgsl"

struct Parameters {
    capacity: u32,
    hardest: u32,
    drawn: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read_write> state: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> pool: array<u32>;
/// As scan.wgsl says; `prune` reads the error.
@group(0) @binding(3) var<storage, read> gates: array<vec4<u32>>;

const POOL_WORDS = select(2u, 3u, DRAW != 0u);

/// The last key that stays: its rank and its number, complemented.
struct Last {
    rank: u32,
    key: u32,
    /// Whether there are as many as are wanted.
    known: bool,
}

const NO_RANK = 0xFFFFFFFFu;
const GATE_VECTORS = 5u;
/// 2⁻²⁰
const PRUNE_ROUNDING = 9.5367431640625e-7;

var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> found: array<u32, 2>;
var<workgroup> number: atomic<u32>;

/// The n-th largest of some words, n ≥ 1, which are there: `words` 0 all ranks from `ranks` on, else the complemented
/// keys whose rank is `rank`. Gives the word and how many of those equal to it belong to the n largest.
fn nth(words: u32, n: u32, start: u32, ranks: u32, count: u32, rank: u32, thread: u32) -> vec2<u32> {
    var prefix = 0u;
    var mask = 0u;
    var wanted = n;
    for (var round = 0u; round < 4u; round++) {
        let shift = 24u - 8u * round;
        for (var i = thread; i < 256u; i += THREADS_X) {
            atomicStore(&bins[i], 0u);
        }
        workgroupBarrier();
        for (var i = thread; i < count; i += THREADS_X) {
            let own = pool[ranks + i];
            let word = select(~pool[start + i], own, words == 0u);
            if (words == 0u || own == rank) && (word & mask) == prefix {
                atomicAdd(&bins[(word >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if thread == 0u {
            var left = wanted;
            var bin = 255u;
            for (; bin > 0u; bin--) {
                let here = atomicLoad(&bins[bin]);
                if here >= left {
                    break;
                }
                left -= here;
            }
            found[0] = bin;
            found[1] = left;
        }
        workgroupBarrier();
        prefix |= found[0] << shift;
        mask |= 255u << shift;
        wanted = found[1];
    }
    workgroupBarrier();
    return vec2<u32>(prefix, wanted);
}

/// How many ranks from `ranks` on are not 0.
fn ranked(ranks: u32, count: u32, thread: u32) -> u32 {
    if thread == 0u {
        atomicStore(&number, 0u);
    }
    workgroupBarrier();
    var own = 0u;
    for (var i = thread; i < count; i += THREADS_X) {
        own += select(0u, 1u, pool[ranks + i] != 0u);
    }
    atomicAdd(&number, own);
    workgroupBarrier();
    if thread == 0u {
        found[0] = atomicLoad(&number);
    }
    return workgroupUniformLoad(&found[0]);
}

/// The last of the `wanted` best by the ranks from `ranks` on. Ranks of 0 count for nothing; where there are no more
/// than are wanted, all others stay.
fn last_of(wanted: u32, start: u32, ranks: u32, count: u32, thread: u32) -> Last {
    let alive = ranked(ranks, count, thread);
    var last = Last(1u, 0u, false);
    if wanted == 0u {
        last = Last(NO_RANK, NO_RANK, true);
    } else if alive >= wanted {
        let rank = nth(0u, wanted, start, ranks, count, 0u, thread);
        let key = nth(1u, rank.y, start, ranks, count, rank.x, thread);
        last = Last(rank.x, key.x, true);
    }
    return last;
}

fn stays(last: Last, rank: u32, key: u32) -> bool {
    return rank > last.rank || (rank == last.rank && ~key >= last.key);
}

@compute @workgroup_size(THREADS_X)
fn choose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y;
    let thread = local.x;
    let capacity = parameters.capacity;
    let start = row * capacity * POOL_WORDS;
    if thread == 0u {
        found[0] = min(state[row].z, capacity);
    }
    let count = workgroupUniformLoad(&found[0]);
    let hard = last_of(parameters.hardest, start, start + capacity, count, thread);
    var drawn = Last(NO_RANK, NO_RANK, true);
    if DRAW != 0u {
        drawn = last_of(parameters.drawn, start, start + 2u * capacity, count, thread);
    }
    if thread == 0u {
        atomicStore(&number, 0u);
    }
    workgroupBarrier();
    // A block of keys is read before any of its places is written.
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
        storageBarrier();
        workgroupBarrier();
        if rank != 0u && (stays(hard, rank, key) || (DRAW != 0u && stays(drawn, draw, key))) {
            let to = start + atomicAdd(&number, 1u);
            pool[to] = key;
            pool[to + capacity] = rank;
            if DRAW != 0u {
                pool[to + 2u * capacity] = draw;
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
    if thread == 0u {
        let kept = atomicLoad(&number);
        let worst = select(0u, hard.rank, hard.known);
        let worst_draw = select(0u, drawn.rank, drawn.known);
        state[row] = vec4<u32>(worst, worst_draw, kept, kept);
    }
}

@compute @workgroup_size(THREADS_X)
fn prune(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y;
    let thread = local.x;
    let capacity = parameters.capacity;
    let own = state[row];
    if thread == 0u {
        found[0] = own.w;
        found[1] = min(own.z, capacity) - own.w;
    }
    let kept = workgroupUniformLoad(&found[0]);
    let count = workgroupUniformLoad(&found[1]);
    let start = row * capacity * POOL_WORDS + kept;
    let ranks = start + capacity;
    if ranked(ranks, count, thread) < parameters.hardest {
        return;
    }
    let limit = nth(0u, parameters.hardest, start, ranks, count, 0u, thread).x;
    let error = bitcast<f32>(gates[row * GATE_VECTORS + 2u].y);
    let least = from_ordered(limit) - 2.0 * error - PRUNE_ROUNDING;
    if thread == 0u {
        atomicStore(&number, 0u);
    }
    workgroupBarrier();
    // A block of keys is read before any of its places is written.
    for (var first = 0u; first < count; first += THREADS_X) {
        let i = first + thread;
        var key = 0u;
        var stays = false;
        if i < count {
            key = pool[start + i];
            let rank = pool[ranks + i];
            stays = rank == 0u || from_ordered(rank) >= least;
        }
        storageBarrier();
        workgroupBarrier();
        if stays {
            pool[start + atomicAdd(&number, 1u)] = key;
        }
        storageBarrier();
        workgroupBarrier();
    }
    if thread == 0u {
        state[row].z = kept + atomicLoad(&number);
    }
}
