// Gradients of `info_nce` by the matrix unit: target[row][i] += Σ_k A(row, k) · x_k[i], with A packed slopes
// (info_nce_backward.cu) and x the scaled rows, packed turned (pack_turned.cu). Both sides of a block in one launch, so that
// the groups fill the card.
//
// Maths: the sums carry the shift of the slopes and 14 of the rows, which are taken back.
// Memory: a side's target holds `rows` rows of `dim` f32; its `others` begin at the block's first row.
// Constants: those of matrix_unit.cuh.
// Groups: tiles of target rows in x, an even number; tiles of TILE_COLUMNS elements in y; in z lines, then columns.

#include "info_nce_common.cuh"
#include "info_nce_anchors.cuh"
#include "matrix_unit.cuh"

struct GradientSide {
    // Rows of the target. Blocks of 64 that are summed over, and how many a part of the turned rows has.
    unsigned rows; unsigned blocks; unsigned other_blocks;
};

struct GradientParameters {
    unsigned dim;
    // The word of `state` with the largest slope.
    unsigned largest;
    GradientSide lines;
    GradientSide columns;
};

struct AddProducts {
    float *target;
    unsigned rows;
    unsigned dim;
    int exponent;

    __device__ __forceinline__ void eat(Tile &tile, unsigned number) {
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            unsigned row = blockIdx.x * TILE_ROWS + Tile::row_of(i);
            float *to = target + (size_t)row * dim;
#pragma unroll
            for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
                unsigned element = number * TILE_COLUMNS + Tile::column_of(j);
                if (row < rows && element < dim) {
                    to[element] += unscale(tile.at(i, j), exponent);
                }
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1) add_products(
    GradientParameters parameters, const unsigned char *slopes, const unsigned char *turned,
    const unsigned char *right, const unsigned char *left, const unsigned *state, float *lines, float *columns) {
    GradientSide side = blockIdx.z == 0u ? parameters.lines : parameters.columns;
    // Both groups of a cluster leave, or none.
    if (blockIdx.x / 2u * 2u * TILE_ROWS >= side.rows) {
        return;
    }
    Walk walk;
    walk.queries = blockIdx.z == 0u ? slopes : turned;
    walk.keys = blockIdx.z == 0u ? right : left;
    walk.blocks = side.blocks;
    walk.query_blocks = side.blocks;
    walk.key_blocks = side.other_blocks;
    walk.query_tile = blockIdx.x;
    walk.first = blockIdx.y;
    walk.tiles = 1u;
    int exponent = -14 - shift_of(state[parameters.largest]);
    AddProducts epilogue = {blockIdx.z == 0u ? lines : columns, side.rows, parameters.dim, exponent};
    walk_tiles(walk, epilogue);
}
