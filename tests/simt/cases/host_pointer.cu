// launch: 1 32 0
// expect: memory that is not the device's
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) { *(volatile unsigned*)0x500000000000 = 1; }
