// The mainloop of sm_90a: tiles of scores by `wgmma`, fed by bulk copies. A twin of mma.cuh and of the portable
// mainloop: the same `Tile`, the same `walk_tiles`.
//
// Work: a group of 384 threads takes one tile of 128 queries through a range of tiles of 256 keys. Warpgroups 0 and 1
// multiply, 64 rows × 256 columns each; one thread of warpgroup 2 starts all copies. Two groups that follow each
// other in x are a cluster: they walk the same keys for two tiles of queries, and each fetches half of every tile of
// keys for both. Both must walk the same tiles, whether their queries exist or not.
// Shared memory: a ring of STAGES stages; a stage holds 128 bytes of the tile's queries, then of its keys, as they
// stand in global memory (blocks.cuh); behind it two barriers a stage: `full` counts the bytes that came, `empty` the
// sixteen warps of the cluster that have read them. A stage is filled anew only after all of them, since either group's
// copies write to both.
//
// Constants: TILE_COLUMNS = 256, STAGES, SHARED_BYTES = STAGES · 49,152 + 2,048, CLUSTER = 2, those of walk.cuh.

#include "ptx.cuh"
#include "walk.cuh"

/// Threads that hold scores.
#define SCORING_THREADS 256u

/// The scores of a tile that one thread of warpgroups 0 and 1 holds: `HELD_ROWS × HELD_COLUMNS` of them, of rows
/// `row_of(i)` and columns `column_of(j)` of the tile. Indices are compile-time constants after unrolling.
struct Tile {
    static constexpr unsigned HELD_ROWS = 2u;
    static constexpr unsigned HELD_COLUMNS = TILE_COLUMNS / 4u;
    /// Warps over a tile's rows, and over its columns.
    static constexpr unsigned ROW_PARTS = 8u;
    static constexpr unsigned COLUMN_PARTS = 1u;

    Sum c[TILE_COLUMNS / 2u];

    __device__ __forceinline__ Sum& at(unsigned i, unsigned j) {
        return c[(j / 2u) * 4u + i * 2u + (j & 1u)];
    }

    static __device__ __forceinline__ unsigned row_of(unsigned i) {
        return (threadIdx.x / 32u) * 16u + i * 8u + (threadIdx.x & 31u) / 4u;
    }

    static __device__ __forceinline__ unsigned column_of(unsigned j) {
        return (j / 2u) * 8u + (threadIdx.x & 3u) * 2u + (j & 1u);
    }

    /// Which of the parts of rows and of columns this warp holds.
    static __device__ __forceinline__ unsigned row_part() {
        return threadIdx.x / 32u;
    }

    static __device__ __forceinline__ unsigned column_part() {
        return 0u;
    }
};

/// The descriptor of rows in the layout of blocks.cuh: 128-byte swizzle, 1,024 bytes from eight rows to the next.
__device__ __forceinline__ unsigned long long describe(unsigned address) {
    return (1ull << 62) | (64ull << 32) | (1ull << 16) | (address >> 4);
}

/// The thread that copies: fills the ring for the whole walk.
__device__ __forceinline__ void copy_walk(const Walk& walk, unsigned ring, unsigned barriers) {
    unsigned stage = 0u, parity = 1u;
    for (unsigned number = walk.first; number < walk.first + walk.tiles; ++number) {
        for (unsigned product = 0u; product < PRODUCTS; ++product) {
#pragma unroll 1
            for (unsigned block = 0u; block < walk.blocks; ++block) {
                unsigned full = barriers + stage * 16u;
                unsigned to = ring + stage * STAGE_BYTES;
                mbarrier_wait(full + 8u, parity);
                mbarrier_expect(full, STAGE_BYTES);
                // Addresses are made anew for each copy: this thread has few registers.
                bulk_copy(to, walk.queries + (query_block(walk, product) + block) * BLOCK_BYTES, BLOCK_BYTES, full);
                // This group's half of the keys, which it copies to both groups.
                unsigned rank = cluster_rank();
                size_t keys = key_block(walk, (size_t)number * 2u + rank, product) + block;
                bulk_copy_to(to + (rank + 1u) * BLOCK_BYTES, walk.keys + keys * BLOCK_BYTES, BLOCK_BYTES, full, 3);
                stage += 1u;
                if (stage == STAGES) {
                    stage = 0u;
                    parity ^= 1u;
                }
            }
        }
    }
}

/// Tells both groups that this warp has read a stage.
__device__ __forceinline__ void release_stage(unsigned barriers, unsigned stage) {
    __syncwarp();
    if ((threadIdx.x & 31u) < 2u) {
        mbarrier_arrive_at(barriers + stage * 16u + 8u, threadIdx.x & 31u);
    }
}

/// Adds the products of 32 bytes of each row.
__device__ __forceinline__ void
multiply(float (&d)[128], unsigned long long a, unsigned long long b, unsigned accumulate) {
    multiply_f16_64x256(d, a, b, accumulate);
}

__device__ __forceinline__ void
multiply(int (&d)[128], unsigned long long a, unsigned long long b, unsigned accumulate) {
    multiply_i8_64x256(d, a, b, accumulate);
}

/// Adds the products of one stage, asynchronously.
__device__ __forceinline__ void multiply_stage(Tile& tile, unsigned stage, bool more) {
    unsigned long long a = describe(stage + (threadIdx.x / 128u) * (64u * 128u));
    unsigned long long b = describe(stage + TILE_ROWS * 128u);
    warpgroup_begin();
#pragma unroll
    for (unsigned step = 0u; step < 4u; ++step) {
        // The next 32 bytes of each row: two units of a descriptor.
        multiply(tile.c, a + 2u * step, b + 2u * step, more || step > 0u);
    }
    warpgroup_commit();
}

/// A warpgroup that multiplies.
template <class Epilogue>
__device__ __forceinline__ void multiply_walk(const Walk& walk, Epilogue& epilogue, unsigned ring, unsigned barriers) {
    unsigned stage = 0u, parity = 0u;
    Tile tile;
    for (unsigned number = walk.first; number < walk.first + walk.tiles; ++number) {
        unsigned last = 0u;
        for (unsigned step = 0u; step < PRODUCTS * walk.blocks; ++step) {
            mbarrier_wait(barriers + stage * 16u, parity);
            multiply_stage(tile, ring + stage * STAGE_BYTES, step > 0u);
            if (step > 0u) {
                // All but this batch are done, so the stage before has been read.
                warpgroup_wait<1>();
                release_stage(barriers, last);
            }
            last = stage;
            stage += 1u;
            if (stage == STAGES) {
                stage = 0u;
                parity ^= 1u;
            }
        }
        warpgroup_wait<0>();
        warpgroup_pin(tile.c);
        release_stage(barriers, last);
        epilogue.eat(tile, number);
    }
}

/// Hands each tile of the walk to `epilogue.eat(tile, number)`, in order. Every thread of the group calls it; those of
/// warpgroups 0 and 1 are in `eat`, each warpgroup at its own time.
template <class Epilogue> __device__ __forceinline__ void walk_tiles(const Walk& walk, Epilogue& epilogue) {
    extern __shared__ __align__(1024) unsigned char shared[];
    unsigned ring = (shared_address(shared) + 1023u) & ~1023u;
    unsigned barriers = ring + STAGES * STAGE_BYTES;
    if (threadIdx.x == 0u) {
        for (unsigned stage = 0u; stage < STAGES; ++stage) {
            mbarrier_make(barriers + stage * 16u, 1u);
            mbarrier_make(barriers + stage * 16u + 8u, 16u);
        }
        mbarrier_publish();
    }
    // The other group's barriers stand, too, before anything is copied there.
    cluster_wait();
    if (threadIdx.x >= 256u) {
        registers_give<24>();
        if (threadIdx.x == 256u) {
            copy_walk(walk, ring, barriers);
        }
        __syncwarp();
    } else {
        registers_take<240>();
        multiply_walk(walk, epilogue, ring, barriers);
    }
    // No group leaves while the other still copies or signals to it.
    cluster_wait();
}
