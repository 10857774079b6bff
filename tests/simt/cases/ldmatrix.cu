// Rows of ldmatrix.x4, plain and transposed.
// launch: 1 32 0
// expect: ok
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ __align__(16) unsigned short tile[32][8];
    unsigned lane = threadIdx.x;
    for (unsigned i = 0; i < 8; i++) tile[lane][i] = (unsigned short)(lane * 8 + i);
    __syncwarp();
    unsigned words[4], turned[4];
    load_matrices(words, shared_address(tile[lane]));
    load_matrices_transposed(turned, shared_address(tile[lane]));
    bool good = true;
    for (unsigned m = 0; m < 4; m++) {
        unsigned low = (8 * m + lane / 4) * 8 + lane % 4 * 2;
        good &= words[m] == (low | (low + 1) << 16);
        unsigned first = (8 * m + lane % 4 * 2) * 8 + lane / 4;
        good &= turned[m] == (first | (first + 8) << 16);
    }
    out[lane] = good;
}
