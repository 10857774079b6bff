// launch: 1 32 0
// expect: deadlock
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    unsigned v = 1;
    if (threadIdx.x < 31) v = __shfl_sync(0xffffffffu, 1, 0);
    out[threadIdx.x] = v;
}
