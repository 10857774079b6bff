// Memory of the device and of blocks, and the check of every access that kernels make: the compiler calls the hooks of
// -fsanitize=thread, which are at the end of this file.
//
// Device memory has a shadow byte for each word: the low bits say how many of its bytes are allocated, the high ones
// which were written. Shared memory is watched in races.cpp.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "races.hpp"
#include "runtime.hpp"

namespace simt {

namespace {

constexpr u64 GAP = 64 << 10;  // between allocations, so that a stray index meets nobody's memory
constexpr u64 POISONED = 32 << 20;  // bytes of a fresh allocation that are filled

std::mutex lock;
std::map<u64, u64> allocations;  // begin -> bytes
u64 cursor, used;
u8* shadow;
std::vector<u8*> free_slots;
u64 slots_made;

void* reserve(u64 at, u64 bytes, int protection) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0);
    void* memory = mmap((void*)at, bytes, protection, flags, -1, 0);
    if (memory == MAP_FAILED || (at && memory != (void*)at)) {
        perror("simt: no address space");
        abort();
    }
    return memory;
}

void open_memory() {
    if (shadow) return;
    reserve(DEVICE_BASE, DEVICE_BYTES, PROT_READ | PROT_WRITE);
    reserve(SHARED_BASE, SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE);
    shadow = (u8*)reserve(0, DEVICE_BYTES / 4, PROT_READ | PROT_WRITE);
    races_open((Word*)reserve(0, SLOTS * SLOT_BYTES / 4 * sizeof(Word), PROT_READ | PROT_WRITE));
    cursor = DEVICE_BASE + GAP;
}

u8& shadow_of(u64 address) { return shadow[(address - DEVICE_BASE) / 4]; }

// Marks the bytes of a range as written, whole words at once.
void mark(u64 address, u64 bytes) {
    for (u64 end = address + bytes; address < end;) {
        if (address % 4 == 0 && end - address >= 4) {
            memset(&shadow_of(address), 0xf4, (end - address) / 4);
            address += (end - address) & ~3ull;
        } else {
            shadow_of(address) |= (u8)(0x10 << (address % 4));
            address++;
        }
    }
}

[[noreturn]] void device_fault(u64 address, u32 bytes, int kind, const void* code) {
    const char* does = kind == READ ? "reads" : kind == WRITE ? "writes" : "changes";
    std::string nearest = "no allocation is near";
    {
        std::lock_guard guard(lock);
        auto next = allocations.upper_bound(address);
        char text[160];
        if (next != allocations.begin()) {
            auto before = std::prev(next);
            u64 offset = address - before->first;
            snprintf(text, sizeof text, "byte %llu of an allocation of %llu bytes", offset, before->second);
            nearest = text;
        }
        if (next != allocations.end() && (next == allocations.begin() || next->first - address < GAP / 2)) {
            snprintf(text, sizeof text, "%llu bytes before an allocation of %llu bytes", next->first - address, next->second);
            nearest = text;
        }
    }
    fail(Fault::ADDRESS, code, "%s %u bytes outside device memory: 0x%llx, %s", does, bytes, address, nearest.c_str());
}

[[noreturn]] void unwritten(u64 address, const void* code) {
    u64 offset = 0, size = 0;
    {
        std::lock_guard guard(lock);
        auto before = std::prev(allocations.upper_bound(address));
        offset = address - before->first;
        size = before->second;
    }
    fail(Fault::CHECK, code, "reads device memory that nobody wrote: byte %llu of an allocation of %llu bytes", offset, size);
}

void device_access(u64 address, u32 bytes, int kind, const void* code) {
    if (address % 4 == 0 && bytes % 4 == 0) {
        u8* word = &shadow_of(address);
        for (u32 i = 0; i < bytes / 4; i++) {
            if ((word[i] & 7) != 4) device_fault(address, bytes, kind, code);
            if (kind != WRITE && word[i] != 0xf4) unwritten(address + 4 * i, code);
            word[i] = 0xf4;
        }
        return;
    }
    for (u64 at = address; at < address + bytes; at++) {
        u8& word = shadow_of(at);
        u8 bit = (u8)(0x10 << (at % 4));
        if ((word & 7) <= at % 4) device_fault(address, bytes, kind, code);
        if (kind != WRITE && !(word & bit)) unwritten(at, code);
        word |= bit;
    }
}

[[noreturn]] void host_access(u64 address, u32 bytes, int kind, const void* code) {
    fail(Fault::ADDRESS, code, "%s %u bytes of memory that is not the device's: 0x%llx", kind == READ ? "reads" : "writes",
         bytes, address);
}

inline void access(u64 address, u32 bytes, int kind, const void* code) {
    if (in_device((void*)address)) return device_access(address, bytes, kind, code);
    if (in_shared((void*)address)) return shared_access(address, bytes, kind, code);
    if ((address ^ (u64)__builtin_frame_address(0)) < STACK_BYTES) return;  // the thread's own stack
    Group* group = current_group();
    if (!group) return;
    const Launch& launch = *group->launch;
    if (address - launch.module_begin >= launch.module_end - launch.module_begin) host_access(address, bytes, kind, code);
}

}  // namespace

void touch(u64 address, u32 bytes, int kind, const void* code) { access(address, bytes, kind, code); }

void* device_allocate(u64 bytes) {
    std::lock_guard guard(lock);
    open_memory();
    u64 room = ((bytes + 4095) & ~4095ull) + GAP;
    for (int wraps = 0;;) {
        if (cursor + room > DEVICE_BASE + DEVICE_BYTES) {
            if (wraps++) return nullptr;
            cursor = DEVICE_BASE + GAP;
        }
        auto next = allocations.upper_bound(cursor);
        if (next != allocations.begin() && std::prev(next)->first + std::prev(next)->second + GAP > cursor) {
            cursor = (std::prev(next)->first + std::prev(next)->second + GAP + 4095) & ~4095ull;
            continue;
        }
        if (next == allocations.end() || next->first >= cursor + room) break;
        cursor = (next->first + next->second + GAP + 4095) & ~4095ull;
    }
    u64 begin = cursor;
    cursor += room;
    allocations[begin] = bytes;
    used += bytes;
    memset(&shadow_of(begin), 4, bytes / 4);
    if (bytes % 4) shadow_of(begin + bytes) = bytes % 4;
    memset((void*)begin, 0xff, bytes < POISONED ? bytes : POISONED);
    return (void*)begin;
}

bool device_free(void* address) {
    std::lock_guard guard(lock);
    auto found = allocations.find((u64)address);
    if (found == allocations.end()) return false;
    u64 bytes = found->second, pages = (bytes + 4095) & ~4095ull;
    memset(&shadow_of(found->first), 0, pages / 4);
    if (pages) madvise(address, pages, MADV_DONTNEED);
    used -= bytes;
    allocations.erase(found);
    return true;
}

u64 device_used() {
    std::lock_guard guard(lock);
    return used;
}

bool device_holds(const void* address, u64 bytes) {
    std::lock_guard guard(lock);
    auto next = allocations.upper_bound((u64)address);
    if (next == allocations.begin()) return false;
    auto found = std::prev(next);
    return (u64)address + bytes <= found->first + found->second;
}

void device_written(const void* address, u64 bytes) { mark((u64)address, bytes); }

// What was unwritten at its source is unwritten at its destination.
void device_copied(const void* to, const void* from, u64 bytes) {
    if ((u64)to % 4 || (u64)from % 4 || bytes % 4) return mark((u64)to, bytes);
    memmove(&shadow_of((u64)to), &shadow_of((u64)from), bytes / 4);
}

u8* slot_take() {
    std::lock_guard guard(lock);
    open_memory();
    if (free_slots.empty()) {
        if (slots_made == SLOTS) abort();
        return (u8*)(SHARED_BASE + slots_made++ * SLOT_BYTES);
    }
    u8* slot = free_slots.back();
    free_slots.pop_back();
    return slot;
}

void slot_give_back(u8* slot) {
    std::lock_guard guard(lock);
    free_slots.push_back(slot);
}

}  // namespace simt

using namespace simt;

extern "C" {

void simt_check(const volatile void* address, u64 bytes, int kind) {
    if ((u64)address % (bytes < 16 ? bytes : 16))
        fail(Fault::MISALIGNED, __builtin_return_address(0), "an access of %llu bytes at a misaligned address: 0x%llx", bytes, (u64)address);
    access((u64)address, (u32)bytes, kind, __builtin_return_address(0));
}

// The hooks of -fsanitize=thread.
#define HOOK(name, bytes, kind) \
    void __tsan_##name(void* address) { access((u64)address, bytes, kind, __builtin_return_address(0)); }
#define HOOKS(bytes)                            \
    HOOK(read##bytes, bytes, READ)              \
    HOOK(write##bytes, bytes, WRITE)            \
    HOOK(unaligned_read##bytes, bytes, READ)    \
    HOOK(unaligned_write##bytes, bytes, WRITE)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void* address, u64 bytes) { access((u64)address, (u32)bytes, READ, __builtin_return_address(0)); }
void __tsan_write_range(void* address, u64 bytes) { access((u64)address, (u32)bytes, WRITE, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}

// Of -fsanitize=alignment, bounds, shift: the record that comes first begins with the place.
struct Place {
    const char* file;
    u32 line, column;
};
void __ubsan_handle_type_mismatch_v1(Place* place, u64 address) {
    if (!current_group()) return;
    if (!address) fail(Fault::ADDRESS, nullptr, "line %u: a null pointer is followed", place->line);
    fail(Fault::MISALIGNED, nullptr, "line %u: a misaligned address: 0x%llx", place->line, address);
}
void __ubsan_handle_out_of_bounds(Place* place, u64 index) {
    fail(Fault::ADDRESS, nullptr, "line %u: index %lld is outside of its array", place->line, (long long)index);
}
void __ubsan_handle_shift_out_of_bounds(Place* place, u64, u64 by) {
    fail(Fault::CHECK, nullptr, "line %u: a shift by %llu", place->line, by);
}

}  // extern "C"
