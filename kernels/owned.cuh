// Tiles of scores that stay in registers and become the first factor of a second product: a group owns rows of one side,
// and walks the other side past them. A third kind of `Tile` beside those of mma.cuh and wgmma.cuh.
//
// Work: a group of 256 threads owns OWNED = 128 rows of one side, and takes tiles of OTHERS = 64 rows of the other. Each of
// its 8 warps makes the scores of 16 owned rows and all others. What an epilogue turns them into lies in a warp's
// registers as `mma.sync` wants its first factor; the second is the tile of others that made the scores, turned by
// `ldmatrix`. So nothing of size rows × rows is written anywhere.
// Shared memory: the owned rows, then a ring of OTHER_STAGES tiles of others, all as they stand in global memory
// (blocks.cuh): of each DIM_BLOCKS blocks 128 bytes of each row.
//
// Constants: DIM_BLOCKS, blocks of a row; OWNER, 0 where lines are owned, 1 where columns are: the tile's rows are lines
// always; SHARED_BYTES = DIM_BLOCKS · (16384 + 8192 · OTHER_STAGES).

#include "ptx.cuh"
#include "score.cuh"
#include "blocks.cuh"

#define OWNED 128u
#define OTHERS 64u
#define OTHER_STAGES 4u
/// Bytes of a tile of others in one block.
#define OTHER_BYTES 8192u
#define OTHER_STAGE_BYTES (DIM_BLOCKS * OTHER_BYTES)

/// The scores of a tile that one thread holds, of two owned rows and sixteen others: `HELD_ROWS × HELD_COLUMNS` of them, of
/// lines `row_of(i)` and columns `column_of(j)` of the tile. Indices are compile-time constants after unrolling.
struct Tile {
    static constexpr unsigned HELD_OWNED = 2u;
    static constexpr unsigned HELD_OTHERS = OTHERS / 4u;
    static constexpr unsigned WARP_OWNED = 16u;

    float c[OTHERS / 8u][4];

    /// The score of owned row i and other j.
    __device__ __forceinline__ float& score(unsigned i, unsigned j) {
        return c[j / 2u][i * 2u + (j & 1u)];
    }

    static __device__ __forceinline__ unsigned warp_owned() {
        return threadIdx.x / 32u * WARP_OWNED;
    }

    static __device__ __forceinline__ unsigned owned_of(unsigned i) {
        return warp_owned() + i * 8u + (threadIdx.x & 31u) / 4u;
    }

    static __device__ __forceinline__ unsigned other_of(unsigned j) {
        return (j / 2u) * 8u + (threadIdx.x & 3u) * 2u + (j & 1u);
    }

    // The same by line and column; what the warp holds begins at `warp_row()`, `warp_column()`.
#if OWNER == 0u
    static constexpr unsigned HELD_ROWS = HELD_OWNED;
    static constexpr unsigned HELD_COLUMNS = HELD_OTHERS;
    static constexpr unsigned WARP_ROWS = WARP_OWNED;
    static constexpr unsigned WARP_COLUMNS = OTHERS;

    __device__ __forceinline__ float& at(unsigned i, unsigned j) {
        return score(i, j);
    }

    static __device__ __forceinline__ unsigned row_of(unsigned i) {
        return owned_of(i);
    }

    static __device__ __forceinline__ unsigned column_of(unsigned j) {
        return other_of(j);
    }

    static __device__ __forceinline__ unsigned warp_row() {
        return warp_owned();
    }

    static __device__ __forceinline__ unsigned warp_column() {
        return 0u;
    }
#else
    static constexpr unsigned HELD_ROWS = HELD_OTHERS;
    static constexpr unsigned HELD_COLUMNS = HELD_OWNED;
    static constexpr unsigned WARP_ROWS = OTHERS;
    static constexpr unsigned WARP_COLUMNS = WARP_OWNED;

    __device__ __forceinline__ float& at(unsigned i, unsigned j) {
        return score(j, i);
    }

    static __device__ __forceinline__ unsigned row_of(unsigned i) {
        return other_of(i);
    }

    static __device__ __forceinline__ unsigned column_of(unsigned j) {
        return owned_of(j);
    }

    static __device__ __forceinline__ unsigned warp_row() {
        return 0u;
    }

    static __device__ __forceinline__ unsigned warp_column() {
        return warp_owned();
    }
#endif
};

/// Sums of products with elements of the others: `sums[n]` is the C fragment of the warp's owned rows and elements 8 n to
/// 8 n + 7.
struct Products {
    float sums[DIM_BLOCKS * 8u][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (unsigned n = 0u; n < DIM_BLOCKS * 8u; ++n) {
#pragma unroll
            for (unsigned i = 0u; i < 4u; ++i) {
                sums[n][i] = 0.0f;
            }
        }
    }
};

/// Copies the rows that group `tile` owns.
__device__ __forceinline__ void copy_owned(unsigned to, const unsigned char* packed, unsigned tile) {
    const unsigned char* from = packed + (size_t)tile * (DIM_BLOCKS * BLOCK_BYTES) + threadIdx.x * 16u;
#pragma unroll
    for (unsigned i = 0u; i < DIM_BLOCKS * BLOCK_BYTES; i += 4096u) {
        copy_async_16(to + threadIdx.x * 16u + i, from + i);
    }
}

/// Copies a tile of others: half of each block.
__device__ __forceinline__ void copy_others(unsigned to, const unsigned char* packed, unsigned tile) {
    const unsigned char* from = packed + (size_t)(tile / 2u) * (DIM_BLOCKS * BLOCK_BYTES) + (tile & 1u) * OTHER_BYTES
        + threadIdx.x * 16u;
#pragma unroll
    for (unsigned block = 0u; block < DIM_BLOCKS; ++block) {
#pragma unroll
        for (unsigned i = 0u; i < OTHER_BYTES; i += 4096u) {
            copy_async_16(to + block * OTHER_BYTES + threadIdx.x * 16u + i, from + block * BLOCK_BYTES + i);
        }
    }
}

/// Makes the sums of a tile.
__device__ __forceinline__ void make_scores(Tile& tile, unsigned owned, unsigned others) {
    unsigned lane = threadIdx.x & 31u;
    // Lane 8 i + r addresses row r of the i-th 8 × 8 matrix. Owned: rows 0-7, 8-15 of chunk 0, then of chunk 1. Others:
    // chunks 0, 1 of rows 0-7, then of rows 8-15.
    unsigned in_row = lane & 7u;
    unsigned from_owned = owned + (Tile::warp_owned() + (lane & 15u)) * 128u;
    unsigned from_others = others + (lane / 16u * 8u + in_row) * 128u;
    unsigned owned_chunk = ((lane / 16u) ^ in_row) * 16u;
    unsigned other_chunk = ((lane / 8u & 1u) ^ in_row) * 16u;
#pragma unroll
    for (unsigned n = 0u; n < OTHERS / 8u; ++n) {
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            tile.c[n][i] = 0.0f;
        }
    }
#pragma unroll
    for (unsigned step = 0u; step < DIM_BLOCKS * 4u; ++step) {
        unsigned block = step / 4u, chunk = (step & 3u) * 32u;
        unsigned a[4];
        load_matrices(a, from_owned + block * BLOCK_BYTES + (owned_chunk ^ chunk));
#pragma unroll
        for (unsigned j = 0u; j < OTHERS / 16u; ++j) {
            unsigned b[4];
            load_matrices(b, from_others + block * OTHER_BYTES + j * 2048u + (other_chunk ^ chunk));
            multiply_f16(tile.c[2u * j], a, b[0], b[1]);
            multiply_f16(tile.c[2u * j + 1u], a, b[2], b[3]);
        }
    }
}

/// Adds what a tile holds now, in two parts of f16, times the others.
__device__ __forceinline__ void add_products(Products& products, Tile& tile, unsigned others) {
    unsigned lane = threadIdx.x & 31u;
    // Lane 8 i + r addresses row r of the i-th 8 × 8 matrix: rows 0-7, 8-15 of chunk 0, then of chunk 1.
    unsigned from = others + (lane & 15u) * 128u;
    unsigned in_chunk = ((lane / 16u) ^ (lane & 7u)) * 16u;
#pragma unroll
    for (unsigned step = 0u; step < OTHERS / 16u; ++step) {
        unsigned high[4], low[4];
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            unsigned j = step * 4u + i / 2u * 2u;
            float first = tile.score(i & 1u, j), second = tile.score(i & 1u, j + 1u);
            high[i] = f32_to_f16_pair(first, second);
            low[i] = f32_to_f16_pair(
                first - f16_to_f32((unsigned short)high[i]), second - f16_to_f32((unsigned short)(high[i] >> 16)));
        }
#pragma unroll
        for (unsigned n = 0u; n < DIM_BLOCKS * 4u; ++n) {
            unsigned b[4];
            unsigned chunk = in_chunk ^ ((n & 3u) * 32u);
            load_matrices_transposed(b, from + n / 4u * OTHER_BYTES + step * 2048u + chunk);
            multiply_f16(products.sums[2u * n], high, b[0], b[1]);
            multiply_f16(products.sums[2u * n], low, b[0], b[1]);
            multiply_f16(products.sums[2u * n + 1u], high, b[2], b[3]);
            multiply_f16(products.sums[2u * n + 1u], low, b[2], b[3]);
        }
    }
}

/// Hands each tile of others from `first` to `end` to `epilogue.eat(tile, number)`, in order, and adds what it holds then
/// times the others. After every CHAIN tiles and at the end, `epilogue.put(products, whether it is the first time)`.
template <class Epilogue>
__device__ __forceinline__ void walk_others(
    const unsigned char* owned, const unsigned char* others, unsigned first, unsigned end, Epilogue& epilogue) {
    extern __shared__ __align__(128) unsigned char shared[];
    unsigned base = shared_address(shared);
    unsigned ring = base + DIM_BLOCKS * BLOCK_BYTES;
    unsigned copied = first, copied_stage = 0u;
    auto copy_next = [&]() {
        if (copied < end) {
            copy_others(ring + copied_stage * OTHER_STAGE_BYTES, others, copied);
            copied += 1u;
            copied_stage = copied_stage + 1u == OTHER_STAGES ? 0u : copied_stage + 1u;
        }
        // An empty group where nothing is left, so that the count of groups under way says which tile has come.
        copy_async_commit();
    };
    copy_owned(base, owned, blockIdx.x);
#pragma unroll
    for (unsigned i = 0u; i + 1u < OTHER_STAGES; ++i) {
        copy_next();
    }
    Products products;
    products.clear();
    unsigned stage = 0u;
    for (unsigned number = first; number < end; ++number) {
        copy_async_wait<OTHER_STAGES - 2u>();
        // The tile has come for all; the one before it has been read by all, and may be overwritten.
        __syncthreads();
        copy_next();
        Tile tile;
        make_scores(tile, base, ring + stage * OTHER_STAGE_BYTES);
        epilogue.eat(tile, number);
        add_products(products, tile, ring + stage * OTHER_STAGE_BYTES);
        stage = stage + 1u == OTHER_STAGES ? 0u : stage + 1u;
        unsigned walked = number + 1u - first;
        if (walked % CHAIN == 0u || number + 1u == end) {
            epilogue.put(products, walked <= CHAIN);
            products.clear();
        }
    }
}
