// Reads of shared memory that nobody wrote, and races: two accesses of one byte by different threads of a block, one of
// them a plain write, that no barrier orders.
//
// A barrier of all threads (of the cluster) ends a turn, and all of an earlier turn comes before all of a later one.
// Within a turn `seen[a * threads + b]` is the clock of thread b up to which thread a has seen it act; __syncwarp, named
// barriers and mbarriers pass that on. Shuffles do not: they order no memory.
#include "races.hpp"

#include <cstring>

namespace simt {

namespace {

struct SlotState {
    u32 block, bytes;
};

Word* words;
SlotState slots[SLOTS];
std::atomic<u32> blocks{1}, turns{1};

u16* row(Order& order, u32 thread) {
    if (order.seen_turn != order.turn) {
        order.seen.assign((size_t)order.threads * order.threads, 0);
        order.seen_turn = order.turn;
    }
    return order.seen.data() + (size_t)thread * order.threads;
}

bool knows(Order& order, Thread& me, u32 other, u16 clock) {
    return other == me.number || (order.seen_turn == order.turn && row(order, me.number)[other] >= clock);
}

void join(u16* to, const u16* from, u32 threads) {
    for (u32 i = 0; i < threads; i++) to[i] = to[i] > from[i] ? to[i] : from[i];
}

[[noreturn]] void race(Thread& me, u32 other, u64 offset, const char* mine, const char* theirs, const void* code) {
    Group& group = *me.block->group;
    Block& block = group.blocks[other / me.block->threads];
    Uint3 t = block.thread[other % me.block->threads]->thread_index;
    fail(Fault::CHECK, code, "a race: it %s byte %llu of shared memory, which thread (%u, %u, %u)%s %s, and no barrier lies between",
         mine, offset, t.x, t.y, t.z, &block == me.block ? "" : " of another block", theirs);
}

void check_races(Order& order, Word& word, Thread& me, u32 mask, int kind, u64 offset, const void* code) {
    const char* mine = kind == READ ? "reads" : kind == WRITE ? "writes" : "changes";
    if (word.written_in == order.turn && (word.writer_bytes & mask) && !(kind == ATOMIC && word.atomic) &&
        !knows(order, me, word.writer, word.writer_clock))
        race(me, word.writer, offset, mine, "wrote", code);
    if (kind != READ && word.read_in == order.turn && (word.reader_bytes & mask))
        for (int i = 0; i < 2; i++)
            if (!knows(order, me, word.reader[i], word.reader_clock[i])) race(me, word.reader[i], offset, mine, "read", code);
}

void record(Order& order, Word& word, Thread& me, u32 mask, int kind) {
    u16 clock = (u16)(me.clock + 1);
    if (kind == READ) {
        if (word.read_in != order.turn) {
            word.read_in = order.turn;
            word.reader[0] = word.reader[1] = (u16)me.number;
            word.reader_clock[0] = word.reader_clock[1] = clock;
            word.reader_bytes = (u8)mask;
            return;
        }
        int which = word.reader[0] == me.number || word.reader[0] == word.reader[1] ? word.reader[0] != me.number : 1;
        word.reader[which] = (u16)me.number;
        word.reader_clock[which] = clock;
        word.reader_bytes |= mask & 15;
        return;
    }
    word.written_in = order.turn;
    word.writer = (u16)me.number;
    word.writer_clock = clock;
    word.writer_bytes = (u8)mask;
    word.atomic = kind == ATOMIC;
    word.plain = true;
    word.fences = order.fences;
    word.written |= mask & 15;
}

}  // namespace

void races_open(Word* memory) { words = memory; }

void order_begin(Order& order, u32 threads) {
    order.threads = threads;
    order.turn = turns++;
    order.fences = 0;
}

void slot_begin(u8* slot, u32 bytes) {
    SlotState& state = slots[((u64)slot - SHARED_BASE) / SLOT_BYTES];
    state.block = blocks++;
    state.bytes = bytes;
    memset(slot, 0xff, bytes);
}

static Word& word_at(SlotState& slot, u64 address) {
    Word& word = words[(address - SHARED_BASE) / 4];
    if (word.block != slot.block) {
        word = Word{};
        word.block = slot.block;
    }
    return word;
}

// Calls `each(word, address, mask of bytes)` for the words of a range.
template <class F> static void for_words(u64 address, u32 bytes, F each) {
    SlotState& slot = slots[(address - SHARED_BASE) / SLOT_BYTES];
    for (u64 at = address & ~3ull; at < address + bytes; at += 4) {
        u32 mask = 15;
        if (at < address) mask &= 15u << (address - at);
        if (at + 4 > address + bytes) mask &= 15u >> (at + 4 - address - bytes);
        each(word_at(slot, at), at, mask);
    }
}

void shared_access(u64 address, u32 bytes, int kind, const void* code) {
    Thread& me = self();
    Order& order = me.block->group->order;
    SlotState& slot = slots[(address - SHARED_BASE) / SLOT_BYTES];
    u64 offset = address % SLOT_BYTES;
    const char* does = kind == READ ? "reads" : kind == WRITE ? "writes" : "changes";
    if (offset + bytes > slot.bytes)
        fail(Fault::ADDRESS, code, "%s %u bytes at byte %llu of shared memory, which has %u", does, bytes, offset, slot.bytes);
    for_words(address, bytes, [&](Word& word, u64 at, u32 mask) {
        if (word.under_way & mask)
            fail(Fault::CHECK, code, "%s byte %llu of shared memory, %s", does, at % SLOT_BYTES,
                 word.barrier ? "where a barrier lives" : "where a copy under way will write");
        if (kind != WRITE && (word.written & mask) != mask)
            fail(Fault::CHECK, code, "reads byte %llu of shared memory, which nobody wrote", at % SLOT_BYTES);
        check_races(order, word, me, mask, kind, at % SLOT_BYTES, code);
        record(order, word, me, mask, kind);
    });
}

void shared_read_by_unit(u64 address, u32 bytes, const void* code) {
    shared_access(address, bytes, READ, code);
    Group& group = *self().block->group;
    for_words(address, bytes, [&](Word& word, u64 at, u32) {
        if (!word.plain) return;
        u32 threads = self().block->threads;
        Thread& writer = *group.blocks[word.writer / threads].thread[word.writer % threads];
        if (writer.fences <= word.fences)
            fail(Fault::CHECK, code, "byte %llu of shared memory is read past the processor's own writes: its writer passed no fence.proxy.async",
                 at % SLOT_BYTES);
    });
}

void shared_fence() {
    Thread& me = self();
    me.fences = ++me.block->group->order.fences;
}

void shared_under_way(u64 address, u32 bytes, const void* code) {
    shared_access(address, bytes, WRITE, code);
    for_words(address, bytes, [](Word& word, u64, u32) {
        word.under_way = 15;
        word.written = 0;
        word.barrier = false;
    });
    memset((void*)address, 0xff, bytes);
}

void shared_landed(u64 address, u32 bytes, Thread& thread, bool plain) {
    for_words(address, bytes, [&](Word& word, u64, u32) {
        word.under_way = 0;
        record(thread.block->group->order, word, thread, 15, WRITE);
        word.plain = plain;
    });
}

void shared_barrier(u64 address, bool made, const void* code) {
    if (made) {
        for_words(address, 8, [](Word& word, u64, u32) {
            if (word.barrier) word.under_way = 0, word.barrier = false;
        });
        shared_access(address, 8, WRITE, code);
    }
    for_words(address, 8, [&](Word& word, u64 at, u32) {
        Thread& me = self();
        if (!made) check_races(me.block->group->order, word, me, 15, READ, at % SLOT_BYTES, code);
        word.under_way = 15;
        word.barrier = true;
    });
}

void tell(Knowledge& to, Thread& thread) {
    Order& order = thread.block->group->order;
    if (to.turn != order.turn) {
        to.turn = order.turn;
        to.seen.assign(order.threads, 0);
    }
    join(to.seen.data(), row(order, thread.number), order.threads);
    to.seen[thread.number] = (u16)(thread.clock + 1);
    thread.clock++;
}

void learn(Thread& thread, const Knowledge& from) {
    Order& order = thread.block->group->order;
    if (from.turn == order.turn) join(row(order, thread.number), from.seen.data(), order.threads);
}

void ordered(const std::vector<Thread*>& threads) {
    Order& order = threads[0]->block->group->order;
    if (threads.size() == order.threads) {
        order.turn = turns++;
        for (Thread* thread : threads) thread->clock = 0;
        return;
    }
    Knowledge all;
    for (Thread* thread : threads) tell(all, *thread);
    for (Thread* thread : threads) learn(*thread, all);
}

}  // namespace simt
