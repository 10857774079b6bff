// The functions of kernels/ptx.cuh under their names there, as the PTX ISA defines the instructions they stand for.
#pragma once

extern "C" {
void simt_mma(int elements, void* c, const simt::u32* a, simt::u32 b0, simt::u32 b1);
void simt_wgmma(int elements, void* d, simt::u32 columns, simt::u64 a, simt::u64 b, bool accumulate, bool a_transposed, bool b_transposed);
void simt_wgmma_fence();
void simt_wgmma_commit();
void simt_wgmma_wait(simt::u32 pending);
void simt_copy_async(simt::u32 to, const void* from, simt::u32 bytes);
void simt_copy_commit();
void simt_copy_wait(simt::u32 pending);
void simt_mbarrier_make(simt::u32 barrier, simt::u32 arrivals);
void simt_mbarrier_publish();
void simt_mbarrier_arrive(simt::u32 barrier, simt::u32 rank);
void simt_mbarrier_expect(simt::u32 barrier, simt::u32 bytes);
void simt_mbarrier_wait(simt::u32 barrier, simt::u32 parity);
void simt_bulk_copy(simt::u32 to, const void* from, simt::u32 bytes, simt::u32 barrier, simt::u32 ranks);
void simt_proxy_fence();
simt::u32 simt_cluster_rank();
simt::u32 simt_to_shared(const void* object);
simt::u64 simt_to_global(const void* object);
}

#define __cvta_generic_to_shared(object) ((size_t)simt_to_shared(object))
#define __cvta_generic_to_global(object) ((size_t)simt_to_global(object))

// ---- Widening and narrowing ----

SIMT_PURE float f16_to_f32(unsigned short bits) { return (float)simt_bits<_Float16>(bits); }
SIMT_PURE unsigned short f32_to_f16(float value) { return simt_bits<unsigned short>((_Float16)value); }
SIMT_PURE unsigned f32_to_f16_pair(float low, float high) { return f32_to_f16(low) | (unsigned)f32_to_f16(high) << 16; }
SIMT_PURE unsigned simt_to_bf16(float value) {
    unsigned bits = simt_bits<unsigned>(value);
    return value != value ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
SIMT_PURE unsigned f32_to_bf16_pair(float low, float high) { return simt_to_bf16(low) | simt_to_bf16(high) << 16; }
SIMT_PURE float exp2_fast(float value) {
    float power = exp2f(value);
    return power < 1.17549435e-38f ? 0.0f : power;
}

static inline unsigned anew(unsigned value) { return value; }

// ---- Shared memory ----

static inline unsigned shared_address(const void* object) { return simt_to_shared(object); }
static inline void barrier_wait(unsigned id, unsigned threads) { simt_barrier(id, threads, 0); }
static inline void barrier_arrive(unsigned id, unsigned threads) { simt_barrier_arrive(id, threads, 0); }

// ---- sm_80 ----
#if __CUDA_ARCH__ >= 800

static inline void copy_async_16(unsigned to, const void* from) { simt_copy_async(to, from, 16); }
static inline void copy_async_commit() { simt_copy_commit(); }
template <unsigned PENDING> static inline void copy_async_wait() { simt_copy_wait(PENDING); }

#endif

namespace simt {

struct MatrixRows {
    u16 row[8];
    unsigned* words;
};

// Each lane reads the row that it gives the address of; then rows change hands.
template <bool TRANSPOSED> SIMT_PLAIN inline void load_matrices(unsigned (&words)[4], unsigned address) {
    MatrixRows mine;
    const u16* row = (const u16*)(self().shared + address);
    simt_check(row, 16, READ);
    __builtin_memcpy(mine.row, row, 16);
    mine.words = words;
    simt_collective(~0u, "ldmatrix", 0, [](u32, void* const* brought) SIMT_PLAIN {
        auto element = [&](u32 matrix, u32 row, u32 column) SIMT_PLAIN -> u32 {
            return ((MatrixRows*)brought[8 * matrix + row])->row[column];
        };
        for (u32 lane = 0; lane < WARP; lane++)
            for (u32 matrix = 0; matrix < 4; matrix++) {
                u32 line = lane / 4, pair = lane % 4 * 2;
                u32 low = TRANSPOSED ? element(matrix, pair, line) : element(matrix, line, pair);
                u32 high = TRANSPOSED ? element(matrix, pair + 1, line) : element(matrix, line, pair + 1);
                ((MatrixRows*)brought[lane])->words[matrix] = low | high << 16;
            }
    }, &mine, false);
}

}  // namespace simt

static inline void load_matrices(unsigned (&words)[4], unsigned address) { simt::load_matrices<false>(words, address); }
static inline void load_matrices_transposed(unsigned (&words)[4], unsigned address) { simt::load_matrices<true>(words, address); }

#if __CUDA_ARCH__ >= 800

static inline void multiply_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { simt_mma(0, c, a, b0, b1); }
static inline void multiply_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { simt_mma(1, c, a, b0, b1); }
static inline void multiply_i8(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { simt_mma(2, c, a, b0, b1); }

#endif

// ---- sm_90 ----
#if __CUDA_ARCH__ >= 900

static inline void mbarrier_make(unsigned barrier, unsigned arrivals) { simt_mbarrier_make(barrier, arrivals); }
static inline void mbarrier_publish() { simt_mbarrier_publish(); }
static inline void mbarrier_arrive(unsigned barrier) { simt_mbarrier_arrive(barrier, ~0u); }
static inline void mbarrier_arrive_at(unsigned barrier, unsigned rank) { simt_mbarrier_arrive(barrier, rank); }
static inline void mbarrier_expect(unsigned barrier, unsigned bytes) { simt_mbarrier_expect(barrier, bytes); }
static inline void mbarrier_wait(unsigned barrier, unsigned parity) { simt_mbarrier_wait(barrier, parity); }
static inline void bulk_copy(unsigned to, const void* from, unsigned bytes, unsigned barrier) { simt_bulk_copy(to, from, bytes, barrier, 0); }
static inline void bulk_copy_to(unsigned to, const void* from, unsigned bytes, unsigned barrier, unsigned short ranks) {
    simt_bulk_copy(to, from, bytes, barrier, ranks);
}
static inline unsigned cluster_rank() { return simt_cluster_rank(); }
static inline void cluster_wait() { simt_cluster_barrier(); }
static inline void publish_shared() { simt_proxy_fence(); }

#endif

// ---- sm_90a ----
#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace simt {
template <unsigned COUNT> inline void registers(const char* what) {
    static_assert(COUNT >= 24 && COUNT <= 256 && COUNT % 8 == 0, "setmaxnreg takes 24 to 256 in steps of 8");
    simt_collective(~0u, what, 0, nothing, nullptr, false);
}
}  // namespace simt

template <unsigned COUNT> static inline void registers_give() { simt::registers<COUNT>("setmaxnreg.dec"); }
template <unsigned COUNT> static inline void registers_take() { simt::registers<COUNT>("setmaxnreg.inc"); }
static inline void warpgroup_begin() { simt_wgmma_fence(); }
static inline void warpgroup_commit() { simt_wgmma_commit(); }
template <unsigned PENDING> static inline void warpgroup_wait() { simt_wgmma_wait(PENDING); }
template <unsigned COUNT> static inline void warpgroup_pin(float (&)[COUNT]) {}
template <unsigned COUNT> static inline void warpgroup_pin(int (&)[COUNT]) {}

#define SIMT_WARPGROUP(name, T, elements, n, a_transposed, b_transposed)                                                  \
    static inline void name(T (&d)[n / 2], unsigned long long a, unsigned long long b, unsigned accumulate) {             \
        simt_wgmma(elements, d, n, a, b, accumulate != 0, a_transposed, b_transposed);                                    \
    }
#define SIMT_WARPGROUP_FLOATS(n)                                        \
    SIMT_WARPGROUP(multiply_f16_64x##n, float, 0, n, false, false)      \
    SIMT_WARPGROUP(multiply_bf16_64x##n, float, 1, n, false, false)     \
    SIMT_WARPGROUP(multiply_i8_64x##n, int, 2, n, false, false)         \
    SIMT_WARPGROUP(multiply_f16_64x##n##_bt, float, 0, n, false, true)  \
    SIMT_WARPGROUP(multiply_bf16_64x##n##_bt, float, 1, n, false, true) \
    SIMT_WARPGROUP(multiply_f16_64x##n##_atbt, float, 0, n, true, true) \
    SIMT_WARPGROUP(multiply_bf16_64x##n##_atbt, float, 1, n, true, true)
SIMT_WARPGROUP_FLOATS(8)
SIMT_WARPGROUP_FLOATS(16)
SIMT_WARPGROUP_FLOATS(32)
SIMT_WARPGROUP_FLOATS(64)
SIMT_WARPGROUP_FLOATS(128)
SIMT_WARPGROUP_FLOATS(256)
#undef SIMT_WARPGROUP_FLOATS
#undef SIMT_WARPGROUP

#endif
