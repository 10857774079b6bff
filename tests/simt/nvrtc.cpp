// libnvrtc.so: compiles kernels with g++ into shared objects that libcuda.so.1 runs. SIMT_HOME and SIMT_DRIVER are set
// when it is built: the directory of cuda.hpp, and the path of libcuda.so.1.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "rewrite.hpp"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum { SUCCESS, OUT_OF_MEMORY, PROGRAM_CREATION_FAILURE, INVALID_INPUT, INVALID_PROGRAM, INVALID_OPTION, COMPILATION };

struct Program {
    std::string text, name, log, image;
};

bool checked() {
    const char* text = getenv("COSMINE_SIMT_CHECK");
    return !text || strcmp(text, "0") != 0;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
}

void write_file(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

int run(const std::string& command) {
    int status = system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

// What a compiled object depends on besides its text: the executor's files, as tests/simt/run found them.
std::string object_path(const std::string& text, const std::string& flags) {
    const char* directory = getenv("COSMINE_SIMT_OBJECTS");
    if (!directory) return "";
    unsigned long long hash = 14695981039346656037ull, other = 1099511628211ull;
    for (unsigned char c : text + flags) {
        hash = (hash ^ c) * 1099511628211ull;
        other = other * 6364136223846793005ull + c;
    }
    char name[64];
    snprintf(name, sizeof name, "/%016llx%016llx.so", hash, other);
    return directory + std::string(name);
}

std::string quoted(const std::string& text) { return "'" + text + "'"; }

int compile(Program& program, const std::string& flags, const std::string& directory) {
    std::string base = directory + "/kernel", log = " 2>>" + quoted(base + ".log");
    write_file(base + ".cu", "#include \"cuda.hpp\"\n#line 1 \"" + program.name + "\"\n" + program.text);
    int code = run("g++ -E -x c++ " + flags + " -I" + quoted(SIMT_HOME) + " " + quoted(base + ".cu") + " -o " + quoted(base + ".i") + log);
    if (code == 0) {
        try {
            write_file(base + ".ii", rewrite(read_file(base + ".i")));
        } catch (const std::exception& error) {
            program.log = error.what();
            return COMPILATION;
        }
        code = run("g++ -c -x c++ -fpreprocessed " + flags + " " + quoted(base + ".ii") + " -o " + quoted(base + ".o") + log);
    }
    if (code == 0)
        code = run("g++ -shared -Wl,-z,defs -o " + quoted(base + ".so") + " " + quoted(base + ".o") + " " + quoted(SIMT_DRIVER) + " -lm" + log);
    program.log = read_file(base + ".log");
    if (code) return COMPILATION;
    program.image = read_file(base + ".so");
    return SUCCESS;
}

}  // namespace

API nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 0;
    return SUCCESS;
}
API nvrtcGetNumSupportedArchs(int* count) { *count = 4; return SUCCESS; }
API nvrtcGetSupportedArchs(int* archs) {
    const int all[] = {75, 80, 90, 100};
    memcpy(archs, all, sizeof all);
    return SUCCESS;
}
extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(int code) {
    const char* all[] = {"NVRTC_SUCCESS", "NVRTC_ERROR_OUT_OF_MEMORY", "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
                         "NVRTC_ERROR_INVALID_INPUT", "NVRTC_ERROR_INVALID_PROGRAM", "NVRTC_ERROR_INVALID_OPTION",
                         "NVRTC_ERROR_COMPILATION"};
    return code >= 0 && code <= 6 ? all[code] : "NVRTC_ERROR_INTERNAL_ERROR";
}

API nvrtcCreateProgram(void** out, const char* text, const char* name, int headers, const char* const*, const char* const*) {
    if (headers) return INVALID_INPUT;
    *out = new Program{text, name ? name : "default_program", "", ""};
    return SUCCESS;
}
API nvrtcDestroyProgram(void** program) {
    delete (Program*)*program;
    *program = nullptr;
    return SUCCESS;
}

API nvrtcCompileProgram(void* handle, int count, const char* const* options) {
    auto& program = *(Program*)handle;
    bool fused = true, flushes = false;
    int architecture = 75;
    bool specific = false;  // sm_90a
    std::string flags = "-std=c++20 -g1 -fPIC -fvisibility=hidden -fno-gnu-unique -fno-exceptions -fno-rtti -w -fno-strict-aliasing -mavx2 -mfma -mf16c";
    for (int i = 0; i < count; i++) {
        std::string option = options[i];
        if (option == "--fmad=false" || option == "-fmad=false") fused = false;
        if (option == "--use_fast_math" || option == "--ftz=true" || option == "-ftz=true") flushes = true;
        if (option.find("-arch=") != std::string::npos || option.find("gpu-architecture=") != std::string::npos)
            architecture = atoi(option.c_str() + option.find('_') + 1), specific = option.back() == 'a';
        if (option.compare(0, 2, "-D") == 0 || option.compare(0, 2, "-U") == 0) flags += " " + quoted(option);
        if (option.compare(0, 15, "--define-macro=") == 0) flags += " " + quoted("-D" + option.substr(15));
    }
    flags += std::string(" -ffp-contract=") + (fused ? "fast" : "off");
    flags += " -D__CUDA_ARCH__=" + std::to_string(architecture * 10);
    if (specific) flags += " -D__CUDA_ARCH_FEAT_SM" + std::to_string(architecture) + "_ALL";
    flags += std::string(" -DSIMT_FLUSHES=") + (flushes ? "true" : "false");
    const char* optimise = getenv("COSMINE_SIMT_OPTIMISE");
    if (checked())
        flags += std::string(" -O") + (optimise ? optimise : "1") +
            " -fsanitize=thread --param tsan-instrument-func-entry-exit=0 -fsanitize=alignment,bounds,shift-exponent";
    else
        flags += std::string(" -O") + (optimise ? optimise : "2");
    std::string kept = object_path(program.text, flags);
    if (!kept.empty() && access(kept.c_str(), R_OK) == 0) {
        program.image = read_file(kept);
        return SUCCESS;
    }
    char directory[] = "/tmp/simt-XXXXXX";
    if (!mkdtemp(directory)) return OUT_OF_MEMORY;
    int code = compile(program, flags, directory);
    if (code == SUCCESS && !kept.empty()) {
        std::string partial = kept + "." + std::to_string(getpid()) + strrchr(directory, '-');
        write_file(partial, program.image);
        rename(partial.c_str(), kept.c_str());
    }
    if (!getenv("COSMINE_SIMT_KEEP")) run("rm -r " + quoted(directory));
    else fprintf(stderr, "simt: compiled in %s\n", directory);
    return code;
}

API nvrtcGetCUBINSize(void* handle, size_t* bytes) { *bytes = ((Program*)handle)->image.size(); return SUCCESS; }
API nvrtcGetCUBIN(void* handle, char* out) {
    auto& image = ((Program*)handle)->image;
    memcpy(out, image.data(), image.size());
    return SUCCESS;
}
API nvrtcGetPTXSize(void* handle, size_t* bytes) { return nvrtcGetCUBINSize(handle, bytes); }
API nvrtcGetPTX(void* handle, char* out) { return nvrtcGetCUBIN(handle, out); }
API nvrtcGetProgramLogSize(void* handle, size_t* bytes) { *bytes = ((Program*)handle)->log.size() + 1; return SUCCESS; }
API nvrtcGetProgramLog(void* handle, char* out) {
    auto& log = ((Program*)handle)->log;
    memcpy(out, log.c_str(), log.size() + 1);
    return SUCCESS;
}
API nvrtcAddNameExpression(void*, const char*) { return SUCCESS; }
API nvrtcGetLoweredName(void*, const char* name, const char** out) { *out = name; return SUCCESS; }
