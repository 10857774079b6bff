// launch: 1 32 0
// expect: a misaligned address
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    uint4 four = *reinterpret_cast<const uint4*>(in + threadIdx.x % 8);
    out[threadIdx.x] = four.x;
}
