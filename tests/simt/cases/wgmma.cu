// wgmma m64n64k16 on tiles in the 128-byte swizzle, against the plain product.
// capability: 90
// launch: 1 128 17408
// expect: ok
__device__ float a_at(unsigned row, unsigned k) { return (float)((row * 7 + k * 3) % 11) - 5.0f; }
__device__ float b_at(unsigned k, unsigned column) { return (float)((k * 5 + column * 2) % 13) - 6.0f; }
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    extern __shared__ __align__(1024) unsigned short shared[];
    unsigned t = threadIdx.x;
    unsigned short* a = shared;           // 64 rows of 64 elements, k along a row
    unsigned short* b = shared + 64 * 64;  // 64 columns likewise
    for (unsigned i = t; i < 64 * 64; i += 128) {
        unsigned row = i / 64, k = i % 64;
        unsigned place = row * 64 + (((k / 8) ^ (row & 7)) * 8 + k % 8);
        a[place] = f32_to_f16(a_at(row, k));
        b[place] = f32_to_f16(b_at(k, row));
    }
    publish_shared();
    __syncthreads();
    float d[32];
    for (unsigned i = 0; i < 32; i++) d[i] = 1.0f;
    unsigned long long form = (1ull << 62) | (64ull << 32) | (1ull << 16);
    warpgroup_begin();
    for (unsigned step = 0; step < 4; step++)
        multiply_f16_64x64(d, form | (shared_address(a) >> 4) + 2 * step, form | (shared_address(b) >> 4) + 2 * step, 1);
    warpgroup_commit();
    warpgroup_wait<0>();
    bool good = true;
    for (unsigned i = 0; i < 32; i++) {
        unsigned row = t / 32 * 16 + t % 32 / 4 + (i / 2 & 1) * 8, column = i / 4 * 8 + t % 4 * 2 + (i & 1);
        float sum = 1.0f;
        for (unsigned k = 0; k < 64; k++) sum += a_at(row, k) * b_at(k, column);
        good &= d[i] == sum;
    }
    out[t] = good;
    warpgroup_wait<0>();
}
