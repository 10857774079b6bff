// launch: 1 64 0
// expect: ok
extern "C" __global__ void test(unsigned* out, const unsigned* in, unsigned n) {
    __shared__ __align__(16) unsigned ring[2][64];
    unsigned t = threadIdx.x;
    for (unsigned stage = 0; stage < 2; stage++) {
        if (t < 16) copy_async_16(shared_address(&ring[stage][4 * t]), in + 4 * t);
        copy_async_commit();
    }
    copy_async_wait<1>();
    __syncthreads();
    out[t] = ring[0][63 - t] == 63 - t;
}
