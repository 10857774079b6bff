#include "info_nce_walk.cuh"

// The first pass of `info_nce` by the matrix unit: sums every anchor's negatives.
//
// Memory: `sums` gets a `Partial` for each line and warp of columns, `[line][of_lines]`; behind them, with COLUMNS, for each
// column and warp of rows, `[column][of_columns]`.
// Constants and groups: see info_nce_walk.cuh.

// Columns whose sums are joined together.
#define JOINED (Tile::HELD_COLUMNS < 16u ? Tile::HELD_COLUMNS : 16u)

// A value of each of the four threads that share rows, summed; and the largest.
__device__ __forceinline__ float sum_of_four(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ __forceinline__ float largest_of_four(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// Sums `COUNT` values of each of the threads that share columns and lie up to `DISTANCE` apart: of eight threads with
// DISTANCE = 16, each then has the sums of an eighth of the columns, those from `joined_first` on.
template <unsigned COUNT, unsigned DISTANCE> __device__ __forceinline__ void join_columns(float (&values)[JOINED]) {
    bool upper = (threadIdx.x & DISTANCE) != 0u;
#pragma unroll
    for (unsigned k = 0u; k < COUNT / 2u; ++k) {
        float given = upper ? values[k] : values[k + COUNT / 2u];
        float own = upper ? values[k + COUNT / 2u] : values[k];
        values[k] = own + __shfl_xor_sync(ALL_LANES, given, DISTANCE);
    }
    if constexpr (DISTANCE > 4u) {
        join_columns<COUNT / 2u, DISTANCE / 2u>(values);
    }
}

// The same without sums: each thread keeps the values of its columns.
template <unsigned COUNT, unsigned DISTANCE> __device__ __forceinline__ void keep_columns(float (&values)[JOINED]) {
    bool upper = (threadIdx.x & DISTANCE) != 0u;
#pragma unroll
    for (unsigned k = 0u; k < COUNT / 2u; ++k) {
        values[k] = upper ? values[k + COUNT / 2u] : values[k];
    }
    if constexpr (DISTANCE > 4u) {
        keep_columns<COUNT / 2u, DISTANCE / 2u>(values);
    }
}

__device__ __forceinline__ unsigned joined_first() {
    return (threadIdx.x & 31u) / 4u * (JOINED / 8u);
}

// Sums negatives.
struct SumNegatives : LossTile {
    const PackedParameters &packed;
    Partial *sums;

    __device__ __forceinline__ SumNegatives(const PackedParameters &packed) : packed(packed) {}

    __device__ __forceinline__ void eat(Tile &tile, unsigned number) {
        mark(tile, first_line_of_tile(), number * TILE_COLUMNS);
        sum_lines(tile, number);
        if (COLUMNS == 1u) {
            sum_columns(tile, number);
        }
    }

    __device__ __forceinline__ void sum_lines(Tile &tile, unsigned number) {
        float slope = logit_slope(parameters.direction);
        // The sign that makes the largest logit the largest value.
        float sign = slope < 0.0f ? -1.0f : 1.0f;
        float power = slope * LOG2_E;
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            Partial partial = {0.0f, 0.0f, MASKED, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
            float top = MASKED;
#pragma unroll
            for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
                if (has(of_line, i, j)) {
                    partial.count += 1.0f;
                    partial.scores += tile.at(i, j);
                    partial.largest = fmaxf(partial.largest, tile.at(i, j));
                    top = fmaxf(top, sign * tile.at(i, j));
                }
            }
            partial.count = sum_of_four(partial.count);
            partial.scores = sum_of_four(partial.scores);
            partial.largest = largest_of_four(partial.largest);
            partial.reference = sign * largest_of_four(top);
#pragma unroll
            for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
                if (has(of_line, i, j)) {
                    float below = tile.at(i, j) - partial.reference;
                    float y = exp2_fast(power * below);
                    partial.plain += y;
                    partial.below += below * y;
                }
            }
            partial.plain = sum_of_four(partial.plain);
            partial.below = sum_of_four(partial.below);
            unsigned line = first_line + Tile::row_of(i);
            if ((threadIdx.x & 3u) == 0u && line < parameters.lines) {
                unsigned part = number * Tile::COLUMN_PARTS + Tile::column_part();
                sums[(size_t)line * packed.of_lines + part] = partial;
            }
        }
    }

    __device__ __forceinline__ void sum_columns(Tile &tile, unsigned number) {
        float power = parameters.inverse_temperature * LOG2_E;
        Partial *column_sums = sums + (size_t)parameters.lines * packed.of_lines;
#pragma unroll
        for (unsigned first = 0u; first < Tile::HELD_COLUMNS; first += JOINED) {
            float count[JOINED], reference[JOINED], scores[JOINED];
#pragma unroll
            for (unsigned k = 0u; k < JOINED; ++k) {
                count[k] = 0.0f;
                scores[k] = 0.0f;
                reference[k] = MASKED;
#pragma unroll
                for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
                    if (has(of_column, i, first + k)) {
                        count[k] += 1.0f;
                        scores[k] += tile.at(i, first + k);
                        reference[k] = fmaxf(reference[k], tile.at(i, first + k));
                    }
                }
#pragma unroll
                for (unsigned distance = 4u; distance < 32u; distance *= 2u) {
                    reference[k] = fmaxf(reference[k], __shfl_xor_sync(ALL_LANES, reference[k], distance));
                }
            }
            join_columns<JOINED, 16u>(count);
            join_columns<JOINED, 16u>(scores);
            Partial partials[JOINED / 8u];
#pragma unroll
            for (unsigned k = 0u; k < JOINED / 8u; ++k) {
                partials[k].count = count[k];
                partials[k].scores = scores[k];
            }
            // What is not needed any more holds the sums of y.
#pragma unroll
            for (unsigned k = 0u; k < JOINED; ++k) {
                count[k] = 0.0f;
                scores[k] = 0.0f;
#pragma unroll
                for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
                    if (has(of_column, i, first + k)) {
                        float below = tile.at(i, first + k) - reference[k];
                        float y = exp2_fast(power * below);
                        count[k] += y;
                        scores[k] += below * y;
                    }
                }
            }
            join_columns<JOINED, 16u>(count);
            join_columns<JOINED, 16u>(scores);
            keep_columns<JOINED, 16u>(reference);
#pragma unroll
            for (unsigned k = 0u; k < JOINED / 8u; ++k) {
                partials[k].reference = reference[k];
                partials[k].largest = reference[k];
                partials[k].plain = count[k];
                partials[k].below = scores[k];
                partials[k].zeros[0] = 0.0f;
                partials[k].zeros[1] = 0.0f;
                unsigned column = number * TILE_COLUMNS + Tile::column_of(first + joined_first() + k);
                if (column < parameters.block_columns) {
                    unsigned part = blockIdx.x * Tile::ROW_PARTS + Tile::row_part();
                    column_sums[(size_t)column * packed.of_columns + part] = partials[k];
                }
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1) forward(
    PackedParameters parameters, const unsigned char *queries, const unsigned char *keys, const Four *left,
    const Four *right, const Scale *left_rows, const Scale *right_rows, const Anchor *lines, const Anchor *columns,
    const unsigned *index, const unsigned *state, Partial *sums) {
    SumNegatives epilogue(parameters);
    SET_BLOCK(epilogue)
    epilogue.sums = sums;
    walk_tiles(walk_of(parameters, queries, keys), epilogue);
}
