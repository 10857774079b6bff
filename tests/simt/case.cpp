// Runs one of cases/*.cu through the driver and the compiler as a backend would. Its comments say how:
//   // launch: grid block dynamic-shared-bytes [cluster]
//   // expect: ok | words of the report
// The kernel is `test(unsigned* out, const unsigned* in, unsigned n)`: `in` counts upwards from 0, and a passing kernel
// writes 1 to each of the n words of `out`, one for each thread of the grid.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

using u32 = unsigned;
using u64 = unsigned long long;
extern "C" {
int cuInit(u32);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuMemAlloc_v2(u64*, size_t);
int cuMemcpyHtoD_v2(u64, const void*, size_t);
int cuMemcpyDtoH_v2(void*, u64, size_t);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncSetAttribute(void*, int, int);
int cuStreamCreate(void**, u32);
int cuStreamSynchronize(void*);
int cuGetErrorName(int, const char**);
int nvrtcCreateProgram(void**, const char*, const char*, int, const char* const*, const char* const*);
int nvrtcCompileProgram(void*, int, const char* const*);
int nvrtcGetProgramLogSize(void*, size_t*);
int nvrtcGetProgramLog(void*, char*);
int nvrtcGetCUBINSize(void*, size_t*);
int nvrtcGetCUBIN(void*, char*);
}
struct Attribute { int id, padding; u32 value[16]; };
struct Configuration { u32 grid[3], block[3], shared; void* stream; Attribute* attributes; u32 count; };
extern "C" int cuLaunchKernelEx(const Configuration*, void*, void**, void**);

static void must(int code, const char* what) {
    if (!code) return;
    const char* name = nullptr;
    cuGetErrorName(code, &name);
    printf("%s: %s\n", what, name ? name : "?");
    exit(1);
}

static std::string after(const std::string& text, const std::string& mark) {
    size_t at = text.find(mark);
    if (at == std::string::npos) printf("no `%s`\n", mark.c_str()), exit(2);
    at += mark.size();
    return text.substr(at, text.find('\n', at) - at);
}

int main(int, char** arguments) {
    std::ifstream file(arguments[1]);
    std::ostringstream all;
    all << file.rdbuf();
    std::string text = all.str();
    Configuration how{{1, 1, 1}, {1, 1, 1}, 0, nullptr, nullptr, 0};
    Attribute cluster{4, 0, {1, 1, 1}};
    std::istringstream launch(after(text, "// launch:"));
    launch >> how.grid[0] >> how.block[0] >> how.shared;
    if (launch >> cluster.value[0]) how.attributes = &cluster, how.count = 1;

    void *program, *context, *module, *function;
    must(nvrtcCreateProgram(&program, text.c_str(), arguments[1], 0, nullptr, nullptr), "nvrtcCreateProgram");
    const char* capability = getenv("COSMINE_SIMT_CAPABILITY");
    std::string target = std::string("--gpu-architecture=sm_") + (capability ? capability : "80");
    if (target == "--gpu-architecture=sm_90") target += "a";
    const char* options[] = {target.c_str(), "--fmad=false"};
    if (nvrtcCompileProgram(program, 2, options)) {
        size_t bytes;
        nvrtcGetProgramLogSize(program, &bytes);
        std::vector<char> log(bytes);
        nvrtcGetProgramLog(program, log.data());
        printf("%s\n", log.data());
        return 1;
    }
    size_t bytes;
    nvrtcGetCUBINSize(program, &bytes);
    std::vector<char> image(bytes);
    nvrtcGetCUBIN(program, image.data());
    must(cuInit(0), "cuInit");
    must(cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
    must(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    must(cuModuleLoadData(&module, image.data()), "cuModuleLoadData");
    must(cuModuleGetFunction(&function, module, "test"), "cuModuleGetFunction");
    if (how.shared > 48 << 10) must(cuFuncSetAttribute(function, 8, (int)how.shared), "cuFuncSetAttribute");
    u32 n = how.grid[0] * how.block[0];
    std::vector<u32> words(n);
    for (u32 i = 0; i < n; i++) words[i] = i;
    u64 in, out;
    must(cuMemAlloc_v2(&in, 4 * n), "cuMemAlloc");
    must(cuMemAlloc_v2(&out, 4 * n), "cuMemAlloc");
    must(cuMemcpyHtoD_v2(in, words.data(), 4 * n), "cuMemcpyHtoD");
    must(cuStreamCreate(&how.stream, 1), "cuStreamCreate");
    void* given[] = {&out, &in, &n};
    must(cuLaunchKernelEx(&how, function, given, nullptr), "cuLaunchKernelEx");
    must(cuStreamSynchronize(how.stream), "cuStreamSynchronize");
    must(cuMemcpyDtoH_v2(words.data(), out, 4 * n), "cuMemcpyDtoH");
    for (u32 i = 0; i < n; i++)
        if (words[i] != 1) printf("out[%u] is 0x%x\n", i, words[i]), exit(1);
    printf("ok\n");
}
