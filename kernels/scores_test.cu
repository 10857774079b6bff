// The mainloop by itself: writes every score of packed rows. For tests alone.
//
// Memory: `out` gets `columns` sums for each of the query rows, all of them, padding included.
// Constants: those of matrix_unit.cuh.
// Groups: tiles of queries in x, parts of the keys in y, each `tiles` tiles but the last.

#include "matrix_unit.cuh"

struct TestParameters {
    unsigned blocks;
    unsigned tiles;
    unsigned all_tiles;
    unsigned columns;
};

struct WriteScores {
    Sum* out;
    size_t first_row;
    unsigned columns;

    __device__ __forceinline__ void eat(Tile& tile, unsigned number) {
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            Sum* row = out + (first_row + Tile::row_of(i)) * columns + number * TILE_COLUMNS;
#pragma unroll
            for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
                row[Tile::column_of(j)] = tile.at(i, j);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1)
write_scores(TestParameters parameters, const unsigned char* queries, const unsigned char* keys, Sum* out) {
    unsigned end = parameters.all_tiles * TILE_COLUMNS;
    Walk walk = walk_part(queries, keys, parameters.blocks, 0u, end, parameters.tiles);
    WriteScores epilogue = {out, (size_t)blockIdx.x * TILE_ROWS, parameters.columns};
    walk_tiles(walk, epilogue);
}
