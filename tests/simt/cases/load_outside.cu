// launch: 2 64 0
// expect: reads 4 bytes outside device memory
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) { out[threadIdx.x] = in[threadIdx.x - 1]; }
