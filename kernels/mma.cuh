// The mainloop of sm_80 and later: tiles of scores by `mma.sync`, fed by asynchronous copies. A twin of wgmma.cuh and
// of the portable mainloop: the same `Tile`, the same `walk_tiles`.
//
// Work: a group of 256 threads takes one tile of TILE_ROWS = 128 queries through a range of tiles of TILE_COLUMNS (128
// or 256) keys. Its 8 warps stand 2 × 4 over the tile; each makes 64 rows × TILE_COLUMNS / 4 columns.
// Shared memory: a ring of STAGES stages; a stage holds 128 bytes of the tile's queries, then of its keys, as they
// stand in global memory (blocks.cuh). The ring runs on over the ends of tiles: while an epilogue eats a tile, the
// next one's blocks arrive.
//
// Constants: TILE_COLUMNS, STAGES, SHARED_BYTES = STAGES · (TILE_COLUMNS + 128) · 128, those of walk.cuh.

#include "ptx.cuh"
#include "walk.cuh"

/// Threads that hold scores.
#define SCORING_THREADS 256u

#define WARP_COLUMNS (TILE_COLUMNS / 4u)

/// The scores of a tile that one thread holds: `HELD_ROWS × HELD_COLUMNS` of them, of rows `row_of(i)` and columns
/// `column_of(j)` of the tile. Indices are compile-time constants after unrolling.
struct Tile {
    static constexpr unsigned HELD_ROWS = 8u;
    static constexpr unsigned HELD_COLUMNS = WARP_COLUMNS / 4u;
    /// Warps over a tile's rows, and over its columns.
    static constexpr unsigned ROW_PARTS = 2u;
    static constexpr unsigned COLUMN_PARTS = 4u;

    Sum c[4][WARP_COLUMNS / 8u][4];

    __device__ __forceinline__ Sum& at(unsigned i, unsigned j) {
        return c[i / 2u][j / 2u][(i & 1u) * 2u + (j & 1u)];
    }

    static __device__ __forceinline__ unsigned row_of(unsigned i) {
        return (threadIdx.x / 128u) * 64u + (i / 2u) * 16u + (i & 1u) * 8u + (threadIdx.x & 31u) / 4u;
    }

    static __device__ __forceinline__ unsigned column_of(unsigned j) {
        return (threadIdx.x / 32u & 3u) * WARP_COLUMNS + (j / 2u) * 8u + (threadIdx.x & 3u) * 2u + (j & 1u);
    }

    /// Which of the parts of rows and of columns this warp holds.
    static __device__ __forceinline__ unsigned row_part() {
        return threadIdx.x / 128u;
    }

    static __device__ __forceinline__ unsigned column_part() {
        return threadIdx.x / 32u & 3u;
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (unsigned i = 0u; i < HELD_ROWS; ++i) {
#pragma unroll
            for (unsigned j = 0u; j < HELD_COLUMNS; ++j) {
                at(i, j) = 0;
            }
        }
    }
};

/// Copies a block: 128 bytes of 128 rows. Every thread copies chunks a group's width apart: no bank is met twice.
__device__ __forceinline__ void copy_block(unsigned to, const unsigned char* packed, size_t block) {
    const unsigned char* from = packed + block * BLOCK_BYTES + threadIdx.x * 16u;
#pragma unroll
    for (unsigned i = 0u; i < BLOCK_BYTES; i += 4096u) {
        copy_async_16(to + threadIdx.x * 16u + i, from + i);
    }
}

/// Copies the stage of one step.
__device__ __forceinline__ void
copy_stage(unsigned stage, const Walk& walk, unsigned tile, unsigned product, unsigned block) {
    copy_block(stage, walk.queries, query_block(walk, product) + block);
#pragma unroll
    for (unsigned half = 0u; half < TILE_COLUMNS / BLOCK_ROWS; ++half) {
        size_t row_block = (size_t)tile * (TILE_COLUMNS / BLOCK_ROWS) + half;
        copy_block(stage + (half + 1u) * BLOCK_BYTES, walk.keys, key_block(walk, row_block, product) + block);
    }
}

/// Adds the products of 32 bytes of 16 queries and 8 keys. Fragments of bytes lie in words as those of f16 do.
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply_f16(c, a, b0, b1);
}

__device__ __forceinline__ void multiply(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply_i8(c, a, b0, b1);
}

/// Adds the products of one stage.
__device__ __forceinline__ void multiply_stage(Tile& tile, unsigned stage) {
    unsigned lane = threadIdx.x & 31u;
    unsigned warp = threadIdx.x / 32u;
    // Lane 8 i + r addresses row r of the i-th 8 × 8 matrix. Queries: rows 0-7, 8-15 of chunk 0, then of chunk 1. Keys:
    // chunks 0, 1 of keys 0-7, then of keys 8-15.
    unsigned in_row = lane & 7u;
    unsigned query_row = (warp / 4u) * 64u + (lane / 8u & 1u) * 8u + in_row;
    unsigned key_row = TILE_ROWS + (warp & 3u) * WARP_COLUMNS + (lane / 16u) * 8u + in_row;
    unsigned queries = stage + query_row * 128u;
    unsigned keys = stage + key_row * 128u;
    unsigned query_chunk = ((lane / 16u) ^ in_row) * 16u;
    unsigned key_chunk = ((lane / 8u & 1u) ^ in_row) * 16u;
#pragma unroll
    for (unsigned step = 0u; step < 4u; ++step) {
        unsigned a[4][4];
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            load_matrices(a[i], queries + i * 2048u + (query_chunk ^ (step * 32u)));
        }
#pragma unroll
        for (unsigned j = 0u; j < WARP_COLUMNS / 16u; ++j) {
            unsigned b[4];
            load_matrices(b, keys + j * 2048u + (key_chunk ^ (step * 32u)));
#pragma unroll
            for (unsigned i = 0u; i < 4u; ++i) {
                multiply(tile.c[i][2u * j], a[i], b[0], b[1]);
                multiply(tile.c[i][2u * j + 1u], a[i], b[2], b[3]);
            }
        }
    }
}

/// Hands each tile of the walk to `epilogue.eat(tile, number)`, in order. Every thread of the group calls it, and all
/// of them are in `eat` between the same two barriers.
template <class Epilogue> __device__ __forceinline__ void walk_tiles(const Walk& walk, Epilogue& epilogue) {
    extern __shared__ __align__(128) unsigned char ring[];
    unsigned base = shared_address(ring);
    unsigned end = walk.first + walk.tiles;
    // The step that is copied next: its tile, its product, its block, its stage.
    unsigned copied_tile = walk.first, copied_product = 0u, copied_block = 0u, copied_stage = 0u;
    auto copy_next = [&]() {
        if (copied_tile < end) {
            copy_stage(base + copied_stage * STAGE_BYTES, walk, copied_tile, copied_product, copied_block);
            copied_stage = copied_stage + 1u == STAGES ? 0u : copied_stage + 1u;
            copied_block += 1u;
            if (copied_block == walk.blocks) {
                copied_block = 0u;
                copied_product += 1u;
            }
            if (copied_product == PRODUCTS) {
                copied_product = 0u;
                copied_tile += 1u;
            }
        }
        // An empty group where nothing is left, so that the count of groups under way says which step has come.
        copy_async_commit();
    };
#pragma unroll
    for (unsigned i = 0u; i + 1u < STAGES; ++i) {
        copy_next();
    }
    Tile tile;
    unsigned stage = 0u;
    for (unsigned number = walk.first; number < end; ++number) {
        tile.clear();
        for (unsigned step = 0u; step < PRODUCTS * walk.blocks; ++step) {
            copy_async_wait<STAGES - 2u>();
            // The stage has come for all; the stage before it has been read by all, and may be overwritten.
            __syncthreads();
            copy_next();
            multiply_stage(tile, base + stage * STAGE_BYTES);
            stage = stage + 1u == STAGES ? 0u : stage + 1u;
        }
        epilogue.eat(tile, number);
    }
}
