// Fragments of mma.sync m16n8k16 as the PTX ISA lays them out, against the plain product.
// launch: 1 32 0
// expect: ok
__device__ float a_at(unsigned row, unsigned k) { return (float)((row * 7 + k * 3) % 11) - 5.0f; }
__device__ float b_at(unsigned k, unsigned column) { return (float)((k * 5 + column * 2) % 13) - 6.0f; }
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    unsigned lane = threadIdx.x, group = lane / 4, in_group = lane % 4;
    unsigned a[4], b[2];
    for (unsigned i = 0; i < 8; i += 2) {  // ai of the ISA: row group for i in 0, 1, 4, 5, else group + 8
        unsigned row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
        unsigned column = in_group * 2 + (i < 4 ? 0 : 8);
        a[i / 2] = f32_to_f16_pair(a_at(row, column), a_at(row, column + 1));
    }
    for (unsigned i = 0; i < 4; i += 2) {
        unsigned row = in_group * 2 + (i < 2 ? 0 : 8);
        b[i / 2] = f32_to_f16_pair(b_at(row, group), b_at(row + 1, group));
    }
    float c[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    multiply_f16(c, a, b[0], b[1]);
    bool good = true;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
        float sum = (float)(i + 1);
        for (unsigned k = 0; k < 16; k++) sum += a_at(row, k) * b_at(k, column);
        good &= c[i] == sum;
    }
    out[lane] = good;
}
