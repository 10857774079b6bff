// Writing blocks (blocks.cuh): one chunk of eight elements at a time, in PARTS parts.

#include "ptx.cuh"
#include "blocks.cuh"

struct alignas(16) Chunk {
    unsigned words[4];
};

/// Writes eight elements of a row, chunk `chunk` of block `block` of each part. What the f16 of one part miss goes to the
/// next. `blocks`: blocks of a part.
__device__ __forceinline__ void
pack_chunk(unsigned char* packed, unsigned row, unsigned block, unsigned chunk, unsigned blocks, float (&x)[8]) {
    size_t first = (size_t)(row / BLOCK_ROWS) * PARTS * blocks + block;
    unsigned offset = block_offset(row & (BLOCK_ROWS - 1u), chunk);
#pragma unroll
    for (unsigned part = 0u; part < PARTS; ++part) {
        Chunk narrow;
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            unsigned word = f32_to_f16_pair(x[2u * i], x[2u * i + 1u]);
            x[2u * i] -= f16_to_f32((unsigned short)word);
            x[2u * i + 1u] -= f16_to_f32((unsigned short)(word >> 16));
            narrow.words[i] = word;
        }
        *reinterpret_cast<Chunk*>(packed + (first + (size_t)part * blocks) * BLOCK_BYTES + offset) = narrow;
    }
}
