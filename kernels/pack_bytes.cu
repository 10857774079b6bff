// Packs prepared rows as signed bytes into the blocks that the matrix unit reads (blocks.cuh), and weighs their codes.
//
// Maths: with m the largest magnitude of a scaled row x (rows.cu), `step` is m / 127 and an element's byte the whole number
// nearest to x · (127 / m). `lost` is the norm of what the row misses, x − step · bytes: each element of that is rounded
// once, the squares are summed in chains of dim / 32, and a thousandth more covers both (src/backend/gpu/matrix_unit.rs).
// Memory: `scaled` holds `rows` rows of `padded` elements, a multiple of 16. `packed` gets `blocks` blocks for each 128
// rows, `codes` a code for each of them; what lies behind the rows, and behind their elements, becomes zero.
// Threads: a warp a row.
// `weigh_codes`: the codes of keys times their factors (scan.cuh); NaN for a key that no query may have.
// Threads: one a key, a grid's width apart.
// Constants: LISTS = 0.

#include "score.cuh"
#include "blocks.cuh"
#include "scan.cuh"

#define LEVELS 127.0f

struct PackParameters {
    unsigned first_group;
    unsigned rows;
    unsigned padded;
    unsigned blocks;
};

struct alignas(16) Chunk {
    unsigned words[4];
};

__device__ __forceinline__ float larger_magnitude(float most, const Four &x) {
    return fmaxf(fmaxf(most, fmaxf(fabsf(x.x), fabsf(x.y))), fmaxf(fabsf(x.z), fabsf(x.w)));
}

/// The byte of an element; the square of what it misses joins `lost`.
__device__ __forceinline__ unsigned pack_byte(float x, float step, float inverse, float &lost) {
    float code = rintf(x * inverse);
    float rest = fmaf(-step, code, x);
    lost = fmaf(rest, rest, lost);
    return (unsigned)(int)code & 255u;
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
pack_bytes(PackParameters parameters, const float *scaled, unsigned char *packed, Code *codes) {
    unsigned row = (blockIdx.x + parameters.first_group) * (THREADS_X / 32u) + threadIdx.x / 32u;
    unsigned lane = threadIdx.x & 31u;
    unsigned vectors = row < parameters.rows ? parameters.padded / 4u : 0u;
    const Four *from = reinterpret_cast<const Four *>(scaled) + (size_t)row * (parameters.padded / 4u);
    float most = 0.0f;
    for (unsigned i = lane; i < vectors; i += 32u) {
        most = larger_magnitude(most, from[i]);
    }
    for (unsigned distance = 16u; distance > 0u; distance /= 2u) {
        most = fmaxf(most, __shfl_xor_sync(~0u, most, distance));
    }
    float step = __fdiv_rn(most, LEVELS);
    float inverse = most == 0.0f ? 0.0f : __fdiv_rn(LEVELS, most);
    float lost = 0.0f;
    unsigned char *block = packed + (size_t)(row / BLOCK_ROWS) * parameters.blocks * BLOCK_BYTES;
    for (unsigned chunk = lane; chunk < parameters.blocks * 8u; chunk += 32u) {
        Chunk bytes;
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            Four x = {0.0f, 0.0f, 0.0f, 0.0f};
            if (chunk * 4u + i < vectors) {
                x = from[chunk * 4u + i];
            }
            bytes.words[i] = pack_byte(x.x, step, inverse, lost) | pack_byte(x.y, step, inverse, lost) << 8 |
                             pack_byte(x.z, step, inverse, lost) << 16 | pack_byte(x.w, step, inverse, lost) << 24;
        }
        size_t to = (size_t)(chunk / 8u) * BLOCK_BYTES + block_offset(row & (BLOCK_ROWS - 1u), chunk & 7u);
        *reinterpret_cast<Chunk *>(block + to) = bytes;
    }
    for (unsigned distance = 16u; distance > 0u; distance /= 2u) {
        lost += __shfl_xor_sync(~0u, lost, distance);
    }
    if (lane == 0u) {
        codes[row] = {step, __fsqrt_rn(lost) * 1.001f};
    }
}

struct WeighParameters {
    unsigned keys;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
weigh_codes(WeighParameters parameters, const Code *codes, const Column *columns, Code *weighed) {
    unsigned step = gridDim.x * THREADS_X;
    for (unsigned key = blockIdx.x * THREADS_X + threadIdx.x; key < parameters.keys; key += step) {
        Code code = codes[key];
        float factor = __uint_as_float(columns[key].factor);
        weighed[key] = {code.step * factor, code.lost * factor};
    }
}
