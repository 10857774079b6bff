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
#include "gates.cuh"

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
        Threshold threshold = threshold_of(state, row, gate);
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
            if (!is_open(threshold, gate, score, score)) {
                continue;
            }
            if (excluded(parts, tables, Tile::row_of(i), gate, parameters.base + column, score_column.group)) {
                continue;
            }
            take_score(parameters, tables, state, pool, unsure, gate, threshold, row, column, score, score);
        }
    }
}
