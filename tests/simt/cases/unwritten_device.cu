// launch: 1 32 0
// expect: reads device memory that nobody wrote
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) { out[threadIdx.x] += 1; }
