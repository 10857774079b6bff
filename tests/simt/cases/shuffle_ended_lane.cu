// launch: 1 16 0
// expect: names lanes that the warp has not
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}
