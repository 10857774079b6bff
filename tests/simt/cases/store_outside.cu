// launch: 2 64 0
// expect: line 3: writes 4 bytes outside device memory
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) { out[blockIdx.x * 64 + threadIdx.x + 1] = 1; }
