// Blocks: their threads in turn, barriers, collectives of warps, and what happens when nobody can go on.
#include "runtime.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

namespace simt {

namespace {

thread_local Group* group;

void** pointers_of(const Launch& launch) {
    static thread_local std::vector<void*> pointers;
    pointers.clear();
    for (auto& argument : launch.arguments) pointers.push_back((void*)argument.data());
    return pointers.data();
}

thread_local void** arguments;

// As aligned as any declaration asks for.
u32 dynamic_begin(const Launch& launch) { return (launch.shared_static + 1023) & ~1023u; }

// Whether threads start with the last of a block: what depends on their order shows.
bool backwards() {
    static const bool set = getenv("COSMINE_SIMT_ORDER") && !strcmp(getenv("COSMINE_SIMT_ORDER"), "backwards");
    return set;
}

void run_thread(Thread& thread) {
    group->launch->kernel->call(arguments);
    thread.finished = true;
    Block& block = *thread.block;
    block.finished++;
    group->finished++;
    thread.warp->finished |= 1u << thread.lane;
    fiber_leave();
}

std::string what_threads_wait_for() {
    std::map<std::string, std::pair<u32, std::string>> waits;
    for (auto& block : group->blocks)
        for (Thread* thread : block.thread) {
            std::string what = thread->finished ? "have ended" : std::string("wait in ") + thread->waits +
                (thread->line ? ", line " + std::to_string(thread->line) : line_of(*group->launch, thread->code));
            auto& entry = waits[what];
            if (entry.first++ == 0) entry.second = where(*thread);
        }
    std::string all;
    for (auto& [what, entry] : waits)
        all += "\n    " + std::to_string(entry.first) + " threads " + what + ", the first: " + entry.second;
    return all;
}

void schedule() {
    for (;;) {
        while (group->next < group->ready.size()) {
            Thread* thread = group->ready[group->next++];
            if (group->next > 4096 && group->next * 2 > group->ready.size()) {
                group->ready.erase(group->ready.begin(), group->ready.begin() + (long)group->next);
                group->next = 0;
            }
            fiber_enter(*thread);
            if (group->fault != Fault::NONE) return;
        }
        if (group->finished == group->threads) return;
        if (!group->under_way.empty()) {
            auto land = std::move(group->under_way.front());
            group->under_way.pop_front();
            land();
            continue;
        }
        say("kernel `%s`: deadlock, no thread can go on:%s", group->launch->kernel->name, what_threads_wait_for().c_str());
        group->fault = Fault::DEADLOCK;
        return;
    }
}

void prepare_block(Block& block, const Launch& launch, Team* team, u32 first_stack) {
    block.threads = launch.block.x * launch.block.y * launch.block.z;
    block.finished = block.vote_turn = block.votes[0] = block.votes[1] = 0;
    block.warps.assign((block.threads + WARP - 1) / WARP, Warp{});
    block.thread.clear();
    block.copies.assign(block.threads, Copies{});
    for (Barrier& barrier : block.barriers) barrier = Barrier{};
    for (u32 index = 0; index < block.threads; index++) {
        Thread& thread = team_thread(team, first_stack + index);
        Warp& warp = block.warps[index / WARP];
        warp.block = &block;
        warp.index = index / WARP;
        warp.lanes |= 1u << (index % WARP);
        thread = Thread{};
        thread.thread_index = {index % launch.block.x, index / launch.block.x % launch.block.y,
                               index / launch.block.x / launch.block.y};
        thread.block_index = block.index;
        thread.block_size = launch.block;
        thread.grid_size = launch.grid;
        thread.shared = block.shared;
        thread.shared_dynamic = dynamic_begin(launch);
        thread.index = index;
        thread.number = first_stack + index;
        thread.lane = index % WARP;
        thread.block = &block;
        thread.warp = &warp;
        thread.waits = "nothing";
        fiber_prepare(thread, run_thread);
        block.thread.push_back(&thread);
        group->ready.push_back(&thread);
    }
}

bool complete(Barrier& barrier) { return barrier.expected != 0 && barrier.arrived == barrier.expected; }

void release(Barrier& barrier) {
    for (Thread* thread : barrier.waiting)
        if (thread != &self()) make_ready(thread);
    barrier.waiting.clear();
    barrier.arrived = 0;
    barrier.expected = 0;
}

}  // namespace

Group* current_group() { return group; }

void make_ready(Thread* thread) { group->ready.push_back(thread); }

void wait_here(const char* what, u32 line, const void* code) {
    Thread& thread = self();
    thread.waits = what;
    thread.line = line;
    thread.code = code;
    fiber_leave();
}

void abandon(Fault fault) {
    group->fault = fault;
    fiber_leave();
    __builtin_unreachable();
}

Fault run_launch(const Launch& launch) {
    Group mine;
    mine.launch = &launch;
    Group* outer = group;
    group = &mine;
    arguments = pointers_of(launch);
    Team* team = team_take();
    Uint3 cluster = launch.cluster;
    u32 blocks = cluster.x * cluster.y * cluster.z;
    u32 threads = launch.block.x * launch.block.y * launch.block.z;
    mine.blocks.resize(blocks);
    for (Block& block : mine.blocks) block.shared = slot_take();
#if defined(__x86_64__)
    u32 control = _mm_getcsr();
    if (launch.flushes_subnormals) _mm_setcsr(control | 0x8040);
#endif
    u64 clusters_x = launch.grid.x / cluster.x, clusters_y = launch.grid.y / cluster.y, clusters_z = launch.grid.z / cluster.z;
    for (u64 turn = 0; turn < clusters_x * clusters_y * clusters_z && mine.fault == Fault::NONE; turn++) {
        Uint3 first{(u32)(turn % clusters_x) * cluster.x, (u32)(turn / clusters_x % clusters_y) * cluster.y,
                    (u32)(turn / clusters_x / clusters_y) * cluster.z};
        mine.ready.clear();
        mine.next = mine.finished = 0;
        mine.threads = blocks * threads;
        mine.cluster = Barrier{};
        mine.under_way.clear();
        mine.mbarriers.clear();
        order_begin(mine.order, mine.threads);
        for (u32 rank = 0; rank < blocks; rank++) {
            Block& block = mine.blocks[rank];
            block.group = &mine;
            block.rank = rank;
            block.index = {first.x + rank % cluster.x, first.y + rank / cluster.x % cluster.y,
                           first.z + rank / cluster.x / cluster.y};
            slot_begin(block.shared, dynamic_begin(launch) + launch.shared_dynamic);
            prepare_block(block, launch, team, rank * threads);
        }
        if (backwards()) std::reverse(mine.ready.begin(), mine.ready.end());
        schedule();
    }
#if defined(__x86_64__)
    _mm_setcsr(control);
#endif
    for (Block& block : mine.blocks) slot_give_back(block.shared);
    team_give_back(team);
    group = outer;
    return mine.fault;
}

}  // namespace simt

using namespace simt;

#define HERE __builtin_return_address(0)

static Barrier& barrier_arrive(u32 id, u32 threads, u32 line, const void* code) {
    Thread& thread = self();
    Block& block = *thread.block;
    if (id >= 16) fail(Fault::CHECK, code, "barrier %u: a block has 16", id);
    Barrier& barrier = block.barriers[id];
    u32 expected = threads ? threads : block.threads;
    if (threads % WARP) fail(Fault::CHECK, code, "barrier %u: %u threads are no whole number of warps", id, threads);
    if (barrier.arrived && barrier.expected != expected)
        fail(Fault::CHECK, code, "barrier %u expects %u threads, others came expecting %u", id, expected, barrier.expected);
    if (!threads && barrier.arrived && barrier.line != line)
        fail(Fault::CHECK, code, "a barrier that not every thread reaches: others wait in line %u, this one came to line %u", barrier.line, line);
    if (!threads && block.finished)
        fail(Fault::CHECK, code, "a barrier that not every thread reaches: %u threads have ended", block.finished);
    barrier.expected = expected;
    barrier.line = line;
    barrier.arrived++;
    return barrier;
}

static void barrier_meet(u32 id, u32 threads, u32 line, bool waits, const void* code) {
    Barrier& barrier = barrier_arrive(id, threads, line, code);
    Thread& me = self();
    bool all = barrier.expected == current_group()->threads;
    if (!all || !waits) tell(barrier.told, me);
    if (waits) barrier.waiting.push_back(&me);
    if (!complete(barrier)) {
        if (waits) wait_here(id ? "a named barrier" : "__syncthreads", line, code);
        return;
    }
    if (all && barrier.waiting.size() == barrier.expected) {
        ordered(barrier.waiting);
    } else {
        for (Thread* thread : barrier.waiting)
            if (all) tell(barrier.told, *thread);
        for (Thread* thread : barrier.waiting) learn(*thread, barrier.told);
    }
    barrier.told = Knowledge{};
    release(barrier);
}

extern "C" void simt_barrier(u32 id, u32 threads, u32 line) { barrier_meet(id, threads, line, true, HERE); }
extern "C" void simt_barrier_arrive(u32 id, u32 threads, u32 line) { barrier_meet(id, threads, line, false, HERE); }

extern "C" void simt_cluster_barrier() {
    Group& group = *current_group();
    Barrier& barrier = group.cluster;
    barrier.expected = group.threads;
    barrier.arrived++;
    barrier.waiting.push_back(&self());
    if (!complete(barrier)) return wait_here("a barrier of the cluster", 0, HERE);
    ordered(barrier.waiting);
    release(barrier);
}

extern "C" u32 simt_vote_of_block(u32 vote, u32 line) {
    Block& block = *self().block;
    u32 turn = block.vote_turn & 1;
    block.votes[turn] += vote != 0;
    if (block.barriers[0].arrived + 1 == block.threads) {
        block.vote_turn++;
        block.votes[block.vote_turn & 1] = 0;
    }
    simt_barrier(0, 0, line);
    return block.votes[turn];
}

extern "C" u32 simt_active() {
    Warp& warp = *self().warp;
    return warp.lanes & ~warp.finished;
}

extern "C" void simt_yield(const char* what, u32 line) {
    make_ready(&self());
    wait_here(what, line, HERE);
}

extern "C" void simt_trap(const char* what, u32 line) {
    (void)line;
    fail(Fault::ASSERT, HERE, "%s", what);
}

extern "C" void simt_collective(u32 mask, const char* what, u32 line, Collective run, void* mine, bool orders) {
    Thread& thread = self();
    Warp& warp = *thread.warp;
    if (!(mask >> thread.lane & 1)) fail(Fault::CHECK, HERE, "%s: mask 0x%08x does not name the lane itself", what, mask);
    if (mask & ~warp.lanes)
        fail(Fault::CHECK, HERE, "%s: mask 0x%08x names lanes that the warp has not (it has 0x%08x)", what, mask, warp.lanes);
    if (mask & warp.finished)
        fail(Fault::CHECK, HERE, "%s: mask 0x%08x names lanes that have ended (0x%08x)", what, mask, warp.finished);
    auto meeting = std::find_if(warp.meetings.begin(), warp.meetings.end(), [&](Meeting& each) { return each.mask & mask; });
    if (meeting == warp.meetings.end()) {
        warp.meetings.push_back(Meeting{mask, 0, line, what, orders, {}});
        meeting = warp.meetings.end() - 1;
    } else if (meeting->mask != mask || strcmp(meeting->what, what) || meeting->line != line) {
        fail(Fault::CHECK, HERE, "%s with mask 0x%08x, while lanes of it wait in line %u: %s with mask 0x%08x", what,
             mask, meeting->line, meeting->what, meeting->mask);
    }
    meeting->arrived |= 1u << thread.lane;
    meeting->brought[thread.lane] = mine;
    if (meeting->arrived != mask) return wait_here(what, line, HERE);
    Meeting whole = *meeting;
    warp.meetings.erase(meeting);
    run(mask, whole.brought);
    std::vector<Thread*>& threads = warp.block->thread;
    static thread_local std::vector<Thread*> lanes;
    lanes.clear();
    for (u32 lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        Thread* each = threads[warp.index * WARP + lane];
        lanes.push_back(each);
        if (each != &thread) make_ready(each);
    }
    if (whole.orders) ordered(lanes);
}
