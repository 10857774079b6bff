// What kernels see of the executor: the thread that runs, its block's shared memory, barriers and warp collectives.
// Included by kernels through cuda.hpp, so it includes nothing of the standard library itself.
#pragma once

namespace simt {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

struct Uint3 {
    u32 x, y, z;
};

constexpr u64 STACK_BYTES = 256 << 10;       // of a thread, its record and a guard page included
constexpr u64 DEVICE_BASE = 0x200000000000;  // global memory of all devices
// Room for an unsigned index below zero; addresses are used again after so many bytes, which bounds the shadow.
constexpr u64 DEVICE_BYTES = 1ull << 35;
constexpr u64 SHARED_BASE = 0x300000000000;  // shared memory: a slot for each block that is resident
constexpr u64 SLOT_BYTES = 1 << 20;
constexpr u64 SLOTS = 1024;
constexpr u32 WARP = 32;

struct Block;
struct Warp;

// A thread's record, at the low end of its stack, so that the stack pointer finds it.
struct Thread {
    Uint3 thread_index, block_index, block_size, grid_size;
    u8* shared;            // the block's slot
    u32 shared_dynamic;    // where its dynamic part begins
    u32 index, lane;       // in the block, in the warp
    u32 number;            // in the cluster
    Block* block;
    Warp* warp;
    void* stack_pointer;   // while it does not run
    // What it waits for, for reports; a string that lives for ever.
    const char* waits;
    u32 line;
    const void* code;      // where, in place of a line
    bool finished;
    u32 clock, fences;     // its own synchronisations and fences so far, see races.cpp
    void (*body)(Thread&);
};

inline Thread& self() {
    u64 here;
#if defined(__x86_64__)
    asm("movq %%rsp, %0" : "=r"(here));
#elif defined(__aarch64__)
    asm("mov %0, sp" : "=r"(here));
#else
    here = (u64)__builtin_frame_address(0);
#endif
    return *(Thread*)(here & ~(STACK_BYTES - 1));
}

// A kernel, as the object file lists it.
struct Entry {
    const char* name;
    void (*call)(void** arguments);
    u32 parameters;
    const u32* parameter_bytes;
    u32 most_threads;  // of its launch bounds; 0 where it has none
    u32 cluster[3];    // of __cluster_dims__; 0 where it has none
};

// An operation of a warp as a whole: the last lane of the mask to arrive runs it over what all of them brought.
using Collective = void (*)(u32 mask, void* const* brought);

}  // namespace simt

extern "C" {
void simt_barrier(simt::u32 id, simt::u32 threads, simt::u32 line);  // 0 threads: all of the block
void simt_barrier_arrive(simt::u32 id, simt::u32 threads, simt::u32 line);
void simt_cluster_barrier();
void simt_collective(simt::u32 mask, const char* what, simt::u32 line, simt::Collective run, void* mine, bool orders);
void simt_yield(const char* what, simt::u32 line);  // lets the others run; for loops that wait on memory
simt::u32 simt_active();                            // lanes of the warp that have not finished
simt::u32 simt_reserve(simt::u32 bytes, simt::u32 align);  // of static shared memory, while a module loads
[[noreturn]] void simt_trap(const char* what, simt::u32 line);
// Reads and writes made on a thread's behalf by the executor's own functions.
void simt_check(const volatile void* address, simt::u64 bytes, int kind);
}

namespace simt {

enum Access : int { READ, WRITE, ATOMIC };

template <class T, class Tag, u32 ALIGN> struct Slot {
    inline static const u32 offset = simt_reserve(sizeof(T), ALIGN > alignof(T) ? ALIGN : alignof(T));
};

template <class T, class Tag, u32 ALIGN> inline T& shared_variable() {
    return *(T*)(self().shared + Slot<T, Tag, ALIGN>::offset);
}

template <class T, u32 ALIGN> inline T* shared_dynamic() {
    constexpr u64 align = ALIGN > alignof(T) ? ALIGN : alignof(T);
    Thread& thread = self();
    return (T*)(thread.shared + ((thread.shared_dynamic + align - 1) & ~(align - 1)));
}

template <class T> struct Plain { using type = T; };
template <class T> struct Plain<const T> { using type = T; };

template <auto F> struct Thunk;
template <class... A, void (*F)(A...)> struct Thunk<F> {
    static constexpr u32 bytes[] = {(u32)sizeof(A)..., 0};
    template <u64... I> struct Indices {};
    template <u64 N, u64... I> struct Make : Make<N - 1, N - 1, I...> {};
    template <u64... I> struct Make<0, I...> {
        __attribute__((no_sanitize("thread"))) static void call(void** arguments) { F(*(typename Plain<A>::type*)arguments[I]...); }
    };
    static void call(void** arguments) { Make<sizeof...(A)>::call(arguments); }
    static constexpr Entry entry(const char* name, Uint3 bounds, Uint3 cluster) {
        return {name, call, (u32)sizeof...(A), bytes, bounds.x, {cluster.x, cluster.y, cluster.z}};
    }
};

}  // namespace simt
