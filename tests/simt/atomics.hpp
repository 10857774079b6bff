// Atomic operations, in global and in shared memory.
#pragma once

#define SIMT_ATOMIC static inline __attribute__((no_sanitize("thread")))
#define SIMT_EACH(DEFINE) DEFINE(int) DEFINE(unsigned) DEFINE(unsigned long long)

// The value of memory before `change` came to it.
template <class T, class F> SIMT_ATOMIC T simt_change(T* address, F change) {
    simt_check(address, sizeof(T), simt::ATOMIC);
    T before;
    __atomic_load(address, &before, __ATOMIC_SEQ_CST);
    for (;;) {
        T after = change(before);
        if (__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return before;
    }
}

#define SIMT_INTEGER(T)                                                                                            \
    SIMT_ATOMIC T atomicAdd(T* a, T v) { simt_check(a, sizeof(T), simt::ATOMIC); return __atomic_fetch_add(a, v, 5); } \
    SIMT_ATOMIC T atomicAnd(T* a, T v) { simt_check(a, sizeof(T), simt::ATOMIC); return __atomic_fetch_and(a, v, 5); } \
    SIMT_ATOMIC T atomicOr(T* a, T v) { simt_check(a, sizeof(T), simt::ATOMIC); return __atomic_fetch_or(a, v, 5); }   \
    SIMT_ATOMIC T atomicXor(T* a, T v) { simt_check(a, sizeof(T), simt::ATOMIC); return __atomic_fetch_xor(a, v, 5); } \
    SIMT_ATOMIC T atomicExch(T* a, T v) { simt_check(a, sizeof(T), simt::ATOMIC); return __atomic_exchange_n(a, v, 5); } \
    SIMT_ATOMIC T atomicMin(T* a, T v) { return simt_change(a, [=](T b) { return v < b ? v : b; }); }                  \
    SIMT_ATOMIC T atomicMax(T* a, T v) { return simt_change(a, [=](T b) { return b < v ? v : b; }); }                  \
    SIMT_ATOMIC T atomicCAS(T* a, T expected, T v) {                                                                   \
        simt_check(a, sizeof(T), simt::ATOMIC);                                                                        \
        __atomic_compare_exchange_n(a, &expected, v, false, 5, 5);                                                     \
        return expected;                                                                                               \
    }
SIMT_EACH(SIMT_INTEGER)
#undef SIMT_INTEGER

SIMT_ATOMIC int atomicSub(int* a, int v) { return atomicAdd(a, -v); }
SIMT_ATOMIC unsigned atomicSub(unsigned* a, unsigned v) { return atomicAdd(a, 0u - v); }
SIMT_ATOMIC unsigned atomicInc(unsigned* a, unsigned most) {
    return simt_change(a, [=](unsigned b) { return b >= most ? 0u : b + 1; });
}
SIMT_ATOMIC unsigned atomicDec(unsigned* a, unsigned most) {
    return simt_change(a, [=](unsigned b) { return b == 0 || b > most ? most : b - 1; });
}
SIMT_ATOMIC float atomicAdd(float* a, float v) { return simt_change(a, [=](float b) { return b + v; }); }
SIMT_ATOMIC double atomicAdd(double* a, double v) { return simt_change(a, [=](double b) { return b + v; }); }
SIMT_ATOMIC float atomicExch(float* a, float v) { return simt_change(a, [=](float) { return v; }); }
SIMT_ATOMIC long long atomicMin(long long* a, long long v) { return simt_change(a, [=](long long b) { return v < b ? v : b; }); }
SIMT_ATOMIC long long atomicMax(long long* a, long long v) { return simt_change(a, [=](long long b) { return b < v ? v : b; }); }

#define atomicAdd_block atomicAdd
#define atomicAdd_system atomicAdd
#define __threadfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define __threadfence_block() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define __threadfence_system() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#undef SIMT_EACH
