// Both operands with k across: patterns of 64 elements of the outer side by 8 of k, 128-byte swizzle.
// capability: 90
// launch: 1 128 8192
// expect: ok
__device__ float a_at(unsigned row, unsigned k) { return (float)((row * 7 + k * 3) % 11) - 5.0f; }
__device__ float b_at(unsigned k, unsigned column) { return (float)((k * 5 + column * 2) % 13) - 6.0f; }
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    extern __shared__ __align__(1024) unsigned char shared[];
    unsigned t = threadIdx.x;
    unsigned char* a = shared;         // 64 rows: one pattern by two of k
    unsigned char* b = shared + 2048;  // 128 columns: two patterns by two of k
    auto place = [](unsigned outer, unsigned k, unsigned from_outer, unsigned from_k) {
        unsigned plain = k % 8 * 128 + outer % 64 * 2;
        return outer / 64 * from_outer + k / 8 * from_k + (plain ^ (plain >> 7 & 7) << 4);
    };
    for (unsigned i = t; i < 128 * 16; i += 128) {
        unsigned outer = i / 16, k = i % 16;
        if (outer < 64) *(unsigned short*)(a + place(outer, k, 0, 1024)) = f32_to_f16(a_at(outer, k));
        *(unsigned short*)(b + place(outer, k, 2048, 1024)) = f32_to_f16(b_at(k, outer));
    }
    publish_shared();
    __syncthreads();
    float d[64];
    unsigned long long form = 1ull << 62;
    warpgroup_begin();
    multiply_f16_64x128_atbt(d, form | 64ull << 32 | 1ull << 16 | shared_address(a) >> 4,
                             form | 64ull << 32 | 128ull << 16 | shared_address(b) >> 4, 0);
    warpgroup_commit();
    warpgroup_wait<0>();
    bool good = true;
    for (unsigned i = 0; i < 64; i++) {
        unsigned row = t / 32 * 16 + t % 32 / 4 + (i / 2 & 1) * 8, column = i / 4 * 8 + t % 4 * 2 + (i & 1);
        float sum = 0.0f;
        for (unsigned k = 0; k < 16; k++) sum += a_at(row, k) * b_at(k, column);
        good &= d[i] == sum;
    }
    out[t] = good;
}
