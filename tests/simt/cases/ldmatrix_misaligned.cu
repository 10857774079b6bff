// launch: 1 32 0
// expect: misaligned
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ __align__(16) unsigned short tile[33 * 8];
    for (unsigned i = 0; i < 8; i++) tile[threadIdx.x * 8 + i] = 1;
    if (threadIdx.x == 0) for (unsigned i = 0; i < 8; i++) tile[256 + i] = 1;
    __syncwarp();
    unsigned words[4];
    load_matrices(words, shared_address(tile + threadIdx.x * 8 + 2));
    out[threadIdx.x] = words[0] == 0x10001;
}
