// Threads, static and dynamic shared memory, barriers, shuffles, votes, atomics.
// launch: 3 96 1024
// expect: ok
struct Parameters { unsigned words[4]; };
__constant__ unsigned TABLE[4] = {1, 2, 3, 4};
extern __shared__ unsigned dynamic[];
template <unsigned N> __device__ unsigned through_shared(unsigned value) {
    __shared__ unsigned turned[N], other[2][N];
    turned[threadIdx.x] = value;
    other[1][threadIdx.x] = value + 1;
    __syncthreads();
    unsigned result = turned[N - 1 - threadIdx.x] + (other[1][threadIdx.x] - value - 1);
    __syncthreads();
    return result;
}
extern "C" __global__ void __launch_bounds__(96) test(unsigned* out, const unsigned* __restrict__ in, unsigned n) {
    __shared__ unsigned total;
    unsigned t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    if (t == 0) total = 0;
    __syncthreads();
    bool good = through_shared<96>(in[i]) == blockIdx.x * 96 + 95 - t;
    atomicAdd(&total, t);
    dynamic[t] = t;
    __syncthreads();
    good &= total == 96 * 95 / 2 && dynamic[95 - t] == 95 - t;
    unsigned lane = t % 32;
    good &= __shfl_xor_sync(0xffffffffu, t, 1) == (t ^ 1);
    good &= __shfl_up_sync(0xffffffffu, t, 3) == (lane < 3 ? t : t - 3);
    good &= __shfl_down_sync(0xffffffffu, (float)t, 4) == (float)(lane + 4 > 31 ? t : t + 4);
    good &= __shfl_sync(0xffffffffu, t, 5, 8) == (t & ~7u) + 5;
    good &= __ballot_sync(0xffffffffu, lane & 1) == 0xaaaaaaaau;
    good &= __reduce_add_sync(0xffffffffu, 1u) == 32 && __reduce_max_sync(0xffffffffu, lane) == 31;
    good &= __match_any_sync(0xffffffffu, lane / 8) == 0xffu << (lane & ~7u);
    good &= __syncthreads_count(t < 10) == 10;
    if (lane < 16) good &= __shfl_xor_sync(0xffffu, t, 8) == (t ^ 8);
    good &= TABLE[t & 3] == (t & 3) + 1 && gridDim.x * blockDim.x == n;
    out[i] = good;
}
