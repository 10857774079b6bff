// The mainloop of this card's matrix unit: MATRIX_UNIT is 80 (mma.cuh) or 90 (wgmma.cuh).
//
// `walk_tiles(walk, epilogue)` hands `Tile`s of sums to `epilogue.eat(tile, number)`: thread-held, `tile.at(i, j)` of
// the tile's row `Tile::row_of(i)` and column `Tile::column_of(j)`. Threads that only copy are never in `eat`: those
// from SCORING_THREADS on.

#include "ptx.cuh"
#include "walk.cuh"

#if MATRIX_UNIT == 90u
#include "wgmma.cuh"
#else
#include "mma.cuh"
#endif
