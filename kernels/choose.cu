// The third kernel of top-k: keeps the best keys of each query's pool. See top_k.cu for what the buffers hold. The twin
// of choose.wgsl.
//
// Maths: the n-th largest rank is found eight bits at a time: the counts of the next eight bits of the ranks that share
// the bits found so far say which eight bits come next. Where more keys than are wanted share that rank, the same search
// over their numbers, complemented, finds the last one that stays. Keys that stay close ranks, in any order.
// Constants: DRAW.
// Threads: a group for each query, queries in y.

#define POOL_WORDS (DRAW == 0u ? 2u : 3u)
#define NO_RANK 0xFFFFFFFFu

struct Parameters {
    unsigned capacity;
    unsigned hardest;
    unsigned drawn;
};

/// The last key that stays: its rank and its number, complemented; whether there are as many as are wanted.
struct Last {
    unsigned rank;
    unsigned key;
    bool known;
};

struct Shared {
    unsigned bins[256];
    unsigned found[2];
    unsigned number;
};

struct Nth {
    unsigned word;
    unsigned left;
};

/// The n-th largest of some words, n ≥ 1, which are there: all ranks, or where `of_keys` the complemented keys whose
/// rank is `rank`. Gives the word and how many of those equal to it belong to the n largest.
__device__ Nth nth(
    Shared &shared,
    bool of_keys,
    unsigned n,
    const unsigned *keys,
    const unsigned *ranks,
    unsigned count,
    unsigned rank
) {
    unsigned thread = threadIdx.x;
    unsigned prefix = 0u;
    unsigned mask = 0u;
    unsigned wanted = n;
    for (unsigned round = 0u; round < 4u; round++) {
        unsigned shift = 24u - 8u * round;
        for (unsigned i = thread; i < 256u; i += THREADS_X) {
            shared.bins[i] = 0u;
        }
        __syncthreads();
        for (unsigned i = thread; i < count; i += THREADS_X) {
            unsigned word = of_keys ? ~keys[i] : ranks[i];
            if ((!of_keys || ranks[i] == rank) && (word & mask) == prefix) {
                atomicAdd(&shared.bins[(word >> shift) & 255u], 1u);
            }
        }
        __syncthreads();
        if (thread == 0u) {
            unsigned left = wanted;
            unsigned bin = 255u;
            for (; bin > 0u; bin--) {
                if (shared.bins[bin] >= left) {
                    break;
                }
                left -= shared.bins[bin];
            }
            shared.found[0] = bin;
            shared.found[1] = left;
        }
        __syncthreads();
        prefix |= shared.found[0] << shift;
        mask |= 255u << shift;
        wanted = shared.found[1];
    }
    __syncthreads();
    Nth nth = {prefix, wanted};
    return nth;
}

/// The last of the `wanted` best. Ranks of 0 count for nothing; where there are no more than are wanted, all others
/// stay.
__device__ Last
last_of(Shared &shared, unsigned wanted, const unsigned *keys, const unsigned *ranks, unsigned count) {
    if (threadIdx.x == 0u) {
        shared.number = 0u;
    }
    __syncthreads();
    unsigned own = 0u;
    for (unsigned i = threadIdx.x; i < count; i += THREADS_X) {
        own += ranks[i] != 0u ? 1u : 0u;
    }
    atomicAdd(&shared.number, own);
    __syncthreads();
    unsigned alive = shared.number;
    __syncthreads();
    Last last = {1u, 0u, false};
    if (wanted == 0u) {
        last = {NO_RANK, NO_RANK, true};
    } else if (alive >= wanted) {
        Nth rank = nth(shared, false, wanted, keys, ranks, count, 0u);
        Nth key = nth(shared, true, rank.left, keys, ranks, count, rank.word);
        last = {rank.word, key.word, true};
    }
    return last;
}

__device__ __forceinline__ bool stays(Last last, unsigned rank, unsigned key) {
    return rank > last.rank || (rank == last.rank && ~key >= last.key);
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
choose(Parameters parameters, unsigned *state, unsigned *pool) {
    __shared__ Shared shared;
    unsigned row = blockIdx.y;
    unsigned thread = threadIdx.x;
    unsigned capacity = parameters.capacity;
    unsigned *keys = pool + (size_t)row * capacity * POOL_WORDS;
    unsigned *ranks = keys + capacity;
    unsigned *draws = ranks + capacity;
    unsigned passed = state[4u * row + 2u];
    unsigned count = passed < capacity ? passed : capacity;
    Last hard = last_of(shared, parameters.hardest, keys, ranks, count);
    Last drawn = {NO_RANK, NO_RANK, true};
    if (DRAW != 0u) {
        drawn = last_of(shared, parameters.drawn, keys, draws, count);
    }
    if (thread == 0u) {
        shared.number = 0u;
    }
    __syncthreads();
    // A block of keys is read before any of its places is written.
    for (unsigned first = 0u; first < count; first += THREADS_X) {
        unsigned i = first + thread;
        unsigned key = 0u, rank = 0u, draw = 0u;
        if (i < count) {
            key = keys[i];
            rank = ranks[i];
            if (DRAW != 0u) {
                draw = draws[i];
            }
        }
        __syncthreads();
        if (rank != 0u && (stays(hard, rank, key) || (DRAW != 0u && stays(drawn, draw, key)))) {
            unsigned to = atomicAdd(&shared.number, 1u);
            keys[to] = key;
            ranks[to] = rank;
            if (DRAW != 0u) {
                draws[to] = draw;
            }
        }
        __syncthreads();
    }
    if (thread == 0u) {
        state[4u * row] = hard.known ? hard.rank : 0u;
        state[4u * row + 1u] = drawn.known ? drawn.rank : 0u;
        state[4u * row + 2u] = shared.number;
        state[4u * row + 3u] = shared.number;
    }
}
