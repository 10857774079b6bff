// Packs prepared rows into the blocks that the matrix unit reads (blocks.cuh).
//
// Maths: with x an element of the scaled row (rows.cu; magnitudes below 2), the f16 nearest to 2¹⁴ x, which is exact for
// rows that were f16 or bf16 but for what lies below 2⁻³⁹ of the row's largest element; and with PARTS = 2 in a second
// part the f16 nearest to the remainder, so that both together miss x by at most 2⁻²² of it or 2⁻³⁹.
// Memory: `scaled` holds `rows` rows of `padded` elements, a multiple of 16. `packed` gets `row_blocks · PARTS · blocks`
// blocks: of each 128 rows the blocks of the first part, then those of the second. What lies behind the rows, and
// behind their elements, becomes zero.
// Constants: PARTS.
// Threads: 256, one for each chunk of eight elements of 32 rows; workgroups: four for each 128 rows, by blocks.

#include "score.cuh"
#include "pack.cuh"

struct PackParameters {
    unsigned first_group;
    unsigned rows;
    unsigned padded;
    unsigned blocks;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
pack_blocks(PackParameters parameters, const float* scaled, unsigned char* packed) {
    unsigned row = (blockIdx.x + parameters.first_group) * 32u + threadIdx.x / 8u;
    unsigned chunk = threadIdx.x & 7u;
    unsigned first = blockIdx.y * BLOCK_ELEMENTS + chunk * 8u;
    float x[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (row < parameters.rows && first < parameters.padded) {
        const Four* from = reinterpret_cast<const Four*>(scaled + (size_t)row * parameters.padded + first);
        const float factor = 16384.0f;
        Four low = from[0], high = from[1];
        x[0] = low.x * factor;
        x[1] = low.y * factor;
        x[2] = low.z * factor;
        x[3] = low.w * factor;
        x[4] = high.x * factor;
        x[5] = high.y * factor;
        x[6] = high.z * factor;
        x[7] = high.w * factor;
    }
    pack_chunk(packed, row, blockIdx.y, chunk, parameters.blocks, x);
}
