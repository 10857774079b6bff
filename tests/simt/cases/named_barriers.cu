// Warps 0 and 1 make, warps 2 and 3 use, by two named barriers.
// launch: 1 128 0
// expect: ok
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ unsigned tile[64];
    unsigned t = threadIdx.x;
    bool good = true;
    for (unsigned round = 0; round < 3; round++) {
        if (t < 64) {
            if (round) barrier_wait(2, 128);
            tile[t] = t + round;
            barrier_arrive(1, 128);
        } else {
            barrier_wait(1, 128);
            good &= tile[127 - t] == 127 - t + round;
            if (round < 2) barrier_arrive(2, 128);
        }
    }
    out[t] = good;
}
