// The mainloop: a tile of dot products of scaled rows, 64 queries × 64 keys, held in registers. The twin of
// mainloop.wgsl; the mainloops of the matrix unit hold the same `Tile`.
//
// Maths: each dot product is summed in chains of CHAIN multiply-adds, in the order of the elements; the chains are
// added in f32, or where COMPENSATED is 1 with what each addition loses.
// Memory: `queries` and `keys`, row after row of `vectors` vectors of four elements. Stages of 16 elements of each side
// go through shared memory, rows five vectors apart, so that rows which are read together lie in different banks.
// Constants: COMPENSATED, 0 (chains of 64) or 1 (chains of 8).
// Threads: 16 × 16. Thread (x, y) holds rows y, y + 16, … and columns x, x + 16, … of the tile: four of each.

#define TILE 64u
#define STAGE 4u
#define PITCH 5u

/// The thread's dot products: row i, column j.
struct Tile {
    static constexpr unsigned HELD_ROWS = 4u;
    static constexpr unsigned HELD_COLUMNS = 4u;

    float sums[4][4];

    __device__ __forceinline__ float &at(unsigned i, unsigned j) {
        return sums[i][j];
    }

    /// The row of the tile that the thread's row i is.
    static __device__ __forceinline__ unsigned row_of(unsigned i) {
        return threadIdx.y + 16u * i;
    }

    /// The column of the tile that the thread's column j is.
    static __device__ __forceinline__ unsigned column_of(unsigned j) {
        return threadIdx.x + 16u * j;
    }
};

/// The tile whose first row and column are these. Rows behind the last repeat it. All threads of the group call it.
__device__ __forceinline__ void mainloop(
    Tile &tile,
    const Four *queries,
    const Four *keys,
    unsigned first_row,
    unsigned first_column,
    unsigned rows,
    unsigned columns,
    unsigned vectors
) {
    __shared__ Four query_stage[TILE * PITCH];
    __shared__ Four key_stage[TILE * PITCH];

    float part[4][4], rest[4][4];
#pragma unroll
    for (unsigned i = 0u; i < 4u; i++) {
#pragma unroll
        for (unsigned j = 0u; j < 4u; j++) {
            tile.sums[i][j] = part[i][j] = rest[i][j] = 0.0f;
        }
    }

    unsigned index = threadIdx.y * 16u + threadIdx.x;
    unsigned row = index / STAGE;
    unsigned vector = index % STAGE;
    const Four *from_query = queries + smaller(first_row + row, rows - 1u) * vectors + vector;
    const Four *from_key = keys + smaller(first_column + row, columns - 1u) * vectors + vector;
    unsigned to = row * PITCH + vector;

    for (unsigned first = 0u; first < vectors; first += STAGE) {
        __syncthreads();
        query_stage[to] = from_query[first];
        key_stage[to] = from_key[first];
        __syncthreads();
#pragma unroll
        for (unsigned v = 0u; v < STAGE; v++) {
            Four a[4], b[4];
#pragma unroll
            for (unsigned i = 0u; i < 4u; i++) {
                a[i] = query_stage[Tile::row_of(i) * PITCH + v];
                b[i] = key_stage[Tile::column_of(i) * PITCH + v];
            }
#pragma unroll
            for (unsigned i = 0u; i < 4u; i++) {
#pragma unroll
                for (unsigned j = 0u; j < 4u; j++) {
                    float sum = part[i][j];
                    sum = fmaf(a[i].x, b[j].x, sum);
                    sum = fmaf(a[i].y, b[j].y, sum);
                    sum = fmaf(a[i].z, b[j].z, sum);
                    part[i][j] = fmaf(a[i].w, b[j].w, sum);
                    if (COMPENSATED == 1u && (v & 1u) == 1u) {
                        Two two = two_sum(tile.sums[i][j], part[i][j]);
                        tile.sums[i][j] = two.sum;
                        rest[i][j] += two.rest;
                        part[i][j] = 0.0f;
                    }
                }
            }
        }
        if (COMPENSATED == 0u && (first & 15u) == 12u) {
#pragma unroll
            for (unsigned i = 0u; i < 4u; i++) {
#pragma unroll
                for (unsigned j = 0u; j < 4u; j++) {
                    tile.sums[i][j] += part[i][j];
                    part[i][j] = 0.0f;
                }
            }
        }
    }
#pragma unroll
    for (unsigned i = 0u; i < 4u; i++) {
#pragma unroll
        for (unsigned j = 0u; j < 4u; j++) {
            // One of the two is zero.
            tile.sums[i][j] += rest[i][j] + part[i][j];
        }
    }
}
