// launch: 1 64 0
// expect: 1 threads have ended
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    if (threadIdx.x == 63) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
