// capability: 90
// launch: 1 64 0
// expect: which nobody wrote
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ __align__(128) unsigned tile[64];
    __shared__ __align__(8) unsigned long long full;
    unsigned t = threadIdx.x, barrier = shared_address(&full);
    if (t == 0) {
        mbarrier_make(barrier, 1);
        mbarrier_publish();
    }
    __syncthreads();
    if (t == 0) {
        mbarrier_expect(barrier, 256);
        bulk_copy(shared_address(tile), in, 256, barrier);
    }
    mbarrier_wait(barrier, 1);
    out[t] = tile[63 - t] == 63 - t;
}
