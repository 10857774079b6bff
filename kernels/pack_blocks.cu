// Packs prepared rows into the blocks that the matrix unit reads (blocks.cuh).
//
// Maths: with x an element of the scaled row (rows.cu; magnitudes below 2) and v the row's inverse norm,
//   UNIT = 1: the f16 nearest to fl(x · v), an element of the unit row;
//   UNIT = 0: the f16 nearest to 2¹⁴ x, which is exact for rows that were f16 (but for what lies below 2⁻³⁹ of the
//     row's largest element), and with PARTS = 2 in a second part the f16 nearest to the remainder, so that both
//     together miss x by at most 2⁻²² of it or 2⁻³⁹. With ELEMENT = 1 the bf16 nearest to x, exact for bf16 rows.
// Memory: `scaled` holds `rows` rows of `padded` elements, a multiple of 16. `packed` gets `row_blocks · PARTS · blocks`
// blocks: of each 128 rows the blocks of the first part, then those of the second. What lies behind the rows, and
// behind their elements, becomes zero.
// Constants: UNIT, PARTS, ELEMENT: 0 f16, 1 bf16.
// Threads: 256, one for each chunk of eight elements of 32 rows; workgroups: four for each 128 rows, by blocks.

#include "score.cuh"
#include "ptx.cuh"
#include "blocks.cuh"

struct PackParameters {
    unsigned first_group;
    unsigned rows;
    unsigned padded;
    unsigned blocks;
};

/// Two elements as they are packed.
__device__ __forceinline__ unsigned narrow_pair(float low, float high) {
    return ELEMENT == 1u ? f32_to_bf16_pair(low, high) : f32_to_f16_pair(low, high);
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
pack_blocks(PackParameters parameters, const float* scaled, const Scale* scales, unsigned char* packed) {
    unsigned row = (blockIdx.x + parameters.first_group) * 32u + threadIdx.x / 8u;
    unsigned chunk = threadIdx.x & 7u;
    unsigned first = blockIdx.y * BLOCK_ELEMENTS + chunk * 8u;
    float x[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (row < parameters.rows && first < parameters.padded) {
        const Four* from = reinterpret_cast<const Four*>(scaled + (size_t)row * parameters.padded + first);
        float factor = UNIT == 1u ? scales[row].inverse : ELEMENT == 1u ? 1.0f : 16384.0f;
        Four low = from[0], high = from[1];
        x[0] = low.x * factor;
        x[1] = low.y * factor;
        x[2] = low.z * factor;
        x[3] = low.w * factor;
        x[4] = high.x * factor;
        x[5] = high.y * factor;
        x[6] = high.z * factor;
        x[7] = high.w * factor;
    }
    size_t row_block = row / BLOCK_ROWS;
#pragma unroll
    for (unsigned part = 0u; part < PARTS; ++part) {
        unsigned words[4];
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            words[i] = narrow_pair(x[2u * i], x[2u * i + 1u]);
            // What this part leaves to the next.
            x[2u * i] -= f16_to_f32((unsigned short)words[i]);
            x[2u * i + 1u] -= f16_to_f32((unsigned short)(words[i] >> 16));
        }
        size_t block = (row_block * PARTS + part) * parameters.blocks + blockIdx.y;
        unsigned* to = reinterpret_cast<unsigned*>(packed + block * BLOCK_BYTES
            + block_offset(row & (BLOCK_ROWS - 1u), chunk));
        Four four = {__uint_as_float(words[0]), __uint_as_float(words[1]), __uint_as_float(words[2]),
            __uint_as_float(words[3])};
        *reinterpret_cast<Four*>(to) = four;
    }
}
