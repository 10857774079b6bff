// The matrix unit cuts what lies far below the largest term, in place of rounding to the nearest.
// launch: 1 32 0
// expect: ok
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    unsigned one = f32_to_f16_pair(1.0f, 1.0f), tiny = f32_to_f16_pair(0.9990234375f, 0.9990234375f);
    unsigned a[4] = {tiny, tiny, tiny, tiny};
    float c[4] = {16777216.0f, 16777216.0f, 16777216.0f, 16777216.0f};
    multiply_f16(c, a, one, one);
    // 16 terms of 0.999: exactly 15.98; those below a half unit of 2^24 vanish, and none is rounded up.
    out[threadIdx.x] = c[0] < 16777232.0f;
}
