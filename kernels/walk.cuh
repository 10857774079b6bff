// What the mainloops share: the walk of a group over tiles, and the blocks that each step takes.
//
// Constants: TILE_COLUMNS, keys of a tile; QUERY_PARTS, KEY_PARTS, 1 or 2, how rows were packed (pack.cuh); BYTES, 1
// where they were packed as bytes (pack_bytes.cu), else left out.

#include "score.cuh"
#include "blocks.cuh"

/// Queries of a tile.
#define TILE_ROWS 128u
/// What one step of a tile takes: a block of its queries, and of its keys.
#define STAGE_BYTES ((TILE_ROWS + TILE_COLUMNS) * 128u)

/// What products are summed in: sums of products of bytes are exact.
#if BYTES == 1u
typedef int Sum;
#else
typedef float Sum;
#endif

/// What a group walks: one tile of queries through `tiles` tiles of TILE_COLUMNS keys, from tile `first` on.
struct Walk {
    /// Packed queries and keys.
    const unsigned char* queries;
    const unsigned char* keys;
    /// Blocks of a part of a row that are walked, and how many a part has on either side.
    unsigned blocks;
    unsigned query_blocks;
    unsigned key_blocks;
    unsigned query_tile;
    unsigned first;
    unsigned tiles;
};

/// The walk of a group over one part of the tiles that the columns from `first` to `end` lie in, each part `tiles` tiles
/// but the last; parts in y of the grid, tiles of queries in x. Rows of both sides have `blocks` blocks.
__device__ __forceinline__ Walk walk_part(
    const unsigned char* queries,
    const unsigned char* keys,
    unsigned blocks,
    unsigned first,
    unsigned end,
    unsigned tiles
) {
    Walk walk;
    walk.queries = queries;
    walk.keys = keys;
    walk.blocks = blocks;
    walk.query_blocks = blocks;
    walk.key_blocks = blocks;
    walk.query_tile = blockIdx.x;
    unsigned end_tile = (end + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    walk.first = smaller(first / TILE_COLUMNS + blockIdx.y * tiles, end_tile);
    walk.tiles = smaller(end_tile - walk.first, tiles);
    return walk;
}

/// Products that make a score: of two parts each, high · high, high · low, low · high.
#define PRODUCTS (QUERY_PARTS * KEY_PARTS == 4u ? 3u : QUERY_PARTS * KEY_PARTS)

/// The first block of a tile of queries, for a product.
__device__ __forceinline__ size_t query_block(const Walk& walk, unsigned product) {
    unsigned part = QUERY_PARTS == 1u ? 0u : KEY_PARTS == 1u ? product : product / 2u;
    return ((size_t)walk.query_tile * QUERY_PARTS + part) * walk.query_blocks;
}

/// The first block of 128 keys, for a product.
__device__ __forceinline__ size_t key_block(const Walk& walk, size_t row_block, unsigned product) {
    unsigned part = KEY_PARTS == 1u ? 0u : product & 1u;
    return (row_block * KEY_PARTS + part) * walk.key_blocks;
}
