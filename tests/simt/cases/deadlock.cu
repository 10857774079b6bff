// launch: 1 64 0
// expect: deadlock
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    if (threadIdx.x < 63) __syncthreads();
    out[threadIdx.x] = 1;
}
