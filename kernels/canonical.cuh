// The canonical dot product of two scaled rows, by one thread. The twin of canonical.wgsl.
//
// Maths: lane l of sixteen sums the products of elements l, l + 16, … in order; where a row is f32, each element counts
// as two parts of 12 bits, their products in the order high·high, high·low, low·high, low·low; then lanes are added
// pairwise at distance 8, 4, 2, 1. All products are exact, so it does not matter whether they are fused with the sums.
// Memory: rows of `vectors` vectors of four elements each. `split`: whether a row of either side is f32.

__device__ __forceinline__ float add_product(unsigned split, float sum, float x, float y) {
    if (split == 0u) {
        return sum + x * y;
    }
    float x_high = high_part(x);
    float y_high = high_part(y);
    float x_low = low_part(x, x_high);
    float y_low = low_part(y, y_high);
    sum += x_high * y_high;
    sum += x_high * y_low;
    sum += x_low * y_high;
    sum += x_low * y_low;
    return sum;
}

/// Lanes added pairwise.
__device__ __forceinline__ float joined_lanes(float (&sums)[16]) {
#pragma unroll
    for (unsigned distance = 8u; distance > 0u; distance /= 2u) {
#pragma unroll
        for (unsigned lane = 0u; lane < distance; lane++) {
            sums[lane] += sums[lane + distance];
        }
    }
    return sums[0];
}

__device__ __forceinline__ float canonical_dot(unsigned split, const Four *x, const Four *y, unsigned vectors) {
    float sums[16];
#pragma unroll
    for (unsigned lane = 0u; lane < 16u; lane++) {
        sums[lane] = 0.0f;
    }
    for (unsigned i = 0u; i < vectors; i += 4u) {
#pragma unroll
        for (unsigned j = 0u; j < 4u; j++) {
            Four a = x[i + j];
            Four b = y[i + j];
            sums[4u * j] = add_product(split, sums[4u * j], a.x, b.x);
            sums[4u * j + 1u] = add_product(split, sums[4u * j + 1u], a.y, b.y);
            sums[4u * j + 2u] = add_product(split, sums[4u * j + 2u], a.z, b.z);
            sums[4u * j + 3u] = add_product(split, sums[4u * j + 3u], a.w, b.w);
        }
    }
    return joined_lanes(sums);
}
