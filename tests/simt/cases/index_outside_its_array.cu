// launch: 1 32 0
// expect: is outside of its array
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ unsigned tile[32], other[32];
    other[threadIdx.x] = tile[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x + 1];
}
