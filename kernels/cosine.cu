// All scores of some queries against some keys, written. The twin of cosine.wgsl.
//
// Maths: dot products of scaled rows by the mainloop in chains of 8, added without loss; cosine multiplies them with
// both accurate inverse norms, the dot product puts the powers of two back.
// Memory: score (r, c) goes to `scores[r · columns + c]`; the score of a row that is not finite is NaN.
// Constants: METRIC (0 cosine, 1 dot product), COMPENSATED = 1.
// Threads: 16 × 16 a tile of 64 × 64; groups: tiles of columns in x, of rows in y.
#include "score.cuh"
#include "mainloop.cuh"

struct Parameters {
    unsigned first_group;
    unsigned rows;
    unsigned columns;
    unsigned vectors;
};

__device__ __forceinline__ float written_score(float dot, Scale query, Scale key) {
    if (query.exponent == NOT_FINITE || key.exponent == NOT_FINITE) {
        return __uint_as_float(0x7FC00000u);
    }
    if (METRIC == 0u) {
        return fminf(fmaxf((dot * query.accurate) * key.accurate, -1.0f), 1.0f);
    }
    return unscale(dot, (int)(query.exponent + key.exponent));
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y)
cosine(
    Parameters parameters,
    const Four *queries,
    const Scale *query_scales,
    const Four *keys,
    const Scale *key_scales,
    float *scores
) {
    unsigned first_row = blockIdx.y * TILE;
    unsigned first_column = (blockIdx.x + parameters.first_group) * TILE;
    Tile tile;
    mainloop(
        tile, queries, keys, first_row, first_column, parameters.rows, parameters.columns, parameters.vectors
    );
#pragma unroll
    for (unsigned i = 0u; i < Tile::HELD_ROWS; i++) {
        unsigned row = first_row + Tile::row_of(i);
#pragma unroll
        for (unsigned j = 0u; j < Tile::HELD_COLUMNS; j++) {
            unsigned column = first_column + Tile::column_of(j);
            if (row < parameters.rows && column < parameters.columns) {
                float score = written_score(tile.at(i, j), query_scales[row], key_scales[column]);
                scores[row * parameters.columns + column] = score;
            }
        }
    }
}
