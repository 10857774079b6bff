// The passes of `info_nce` that walk tiles of lines × columns (info_nce_forward.cu, info_nce_backward.cu).
//
// Constants: those of matrix_unit.cuh and info_nce_negatives.cuh.
// Groups: tiles of lines in x, an even number; parts of the block's columns in y, each `tiles` tiles but the last.

#include "matrix_unit.cuh"
#include "info_nce_negatives.cuh"

struct PackedParameters {
    Parameters loss;
    // Blocks of a row; tiles of a part; see the passes; whether `backward` writes slopes.
    unsigned blocks; unsigned tiles; unsigned of_lines; unsigned of_columns; unsigned writes;
};

// The first line of the group's tile. Nothing that only an epilogue needs takes registers while products are made.
__device__ __forceinline__ unsigned first_line_of_tile() {
    return anew(blockIdx.x) * TILE_ROWS;
}

__device__ __forceinline__ Walk
walk_of(const PackedParameters &parameters, const unsigned char *queries, const unsigned char *keys) {
    return walk_part(queries, keys, parameters.blocks, 0u, parameters.loss.block_columns, parameters.tiles);
}
