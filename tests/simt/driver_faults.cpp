// A driver or a compiler that lacks functions: COSMINE_SIMT_MISSING=cuStreamCreate,... takes names out of the library's own
// table of symbols while it loads, as if it were an older one.
#include <link.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

extern "C" const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

__attribute__((constructor)) static void lose_symbols() {
    const char* missing = getenv("COSMINE_SIMT_MISSING");
    if (!missing) return;
    auto base = (ElfW(Addr))&__ehdr_start;
    char* names = nullptr;
    size_t bytes = 0;
    for (auto* entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_STRTAB) names = (char*)(entry->d_un.d_ptr < base ? base + entry->d_un.d_ptr : entry->d_un.d_ptr);
        if (entry->d_tag == DT_STRSZ) bytes = entry->d_un.d_val;
    }
    auto first = (ElfW(Addr))names & ~4095ul, end = (ElfW(Addr))names + bytes;
    if (mprotect((void*)first, end - first, PROT_READ | PROT_WRITE)) return;
    std::istringstream list(missing);
    for (std::string name; std::getline(list, name, ',');)
        for (char* at = names; at < names + bytes; at += strlen(at) + 1)
            if (name == at) *at = '-';
}
