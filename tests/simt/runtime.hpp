// The executor's own records: launches, blocks, warps; and what its files offer each other.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
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

// ---- races.cpp
// Which accesses the threads of a group have seen of each other.
struct Order {
    u32 threads = 0, turn = 0, fences = 0;
    std::vector<u16> seen;
    u32 seen_turn = 0;  // `seen` of another turn counts as zero
};
void order_begin(Order& order, u32 threads);

// What threads know of each other inside a turn, carried by barriers that not all threads take part in.
struct Knowledge {
    u32 turn = 0;
    std::vector<u16> seen;
};

// ---- blocks.cpp
struct Barrier {
    u32 arrived = 0, expected = 0, line = 0;
    std::vector<Thread*> waiting;
    Knowledge told;
};

struct Meeting {  // lanes on their way into a collective
    u32 mask = 0, arrived = 0, line = 0;
    const char* what = nullptr;
    bool orders = false;
    void* brought[WARP];
};

struct Copy {  // of cp.async, under way
    u64 to, from;
    u32 bytes;
};
struct Copies {
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
};

struct Multiplication {  // of wgmma, under way
    u64 a, b;
    u32 columns;
    int elements;
    bool accumulate, a_transposed, b_transposed;
    u32* d[WARP];  // of each lane
};
struct Batches {
    bool fenced = false;
    std::vector<Multiplication> open;
    std::deque<std::vector<Multiplication>> committed;
    u64 count = 0, landed = 0;     // batches that were committed; those of them that are done
    Knowledge reads;               // up to the reads of those
    std::vector<Thread*> waiting;  // of other warps, for this one's next batch
    std::map<u32*, std::vector<u32>> sums;  // accumulators of lane 0 -> those of all lanes, while they are poisoned
};

struct Warp {
    Block* block;
    u32 index, lanes, finished;  // lanes: as a mask, those that exist
    std::vector<Meeting> meetings;
    Batches batches;
};

struct Mbarrier {
    u32 arrivals, pending, phase;
    long long bytes;  // announced and not yet here
    Thread* maker;
    bool published;
    Knowledge told, complete;
    std::vector<Thread*> waiting;
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
    std::vector<Copies> copies;  // of each thread
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
    Order order;
    std::deque<std::function<void()>> under_way;  // bulk copies; each lands where nothing else can go on
    std::map<u64, Mbarrier> mbarriers;
};

// Runs all blocks. Gives the fault, which it has reported on stderr.
Fault run_launch(const Launch& launch);
void make_ready(Thread* thread);
void wait_here(const char* what, u32 line, const void* code);  // until somebody makes the thread ready
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

void tell(Knowledge& to, Thread& thread);
void learn(Thread& thread, const Knowledge& from);
void ordered(const std::vector<Thread*>& threads);  // each has seen what the others did

// Checks an access as the hooks do, for a function that makes it on a thread's behalf.
void touch(u64 address, u32 bytes, int kind, const void* code);

// ---- matrix.cpp
enum Elements : int { F16, BF16, I8 };
// c += a b as a matrix unit does it: sums of 8 products and c, cut to 24 bits and one more below the largest.
void multiply_add(float* c, const float* a, const float* b, u32 rows, u32 columns, u32 depth);
float widen(u16 bits, int elements);

inline bool in_device(const void* address) { return (u64)address - DEVICE_BASE < DEVICE_BYTES; }
inline bool in_shared(const void* address) { return (u64)address - SHARED_BASE < SLOTS * SLOT_BYTES; }

}  // namespace simt
