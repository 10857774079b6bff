// Memory of the device and pinned memory of the host; copies and fills.
#include <cstdlib>
#include <cstring>

#include "driver.hpp"

using namespace simt;
using Address = u64;

static std::mutex pinned_lock;
static std::map<u64, u64> pinned;

bool simt::is_pinned(const void* address, u64 bytes) {
    std::lock_guard guard(pinned_lock);
    auto next = pinned.upper_bound((u64)address);
    if (next == pinned.begin()) return false;
    auto found = std::prev(next);
    return (u64)address + bytes <= found->first + found->second;
}

// Allocations so far, and the number of the one that finds no memory.
static std::atomic<u64> allocations, failing{~0ull};
static bool finds_none() {
    u64 number = ++allocations, fails = failing;
    return number == (fails == ~0ull ? settings().fails_allocation : fails);
}
extern "C" __attribute__((visibility("default"))) u64 simtFailAllocation(u64 number) {
    failing = number;
    return allocations.exchange(0);
}

API cuMemAlloc_v2(Address* out, size_t bytes) {
    GUARD;
    if (bytes == 0) return INVALID_VALUE;
    if (finds_none()) return OUT_OF_MEMORY;
    if (device_used() + bytes > settings().memory_bytes) drain_all();  // some may be about to be given back
    if (device_used() + bytes > settings().memory_bytes) return OUT_OF_MEMORY;
    *out = (Address)device_allocate(bytes);
    return *out ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemFree_v2(Address address) {
    GUARD;
    int code = drain_all();
    if (address && !device_free((void*)address)) return INVALID_VALUE;
    return code;
}
API cuMemAllocAsync(Address* out, size_t bytes, void*) { return cuMemAlloc_v2(out, bytes); }
API cuMemAllocFromPoolAsync(Address* out, size_t bytes, void*, void*) { return cuMemAlloc_v2(out, bytes); }
API cuMemFreeAsync(Address address, void* stream) {
    GUARD;
    if (!device_holds((void*)address, 0)) return INVALID_VALUE;
    if (stream_of(stream)->capture) return SUCCESS;  // the graph keeps it
    return add(stream, [=] { return device_free((void*)address) ? SUCCESS : INVALID_VALUE; });
}
API cuMemAllocManaged(Address* out, size_t bytes, u32) { return cuMemAlloc_v2(out, bytes); }
API cuMemGetInfo_v2(size_t* free, size_t* total) {
    GUARD;
    u64 used = device_used();
    *total = settings().memory_bytes;
    *free = used > *total ? 0 : *total - used;
    return SUCCESS;
}
API cuMemGetAddressRange_v2(Address*, size_t*, Address) { return NOT_SUPPORTED; }
API cuPointerGetAttribute(void* out, int attribute, Address address) {
    if (!in_device((void*)address)) return INVALID_VALUE;
    if (attribute == 1) *(void**)out = context();      // its context
    else if (attribute == 2) *(u32*)out = 2;           // memory of a device
    else if (attribute == 9) *(int*)out = 0;           // the device's ordinal
    else return NOT_SUPPORTED;
    return SUCCESS;
}

API cuMemHostAlloc(void** out, size_t bytes, u32) {
    GUARD;
    if (finds_none()) return OUT_OF_MEMORY;
    *out = aligned_alloc(4096, (bytes + 4095) & ~4095ull);
    if (!*out) return OUT_OF_MEMORY;
    memset(*out, 0xff, bytes);
    std::lock_guard guard(pinned_lock);
    pinned[(u64)*out] = bytes;
    return SUCCESS;
}
API cuMemAllocHost_v2(void** out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
API cuMemFreeHost(void* address) {
    GUARD;
    int code = drain_all();
    {
        std::lock_guard guard(pinned_lock);
        if (!pinned.erase((u64)address)) return INVALID_VALUE;
    }
    free(address);
    return code;
}
API cuMemHostRegister_v2(void* address, size_t bytes, u32) {
    std::lock_guard guard(pinned_lock);
    pinned[(u64)address] = bytes;
    return SUCCESS;
}
API cuMemHostUnregister(void* address) {
    int code = drain_all();
    std::lock_guard guard(pinned_lock);
    pinned.erase((u64)address);
    return code;
}
API cuMemHostGetDevicePointer_v2(Address*, void*, u32) { return NOT_SUPPORTED; }
API cuMemHostGetFlags(u32* flags, void*) { *flags = 0; return SUCCESS; }

// A copy or a fill outside an allocation.
static int outside(const char* what, Address address, size_t bytes) {
    say("%s of %zu bytes at 0x%llx is not within one allocation", what, bytes, address);
    return INVALID_VALUE;
}

API cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
    GUARD;
    if (bytes == 0) return SUCCESS;
    if (!device_holds((void*)to, bytes)) return outside("a copy to the device", to, bytes);
    std::shared_ptr<std::vector<u8>> staged;
    if (!is_pinned(from, bytes)) {  // such memory may be used again at once
        staged = std::make_shared<std::vector<u8>>((const u8*)from, (const u8*)from + bytes);
        from = staged->data();
    }
    return add(stream, [=] {
        (void)staged;
        if (!device_holds((void*)to, bytes)) return (Result)outside("a copy to the device", to, bytes);
        memcpy((void*)to, from, bytes);
        device_written((void*)to, bytes);
        return SUCCESS;
    });
}
API cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
    GUARD;
    if (bytes == 0) return SUCCESS;
    if (!device_holds((void*)from, bytes)) return outside("a copy from the device", from, bytes);
    if (is_pinned(to, bytes)) memset(to, 0xff, bytes);  // whoever looks too early sees that
    int code = add(stream, [=] {
        if (!device_holds((void*)from, bytes)) return (Result)outside("a copy from the device", from, bytes);
        memcpy(to, (void*)from, bytes);
        return SUCCESS;
    });
    if (code || is_pinned(to, bytes)) return code;
    auto at = stream_of(stream);
    return at->capture ? CAPTURE_UNSUPPORTED : drain(*at);
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
    GUARD;
    if (bytes == 0) return SUCCESS;
    if (!device_holds((void*)to, bytes)) return outside("a copy within the device, to there,", to, bytes);
    if (!device_holds((void*)from, bytes)) return outside("a copy within the device, from there,", from, bytes);
    return add(stream, [=] {
        memmove((void*)to, (void*)from, bytes);
        device_copied((void*)to, (void*)from, bytes);
        return SUCCESS;
    });
}
API cuMemcpyPeerAsync(Address to, void*, Address from, void*, size_t bytes, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
API cuMemcpyAsync(Address to, Address from, size_t bytes, void* stream) {
    if (!in_device((void*)to)) return cuMemcpyDtoHAsync_v2((void*)to, from, bytes, stream);
    if (!in_device((void*)from)) return cuMemcpyHtoDAsync_v2(to, (void*)from, bytes, stream);
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
static int at_once(int code) { return code ? code : drain_all(); }
API cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) { return at_once(cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr)); }
API cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) { return at_once(cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr)); }
API cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) { return at_once(cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr)); }

template <class T> static int fill(Address to, T value, size_t count, void* stream) {
    GUARD;
    if (count == 0) return SUCCESS;
    if (!device_holds((void*)to, count * sizeof(T))) return outside("a fill", to, count * sizeof(T));
    return add(stream, [=] {
        if (!device_holds((void*)to, count * sizeof(T))) return (Result)outside("a fill", to, count * sizeof(T));
        for (size_t i = 0; i < count; i++) ((T*)to)[i] = value;
        device_written((void*)to, count * sizeof(T));
        return SUCCESS;
    });
}
API cuMemsetD8Async(Address to, u8 value, size_t count, void* stream) { return fill(to, value, count, stream); }
API cuMemsetD16Async(Address to, u16 value, size_t count, void* stream) { return fill(to, value, count, stream); }
API cuMemsetD32Async(Address to, u32 value, size_t count, void* stream) { return fill(to, value, count, stream); }
API cuMemsetD8_v2(Address to, u8 value, size_t count) { return at_once(fill(to, value, count, nullptr)); }
API cuMemsetD32_v2(Address to, u32 value, size_t count) { return at_once(fill(to, value, count, nullptr)); }

// Pools: one, which keeps nothing.
static int pool;
API cuDeviceGetDefaultMemPool(void** out, int) { *out = &pool; return SUCCESS; }
API cuDeviceGetMemPool(void** out, int) { *out = &pool; return SUCCESS; }
API cuDeviceSetMemPool(int, void*) { return SUCCESS; }
API cuMemPoolCreate(void** out, const void*) { *out = &pool; return SUCCESS; }
API cuMemPoolDestroy(void*) { return SUCCESS; }
API cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }
API cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
API cuMemPoolGetAttribute(void*, int attribute, void* value) {
    if (attribute <= 3) *(int*)value = 1;
    else *(u64*)value = attribute == 4 ? 0 : device_used();
    return SUCCESS;
}
