// The second pass of `info_nce` by the matrix unit where rows are short: scores turn into dS in registers, and are
// multiplied with rows there (owned.cuh). One launch gives the gradients of a block's lines, and one with OWNER = 1 those
// of its columns, and the columns' softmax masses. Nothing of size lines × columns is written.
//
// Maths: with x_k the scaled rows of the other side, target[row][i] (+)= Σ_k dS(row, k) · (inverse norm of k) · x_k[i]: as
// info_nce_backward.cu and info_nce_gradients.cu make it, from the same slopes in the same two parts of f16. Sums of a
// matrix unit run over at most CHAIN tiles of others; those are added in f32.
// Memory: `target` holds, for each slice of the others, the owned rows of `dim` f32. `masses`: `[slice][column]`, the
// columns padded to tiles.
// Constants: those of owned.cuh and info_nce_negatives.cuh.
// Groups: tiles of owned rows in x; slices of the others in y, each `tiles` tiles but the last.

// Tiles of others: 2048 rows.
#define CHAIN 32u

#include "owned.cuh"
#include "info_nce_negatives.cuh"

struct FusedParameters {
    Parameters loss;
    // Tiles of a slice; elements of a row; whether gradients are added to what is there.
    unsigned tiles; unsigned dim; unsigned adds;
};

// The gradients of the owned rows.
struct AddGradients : SlopeTile {
    const FusedParameters &fused;
    // Of this slice.
    float *target;
    float *masses;
    // Of the thread's columns, since they were put the last time.
    float mass[Tile::HELD_OWNED];

    __device__ __forceinline__ AddGradients(const FusedParameters &fused) : fused(fused) {}

    static __device__ __forceinline__ float inverse_of(const Anchor &anchor) {
        // A row that is not finite is all zeros.
        return anchor.inverse == anchor.inverse ? anchor.inverse : 0.0f;
    }

    __device__ __forceinline__ void eat(Tile &tile, unsigned number) {
        // Nothing that only this needs takes registers while products are made.
        unsigned owned = anew(blockIdx.x) * OWNED, other = anew(number) * OTHERS;
        mark(tile, OWNER == 0u ? owned : other, OWNER == 0u ? other : owned);
        const Anchor *owners = OWNER == 0u ? lines : columns;
        const Anchor *anchors = OWNER == 0u ? columns : lines;
        unsigned last_owned = (OWNER == 0u ? parameters.lines : parameters.block_columns) - 1u;
        unsigned last = (OWNER == 0u ? parameters.block_columns : parameters.lines) - 1u;
        // Rows beyond the last have no negatives.
        Taken own[Tile::HELD_OWNED];
        float sums[Tile::HELD_OWNED];
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_OWNED; ++i) {
            own[i] = taken_of(owners[smaller(anew(owned) + Tile::owned_of(i), last_owned)]);
            sums[i] = 0.0f;
        }
        other = anew(other);
#pragma unroll
        for (unsigned j = 0u; j < Tile::HELD_OTHERS; ++j) {
            if (j % 4u == 0u) {
                // Else loads for others far ahead take registers.
                __syncwarp();
            }
            Anchor anchor = anchors[smaller(other + Tile::other_of(j), last)];
            float inverse = inverse_of(anchor);
#pragma unroll
            for (unsigned i = 0u; i < Tile::HELD_OWNED; ++i) {
                if (OWNER == 0u) {
                    turn(tile, i, j, own[i], taken_of(anchor), sums[i]);
                } else {
                    turn(tile, j, i, taken_of(anchor), own[i], sums[i]);
                }
                tile.score(i, j) *= inverse;
            }
        }
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_OWNED; ++i) {
            mass[i] += sums[i];
        }
    }

    __device__ __forceinline__ void put(const Products &products, bool first) {
        unsigned owned = anew(blockIdx.x) * OWNED;
        unsigned count = OWNER == 0u ? parameters.lines : parameters.block_columns;
        int exponent = -14 - shift_of(state[parameters.totals + 3u]);
        bool adds = !first || fused.adds == 1u;
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_OWNED; ++i) {
            unsigned row = owned + Tile::owned_of(i);
            float *to = target + (size_t)row * fused.dim;
#pragma unroll
            for (unsigned n = 0u; n < DIM_BLOCKS * 16u; ++n) {
                unsigned element = n / 2u * 8u + (threadIdx.x & 3u) * 2u + (n & 1u);
                if (row < count && element < fused.dim) {
                    float sum = unscale(products.sums[n / 2u][i * 2u + (n & 1u)], exponent);
                    to[element] = adds ? to[element] + sum : sum;
                }
            }
            if (OWNER == 1u && scores_keys()) {
                float sum = mass[i] + __shfl_xor_sync(ALL_LANES, mass[i], 1);
                sum += __shfl_xor_sync(ALL_LANES, sum, 2);
                if ((threadIdx.x & 3u) == 0u) {
                    masses[row] = first ? sum : masses[row] + sum;
                }
            }
            mass[i] = 0.0f;
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1) add_gradients(
    FusedParameters parameters, const unsigned char *owned, const unsigned char *others, const Four *left,
    const Four *right, const Scale *left_rows, const Scale *right_rows, const Anchor *lines, const Anchor *columns,
    const unsigned *index, const unsigned *state, float *target, float *masses) {
    AddGradients epilogue(parameters);
    SET_BLOCK(epilogue)
    unsigned rows = OWNER == 0u ? parameters.loss.lines : parameters.loss.block_columns;
    unsigned count = OWNER == 0u ? parameters.loss.block_columns : parameters.loss.lines;
    unsigned end = (count + OTHERS - 1u) / OTHERS;
    unsigned first = smaller(blockIdx.y * parameters.tiles, end);
    epilogue.target = target + (size_t)blockIdx.y * rows * parameters.dim;
    epilogue.masses = masses + (size_t)blockIdx.y * gridDim.x * OWNED;
#pragma unroll
    for (unsigned i = 0u; i < Tile::HELD_OWNED; ++i) {
        epilogue.mass[i] = 0.0f;
    }
    walk_others(owned, others, first, end - first < parameters.tiles ? end : first + parameters.tiles, epilogue);
}
