// The driver's objects and codes, by the CUDA driver API.
#pragma once
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime.hpp"

#define API extern "C" __attribute__((visibility("default"))) int

namespace simt {

enum Result : int {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_SOURCE = 300, INVALID_HANDLE = 400,
    NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_OUT_OF_RESOURCES = 701, LAUNCH_TIMEOUT = 702,
    ASSERT = 710, MISALIGNED_ADDRESS = 716, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900,
};

// What the pretended machine is, and what shall go wrong; see README.md for the variables.
struct Settings {
    int devices, capability, driver_version;
    u64 memory_bytes;
    u64 fails_allocation, fails_launch;  // the n-th; 0: none
};
const Settings& settings();

using Work = std::function<int()>;

struct Graph {
    std::vector<Work> work;
};

// Work waits here until somebody waits for it: whoever reuses memory too early meets the difference.
struct Stream {
    int device = 0;
    std::mutex adding;
    std::deque<Work> queue;
    u64 added = 0;
    bool busy = false;  // a piece of its work is being done
    std::atomic<u64> done{0};
    std::atomic<int> error{0};
    Graph* capture = nullptr;
};

struct Event {
    std::mutex lock;
    std::shared_ptr<Stream> stream;
    u64 number = 0;  // of the work in the stream that it stands behind
    std::shared_ptr<std::chrono::steady_clock::time_point> time;
};

struct Context {
    int device;
    std::atomic<int> error{0};  // after a fault that a real card does not survive
};

struct Module;
struct Function {
    Module* module;
    const Entry* entry;
    u32 shared_limit = 48 << 10;
};

Context* context();  // of this thread
std::shared_ptr<Stream> stream_of(void* handle);
int add(void* stream, Work work);
int drain(Stream& stream, u64 up_to = ~0ull);
int drain_all();
int failed();  // the code that every call returns after a fault
bool is_pinned(const void* address, u64 bytes);
int device_attribute(int attribute);

// Every call begins with this.
#define GUARD if (int code = failed()) return code

}  // namespace simt
