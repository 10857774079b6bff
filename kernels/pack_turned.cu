// Packs numbers into blocks (blocks.cuh) for the products that make gradients: a block of dS as it stands or turned,
// and rows turned, so that both sides of a product run along the index that is summed over.
//
// `pack_slopes`, maths: element (r, k) of the packed matrix is dS(r, k) · factor(k) · 2^shift, or with TURNED
//   dS(k, r) · factor(k) · 2^shift, in PARTS parts of f16. factor(k) is what makes the scaled row k the row that gradients
//   see: its inverse norm, or with METRIC = 1 (dot product) two to its exponent less `exponent`, the largest of all.
//   The shift brings the largest |dS| into [2¹⁴, 2¹⁵), so two parts hold every product that is not below 2⁻³⁹ of
//   the largest with 22 bits. `largest` holds the bits of the largest |dS|.
// `pack_rows`, maths: element (r, k) is element r of scaled row k times 2¹⁴, in PARTS parts: rows turned.
// `find_largest`: the largest |dS| of the block, as bits, into `largest`, which was cleared.
// Memory: dS is `lines` lines of `columns` numbers, `stride` apart. Both are packed up to `packed_rows` rows and
// `blocks` blocks of a part; what lies behind becomes zero.
// Constants: PARTS, TURNED, METRIC.
// Threads: 256, one for each chunk of eight elements of 32 packed rows; groups: 32 rows each in x, blocks in y.

#include "score.cuh"
#include "pack.cuh"

struct SlopeParameters {
    unsigned lines;
    unsigned columns;
    unsigned stride;
    unsigned blocks;
    unsigned exponent;
};

struct RowParameters {
    unsigned rows;
    unsigned padded;
    unsigned blocks;
};

/// Two to the power `exponent`, within f32's normal range; 0 below it.
__device__ __forceinline__ float power_of_two(int exponent) {
    return exponent < -126 ? 0.0f : __uint_as_float((unsigned)(exponent > 127 ? 254 : exponent + 127) << 23);
}

/// The exponent of the shift: what `largest` is to be multiplied with.
__device__ __forceinline__ int shift_of(unsigned largest) {
    int exponent = largest < 0x800000u ? -126 : exponent_of(largest);
    return 14 - exponent;
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
find_largest(SlopeParameters parameters, const float* slopes, unsigned* largest) {
    unsigned most = 0u;
    for (unsigned line = blockIdx.x; line < parameters.lines; line += gridDim.x) {
        for (unsigned column = threadIdx.x; column < parameters.columns; column += THREADS_X) {
            unsigned magnitude = __float_as_uint(slopes[(size_t)line * parameters.stride + column]) & 0x7FFFFFFFu;
            most = magnitude > most ? magnitude : most;
        }
    }
    // The largest is the same in whatever order it is found.
    most = __reduce_max_sync(0xFFFFFFFFu, most);
    if ((threadIdx.x & 31u) == 0u) {
        atomicMax(largest, most);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
pack_slopes(SlopeParameters parameters, const float* slopes, const Scale* scales, const unsigned* largest,
            unsigned char* packed) {
    // Neighbours read along lines: chunks of one line, or with TURNED one chunk of neighbouring columns.
    unsigned within = TURNED == 1u ? threadIdx.x & 31u : threadIdx.x / 8u;
    unsigned chunk = TURNED == 1u ? threadIdx.x / 32u : threadIdx.x & 7u;
    unsigned row = blockIdx.x * 32u + within;
    unsigned first = blockIdx.y * BLOCK_ELEMENTS + chunk * 8u;
    unsigned rows = TURNED == 1u ? parameters.columns : parameters.lines;
    unsigned count = TURNED == 1u ? parameters.lines : parameters.columns;
    // In two steps, since neither the shift nor a factor need fit f32 by itself.
    int shift = shift_of(*largest);
    float x[8];
#pragma unroll
    for (unsigned i = 0u; i < 8u; ++i) {
        unsigned k = first + i;
        x[i] = 0.0f;
        if (row < rows && k < count) {
            size_t line = TURNED == 1u ? k : row;
            size_t column = TURNED == 1u ? row : k;
            float slope = slopes[line * parameters.stride + column];
            Scale scale = scales[k];
            float factor = METRIC == 0u ? scale.inverse : power_of_two((int)(scale.exponent - parameters.exponent));
            x[i] = slope * power_of_two(shift / 2) * power_of_two(shift - shift / 2) * factor;
        }
    }
    pack_chunk(packed, row, blockIdx.y, chunk, parameters.blocks, x);
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
pack_rows(RowParameters parameters, const float* scaled, unsigned char* packed) {
    unsigned row = blockIdx.x * 32u + (threadIdx.x & 31u);
    unsigned chunk = threadIdx.x / 32u;
    unsigned first = blockIdx.y * BLOCK_ELEMENTS + chunk * 8u;
    float x[8];
#pragma unroll
    for (unsigned i = 0u; i < 8u; ++i) {
        bool inside = row < parameters.padded && first + i < parameters.rows;
        x[i] = inside ? scaled[(size_t)(first + i) * parameters.padded + row] * 16384.0f : 0.0f;
    }
    pack_chunk(packed, row, blockIdx.y, chunk, parameters.blocks, x);
}
