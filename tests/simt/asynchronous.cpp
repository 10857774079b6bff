// Copies that arrive later: cp.async, which its thread waits for, and bulk copies, which an mbarrier counts. They land
// as late as they may: the first when they are waited for, the others when no thread of the cluster can go on.
#include <cstring>

#include "races.hpp"
#include "runtime.hpp"

#define HERE __builtin_return_address(0)

namespace simt {

namespace {

Copies& copies_of(Thread& thread) { return thread.block->copies[thread.index]; }

u64 shared_at(u32 address, u32 bytes, const void* code) {
    if (address >= SLOT_BYTES) fail(Fault::ADDRESS, code, "0x%x is no address in shared memory", address);
    if (address % bytes) fail(Fault::MISALIGNED, code, "0x%x in shared memory is no multiple of %u", address, bytes);
    return (u64)self().shared + address;
}

Mbarrier& mbarrier_at(u64 address, const void* code) {
    Group& group = *current_group();
    auto found = group.mbarriers.find(address);
    if (found == group.mbarriers.end()) fail(Fault::CHECK, code, "no mbarrier was made at byte %llu of shared memory", address % SLOT_BYTES);
    return found->second;
}

void complete_phase(Mbarrier& barrier) {
    if (barrier.pending || barrier.bytes) return;
    barrier.pending = barrier.arrivals;
    barrier.phase++;
    barrier.complete = barrier.told;
    for (Thread* thread : barrier.waiting) make_ready(thread);
    barrier.waiting.clear();
}

void arrive(Mbarrier& barrier, const void* code) {
    if (barrier.pending == 0) fail(Fault::CHECK, code, "more arrivals at an mbarrier than its %u", barrier.arrivals);
    tell(barrier.told, self());
    barrier.pending--;
    complete_phase(barrier);
}

void must_live(u32 rank, const void* code) {
    Group& group = *current_group();
    if (rank >= group.blocks.size()) fail(Fault::CHECK, code, "block %u of a cluster of %zu", rank, group.blocks.size());
    Block& block = group.blocks[rank];
    if (block.finished == block.threads) fail(Fault::CHECK, code, "block %u of the cluster has ended", rank);
}

// Starts the copy into one block of the cluster.
void bulk(u32 to, u64 from, u32 bytes, u32 barrier, u32 rank, const void* code) {
    must_live(rank, code);
    Group& group = *current_group();
    u64 slot = (u64)group.blocks[rank].shared, target = slot + to, counter = slot + barrier;
    if (!mbarrier_at(counter, code).published)
        fail(Fault::CHECK, code, "a bulk copy to an mbarrier whose maker passed no fence.mbarrier_init");
    shared_under_way(target, bytes, code);
    Thread* me = &self();
    group.under_way.push_back([=, &group] {
        memcpy((void*)target, (void*)from, bytes);
        shared_landed(target, bytes, *me, false);
        Mbarrier& at = group.mbarriers.at(counter);
        tell(at.told, *me);
        at.bytes -= bytes;
        complete_phase(at);
    });
}

}  // namespace

}  // namespace simt

using namespace simt;

extern "C" {

void simt_copy_async(u32 to, const void* from, u32 bytes) {
    u64 target = shared_at(to, bytes, HERE);
    if ((u64)from % bytes) fail(Fault::MISALIGNED, HERE, "a copy of %u bytes from a misaligned address: %p", bytes, from);
    if (!in_device(from)) fail(Fault::ADDRESS, HERE, "an asynchronous copy from %p, which is no global memory", from);
    touch((u64)from, bytes, READ, HERE);
    shared_under_way(target, bytes, HERE);
    copies_of(self()).open.push_back({target, (u64)from, bytes});
}

void simt_copy_commit() {
    Copies& copies = copies_of(self());
    copies.groups.push_back(std::move(copies.open));
    copies.open.clear();
}

void simt_copy_wait(u32 pending) {
    Copies& copies = copies_of(self());
    while (copies.groups.size() > pending) {
        for (Copy& copy : copies.groups.front()) {
            memcpy((void*)copy.to, (void*)copy.from, copy.bytes);
            shared_landed(copy.to, copy.bytes, self(), true);
        }
        copies.groups.pop_front();
    }
}

void simt_mbarrier_make(u32 barrier, u32 arrivals) {
    u64 address = shared_at(barrier, 8, HERE);
    shared_barrier(address, true, HERE);
    current_group()->mbarriers[address] = Mbarrier{arrivals, arrivals, 0, 0, &self(), false, {}, {}, {}};
}

void simt_mbarrier_publish() {
    for (auto& [address, barrier] : current_group()->mbarriers)
        if (barrier.maker == &self()) barrier.published = true;
}

void simt_mbarrier_arrive(u32 barrier, u32 rank) {
    u64 address = shared_at(barrier, 8, HERE);
    if (rank != ~0u) {
        must_live(rank, HERE);
        address = (u64)current_group()->blocks[rank].shared + barrier;
    }
    Mbarrier& at = mbarrier_at(address, HERE);
    shared_barrier(address, false, HERE);
    if (at.maker->block != self().block && !at.published)
        fail(Fault::CHECK, HERE, "an arrival from another block at an mbarrier whose maker passed no fence.mbarrier_init");
    arrive(at, HERE);
}

void simt_mbarrier_expect(u32 barrier, u32 bytes) {
    u64 address = shared_at(barrier, 8, HERE);
    Mbarrier& at = mbarrier_at(address, HERE);
    shared_barrier(address, false, HERE);
    at.bytes += bytes;
    arrive(at, HERE);
}

void simt_mbarrier_wait(u32 barrier, u32 parity) {
    u64 address = shared_at(barrier, 8, HERE);
    shared_barrier(address, false, HERE);
    for (;;) {
        Mbarrier& at = mbarrier_at(address, HERE);
        if ((at.phase & 1) != (parity & 1)) return learn(self(), at.complete);
        at.waiting.push_back(&self());
        wait_here("a wait for an mbarrier", 0, HERE);
    }
}

void simt_bulk_copy(u32 to, const void* from, u32 bytes, u32 barrier, u32 ranks) {
    shared_at(to, 16, HERE);
    shared_at(barrier, 8, HERE);
    if ((u64)from % 16 || bytes % 16 || bytes == 0)
        fail(Fault::MISALIGNED, HERE, "a bulk copy of %u bytes from %p: both must be multiples of 16", bytes, from);
    if (!in_device(from)) fail(Fault::ADDRESS, HERE, "a bulk copy from %p, which is no global memory", from);
    touch((u64)from, bytes, READ, HERE);
    if (ranks == 0) return bulk(to, (u64)from, bytes, barrier, self().block->rank, HERE);
    for (u32 rank = 0; rank < 16; rank++)
        if (ranks >> rank & 1) bulk(to, (u64)from, bytes, barrier, rank, HERE);
}

void simt_proxy_fence() { shared_fence(); }

u32 simt_cluster_rank() { return self().block->rank; }

u32 simt_to_shared(const void* object) {
    u64 offset = (u64)object - (u64)self().shared;
    if (offset >= SLOT_BYTES) fail(Fault::ADDRESS, HERE, "%p is not in the block's shared memory", object);
    return (u32)offset;
}

u64 simt_to_global(const void* object) {
    if (in_shared(object)) fail(Fault::ADDRESS, HERE, "%p is shared memory, not global", object);
    return (u64)object;
}

}
