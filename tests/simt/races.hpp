// Shared memory, word by word: who wrote and who read it last.
#pragma once
#include "runtime.hpp"

namespace simt {

struct Word {
    u32 block;                // which block's the record is; an older one counts as empty
    u32 written_in, read_in;  // turns: between two barriers of the whole block
    u16 writer, writer_clock;
    u16 reader[2], reader_clock[2];
    u8 written : 4, under_way : 4;  // bytes
    u8 writer_bytes : 4, reader_bytes : 4;
    bool atomic : 1;          // the last write was
    bool plain : 1;           // it was a thread's own, no bulk copy's
    bool barrier : 1;         // an mbarrier lives here
    u32 fences;               // the group's fences before the last write
};

void races_open(Word* words);
void shared_access(u64 address, u32 bytes, int kind, const void* code);
// A copy on its way: what it will write may not be touched before it lands.
void shared_under_way(u64 address, u32 bytes, const void* code);
void shared_landed(u64 address, u32 bytes, Thread& for_thread, bool plain);
// Reads by wgmma and bulk copies, and the fence that lets them see plain writes.
void shared_read_by_unit(u64 address, u32 bytes, const void* code);
void shared_fence();
// A barrier's eight bytes: made, or used.
void shared_barrier(u64 address, bool made, const void* code);


}  // namespace simt
