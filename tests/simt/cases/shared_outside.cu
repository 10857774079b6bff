// launch: 1 32 128
// expect: of shared memory, which has 128
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    extern __shared__ unsigned tile[];
    tile[threadIdx.x + 1] = 1;
}
