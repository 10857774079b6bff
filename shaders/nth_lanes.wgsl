// The n-th largest rank of a pool, and places for the keys that stay, for a processor that plays a GPU: see
// mainloop_lanes.wgsl. A group is one subgroup of eight lanes, so nobody waits for anybody; each lane holds every eighth
// rank in memory of its own, whose places are constants where it is read.
//
// Maths: the n-th largest word lies in [low, high), which is halved until it has one word, or until as many words as are
// wanted are not below its middle. While too many words lie inside to be held, they are counted where they are.

/// The last key that stays: its rank, and of the keys that share it the word of the last.
struct Last {
    rank: u32,
    key: u32,
    /// Whether there are as many as are wanted.
    known: bool,
}

/// The n-th largest word, 0 where there are fewer; how many words are equal to it, and how many of those are wanted.
struct Nth {
    word: u32,
    equal: u32,
    wanted: u32,
}

const HELD = 128u;
const BLOCK = 16u;

var<private> held: array<u32, HELD>;
var<private> number: u32;

fn common_word(word: u32, _thread: u32) -> u32 {
    return word;
}

fn begin_places(_thread: u32) {
    number = 0u;
}

/// The next place, for a key that stays.
fn next_place(stays: bool) -> u32 {
    let own = select(0u, 1u, stays);
    let place = number + subgroupExclusiveAdd(own);
    number += subgroupAdd(own);
    return place;
}

/// How many places were given.
fn places() -> u32 {
    return number;
}

fn end_of_access() {}

/// A word that is larger for the smaller key, and never 0.
fn key_word(key: u32) -> u32 {
    return NO_RANK - 1u - key;
}

/// What is searched: `words` 0 the ranks from `ranks` on, else the keys whose rank is `rank`. 0 counts for nothing.
fn word_at(words: u32, i: u32, start: u32, ranks: u32, rank: u32) -> u32 {
    let own = pool[ranks + i];
    if words == 0u {
        return min(own, NO_RANK - 1u);
    }
    return select(0u, key_word(pool[start + i]), own == rank);
}

/// How many of a block of held words are not below `least`.
fn not_below(block: u32, least: u32) -> u32 {
    var sum = 0u;
    for (var i = 0u; i < BLOCK; i++) {
        sum += select(0u, 1u, held[block * BLOCK + i] >= least);
    }
    return sum;
}

fn all_not_below(least: u32) -> u32 {
    let sum = ((not_below(0u, least) + not_below(1u, least)) + (not_below(2u, least) + not_below(3u, least)))
        + ((not_below(4u, least) + not_below(5u, least)) + (not_below(6u, least) + not_below(7u, least)));
    return subgroupAdd(sum);
}

/// The smallest of a block of held words that is not below `least`.
fn smallest(block: u32, least: u32) -> u32 {
    var word = NO_RANK;
    for (var i = 0u; i < BLOCK; i++) {
        let own = held[block * BLOCK + i];
        word = min(word, select(NO_RANK, own, own >= least));
    }
    return word;
}

fn smallest_of_all(least: u32) -> u32 {
    let word = min(
        min(min(smallest(0u, least), smallest(1u, least)), min(smallest(2u, least), smallest(3u, least))),
        min(min(smallest(4u, least), smallest(5u, least)), min(smallest(6u, least), smallest(7u, least))),
    );
    return subgroupMin(word);
}

fn nth(words: u32, n: u32, start: u32, ranks: u32, count: u32, rank: u32, lane: u32) -> Nth {
    var low = 1u;
    var high = NO_RANK;
    var above = 0u;
    // The lane's words inside, at most.
    var inside = (count + 7u) / 8u;
    while subgroupMax(inside) > HELD && high - low > 1u {
        let middle = low + (high - low) / 2u;
        var upper = 0u;
        var lower = 0u;
        for (var i = lane; i < count; i += 8u) {
            let word = word_at(words, i, start, ranks, rank);
            upper += select(0u, 1u, word >= middle && word < high);
            lower += select(0u, 1u, word >= low && word < middle);
        }
        let all = above + subgroupAdd(upper);
        if all >= n {
            low = middle;
            inside = upper;
        } else {
            high = middle;
            above = all;
            inside = lower;
        }
    }
    if high - low <= 1u {
        // Too many are equal to be held, or there are too few.
        let equal = subgroupAdd(inside);
        if above + equal < n {
            return Nth(0u, 0u, 0u);
        }
        return Nth(low, equal, n - above);
    }
    held = array<u32, HELD>();
    var own = 0u;
    var largest = 0u;
    for (var i = lane; i < count; i += 8u) {
        let word = word_at(words, i, start, ranks, rank);
        if word >= low && word < high {
            held[own] = word;
            own += 1u;
            largest = max(largest, word);
        }
    }
    if above + subgroupAdd(own) < n {
        return Nth(0u, 0u, 0u);
    }
    low = smallest_of_all(1u);
    high = subgroupMax(largest) + 1u;
    while high - low > 1u {
        let middle = low + (high - low) / 2u;
        let all = above + all_not_below(middle);
        if all >= n {
            low = middle;
        } else {
            high = middle;
        }
        if all == n {
            high = middle + 1u;
        }
    }
    let word = smallest_of_all(low);
    let larger = all_not_below(word + 1u);
    return Nth(word, all_not_below(word) - larger, n - above - larger);
}

/// The rank of the n-th largest; 0 where there are fewer.
fn nth_rank(n: u32, start: u32, ranks: u32, count: u32, lane: u32) -> u32 {
    if n == 0u {
        return 0u;
    }
    return nth(0u, n, start, ranks, count, 0u, lane).word;
}

/// The last of the `wanted` best by the ranks from `ranks` on. Where there are no more than are wanted, all stay whose
/// rank is not 0.
fn last_of(wanted: u32, start: u32, ranks: u32, count: u32, lane: u32) -> Last {
    if wanted == 0u {
        return Last(NO_RANK, NO_RANK, true);
    }
    let found = nth(0u, wanted, start, ranks, count, 0u, lane);
    if found.word == 0u {
        return Last(1u, 0u, false);
    }
    if found.equal <= found.wanted {
        return Last(found.word, 0u, true);
    }
    return Last(found.word, nth(1u, found.wanted, start, ranks, count, found.word, lane).word, true);
}

fn stays(last: Last, rank: u32, key: u32) -> bool {
    return rank > last.rank || (rank == last.rank && key_word(key) >= last.key);
}
