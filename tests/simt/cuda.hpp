// CUDA C++ as the kernels of this crate use it, for a C++ compiler: what NVRTC knows without a header.
#pragma once
#include "simt.hpp"

#define SIMT 1
#define __CUDACC_RTC__ 1

// The rewriter (rewrite.cpp) takes these words out and makes entries and shared variables of what they mark.
#define __global__ __simt_kernel__
#define __shared__ __simt_shared__
#define __launch_bounds__(...) __simt_bounds__((__VA_ARGS__))
#define __cluster_dims__(...) __simt_cluster__((__VA_ARGS__))
#define __maxnreg__(...)

#define __device__
#define __host__
#define __constant__ static
#define __managed__ static
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __nanosleep(ns) simt_yield("__nanosleep", __LINE__)
#define __trap() simt_trap("__trap", __LINE__)
#define assert(condition) ((condition) ? (void)0 : simt_trap("assert(" #condition ")", __LINE__))

#define threadIdx (::simt::self().thread_index)
#define blockIdx (::simt::self().block_index)
#define blockDim (::simt::self().block_size)
#define gridDim (::simt::self().grid_size)
#define warpSize 32

typedef __SIZE_TYPE__ size_t;

#include "vectors.hpp"
#include "arithmetic.hpp"
#include "atomics.hpp"
#include "warps.hpp"
#include "ptx.hpp"

namespace simt {
constexpr Uint3 triple(u32 x = 0, u32 y = 0, u32 z = 0) { return {x, y, z}; }
constexpr bool FLUSHES = SIMT_FLUSHES;
}
