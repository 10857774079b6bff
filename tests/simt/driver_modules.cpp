// Modules, functions and launches. The image of a module is a shared object that libnvrtc.so made.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "driver.hpp"

namespace simt {

struct Module {
    void* object = nullptr;
    std::string path;
    u64 begin = 0, end = 0;
    u32 shared_static = 0;
    bool flushes_subnormals = false;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

static thread_local u32 reserved;

static int find_range(dl_phdr_info* info, size_t, void* data) {
    auto& module = *(Module*)data;
    if (info->dlpi_addr != module.begin) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        auto& part = info->dlpi_phdr[i];
        if (part.p_type == PT_LOAD) module.end = std::max<u64>(module.end, module.begin + part.p_vaddr + part.p_memsz);
    }
    return 1;
}

static u64 image_bytes(const void* image) {
    auto* header = (const Elf64_Ehdr*)image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return 0;
    return header->e_shoff + (u64)header->e_shnum * header->e_shentsize;
}

static int code_of(Fault fault) {
    switch (fault) {
        case Fault::NONE: return SUCCESS;
        case Fault::ADDRESS: return ILLEGAL_ADDRESS;
        case Fault::MISALIGNED: return MISALIGNED_ADDRESS;
        case Fault::DEADLOCK: return LAUNCH_TIMEOUT;
        case Fault::ASSERT: return ASSERT;
        default: return LAUNCH_FAILED;
    }
}

}  // namespace simt

using namespace simt;

extern "C" u32 simt_reserve(u32 bytes, u32 align) {
    u32 offset = (reserved + align - 1) & ~(align - 1);
    reserved = offset + bytes;
    return offset;
}

API cuModuleLoadData(void** out, const void* image) {
    GUARD;
    u64 bytes = image_bytes(image);
    if (!bytes) return INVALID_IMAGE;
    auto module = std::make_unique<Module>();
    int file = memfd_create("simt-kernel", 0);
    for (u64 at = 0; at < bytes;) {
        ssize_t some = write(file, (const char*)image + at, bytes - at);
        if (some <= 0) return INVALID_IMAGE;
        at += (u64)some;
    }
    module->path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
    reserved = 0;
    module->object = dlopen(module->path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!module->object) {
        say("a module does not load: %s", dlerror());
        close(file);
        return INVALID_IMAGE;
    }
    module->shared_static = reserved;
    link_map* map = nullptr;
    dlinfo(module->object, RTLD_DI_LINKMAP, &map);
    module->begin = map->l_addr;
    dl_iterate_phdr(find_range, module.get());
    auto* entries = (const Entry*)dlsym(module->object, "simt_entries");
    auto* flushes = (const bool*)dlsym(module->object, "simt_flushes_subnormals");
    if (!entries || !flushes) return INVALID_IMAGE;
    module->flushes_subnormals = *flushes;
    for (; entries->name; entries++)
        module->functions[entries->name] = std::make_unique<Function>(Function{module.get(), entries});
    *out = module.release();
    return SUCCESS;
}
API cuModuleLoadDataEx(void** out, const void* image, u32, int*, void**) { return cuModuleLoadData(out, image); }
API cuModuleUnload(void* handle) {
    int code = drain_all();
    auto* module = (Module*)handle;
    dlclose(module->object);
    close(atoi(module->path.substr(module->path.rfind('/') + 1).c_str()));
    delete module;
    return code;
}
API cuModuleGetFunction(void** out, void* handle, const char* name) {
    GUARD;
    auto* module = (Module*)handle;
    auto found = module->functions.find(name);
    if (found == module->functions.end()) return NOT_FOUND;
    *out = found->second.get();
    return SUCCESS;
}
API cuModuleGetGlobal_v2(u64*, size_t*, void*, const char*) { return NOT_FOUND; }
API cuModuleGetLoadingMode(int* mode) { *mode = 1; return SUCCESS; }

API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    auto* function = (Function*)handle;
    switch (attribute) {
        case 0: *value = function->entry->most_threads ? (int)function->entry->most_threads : 1024; break;
        case 1: *value = (int)function->module->shared_static; break;
        case 4: *value = 64; break;  // registers
        case 8: *value = (int)function->shared_limit; break;
        default: *value = 0;
    }
    return SUCCESS;
}
API cuFuncSetAttribute(void* handle, int attribute, int value) {
    GUARD;
    auto* function = (Function*)handle;
    if (attribute != 8) return SUCCESS;  // the most dynamic shared memory
    if (value < 0 || value + (int)function->module->shared_static > device_attribute(97)) return INVALID_VALUE;
    function->shared_limit = (u32)value;
    return SUCCESS;
}
API cuFuncSetCacheConfig(void*, int) { return SUCCESS; }
API cuFuncGetModule(void** out, void* function) { *out = ((Function*)function)->module; return SUCCESS; }
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t dynamic) {
    auto* function = (Function*)handle;
    u64 shared = function->module->shared_static + dynamic + (u64)device_attribute(111);
    *blocks = (int)std::min<u64>({32, 2048 / (u64)std::max(threads, 1), (u64)device_attribute(81) / std::max<u64>(shared, 1)});
    return SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* function, int threads, size_t dynamic, u32) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic);
}

struct LaunchAttribute {
    int id, padding;
    u32 value[16];
};
struct LaunchConfiguration {
    u32 grid[3], block[3], shared_bytes;
    void* stream;
    LaunchAttribute* attributes;
    u32 attribute_count;
};

static int refuse(const char* name, const char* why) {
    say("kernel `%s` is not launched: %s", name, why);
    return INVALID_VALUE;
}

API cuLaunchKernelEx(const LaunchConfiguration* how, void* handle, void** arguments, void** extra) {
    GUARD;
    auto* function = (Function*)handle;
    const Entry* entry = function->entry;
    auto launch = std::make_shared<Launch>();
    launch->kernel = entry;
    launch->grid = {how->grid[0], how->grid[1], how->grid[2]};
    launch->block = {how->block[0], how->block[1], how->block[2]};
    for (u32 i = 0; i < how->attribute_count; i++)
        if (how->attributes[i].id == 4)
            launch->cluster = {how->attributes[i].value[0], how->attributes[i].value[1], how->attributes[i].value[2]};
    if (entry->cluster[0]) {
        Uint3 own{entry->cluster[0], entry->cluster[1] + !entry->cluster[1], entry->cluster[2] + !entry->cluster[2]};
        if (how->attribute_count && memcmp(&own, &launch->cluster, sizeof own))
            return refuse(entry->name, "its __cluster_dims__ say otherwise than the launch");
        launch->cluster = own;
    }
    u64 threads = (u64)how->block[0] * how->block[1] * how->block[2];
    if (extra) return refuse(entry->name, "`extra` is not known here");
    if (threads == 0 || threads > 1024 || how->block[2] > 64) return refuse(entry->name, "blocks have 1 to 1,024 threads");
    if (entry->most_threads && threads > entry->most_threads) return refuse(entry->name, "more threads than its launch bounds say");
    if (!how->grid[0] || !how->grid[1] || !how->grid[2]) return refuse(entry->name, "a grid without blocks");
    if (how->grid[0] > 2147483647u || how->grid[1] > 65535 || how->grid[2] > 65535) return refuse(entry->name, "too many blocks");
    if (how->shared_bytes > function->shared_limit) return refuse(entry->name, "more dynamic shared memory than was opted in to");
    if (how->shared_bytes + function->module->shared_static > (u32)device_attribute(97))
        return refuse(entry->name, "more shared memory than a block can have");
    Uint3 cluster = launch->cluster;
    u32 blocks = cluster.x * cluster.y * cluster.z;
    if (blocks == 0 || blocks > 16 || how->grid[0] % cluster.x || how->grid[1] % cluster.y || how->grid[2] % cluster.z)
        return refuse(entry->name, "the grid is no whole number of clusters of 1 to 16 blocks");
    if (blocks > 1 && settings().capability < 90) return refuse(entry->name, "clusters come with compute capability 9.0");
    launch->shared_static = function->module->shared_static;
    launch->shared_dynamic = how->shared_bytes;
    launch->flushes_subnormals = function->module->flushes_subnormals;
    launch->module = function->module->path.c_str();
    launch->module_begin = function->module->begin;
    launch->module_end = function->module->end;
    for (u32 i = 0; i < entry->parameters; i++) {
        auto* bytes = (const u8*)arguments[i];
        launch->arguments.emplace_back(bytes, bytes + entry->parameter_bytes[i]);
    }
    auto* home = context();
    return add(how->stream, [launch, home]() -> int {
        static std::atomic<u64> launches;
        if (++launches == settings().fails_launch) {
            say("kernel `%s`: it was asked to fail", launch->kernel->name);
            home->error = ILLEGAL_ADDRESS;
            return ILLEGAL_ADDRESS;
        }
        return code_of(run_launch(*launch));
    });
}

API cuLaunchKernel(void* function, u32 grid_x, u32 grid_y, u32 grid_z, u32 block_x, u32 block_y, u32 block_z, u32 shared_bytes,
                   void* stream, void** arguments, void** extra) {
    LaunchConfiguration how{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream, nullptr, 0};
    return cuLaunchKernelEx(&how, function, arguments, extra);
}
API cuLaunchCooperativeKernel(void* function, u32 grid_x, u32 grid_y, u32 grid_z, u32 block_x, u32 block_y, u32 block_z,
                              u32 shared_bytes, void* stream, void** arguments) {
    (void)function, (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z;
    (void)shared_bytes, (void)stream, (void)arguments;
    return NOT_SUPPORTED;  // blocks run one after another
}
