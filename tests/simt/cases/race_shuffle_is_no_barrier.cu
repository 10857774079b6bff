// launch: 1 32 0
// expect: a race
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ unsigned tile[32];
    tile[threadIdx.x] = in[threadIdx.x];
    unsigned v = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
    out[threadIdx.x] = tile[v];
}
