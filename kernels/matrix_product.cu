// Gradients by the matrix unit: target[row][i] (+)= Σ_k A(row, k) · B(i, k), A packed slopes, B packed rows, turned
// (pack_turned.cu).
//
// Maths: the sums carry both shifts, 14 of the rows' and that of the slopes, which are taken back; with METRIC = 1 also
// the largest exponent of the rows.
// Memory: `target` holds `rows` rows of `dim` f32.
// Constants: those of matrix_unit.cuh; METRIC.
// Groups: tiles of target rows in x, tiles of TILE_COLUMNS elements in y.

#include "score.cuh"
#include "matrix_unit.cuh"

struct ProductParameters {
    unsigned rows;
    unsigned dim;
    unsigned blocks;
    unsigned exponent;
    /// Whether the products are added to what `target` holds.
    unsigned accumulate;
};

struct AddProducts {
    const ProductParameters& parameters;
    float* target;
    int exponent;

    __device__ __forceinline__ void eat(Tile& tile, unsigned number) {
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            unsigned row = blockIdx.x * TILE_ROWS + Tile::row_of(i);
            float* to = target + (size_t)row * parameters.dim;
#pragma unroll
            for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
                unsigned element = number * TILE_COLUMNS + Tile::column_of(j);
                if (row < parameters.rows && element < parameters.dim) {
                    float value = unscale(tile.at(i, j), exponent);
                    to[element] = parameters.accumulate == 1u ? to[element] + value : value;
                }
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1)
multiply(ProductParameters parameters, const unsigned char* slopes, const unsigned char* turned,
         const unsigned* largest, float* target) {
    Walk walk;
    walk.queries = slopes;
    walk.keys = turned;
    walk.blocks = parameters.blocks;
    walk.query_tile = blockIdx.x;
    walk.first = blockIdx.y;
    walk.tiles = 1u;
    int largest_exponent = *largest < 0x800000u ? -126 : exponent_of(*largest);
    AddProducts epilogue = {parameters, target, largest_exponent - 28 + (METRIC == 1u ? (int)parameters.exponent : 0)};
    walk_tiles(walk, epilogue);
}
