// The first kernel of top-k: the gated scan. The twin of top_k.wgsl.
//
// Maths: `scan` gates approximate scores: a key passes where it may lie inside the query's band, is not excluded, and
// may have a score (or a draw key) as good as the worst that the query holds enough of already. `rescore` (rescore.cu)
// gives those that passed their canonical rank, 0 where they lie outside the band. `choose` (choose.cu) keeps the best
// by score and the best by draw key, ties to the smaller key, and raises the query's thresholds to their worst.
// Memory: `state` holds four words a query: the worst score and the worst draw key that are held, as ordered words (0
// until there are enough, NO_KEY where none are wanted); how many keys passed; how many of them were chosen. `pool`
// holds a query's keys: `capacity` key numbers, as many ranks by score, and where DRAW is not 0 as many by draw key. A
// count above the capacity says that keys were lost. `unsure` (where COUNT is 1) holds the number of pairs that lie too
// near a limit to be counted, four counters a query (below lo, above hi, margin, ratio), then the pairs' rows and
// columns. Else as scan.cuh says.
// Constants: COMPENSATED = 0, LISTS, DRAW (0 none, 1 uniform, 2 softmax), COUNT.
// Threads: 16 × 16 a tile of 64 × 64; groups: tiles of columns in x, of rows in y.
#include "score.cuh"
#include "mainloop.cuh"
#include "scan.cuh"
#include "draws.cuh"

#define POOL_WORDS (DRAW == 0u ? 2u : 3u)

struct Parameters {
    unsigned first_group;
    unsigned rows;
    /// Keys of the chunk.
    unsigned columns;
    unsigned vectors;
    /// The keys of this step.
    unsigned first;
    unsigned end;
    unsigned base;
    unsigned capacity;
    /// The number of the chunk's first key among all keys.
    unsigned key_low;
    unsigned key_high;
    unsigned seed_low;
    unsigned seed_high;
    unsigned unsure_capacity;
};

/// Counts a score for the rule that rejects it, or notes that the canonical score must decide.
__device__ __forceinline__ void count_score(
    const Parameters &parameters,
    unsigned *unsure,
    unsigned row,
    unsigned column,
    float score,
    const Gate &gate
) {
    bool near = false;
#pragma unroll
    for (unsigned limit = 0u; limit < 4u; limit++) {
        near = near || fabsf(score - gate.limits[limit]) <= gate.error;
    }
    if (near) {
        unsigned at = atomicAdd(&unsure[0], 1u);
        if (at < parameters.unsure_capacity) {
            size_t to = (size_t)1u + 4u * parameters.rows + 2u * (size_t)at;
            unsure[to] = row;
            unsure[to + 1u] = column;
        }
        return;
    }
    unsigned rule = 4u;
    if (score < gate.limits[0]) {
        rule = 0u;
    } else if (score > gate.limits[1]) {
        rule = 1u;
    } else if (score > gate.limits[2]) {
        rule = 2u;
    } else if (score > gate.limits[3]) {
        rule = 3u;
    }
    if (rule < 4u) {
        atomicAdd(&unsure[1u + 4u * row + rule], 1u);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y)
scan(
    Parameters parameters,
    const Four *queries,
    const Four *keys,
    const Gate *gates,
    const Column *columns,
    const unsigned *tables,
    unsigned *state,
    unsigned *pool,
    unsigned *unsure
) {
    __shared__ Part parts[TILE];
    unsigned first_row = blockIdx.y * TILE;
    unsigned first_column = parameters.first + (blockIdx.x + parameters.first_group) * TILE;
    find_lists(
        parts, tables, first_row, parameters.rows, parameters.base + first_column, TILE, TILE,
        threadIdx.y * THREADS_X + threadIdx.x, THREADS_X * THREADS_Y
    );
    Tile tile;
    mainloop(
        tile, queries, keys, first_row, first_column, parameters.rows, parameters.columns, parameters.vectors
    );

#pragma unroll
    for (unsigned i = 0u; i < Tile::HELD_ROWS; i++) {
        unsigned row = first_row + Tile::row_of(i);
        if (row >= parameters.rows) {
            continue;
        }
        Gate gate = gates[row];
        if (gate.largest == 0.0f) {
            continue;
        }
        // The smallest approximate score, and draw key, of a key that may be needed.
        unsigned worst = state[4u * row];
        float needed = -16.0f;
        if (worst == NO_KEY) {
            needed = 16.0f;
        } else if (worst != 0u) {
            needed = from_ordered(worst) * gate.per_unit - gate.error;
        }
        int least_draw = -2147483647;
        unsigned worst_draw = state[4u * row + 1u];
        if (worst_draw != 0u) {
            least_draw = (int)(worst_draw ^ 0x80000000u) - (worst_draw == NO_KEY ? 0 : gate.draw_error);
        }
#pragma unroll
        for (unsigned j = 0u; j < Tile::HELD_COLUMNS; j++) {
            unsigned column = first_column + Tile::column_of(j);
            if (column >= parameters.end) {
                continue;
            }
            Column score_column = columns[column];
            if (score_column.factor == NO_KEY) {
                continue;
            }
            float score = (tile.at(i, j) * gate.inverse) * __uint_as_float(score_column.factor);
            bool inside = score >= gate.lo && score <= gate.hi;
            if (COUNT == 0u && !(inside && (DRAW != 0u || score >= needed))) {
                continue;
            }
            if (excluded(parts, tables, Tile::row_of(i), gate, parameters.base + column, score_column.group)) {
                continue;
            }
            if (COUNT == 1u) {
                count_score(parameters, unsure, row, column, score, gate);
            }
            bool passes = inside && score >= needed;
            if (DRAW != 0u && inside && !passes && worst_draw != NO_KEY) {
                float logit = fminf(fmaxf(score, -gate.largest), gate.largest) * gate.logit;
                unsigned low = parameters.key_low + column;
                unsigned high = parameters.key_high + (low < column ? 1u : 0u);
                int draw = draw_key(
                    tables, logit, low, high, gate.number_low, gate.number_high, parameters.seed_low,
                    parameters.seed_high
                );
                passes = draw >= least_draw;
            }
            if (passes) {
                unsigned at = atomicAdd(&state[4u * row + 2u], 1u);
                if (at < parameters.capacity) {
                    pool[(size_t)row * parameters.capacity * POOL_WORDS + at] = parameters.base + column;
                }
            }
        }
    }
}
