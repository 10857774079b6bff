#include "info_nce_common.cuh"

// From dS to gradients of rows.
//
// `multiply`: target[row][i] (+)= Σ_j dS(row, j) · factor_j · other[j][i], where `factor_j · other[j]` is row j as
// gradients see it. dS is `stride` words from line to line; with TURNED its columns are the rows of the target. One
// workgroup of 16 × 16 threads makes 64 rows × 64 elements, 4 × 4 a thread. `target` has `dim` elements a row.
//
// `add_lines`: adds the gradients of lines to the rows they stand for. Lines of one row lie behind each other; the first
// of them adds all. One workgroup per line.
//
// `finish_rows`: from gradients with respect to the rows as they were multiplied to gradients with respect to the rows
// as given: by cosine (g − (g·x̂)·x̂)/|x|, zero for a zero row; all times `factor`. One workgroup per row.
//
// Constants: TURNED.

struct ProductParameters {
    unsigned first_group; unsigned groups_x;
    unsigned rows; unsigned inner; unsigned stride; unsigned width; unsigned dim; unsigned metric;
    // Whether `multiply` adds to what is there.
    unsigned accumulate;
    // `add_lines`: where in `index` the lines' rows are, and which rows the target holds.
    unsigned list; unsigned window_first; unsigned window_rows;
    float factor;
};

#define TILE 64u
#define DEPTH 16u

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) multiply(
    ProductParameters parameters, const float *slopes, const float *other, const Scale *other_rows,
    const unsigned *index, float *target_rows) {
    __shared__ float slope_tile[TILE * DEPTH];
    __shared__ float row_tile[TILE * DEPTH];
    float total[16];
    float chain[16];
#pragma unroll
    for (unsigned n = 0u; n < 16u; n++) {
        total[n] = 0.0f;
        chain[n] = 0.0f;
    }
    unsigned id = threadIdx.y * 16u + threadIdx.x;
    unsigned across_rows = (parameters.dim + TILE - 1u) / TILE;
    unsigned group = blockIdx.x + parameters.first_group;
    unsigned row_first = group / across_rows * TILE;
    unsigned element_first = group % across_rows * TILE;
    for (unsigned first = 0u; first < parameters.inner; first += DEPTH) {
        __syncthreads();
#pragma unroll
        for (unsigned i = 0u; i < 4u; i++) {
            if (TURNED == 1u) {
                // Neighbours read neighbouring columns of dS.
                unsigned k = id / 64u + 4u * i;
                unsigned row = id % 64u;
                slope_tile[k * TILE + row] = slopes[(size_t)(first + k) * parameters.stride + row_first + row];
            } else {
                unsigned k = id % 16u;
                unsigned row = id / 16u + 16u * i;
                slope_tile[k * TILE + row] = slopes[(size_t)(row_first + row) * parameters.stride + first + k];
            }
            unsigned k = id / 64u + 4u * i;
            unsigned element = element_first + id % 64u;
            float value = 0.0f;
            if (element < parameters.width && first + k < parameters.inner) {
                float factor = row_factor(parameters.metric, other_rows[first + k]);
                value = factor * other[(size_t)(first + k) * parameters.width + element];
            }
            row_tile[k * TILE + id % 64u] = value;
        }
        __syncthreads();
        for (unsigned k = 0u; k < DEPTH; k++) {
            const float *a = slope_tile + k * TILE + threadIdx.y * 4u;
            const float *b = row_tile + k * TILE + threadIdx.x * 4u;
#pragma unroll
            for (unsigned n = 0u; n < 16u; n++) {
                chain[n] += a[n / 4u] * b[n % 4u];
            }
        }
        if (first % 64u == 48u || first + DEPTH >= parameters.inner) {
#pragma unroll
            for (unsigned n = 0u; n < 16u; n++) {
                total[n] += chain[n];
                chain[n] = 0.0f;
            }
        }
    }
#pragma unroll
    for (unsigned n = 0u; n < 16u; n++) {
        unsigned row = row_first + threadIdx.y * 4u + n / 4u;
        unsigned element = element_first + threadIdx.x * 4u + n % 4u;
        if (row < parameters.rows && element < parameters.dim) {
            size_t at = (size_t)row * parameters.dim + element;
            target_rows[at] = parameters.accumulate == 1u ? target_rows[at] + total[n] : total[n];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) add_lines(
    ProductParameters parameters, const float *slopes, const float *other, const Scale *other_rows,
    const unsigned *index, float *target_rows) {
    unsigned line = blockIdx.y * parameters.groups_x + blockIdx.x + parameters.first_group;
    if (line >= parameters.rows) {
        return;
    }
    unsigned row = index[parameters.list + line];
    if (row < parameters.window_first || row >= parameters.window_first + parameters.window_rows) {
        return;
    }
    if (line > 0u && index[parameters.list + line - 1u] == row) {
        return;
    }
    unsigned end = line + 1u;
    while (end < parameters.rows && index[parameters.list + end] == row) {
        end++;
    }
    for (unsigned i = threadIdx.x; i < parameters.dim; i += THREADS_X) {
        float sum = 0.0f;
        for (unsigned at = line; at < end; at++) {
            sum += slopes[(size_t)at * parameters.dim + i];
        }
        target_rows[(size_t)(row - parameters.window_first) * parameters.dim + i] += sum;
    }
}

// value · 2^exponent, saturated, with subnormal results, as bits.
__device__ __forceinline__ unsigned scaled_bits(float value, int exponent) {
    unsigned bits = __float_as_uint(value);
    unsigned sign = bits & 0x80000000u;
    unsigned magnitude = bits & 0x7fffffffu;
    if (magnitude < 0x00800000u) {
        return sign;
    }
    if (magnitude >= 0x7f800000u) {
        return sign | 0x7f7fffffu;
    }
    int biased = (int)(magnitude >> 23u) + exponent;
    if (biased > 254) {
        return sign | 0x7f7fffffu;
    }
    if (biased >= 1) {
        return sign | ((unsigned)(biased) << 23u) | (magnitude & 0x7fffffu);
    }
    unsigned shift = (unsigned)(1 - biased);
    if (shift > 24u) {
        return sign;
    }
    // Rounded to nearest, ties up.
    unsigned mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    return sign | ((mantissa + (1u << (shift - 1u))) >> shift);
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) finish_rows(
    ProductParameters parameters, const float *slopes, const float *other, const Scale *other_rows,
    const unsigned *index, float *target_rows) {
    __shared__ float sums[64];
    unsigned row = blockIdx.y * parameters.groups_x + blockIdx.x + parameters.first_group;
    bool inside = row < parameters.rows;
    size_t number = smaller(row, parameters.rows - 1u);
    Scale scale = other_rows[number];
    float inverse = scale.inverse;
    bool cosine = parameters.metric == 0u;
    float sum = 0.0f;
    if (cosine) {
        for (unsigned i = threadIdx.x; i < parameters.dim; i += THREADS_X) {
            sum += target_rows[number * parameters.dim + i] * (other[number * parameters.width + i] * inverse);
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned distance = 32u; distance > 0u; distance /= 2u) {
        if (threadIdx.x < distance) {
            sums[threadIdx.x] += sums[threadIdx.x + distance];
        }
        __syncthreads();
    }
    if (!inside) {
        return;
    }
    float along = sums[0];
    bool counts = is_finite_row(scale) && (!cosine || inverse != 0.0f);
    for (unsigned i = threadIdx.x; i < parameters.dim; i += THREADS_X) {
        size_t at = number * parameters.dim + i;
        float value = target_rows[at];
        int exponent = 0;
        if (cosine) {
            value = (value - along * (other[number * parameters.width + i] * inverse)) * inverse;
            exponent = -(int)scale.exponent;
        }
        // The factor first where it keeps the value a normal number.
        unsigned bits = scaled_bits(saturated(value * parameters.factor), exponent);
        target_rows[at] = counts ? __uint_as_float(bits) : 0.0f;
    }
}
