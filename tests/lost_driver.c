// A Vulkan driver that loses its device: Mesa's software driver, whose waits say so from the one on that COSMINE_LOSE_AFTER
// counts, and which takes no more work then. The waits that say so wait nevertheless: no work goes on on a device that is
// lost, and its memory may be given back. tests/wgpu.rs builds this file and names it to Vulkan's loader.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_LOST (-4)

typedef void (*function)(void);

static function (*instance_function)(void *, const char *);
static function (*device_function)(void *, const char *);
static int (*wait_semaphores)(void *, const void *, uint64_t);
static int (*wait_fences)(void *, uint32_t, const void *, uint32_t, uint64_t);
static int (*semaphore_value)(void *, uint64_t, uint64_t *);
static int (*submit)(void *, uint32_t, const void *, uint64_t);
static int waits;

static int is_lost(int waited) {
    const char *after = getenv("COSMINE_LOSE_AFTER");
    return after && __sync_add_and_fetch(&waits, waited) > atoi(after);
}

static int lossy_wait_semaphores(void *device, const void *info, uint64_t timeout) {
    int found = wait_semaphores(device, info, timeout);
    return is_lost(1) ? DEVICE_LOST : found;
}

static int lossy_wait_fences(void *device, uint32_t count, const void *fences, uint32_t all, uint64_t timeout) {
    int found = wait_fences(device, count, fences, all, timeout);
    return is_lost(1) ? DEVICE_LOST : found;
}

static int lossy_semaphore_value(void *device, uint64_t semaphore, uint64_t *value) {
    return is_lost(0) ? DEVICE_LOST : semaphore_value(device, semaphore, value);
}

static int lossy_submit(void *queue, uint32_t count, const void *submissions, uint64_t fence) {
    return is_lost(0) ? DEVICE_LOST : submit(queue, count, submissions, fence);
}

/// The function of a name, or what stands in its place; the names of extensions mean the same.
static function replaced(const char *name, function found) {
    if (!found) return found;
    if (!strncmp(name, "vkWaitSemaphores", 16)) {
        wait_semaphores = (void *)found;
        return (function)lossy_wait_semaphores;
    }
    if (!strcmp(name, "vkWaitForFences")) {
        wait_fences = (void *)found;
        return (function)lossy_wait_fences;
    }
    if (!strncmp(name, "vkGetSemaphoreCounterValue", 26)) {
        semaphore_value = (void *)found;
        return (function)lossy_semaphore_value;
    }
    if (!strcmp(name, "vkQueueSubmit")) {
        submit = (void *)found;
        return (function)lossy_submit;
    }
    return found;
}

static function lossy_device_function(void *device, const char *name) {
    return replaced(name, device_function(device, name));
}

static void *driver(const char *name) {
    static void *library;
    if (!library) library = dlopen("libvulkan_lvp.so", RTLD_NOW);
    return library ? dlsym(library, name) : 0;
}

function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    if (!instance_function) instance_function = driver("vk_icdGetInstanceProcAddr");
    if (!instance_function) return 0;
    function found = instance_function(instance, name);
    if (found && !strcmp(name, "vkGetDeviceProcAddr")) {
        device_function = (void *)found;
        return (function)lossy_device_function;
    }
    return replaced(name, found);
}

function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) {
    function (*get)(void *, const char *) = driver("vk_icdGetPhysicalDeviceProcAddr");
    return get ? get(instance, name) : 0;
}

int vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    int (*negotiate)(uint32_t *) = driver("vk_icdNegotiateLoaderICDInterfaceVersion");
    return negotiate ? negotiate(version) : -3;
}
