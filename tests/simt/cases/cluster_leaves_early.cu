// Each block of a pair copies half of a tile to both, and leaves while the other still signals to it.
// capability: 90
// launch: 4 64 0
// expect: of the cluster has ended
extern "C" __global__ void __cluster_dims__(2, 1, 1) test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ __align__(128) unsigned tile[64];
    __shared__ __align__(8) unsigned long long bars[2];
    unsigned t = threadIdx.x, full = shared_address(&bars[0]), empty = shared_address(&bars[1]), rank = cluster_rank();
    if (t == 0) {
        mbarrier_make(full, 1);
        mbarrier_make(empty, 2);
        mbarrier_publish();
    }
    cluster_wait();
    bool good = rank == blockIdx.x % 2;
    for (unsigned round = 0; round < 3; round++) {
        if (t == 0) {
            mbarrier_wait(empty, (round & 1) ^ 1);
            mbarrier_expect(full, 256);
            bulk_copy_to(shared_address(tile) + rank * 128, in + rank * 32 + 4 * round, 128, full, 3);
        }
        mbarrier_wait(full, round & 1);
        good &= tile[t] == t + 4 * round;
        __syncthreads();
        if (t < 2) mbarrier_arrive_at(empty, t);
    }
    out[blockIdx.x * 64 + t] = good;
}
