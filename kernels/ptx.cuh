// All inline PTX, and nothing else: a twin of this file for the CPU gives the same functions.
//
// Addresses in shared memory are `unsigned` bytes in the shared window (`shared_address`). Every function is called by
// one thread for itself unless its comment says "warp" (all 32 threads, converged), "warpgroup" (128 threads, the
// first a multiple of 128) or "one thread". Fragments follow the PTX manual: with `group = lane / 4`, `pair = lane % 4`,
//   A of m16n8k16 (four words of two 16-bit elements): rows group, group + 8, group, group + 8; columns 2 pair and the
//     next, in words 2 and 3 eight further;
//   B (two words): column group; rows 2 pair and the next, in word 1 eight further;
//   C: c[0], c[1] row group, c[2], c[3] row group + 8; columns 2 pair and the next.
// With 8-bit elements (m16n8k32) each word holds four, and all distances along k double.
//
// A matrix descriptor (wgmma) holds in bits 0-13 the address / 16, in 16-29 the leading offset / 16, in 32-45 the
// stride offset / 16, in 62-63 the swizzle (1: 128 bytes). Blocks swizzled by 128 bytes start at multiples of 1,024
// bytes; byte address a of the plain layout lies at a ^ ((a >> 7 & 7) << 4).

#ifndef SIMT // which tests/simt defines, to put its own functions in place of these

// ---- Widening and narrowing ----

/// The float that the bits of an f16 stand for.
__device__ __forceinline__ float f16_to_f32(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

/// Bits of the nearest f16, ties to even; beyond its range infinity.
__device__ __forceinline__ unsigned short f32_to_f16(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

/// Bits of two f16: `low` in bits 0-15.
__device__ __forceinline__ unsigned f32_to_f16_pair(float low, float high) {
    unsigned bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

/// Bits of two bf16, each the nearest, ties to even: `low` in bits 0-15. sm_80.
__device__ __forceinline__ unsigned f32_to_bf16_pair(float low, float high) {
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

/// 2 to the power `value`, within two units in the last place; results below 2^-126 may be zero.
__device__ __forceinline__ float exp2_fast(float value) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power;
}

// ---- Shared memory ----

/// Address of an object in shared memory, within the shared window.
__device__ __forceinline__ unsigned shared_address(const void* object) {
    return static_cast<unsigned>(__cvta_generic_to_shared(object));
}

/// Waits for `threads` threads (a multiple of 32) at barrier `id`, 1 to 15: the block's other barriers than
/// `__syncthreads`. Each warp that calls it counts whole.
__device__ __forceinline__ void barrier_wait(unsigned id, unsigned threads) {
    asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Counts at barrier `id` as `barrier_wait` does, without waiting.
__device__ __forceinline__ void barrier_arrive(unsigned id, unsigned threads) {
    asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- sm_80: asynchronous copies and the matrix unit ----

/// Starts a copy of 16 bytes from global to shared memory; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async_16(unsigned to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(from)) : "memory");
}

/// Closes a group: the copies that this thread started since the last.
__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most the last `PENDING` groups of this thread are under way.
template <unsigned PENDING> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/// Warp. Four 8 x 8 matrices of 16-bit elements: lane `8 i + r` gives the address of row r (16 bytes) of matrix i;
/// word i of each lane becomes elements 2 (lane % 4) and the next of row lane / 4 of matrix i.
__device__ __forceinline__ void load_matrices(unsigned (&words)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

/// Warp. As `load_matrices`, each matrix transposed: word i becomes elements of column lane / 4, rows 2 (lane % 4) and
/// the next.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&words)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

/// Warp. c += A B, 16 x 8 x 16, f16 elements.
__device__ __forceinline__ void multiply_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Warp. c += A B, 16 x 8 x 16, bf16 elements.
__device__ __forceinline__ void multiply_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Warp. c += A B, 16 x 8 x 32, signed 8-bit elements; sums are exact modulo 2^32.
__device__ __forceinline__ void multiply_i8(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- sm_90: barriers in shared memory, bulk copies, clusters ----
#if __CUDA_ARCH__ >= 900

/// One thread. Makes a barrier (8 bytes) that a phase of completes after `arrivals` arrivals and all announced bytes.
__device__ __forceinline__ void mbarrier_make(unsigned barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// One thread. Makes new barriers visible to bulk copies and to the cluster.
__device__ __forceinline__ void mbarrier_publish() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Arrives once.
__device__ __forceinline__ void mbarrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Arrives once at the barrier at the same address in block `rank` of the cluster.
__device__ __forceinline__ void mbarrier_arrive_at(unsigned barrier, unsigned rank) {
    asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}

/// Announces `bytes` that copies will bring, and arrives once.
__device__ __forceinline__ void mbarrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

/// Waits until the phase of this parity is complete: 0 for the first, then 1, 0, and so on. Parity 1 of a new barrier
/// counts as complete.
__device__ __forceinline__ void mbarrier_wait(unsigned barrier, unsigned parity) {
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra finished;\nbra again;\nfinished:\n}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/// One thread. Starts a copy of `bytes` (a multiple of 16; so are both addresses) from global to shared memory, which
/// counts against what `barrier` was told to expect.
__device__ __forceinline__ void bulk_copy(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
                 : "memory");
}

/// One thread. As `bulk_copy`, to the same address in each block of the cluster whose bit is set in `ranks`; each
/// block's own barrier at the same address counts its bytes.
__device__ __forceinline__ void bulk_copy_to(unsigned to, const void* from, unsigned bytes, unsigned barrier,
                                             unsigned short ranks) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier), "h"(ranks)
                 : "memory");
}

/// This block's number in its cluster.
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/// Waits for all threads of the cluster; what they wrote to shared memory before is seen after.
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/// Makes this thread's plain writes to shared memory visible to bulk copies and wgmma.
__device__ __forceinline__ void publish_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif

// ---- sm_90a: warpgroups ----
#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// Warpgroup. Gives registers back, down to `REGISTERS` a thread.
template <unsigned REGISTERS> __device__ __forceinline__ void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/// Warpgroup. Waits for registers, up to `REGISTERS` a thread.
template <unsigned REGISTERS> __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/// Warpgroup. Before the first wgmma of a batch: orders earlier accesses to its registers.
__device__ __forceinline__ void warpgroup_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/// Warpgroup. Closes a batch.
__device__ __forceinline__ void warpgroup_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Warpgroup. Waits until at most the last `PENDING` batches are under way. Accumulators may be read after.
template <unsigned PENDING> __device__ __forceinline__ void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/// Keeps the compiler from moving uses of an accumulator across a wait.
template <unsigned CELLS> __device__ __forceinline__ void warpgroup_pin(float (&d)[CELLS]) {
#pragma unroll
    for (unsigned i = 0; i < CELLS; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

template <unsigned CELLS> __device__ __forceinline__ void warpgroup_pin(int (&d)[CELLS]) {
#pragma unroll
    for (unsigned i = 0; i < CELLS; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// Warpgroup. `multiply_<elements>_64x<N>(d, a, b, accumulate)`: d = A B (+ d where `accumulate`), A 64 x 16, B 16 x N,
// both in shared memory by descriptor (8-bit elements: k is 32). Asynchronous: `d` may be touched after
// `warpgroup_wait`. Warp w of the warpgroup holds rows 16 w to 16 w + 15; d[4 j + i] is element i of the C fragment
// of columns 8 j to 8 j + 7.
// A and B are K-major (rows of A, columns of B contiguous along k) but where the name ends in `_bt` (B N-major) or
// `_atbt` (A M-major too).

#define WARPGROUP_MULTIPLY_8(NAME, SCALAR, C, INSTRUCTION, TAIL) \
    __device__ __forceinline__ void NAME(SCALAR (&d)[4], unsigned long long a, unsigned long long b, \
                                         unsigned accumulate) { \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %6, 0;\nwgmma.mma_async.sync.aligned.m64n8" \
        INSTRUCTION " {" \
        "%0, %1, %2, %3" \
        "}, %4, %5, more" TAIL ";\n}\n" \
        : C(d[0]), C(d[1]), C(d[2]), C(d[3]) \
        : "l"(a), "l"(b), "r"(accumulate)); \
    }
#define WARPGROUP_MULTIPLY_16(NAME, SCALAR, C, INSTRUCTION, TAIL) \
    __device__ __forceinline__ void NAME(SCALAR (&d)[8], unsigned long long a, unsigned long long b, \
                                         unsigned accumulate) { \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %10, 0;\nwgmma.mma_async.sync.aligned.m64n16" \
        INSTRUCTION " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7" \
        "}, %8, %9, more" TAIL ";\n}\n" \
        : C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]) \
        : "l"(a), "l"(b), "r"(accumulate)); \
    }
#define WARPGROUP_MULTIPLY_32(NAME, SCALAR, C, INSTRUCTION, TAIL) \
    __device__ __forceinline__ void NAME(SCALAR (&d)[16], unsigned long long a, unsigned long long b, \
                                         unsigned accumulate) { \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %18, 0;\nwgmma.mma_async.sync.aligned.m64n32" \
        INSTRUCTION " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
        "}, %16, %17, more" TAIL ";\n}\n" \
        : C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), \
          C(d[8]), C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]) \
        : "l"(a), "l"(b), "r"(accumulate)); \
    }
#define WARPGROUP_MULTIPLY_64(NAME, SCALAR, C, INSTRUCTION, TAIL) \
    __device__ __forceinline__ void NAME(SCALAR (&d)[32], unsigned long long a, unsigned long long b, \
                                         unsigned accumulate) { \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64" \
        INSTRUCTION " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
        "}, %32, %33, more" TAIL ";\n}\n" \
        : C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), \
          C(d[8]), C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), \
          C(d[16]), C(d[17]), C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), \
          C(d[24]), C(d[25]), C(d[26]), C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31]) \
        : "l"(a), "l"(b), "r"(accumulate)); \
    }
#define WARPGROUP_MULTIPLY_128(NAME, SCALAR, C, INSTRUCTION, TAIL) \
    __device__ __forceinline__ void NAME(SCALAR (&d)[64], unsigned long long a, unsigned long long b, \
                                         unsigned accumulate) { \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128" \
        INSTRUCTION " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63" \
        "}, %64, %65, more" TAIL ";\n}\n" \
        : C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), \
          C(d[8]), C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), \
          C(d[16]), C(d[17]), C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), \
          C(d[24]), C(d[25]), C(d[26]), C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31]), \
          C(d[32]), C(d[33]), C(d[34]), C(d[35]), C(d[36]), C(d[37]), C(d[38]), C(d[39]), \
          C(d[40]), C(d[41]), C(d[42]), C(d[43]), C(d[44]), C(d[45]), C(d[46]), C(d[47]), \
          C(d[48]), C(d[49]), C(d[50]), C(d[51]), C(d[52]), C(d[53]), C(d[54]), C(d[55]), \
          C(d[56]), C(d[57]), C(d[58]), C(d[59]), C(d[60]), C(d[61]), C(d[62]), C(d[63]) \
        : "l"(a), "l"(b), "r"(accumulate)); \
    }
#define WARPGROUP_MULTIPLY_256(NAME, SCALAR, C, INSTRUCTION, TAIL) \
    __device__ __forceinline__ void NAME(SCALAR (&d)[128], unsigned long long a, unsigned long long b, \
                                         unsigned accumulate) { \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256" \
        INSTRUCTION " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127" \
        "}, %128, %129, more" TAIL ";\n}\n" \
        : C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), \
          C(d[8]), C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), \
          C(d[16]), C(d[17]), C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), \
          C(d[24]), C(d[25]), C(d[26]), C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31]), \
          C(d[32]), C(d[33]), C(d[34]), C(d[35]), C(d[36]), C(d[37]), C(d[38]), C(d[39]), \
          C(d[40]), C(d[41]), C(d[42]), C(d[43]), C(d[44]), C(d[45]), C(d[46]), C(d[47]), \
          C(d[48]), C(d[49]), C(d[50]), C(d[51]), C(d[52]), C(d[53]), C(d[54]), C(d[55]), \
          C(d[56]), C(d[57]), C(d[58]), C(d[59]), C(d[60]), C(d[61]), C(d[62]), C(d[63]), \
          C(d[64]), C(d[65]), C(d[66]), C(d[67]), C(d[68]), C(d[69]), C(d[70]), C(d[71]), \
          C(d[72]), C(d[73]), C(d[74]), C(d[75]), C(d[76]), C(d[77]), C(d[78]), C(d[79]), \
          C(d[80]), C(d[81]), C(d[82]), C(d[83]), C(d[84]), C(d[85]), C(d[86]), C(d[87]), \
          C(d[88]), C(d[89]), C(d[90]), C(d[91]), C(d[92]), C(d[93]), C(d[94]), C(d[95]), \
          C(d[96]), C(d[97]), C(d[98]), C(d[99]), C(d[100]), C(d[101]), C(d[102]), C(d[103]), \
          C(d[104]), C(d[105]), C(d[106]), C(d[107]), C(d[108]), C(d[109]), C(d[110]), C(d[111]), \
          C(d[112]), C(d[113]), C(d[114]), C(d[115]), C(d[116]), C(d[117]), C(d[118]), C(d[119]), \
          C(d[120]), C(d[121]), C(d[122]), C(d[123]), C(d[124]), C(d[125]), C(d[126]), C(d[127]) \
        : "l"(a), "l"(b), "r"(accumulate)); \
    }

#define FLOAT_CELL(cell) "+f"(cell)
#define INTEGER_CELL(cell) "+r"(cell)

#define F16 "k16.f32.f16.f16"
#define BF16 "k16.f32.bf16.bf16"
#define I8 "k32.s32.s8.s8"

WARPGROUP_MULTIPLY_8(multiply_f16_64x8, float, FLOAT_CELL, F16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_8(multiply_bf16_64x8, float, FLOAT_CELL, BF16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_16(multiply_f16_64x16, float, FLOAT_CELL, F16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_16(multiply_bf16_64x16, float, FLOAT_CELL, BF16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_32(multiply_f16_64x32, float, FLOAT_CELL, F16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_32(multiply_bf16_64x32, float, FLOAT_CELL, BF16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_64(multiply_f16_64x64, float, FLOAT_CELL, F16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_64(multiply_bf16_64x64, float, FLOAT_CELL, BF16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_128(multiply_f16_64x128, float, FLOAT_CELL, F16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_128(multiply_bf16_64x128, float, FLOAT_CELL, BF16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_256(multiply_f16_64x256, float, FLOAT_CELL, F16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_256(multiply_bf16_64x256, float, FLOAT_CELL, BF16, ", 1, 1, 0, 0")
WARPGROUP_MULTIPLY_128(multiply_i8_64x128, int, INTEGER_CELL, I8, "")
WARPGROUP_MULTIPLY_128(multiply_f16_64x128_bt, float, FLOAT_CELL, F16, ", 1, 1, 0, 1")
WARPGROUP_MULTIPLY_128(multiply_bf16_64x128_bt, float, FLOAT_CELL, BF16, ", 1, 1, 0, 1")
WARPGROUP_MULTIPLY_128(multiply_f16_64x128_atbt, float, FLOAT_CELL, F16, ", 1, 1, 1, 1")
WARPGROUP_MULTIPLY_128(multiply_bf16_64x128_atbt, float, FLOAT_CELL, BF16, ", 1, 1, 1, 1")
WARPGROUP_MULTIPLY_256(multiply_i8_64x256, int, INTEGER_CELL, I8, "")
WARPGROUP_MULTIPLY_256(multiply_f16_64x256_bt, float, FLOAT_CELL, F16, ", 1, 1, 0, 1")
WARPGROUP_MULTIPLY_256(multiply_bf16_64x256_bt, float, FLOAT_CELL, BF16, ", 1, 1, 0, 1")
WARPGROUP_MULTIPLY_256(multiply_f16_64x256_atbt, float, FLOAT_CELL, F16, ", 1, 1, 1, 1")
WARPGROUP_MULTIPLY_256(multiply_bf16_64x256_atbt, float, FLOAT_CELL, BF16, ", 1, 1, 1, 1")

#undef FLOAT_CELL
#undef INTEGER_CELL
#undef F16
#undef BF16
#undef I8

#endif

#endif
