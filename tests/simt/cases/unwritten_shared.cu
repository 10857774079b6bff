// launch: 1 32 0
// expect: which nobody wrote
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ unsigned tile[33];
    tile[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x + 1];
}
