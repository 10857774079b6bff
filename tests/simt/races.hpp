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
    bool atomic;              // the last write was
};

void races_open(Word* words);
void shared_access(u64 address, u32 bytes, int kind, const void* code);
// A copy on its way: what it will write may not be touched before it lands.
void shared_under_way(u64 address, u32 bytes, const void* code);
void shared_landed(u64 address, u32 bytes, Thread& for_thread);

// What threads know of each other inside a turn, carried by barriers that not all threads take part in.
struct Knowledge {
    u32 turn = 0;
    std::vector<u16> seen;
};
void tell(Knowledge& to, Thread& thread);
void learn(Thread& thread, const Knowledge& from);

}  // namespace simt
