#include "info_nce_walk.cuh"

// The second pass of `info_nce` by the matrix unit: turns scores into dS, and adds up each column's softmax mass.
//
// Memory: `slopes` gets dS times the column's inverse norm times 2^shift, lines as rows, `of_lines` blocks a part; `turned`
// dS times the line's inverse norm times 2^shift, columns as rows, `of_columns` blocks a part; both packed in two parts
// (blocks.cuh), zero beyond the block's lines and columns. `masses`: `[warp of rows][column]`, the columns padded to tiles.
// Constants and groups: see info_nce_walk.cuh.

// Turns scores into slopes.
struct TakeSlopes : SlopeTile {
    const PackedParameters &packed;
    unsigned char *slopes;
    unsigned char *turned;
    float *masses;
    Taken of_rows[Tile::HELD_ROWS];

    __device__ __forceinline__ TakeSlopes(const PackedParameters &packed) : packed(packed) {}

    // What the lines take.
    __device__ __forceinline__ void set_lines() {
        // Only now, so that it takes no registers while the products are made.
        unsigned first = anew(blockIdx.x) * TILE_ROWS;
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            // Lines beyond the last have no negatives.
            of_rows[i] = taken_of(lines[smaller(first + Tile::row_of(i), parameters.lines - 1u)]);
        }
    }

    __device__ __forceinline__ void eat(Tile &tile, unsigned number) {
        mark(tile, first_line_of_tile(), number * TILE_COLUMNS);
        set_lines();
        unsigned first_column = anew(number * TILE_COLUMNS);
#pragma unroll
        for (unsigned j = 0u; j < Tile::HELD_COLUMNS; j += 2u) {
            float inverse[2];
            take(tile, j, first_column + Tile::column_of(j), inverse[0]);
            take(tile, j + 1u, first_column + Tile::column_of(j + 1u), inverse[1]);
            if (packed.writes == 1u) {
                write(tile, j, first_column + Tile::column_of(j), inverse);
            }
        }
    }

    // Turns the scores of a column into slopes, and gives its inverse norm, 0 where it has none.
    __device__ __forceinline__ void take(Tile &tile, unsigned j, unsigned column, float &inverse) {
        Anchor anchor = {0.0f, NOBODY, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0u};
        if (column < parameters.block_columns) {
            anchor = columns[column];
        }
        inverse = anchor.inverse == anchor.inverse ? anchor.inverse : 0.0f;
        float column_mass = 0.0f;
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            turn(tile, i, j, of_rows[i], taken_of(anchor), column_mass);
        }
        if (scores_keys()) {
#pragma unroll
            for (unsigned distance = 4u; distance < 32u; distance *= 2u) {
                column_mass += __shfl_xor_sync(ALL_LANES, column_mass, distance);
            }
            if ((threadIdx.x & 31u) < 4u) {
                masses[column] = column_mass;
            }
        }
    }

    // Writes two neighbours of a packed row, in two parts.
    __device__ __forceinline__ void
    write_two(unsigned char *to, unsigned row, unsigned k, unsigned blocks, float first, float second) {
        unsigned high = f32_to_f16_pair(first, second);
        unsigned low = f32_to_f16_pair(
            first - f16_to_f32((unsigned short)high), second - f16_to_f32((unsigned short)(high >> 16)));
        // The slopes of a block fit 32 bits.
        unsigned block = row / BLOCK_ROWS * 2u * blocks + k / BLOCK_ELEMENTS;
        unsigned offset = block_offset(row & (BLOCK_ROWS - 1u), k / 8u & 7u) + (k & 7u) * 2u;
        unsigned char *place = to + (block * BLOCK_BYTES + offset);
        *reinterpret_cast<unsigned *>(place) = high;
        *reinterpret_cast<unsigned *>(place + blocks * BLOCK_BYTES) = low;
    }

    // Writes the slopes of two neighbouring columns, as they are and turned.
    __device__ __forceinline__ void write(Tile &tile, unsigned j, unsigned column, const float (&inverse)[2]) {
        bool odd = (threadIdx.x & 4u) != 0u;
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            unsigned line = first_line + Tile::row_of(i);
            float first = tile.at(i, j), second = tile.at(i, j + 1u);
            write_two(slopes, line, column, packed.of_lines, first * inverse[0], second * inverse[1]);
            // Neighbouring lines change places, so that each thread has two lines of one column.
            // A row that is not finite is all zeros; so are slopes of lines beyond the last.
            float own = lines[smaller(line, parameters.lines - 1u)].inverse;
            own = own == own ? own : 0.0f;
            first *= own;
            second *= own;
            float came = __shfl_xor_sync(ALL_LANES, odd ? first : second, 4);
            write_two(turned, odd ? column + 1u : column, line & ~1u, packed.of_columns, odd ? came : first,
                odd ? second : came);
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1) backward(
    PackedParameters parameters, const unsigned char *queries, const unsigned char *keys, const Four *left,
    const Four *right, const Scale *left_rows, const Scale *right_rows, const Anchor *lines, const Anchor *columns,
    const unsigned *index, const unsigned *state, unsigned char *slopes, unsigned char *turned, float *masses) {
    TakeSlopes epilogue(parameters);
    SET_BLOCK(epilogue)
    epilogue.slopes = slopes;
    epilogue.turned = turned;
    size_t part = blockIdx.x * Tile::ROW_PARTS + Tile::row_part();
    epilogue.masses = masses + part * ((parameters.loss.block_columns + TILE_COLUMNS - 1u) / TILE_COLUMNS * TILE_COLUMNS);
    walk_tiles(walk_of(parameters, queries, keys), epilogue);
}
