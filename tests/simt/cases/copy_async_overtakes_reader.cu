// A stage is filled anew while others still read it.
// launch: 1 64 0
// expect: a race
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ __align__(16) unsigned ring[64];
    unsigned t = threadIdx.x;
    ring[t] = t;
    __syncthreads();
    out[t] = ring[63 - t] == 63 - t;
    if (t >= 48) copy_async_16(shared_address(&ring[4 * (t - 48)]), in + 4 * (t - 48));
    copy_async_commit();
    copy_async_wait<0>();
}
