// Warps 0 and 1 make, warps 2 and 3 use, and nobody says when they may go on.
// launch: 1 128 0
// expect: a race
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ unsigned tile[64];
    unsigned t = threadIdx.x;
    bool good = true;
    for (unsigned round = 0; round < 3; round++) {
        if (t < 64) {
            
            tile[t] = t + round;
            barrier_arrive(1, 128);
        } else {
            barrier_wait(1, 128);
            good &= tile[127 - t] == 127 - t + round;
            
        }
    }
    out[t] = good;
}
