// Makes rows ready: scales them as score.cuh says and takes their norms. The twin of rows.wgsl.
//
// Maths: e is the exponent of the largest magnitude; the scaled row x; its canonical square, sixteen partial sums of
// exact products added pairwise at distance 8, 4, 2, 1; and its square to twice f32's precision by sums without error.
// Memory: `source` holds words of the dtype, two 16-bit elements to a word; row r starts at element `first` + r ·
// `stride`. `scaled` gets rows of `padded` elements, a multiple of 16, from row `to` on; a row that is not finite gets
// zeros.
// Constants: DTYPE, 0 f32, 1 f16, 2 bf16.
// Threads: sixteen a row (lane l takes elements l, l + 16, …), THREADS_Y rows a workgroup.
#include "score.cuh"

struct Parameters {
    unsigned first_group;
    unsigned rows;
    unsigned dim;
    unsigned padded;
    unsigned first;
    unsigned stride;
    unsigned to;
};

/// The bits of an element as f32.
__device__ __forceinline__ unsigned element(const unsigned *source, unsigned index) {
    if (DTYPE == 0u) {
        return source[index];
    }
    unsigned half = (source[index >> 1] >> (16u * (index & 1u))) & 0xFFFFu;
    return DTYPE == 1u ? widen_f16(half) : half << 16;
}

/// Adds a product to a sum of twice f32's precision.
__device__ __forceinline__ Two add_square(Two square, float product) {
    Two two = two_sum(square.sum, product);
    two.rest += square.rest;
    return two;
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y)
prepare(Parameters parameters, const unsigned *source, float *scaled, Scale *scales) {
    __shared__ unsigned largest[THREADS_X * THREADS_Y];
    __shared__ float sums[THREADS_X * THREADS_Y];
    __shared__ Two squares[THREADS_X * THREADS_Y];

    unsigned row = (blockIdx.x + parameters.first_group) * THREADS_Y + threadIdx.y;
    bool is_row = row < parameters.rows;
    unsigned lane = threadIdx.x;
    unsigned slots = threadIdx.y * THREADS_X;
    unsigned start = parameters.first + row * parameters.stride;

    unsigned most = 0u;
    if (is_row) {
        for (unsigned i = lane; i < parameters.dim; i += THREADS_X) {
            unsigned magnitude = element(source, start + i) & 0x7FFFFFFFu;
            most = magnitude > most ? magnitude : most;
        }
    }
    largest[slots + lane] = most;
    __syncthreads();
    for (unsigned i = 0u; i < THREADS_X; i++) {
        most = largest[slots + i] > most ? largest[slots + i] : most;
    }
    bool finite = most < INFINITY_BITS;
    int exponent = finite && most > 0u ? exponent_of(most) : 0;

    float sum = 0.0f;
    Two square = {0.0f, 0.0f};
    if (is_row) {
        for (unsigned i = lane; i < parameters.padded; i += THREADS_X) {
            float value = finite && i < parameters.dim ? scale_bits(element(source, start + i), exponent) : 0.0f;
            scaled[(parameters.to + row) * parameters.padded + i] = value;
            if (DTYPE == 0u) {
                float high = high_part(value);
                float low = low_part(value, high);
                sum += high * high;
                sum += high * low;
                sum += low * high;
                sum += low * low;
                square = add_square(square, high * high);
                square = add_square(square, 2.0f * (high * low));
                square = add_square(square, low * low);
            } else {
                sum += value * value;
                square = add_square(square, value * value);
            }
        }
    }
    sums[slots + lane] = sum;
    squares[slots + lane] = square;
    __syncthreads();
    if (lane == 0u && is_row) {
        for (unsigned distance = 8u; distance > 0u; distance /= 2u) {
            for (unsigned i = 0u; i < distance; i++) {
                sums[slots + i] += sums[slots + i + distance];
            }
        }
        Two total = squares[slots];
        for (unsigned i = 1u; i < THREADS_X; i++) {
            total = add_square(total, squares[slots + i].sum);
            total.rest += squares[slots + i].rest;
        }
        Scale scale;
        scale.exponent = finite ? (unsigned)exponent : NOT_FINITE;
        scale.inverse = inverse_root(sums[slots]);
        scale.accurate = inverse_root(total.sum + total.rest);
        scale.zero = 0u;
        scales[parameters.to + row] = scale;
    }
}
