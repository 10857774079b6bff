// Reports on stderr: the kernel, the block, the thread, the line, and what went wrong.
#include <cstdarg>
#include <cstring>

#include "runtime.hpp"

namespace simt {

std::string where(const Thread& thread) {
    char text[160];
    Uint3 b = thread.block_index, t = thread.thread_index;
    snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u), warp %u lane %u", b.x, b.y, b.z, t.x, t.y, t.z,
             thread.index / WARP, thread.lane);
    return text;
}

void say(const char* format, ...) {
    char text[4096];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    fprintf(stderr, "simt: %s\n", text);
    fflush(stderr);
}

// The line of the kernel's text that a return address belongs to, where binutils are there to say so.
std::string line_of(const Launch& launch, const void* code) {
    if (!code || !*launch.module) return "";
    u64 base = launch.module_begin;
    if ((u64)code < base || (u64)code >= launch.module_end) return "";
    char row[1024];
    char command[1200];
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%llx 2>/dev/null", launch.module, (u64)code - base - 1);
    FILE* answer = popen(command, "r");
    std::string found;
    // Innermost first; the executor's own headers are no news.
    while (answer && fgets(row, sizeof row, answer)) {
        std::string line = row;
        auto colon = line.rfind(':');
        if (!found.empty() || colon == std::string::npos || line.find('?') != std::string::npos) continue;
        if (line.find(".hpp:") == std::string::npos) found = ", line " + line.substr(colon + 1, line.find_first_of(" \n", colon) - colon - 1);
    }
    if (answer) pclose(answer);
    return found;
}

void fail(Fault fault, const void* code, const char* format, ...) {
    char text[2048];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    const Launch& launch = *current_group()->launch;
    say("kernel `%s`, %s%s: %s", launch.kernel->name, where(self()).c_str(), line_of(launch, code).c_str(), text);
    abandon(fault);
    __builtin_unreachable();
}

}  // namespace simt
