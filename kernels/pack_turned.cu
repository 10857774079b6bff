// Packs prepared rows turned into blocks (blocks.cuh), for products that sum over rows.
//
// Maths: element (r, k) of the packed matrix is element r of scaled row k times 2¹⁴, in PARTS parts as in pack_blocks.cu.
// Memory: `scaled` holds `rows` rows of `padded` elements. `packed` gets, for each 128 elements, PARTS · `blocks` blocks;
// what lies behind the elements and behind the rows becomes zero.
// Constants: PARTS.
// Threads: 256, one for each chunk of eight rows of 32 elements; groups: 32 elements each in x, 64 rows each in y.

#include "score.cuh"
#include "pack.cuh"

struct TurnParameters {
    unsigned first_block;
    unsigned rows;
    unsigned padded;
    unsigned blocks;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
pack_turned(TurnParameters parameters, const float *scaled, unsigned char *packed) {
    // Neighbours read neighbouring elements.
    unsigned element = blockIdx.x * 32u + (threadIdx.x & 31u);
    unsigned chunk = threadIdx.x / 32u;
    unsigned block = blockIdx.y + parameters.first_block;
    unsigned first = block * BLOCK_ELEMENTS + chunk * 8u;
    float x[8];
#pragma unroll
    for (unsigned i = 0u; i < 8u; ++i) {
        bool inside = element < parameters.padded && first + i < parameters.rows;
        x[i] = inside ? scaled[(size_t)(first + i) * parameters.padded + element] * 16384.0f : 0.0f;
    }
    pack_chunk(packed, element, block, chunk, parameters.blocks, x);
}
