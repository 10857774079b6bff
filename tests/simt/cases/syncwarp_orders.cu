// launch: 1 64 0
// expect: ok
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ unsigned tile[64];
    for (unsigned round = 0; round < 3; round++) {
        tile[threadIdx.x] = in[threadIdx.x] + round;
        __syncwarp();
        out[threadIdx.x] = tile[threadIdx.x ^ 1] == (threadIdx.x ^ 1) + round;
        __syncwarp();
    }
    tile[threadIdx.x] = 3;
}
