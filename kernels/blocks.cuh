// Packed rows as the matrix unit reads them: blocks of 128 rows by 128 bytes, 64 elements in f16 or 128 in signed bytes.
//
// Block (i, k) holds rows 128 i to 128 i + 127, elements 64 k to 64 k + 63 (in bytes 128 k to 128 k + 127), and stands at
// `(i · blocks of a row + k) · BLOCK_BYTES`: the blocks of one tile of rows follow each other. Within a block, row r has
// the 128 bytes from 128 r on; its 16-byte chunk c lies in place c ^ (r & 7). This is the layout of wgmma's 128-byte
// swizzle, and no eight rows of `ldmatrix` share a bank. Rows are padded with zeros to whole blocks both ways, so
// copies need no masks; a tile of 256 rows is two blocks that follow each other in shared memory.
//
// Rows of two parts have, for each 128 rows, the blocks of the first part and then those of the second.

#define BLOCK_ROWS 128u
#define BLOCK_ELEMENTS 64u
#define BLOCK_BYTES 16384u

/// Where chunk `chunk` (16 bytes) of a row stands within its block.
__device__ __forceinline__ unsigned block_offset(unsigned row, unsigned chunk) {
    return row * 128u + ((chunk ^ (row & 7u)) << 4);
}

/// What a row packed in bytes is besides: it lies within `lost` of `step` times its bytes.
struct alignas(8) Code {
    float step, lost;
};
