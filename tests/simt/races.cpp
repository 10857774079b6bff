// Reads of shared memory that nobody wrote, and races: two accesses of one byte by different threads of a block, one of
// them a plain write, that no barrier orders.
//
// A barrier of the whole block ends a turn, and all of an earlier turn comes before all of a later one. Within a turn
// `seen[a * threads + b]` is the clock of thread b up to which thread a has seen it act; __syncwarp, named barriers and
// mbarriers pass that on. Shuffles do not: they order no memory.
#include "races.hpp"

#include <cstring>

namespace simt {

namespace {

struct SlotState {
    u32 block, turn, bytes;
    std::vector<u16> seen;
    u32 seen_threads;
    u32 seen_turn;  // rows of another turn count as zero
};

Word* words;
SlotState slots[SLOTS];
std::atomic<u32> blocks{1}, turns{1};

SlotState& state_of(const u8* slot) { return slots[((u64)slot - SHARED_BASE) / SLOT_BYTES]; }

u16* row(SlotState& slot, u32 thread) {
    if (slot.seen_turn != slot.turn) {
        std::fill(slot.seen.begin(), slot.seen.end(), 0);
        slot.seen_turn = slot.turn;
    }
    return slot.seen.data() + (size_t)thread * slot.seen_threads;
}

bool knows(SlotState& slot, Thread& me, u32 other, u16 clock) {
    return other == me.index || (slot.seen_turn == slot.turn && row(slot, me.index)[other] >= clock);
}

void join(u16* to, const u16* from, u32 threads) {
    for (u32 i = 0; i < threads; i++) to[i] = to[i] > from[i] ? to[i] : from[i];
}

[[noreturn]] void race(Thread& me, u32 other, u64 offset, const char* mine, const char* theirs, const void* code) {
    Uint3 t = me.block->thread[other]->thread_index;
    fail(Fault::CHECK, code, "a race: it %s byte %llu of shared memory, which thread (%u, %u, %u) %s, and no barrier lies between",
         mine, offset, t.x, t.y, t.z, theirs);
}

void check_races(SlotState& slot, Word& word, Thread& me, u32 mask, int kind, u64 offset, const void* code) {
    const char* mine = kind == READ ? "reads" : kind == WRITE ? "writes" : "changes";
    if (word.written_in == slot.turn && (word.writer_bytes & mask) && !(kind == ATOMIC && word.atomic) &&
        !knows(slot, me, word.writer, word.writer_clock))
        race(me, word.writer, offset, mine, "wrote", code);
    if (kind != READ && word.read_in == slot.turn && (word.reader_bytes & mask))
        for (int i = 0; i < 2; i++)
            if (!knows(slot, me, word.reader[i], word.reader_clock[i])) race(me, word.reader[i], offset, mine, "read", code);
}

void record(SlotState& slot, Word& word, Thread& me, u32 mask, int kind) {
    u16 clock = (u16)(me.clock + 1);
    if (kind == READ) {
        if (word.read_in != slot.turn) {
            word.read_in = slot.turn;
            word.reader[0] = word.reader[1] = (u16)me.index;
            word.reader_clock[0] = word.reader_clock[1] = clock;
            word.reader_bytes = (u8)mask;
            return;
        }
        int which = word.reader[0] == me.index || word.reader[0] == word.reader[1] ? word.reader[0] != me.index : 1;
        word.reader[which] = (u16)me.index;
        word.reader_clock[which] = clock;
        word.reader_bytes |= mask & 15;
        return;
    }
    word.written_in = slot.turn;
    word.writer = (u16)me.index;
    word.writer_clock = clock;
    word.writer_bytes = (u8)mask;
    word.atomic = kind == ATOMIC;
    word.written |= mask & 15;
}

}  // namespace

void races_open(Word* memory) { words = memory; }

void slot_begin(u8* slot, u32 bytes) {
    SlotState& state = state_of(slot);
    state.block = blocks++;
    state.turn = turns++;
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

void shared_access(u64 address, u32 bytes, int kind, const void* code) {
    Thread& me = self();
    SlotState& slot = slots[(address - SHARED_BASE) / SLOT_BYTES];
    u64 offset = address % SLOT_BYTES;
    const char* does = kind == READ ? "reads" : "writes";
    if (offset + bytes > slot.bytes)
        fail(Fault::ADDRESS, code, "%s %u bytes at byte %llu of shared memory, which has %u", does, bytes, offset, slot.bytes);
    bool own = me.shared == (u8*)(address - offset);
    for (u64 at = address & ~3ull; at < address + bytes; at += 4) {
        Word& word = word_at(slot, at);
        u32 mask = 15;
        if (at < address) mask &= 15u << (address - at);
        if (at + 4 > address + bytes) mask &= 15u >> (at + 4 - address - bytes);
        if (word.under_way & mask)
            fail(Fault::CHECK, code, "%s byte %llu of shared memory, where a copy under way will write", does, at % SLOT_BYTES);
        if (kind != WRITE && (word.written & mask) != mask)
            fail(Fault::CHECK, code, "reads byte %llu of shared memory, which nobody wrote", at % SLOT_BYTES);
        if (own) {
            check_races(slot, word, me, mask, kind, at % SLOT_BYTES, code);
            record(slot, word, me, mask, kind);
        } else if (kind != READ) {
            word.written |= mask & 15;
        }
    }
}

void shared_under_way(u64 address, u32 bytes, const void* code) {
    shared_access(address, bytes, WRITE, code);
    SlotState& slot = slots[(address - SHARED_BASE) / SLOT_BYTES];
    for (u64 at = address; at < address + bytes; at += 4) {
        Word& word = word_at(slot, at);
        word.under_way = 15;
        word.written = 0;
    }
    memset((void*)address, 0xff, bytes);
}

void shared_landed(u64 address, u32 bytes, Thread& thread) {
    SlotState& slot = slots[(address - SHARED_BASE) / SLOT_BYTES];
    for (u64 at = address; at < address + bytes; at += 4) {
        Word& word = word_at(slot, at);
        word.under_way = 0;
        word.written = 15;
        if (&state_of(thread.shared) == &slot) record(slot, word, thread, 15, WRITE);
    }
}

void tell(Knowledge& to, Thread& thread) {
    SlotState& slot = state_of(thread.shared);
    u32 threads = thread.block->threads;
    if (slot.seen_threads != threads) {
        slot.seen_threads = threads;
        slot.seen.assign((size_t)threads * threads, 0);
        slot.seen_turn = slot.turn;
    }
    if (to.turn != slot.turn) {
        to.turn = slot.turn;
        to.seen.assign(threads, 0);
    }
    join(to.seen.data(), row(slot, thread.index), threads);
    to.seen[thread.index] = (u16)(thread.clock + 1);
    thread.clock++;
}

void learn(Thread& thread, const Knowledge& from) {
    SlotState& slot = state_of(thread.shared);
    if (from.turn == slot.turn) join(row(slot, thread.index), from.seen.data(), thread.block->threads);
}

void ordered(const std::vector<Thread*>& threads) {
    Block& block = *threads[0]->block;
    SlotState& slot = state_of(block.shared);
    if (threads.size() == block.threads) {
        slot.turn = turns++;
        for (Thread* thread : threads) thread->clock = 0;
        return;
    }
    Knowledge all;
    for (Thread* thread : threads) tell(all, *thread);
    for (Thread* thread : threads) learn(*thread, all);
}

}  // namespace simt
