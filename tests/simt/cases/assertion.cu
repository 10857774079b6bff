// launch: 1 32 0
// expect: line 4: __trap
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    if (threadIdx.x == 7) __trap();
    out[threadIdx.x] = 1;
}
