// Devices, contexts, versions and names of errors.
#include <cstdlib>
#include <cstring>

#include "driver.hpp"

namespace simt {

static u64 number(const char* name, u64 otherwise) {
    const char* text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

const Settings& settings() {
    static const Settings all{
        (int)number("COSMINE_SIMT_DEVICES", 1),
        (int)number("COSMINE_SIMT_CAPABILITY", 80),
        (int)number("COSMINE_SIMT_DRIVER", 13040),
        number("COSMINE_SIMT_MEMORY", 4ull << 30),
        number("COSMINE_SIMT_FAIL_ALLOCATION", 0),
        number("COSMINE_SIMT_FAIL_LAUNCH", 0),
    };
    return all;
}

static bool initialised;
static thread_local Context* current;
static Context& primary(int device) {
    static Context contexts[64];
    contexts[device].device = device;
    return contexts[device];
}

Context* context() { return current; }

int failed() {
    if (!initialised) return NOT_INITIALIZED;
    if (!current) return INVALID_CONTEXT;
    return current->error;
}

int device_attribute(int attribute) {
    int capability = settings().capability;
    switch (attribute) {
        case 1: return 1024;                                             // threads of a block
        case 2: case 3: return 1024;                                     // its sides
        case 4: return 64;
        case 5: return 2147483647;                                       // blocks of a grid
        case 6: case 7: return 65535;
        case 8: return 48 << 10;                                         // shared memory of a block
        case 9: return 64 << 10;                                         // constant memory
        case 10: return 32;                                              // lanes of a warp
        case 12: case 82: return 65536;                                  // registers
        case 13: return 1500000;                                         // kHz
        case 14: return 512;                                             // alignment of textures
        case 15: return 1;
        case 16: return 2;                                               // multiprocessors: few, so that grids have waves
        case 17: return 0;                                               // no limit on run time
        case 18: return 0;
        case 31: return 1;                                               // kernels at the same time
        case 33: return 0;                                               // PCI
        case 34: return 0;
        case 36: return 1500000;
        case 37: return 2048;                                            // bits of the memory's bus
        case 38: return 4 << 20;                                         // second-level cache
        case 39: return 2048;                                            // threads of a multiprocessor
        case 40: return 2;                                               // copy engines
        case 41: return 1;                                               // unified addressing
        case 75: return capability / 10;
        case 76: return capability % 10;
        case 81: return capability >= 90 ? 233472 : capability >= 80 ? 167936 : 98304;  // of a multiprocessor
        case 83: return 1;                                               // managed memory
        case 95: return 1;                                               // cooperative launch
        case 97: return capability >= 90 ? 232448 : capability >= 80 ? 166912 : 98304;  // of a block that opts in
        case 106: return 32;                                             // blocks of a multiprocessor
        case 111: return capability >= 80 ? 1024 : 0;                    // reserved shared memory of a block
        case 115: return 1;                                              // memory pools
        case 120: return capability >= 90;                               // clusters
        default: return 0;
    }
}

}  // namespace simt

using namespace simt;

API cuInit(u32) {
    if (settings().devices == 0) return NO_DEVICE;
    initialised = true;
    return SUCCESS;
}
API cuDriverGetVersion(int* version) { *version = settings().driver_version; return SUCCESS; }
API cuDeviceGetCount(int* count) { *count = settings().devices; return initialised ? SUCCESS : NOT_INITIALIZED; }
API cuDeviceGet(int* device, int ordinal) {
    if (!initialised) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= settings().devices) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
API cuDeviceGetName(char* name, int length, int) {
    snprintf(name, (size_t)length, "SIMT executor (sm_%d)", settings().capability);
    return SUCCESS;
}
API cuDeviceGetUuid(u8* uuid, int device) {
    memset(uuid, 0, 16);
    memcpy(uuid, "simt executor", 13);
    uuid[15] = (u8)device;
    return SUCCESS;
}
API cuDeviceGetUuid_v2(u8* uuid, int device) { return cuDeviceGetUuid(uuid, device); }
API cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = settings().memory_bytes; return SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) { *value = device_attribute(attribute); return SUCCESS; }
API cuDeviceComputeCapability(int* major, int* minor, int) {
    *major = settings().capability / 10;
    *minor = settings().capability % 10;
    return SUCCESS;
}
API cuDeviceCanAccessPeer(int* can, int, int) { *can = 0; return SUCCESS; }
API cuDeviceGetPCIBusId(char* text, int length, int device) {
    snprintf(text, (size_t)length, "0000:%02x:00.0", device + 1);
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** out, int device) { *out = &primary(device); return SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuDevicePrimaryCtxReset_v2(int device) { primary(device).error = 0; return SUCCESS; }
API cuDevicePrimaryCtxGetState(int, u32* flags, int* active) { *flags = 0; *active = 1; return SUCCESS; }
API cuDevicePrimaryCtxSetFlags_v2(int, u32) { return SUCCESS; }
API cuCtxGetCurrent(void** out) { *out = current; return initialised ? SUCCESS : NOT_INITIALIZED; }
API cuCtxSetCurrent(void* to) { current = (Context*)to; return SUCCESS; }
API cuCtxPushCurrent_v2(void* to) { current = (Context*)to; return SUCCESS; }
API cuCtxPopCurrent_v2(void** out) { if (out) *out = current; return SUCCESS; }
API cuCtxGetDevice(int* device) { GUARD; *device = current->device; return SUCCESS; }
API cuCtxSetFlags(u32) { GUARD; return SUCCESS; }
API cuCtxGetFlags(u32* flags) { *flags = 0; return SUCCESS; }
API cuCtxSetLimit(int, size_t) { GUARD; return SUCCESS; }
API cuCtxGetLimit(size_t* value, int) { *value = STACK_BYTES / 2; return SUCCESS; }
API cuCtxGetApiVersion(void*, u32* version) { *version = 13040; return SUCCESS; }
API cuCtxGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return SUCCESS; }
API cuCtxSynchronize() { GUARD; return drain_all(); }

#define CODES(X)                                                                                                   \
    X(0, SUCCESS, "no error") X(1, INVALID_VALUE, "invalid argument") X(2, OUT_OF_MEMORY, "out of memory")         \
    X(3, NOT_INITIALIZED, "initialization error") X(100, NO_DEVICE, "no CUDA-capable device is detected")          \
    X(101, INVALID_DEVICE, "invalid device ordinal") X(200, INVALID_IMAGE, "device kernel image is invalid")       \
    X(201, INVALID_CONTEXT, "invalid device context") X(209, NO_BINARY_FOR_GPU, "no kernel image is available")    \
    X(300, INVALID_SOURCE, "device kernel image is invalid") X(400, INVALID_HANDLE, "invalid resource handle")     \
    X(500, NOT_FOUND, "named symbol not found") X(600, NOT_READY, "device not ready")                              \
    X(700, ILLEGAL_ADDRESS, "an illegal memory access was encountered")                                            \
    X(701, LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")                                     \
    X(702, LAUNCH_TIMEOUT, "the launch timed out and was terminated") X(710, ASSERT, "device-side assert triggered") \
    X(716, MISALIGNED_ADDRESS, "misaligned address") X(719, LAUNCH_FAILED, "unspecified launch failure")           \
    X(801, NOT_SUPPORTED, "operation not supported")                                                               \
    X(900, STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing")

API cuGetErrorName(int code, const char** name) {
    switch (code) {
#define X(number, name_, text) case number: *name = "CUDA_ERROR_" #name_; break;
        CODES(X)
#undef X
        default: *name = nullptr; return INVALID_VALUE;
    }
    if (code == 0) *name = "CUDA_SUCCESS";
    return SUCCESS;
}

API cuGetErrorString(int code, const char** text) {
    switch (code) {
#define X(number, name, text_) case number: *text = text_; break;
        CODES(X)
#undef X
        default: *text = nullptr; return INVALID_VALUE;
    }
    return SUCCESS;
}
