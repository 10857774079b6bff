// The n-th largest rank of a pool, by all threads of a group, and places for the keys that stay. nth_lanes.wgsl is the
// same for software devices.
//
// Maths: it is found eight bits at a time: the counts of the next eight bits of the ranks that share the bits found so
// far say which eight bits come next. Where more keys than are wanted share that rank, the same search over their
// numbers, complemented, finds the last one that stays.

/// The last key that stays: its rank and its number, complemented.
struct Last {
    rank: u32,
    key: u32,
    /// Whether there are as many as are wanted.
    known: bool,
}

var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> found: array<u32, 2>;
var<workgroup> number: atomic<u32>;

/// A word that is the same for all threads.
fn common_word(word: u32, thread: u32) -> u32 {
    if thread == 0u {
        found[0] = word;
    }
    return workgroupUniformLoad(&found[0]);
}

/// Begins to give places to keys that stay, from 0 on.
fn begin_places(thread: u32) {
    if thread == 0u {
        atomicStore(&number, 0u);
    }
    workgroupBarrier();
}

/// The next place, for a key that stays.
fn next_place(stays: bool) -> u32 {
    if stays {
        return atomicAdd(&number, 1u);
    }
    return 0u;
}

/// How many places were given.
fn places() -> u32 {
    workgroupBarrier();
    return atomicLoad(&number);
}

/// A block of keys is read before any of its places is written.
fn end_of_access() {
    storageBarrier();
    workgroupBarrier();
}

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

/// The rank of the n-th largest; 0 where there are fewer.
fn nth_rank(n: u32, start: u32, ranks: u32, count: u32, thread: u32) -> u32 {
    let alive = ranked(ranks, count, thread);
    var rank = 0u;
    if n > 0u && alive >= n {
        rank = nth(0u, n, start, ranks, count, 0u, thread).x;
    }
    return rank;
}

fn stays(last: Last, rank: u32, key: u32) -> bool {
    return rank > last.rank || (rank == last.rank && ~key >= last.key);
}
