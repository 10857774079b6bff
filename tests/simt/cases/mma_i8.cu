// Fragments of mma.sync m16n8k32 of 8-bit elements as the PTX ISA lays them out, against the plain product.
// launch: 1 32 0
// expect: ok
__device__ int a_at(unsigned row, unsigned k) { return (int)((row * 37 + k * 11) % 255) - 127; }
__device__ int b_at(unsigned k, unsigned column) { return (int)((k * 53 + column * 29) % 255) - 127; }
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    unsigned lane = threadIdx.x, group = lane / 4, in_group = lane % 4;
    unsigned a[4] = {}, b[2] = {};
    for (unsigned i = 0; i < 16; i++) {
        unsigned row = (i < 4 || (i >= 8 && i < 12)) ? group : group + 8;
        unsigned column = in_group * 4 + (i & 3) + (i < 8 ? 0 : 16);
        a[i / 4] |= (unsigned)(a_at(row, column) & 255) << (8 * (i & 3));
    }
    for (unsigned i = 0; i < 8; i++) {
        unsigned row = in_group * 4 + (i & 3) + (i < 4 ? 0 : 16);
        b[i / 4] |= (unsigned)(b_at(row, group) & 255) << (8 * (i & 3));
    }
    int c[4] = {1, 2, 3, 4};
    multiply_i8(c, a, b[0], b[1]);
    bool good = true;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
        int sum = (int)i + 1;
        for (unsigned k = 0; k < 32; k++) sum += a_at(row, k) * b_at(k, column);
        good &= c[i] == sum;
    }
    out[lane] = good;
}
