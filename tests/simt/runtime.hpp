// The executor's own records: launches, blocks, warps; and what its files offer each other.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "simt.hpp"

namespace simt {

struct Launch {
    const Entry* kernel;
    Uint3 grid{1, 1, 1}, block{1, 1, 1}, cluster{1, 1, 1};
    u32 shared_static = 0, shared_dynamic = 0;
    bool flushes_subnormals = false;
    const char* module = "";  // path of the object, for lines of reports
    u64 module_begin = 0, module_end = 0;  // where it lies
    std::vector<std::vector<u8>> arguments;
};

enum class Fault { NONE, ADDRESS, MISALIGNED, CHECK, DEADLOCK, ASSERT };

// ---- fibers.cpp
void fiber_prepare(Thread& thread, void (*body)(Thread&));
void fiber_enter(Thread& thread);  // from the scheduler, until the thread waits or ends
void fiber_leave();                // from a thread, to the scheduler
struct Team;                       // stacks for the threads of blocks that are resident together
Team* team_take();
void team_give_back(Team* team);
Thread& team_thread(Team* team, u32 index);  // unchanged memory between runs

// ---- blocks.cpp
struct Barrier {
    u32 arrived = 0, expected = 0, line = 0;
    std::vector<Thread*> waiting;
};

struct Meeting {  // lanes on their way into a collective
    u32 mask = 0, arrived = 0, line = 0;
    const char* what = nullptr;
    bool orders = false;
    void* brought[WARP];
};

struct Warp {
    Block* block;
    u32 index, first, lanes, finished;  // lanes: as a mask, those that exist
    std::vector<Meeting> meetings;
};

struct Group;
struct Block {
    Group* group;
    Uint3 index;
    u32 rank;  // in the cluster
    u32 threads, finished;
    u8* shared;
    u32 votes[2], vote_turn;
    std::vector<Thread*> thread;
    std::vector<Warp> warps;
    Barrier barriers[16];
};

struct Group {  // a cluster, or a single block
    const Launch* launch;
    std::vector<Block> blocks;
    std::vector<Thread*> ready;  // a queue from `next` on
    size_t next = 0;
    u32 finished = 0, threads = 0;
    Barrier cluster;
    Fault fault = Fault::NONE;
    std::function<bool()> progress;  // completes something asynchronous, where nothing else can run
};

// Runs all blocks. False after a fault, which it has reported on stderr.
Fault run_launch(const Launch& launch);
void make_ready(Thread* thread);
void wait_here(const char* what, u32 line);  // until somebody makes the thread ready
Group* current_group();
void abandon(Fault fault);                    // from a thread: ends its group; does not return

// ---- reports.cpp
std::string where(const Thread& thread);
std::string line_of(const Launch& launch, const void* code);
[[noreturn]] void fail(Fault fault, const void* code, const char* format, ...) __attribute__((format(printf, 3, 4)));
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- memory.cpp
void* device_allocate(u64 bytes);
bool device_free(void* address);
u64 device_used();
// Whether a range lies within one allocation; the host's own copies are checked by it.
bool device_holds(const void* address, u64 bytes);
void device_written(const void* address, u64 bytes);
void device_copied(const void* to, const void* from, u64 bytes);
u8* slot_take();
void slot_give_back(u8* slot);
void slot_begin(u8* slot, u32 bytes);  // poisons it for a block

// ---- races.cpp
void ordered(const std::vector<Thread*>& threads);  // each has seen what the others did

// ---- modules
struct Module;
u32 module_reserve(u32 bytes, u32 align);

inline bool in_device(const void* address) { return (u64)address - DEVICE_BASE < DEVICE_BYTES; }
inline bool in_shared(const void* address) { return (u64)address - SHARED_BASE < SLOTS * SLOT_BYTES; }
bool checks();  // whether kernels are compiled with checks

}  // namespace simt
