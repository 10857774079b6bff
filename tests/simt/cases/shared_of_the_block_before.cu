// Each block starts with its memory unwritten.
// launch: 2 32 0
// expect: which nobody wrote
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ unsigned tile[32];
    if (blockIdx.x == 0) tile[threadIdx.x] = 1;
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = tile[threadIdx.x];
}
