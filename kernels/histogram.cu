// How many scores fall into each bin. The twin of histogram.wgsl.
//
// Maths: an approximate score s, clamped as the canonical one saturates, lies at s · `per_unit` − `offset` bins from the
// first edge. Where that is within `margin` of an edge the pair is noted, and the host asks for its canonical score.
// Memory: `counts` holds below, `bins` bins and above, for all queries together or where PER_ROW is 1 for each. `unsure`
// holds the number of pairs too near an edge, then their rows and columns. In a gate, `per_unit`, `error` and `logit`
// stand for `per_unit`, `offset` and `margin`. Else as scan.cuh says.
// Constants: COMPENSATED = 0, LISTS, PER_ROW.
// Threads: 16 × 16 a tile of 64 × 64; groups: tiles of columns in x, of rows in y.
#include "score.cuh"
#include "mainloop.cuh"
#include "scan.cuh"

struct Parameters {
    unsigned first_group;
    unsigned rows;
    unsigned columns;
    unsigned vectors;
    unsigned first;
    unsigned end;
    unsigned base;
    unsigned bins;
    unsigned unsure_capacity;
};

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y)
histogram(
    Parameters parameters,
    const Four *queries,
    const Four *keys,
    const Gate *gates,
    const Column *columns,
    const unsigned *tables,
    unsigned *counts,
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
    float bins = (float)parameters.bins;

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
        float offset = gate.error, margin = gate.logit;
        size_t set = PER_ROW == 1u ? (size_t)row * (parameters.bins + 2u) : 0u;
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
            if (excluded(parts, tables, Tile::row_of(i), gate, parameters.base + column, score_column.group)) {
                continue;
            }
            float score = (tile.at(i, j) * gate.inverse) * __uint_as_float(score_column.factor);
            score = fminf(fmaxf(score, -gate.largest), gate.largest);
            float at = score * gate.per_unit - offset;
            float whole = floorf(at);
            float fraction = at - whole;
            bool near_edge = !(fraction >= margin && fraction <= 1.0f - margin);
            bool outside = at < -margin || at > bins + margin;
            if (near_edge && !outside) {
                unsigned place = atomicAdd(&unsure[0], 1u);
                if (place < parameters.unsure_capacity) {
                    unsure[1u + 2u * (size_t)place] = row;
                    unsure[2u + 2u * (size_t)place] = column;
                }
            } else {
                unsigned bin = (unsigned)((int)fminf(fmaxf(whole, -1.0f), bins) + 1);
                atomicAdd(&counts[set + bin], 1u);
            }
        }
    }
}
