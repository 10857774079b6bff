// The passes of `info_nce` by the matrix unit (info_nce_forward.cu, info_nce_backward.cu, info_nce_fused.cu), over packed
// rows (pack_blocks.cu) of 16-bit matrices under cosine: tiles of scores, who is a negative of whom, and what a score turns
// into. See info_nce_tile.cu for what the passes do with scores.
//
// Maths: a score is (sum · (2⁻²⁸ · inverse norm of the line)) · inverse norm of the column, within `error` of the canonical
// one. Exponentials are powers of two within 2 ulp.
// Memory: `lines` and `columns` hold an `Anchor` each (info_nce_anchors.cuh). `left` and `right` are the prepared rows, for
// scores that a bound needs to the bit.
// Constants: COLUMNS, GUARD; those of the header that makes tiles (matrix_unit.cuh by info_nce_walk.cuh, or owned.cuh), which
// comes before this one.

#include "info_nce_block.cuh"
#include "info_nce_anchors.cuh"

#define BOTH_SCALES 3.7252902984619141e-9f
#define LOG2_E 1.4426950408889634f
#define WORDS (Tile::HELD_ROWS * Tile::HELD_COLUMNS / 32u)
#define COLUMN_WORDS ((Tile::HELD_COLUMNS + 31u) / 32u)
// Bits of one row in a word.
#define RUN (Tile::HELD_COLUMNS < 32u ? Tile::HELD_COLUMNS : 32u)
#define ALL_LANES 0xffffffffu

// The negatives of a tile, by line and by column.
struct LossTile : Block {
    const Anchor *lines;
    const Anchor *columns;
    // Of the tile of lines.
    unsigned first_line;
    // Bit `i · HELD_COLUMNS + j` of each: whether score (i, j) is a negative of its line, of its column.
    unsigned of_line[WORDS];
    unsigned of_column[WORDS];

    static __device__ __forceinline__ bool has(const unsigned (&bits)[WORDS], unsigned i, unsigned j) {
        unsigned n = i * Tile::HELD_COLUMNS + j;
        return (bits[n / 32u] >> (n % 32u) & 1u) != 0u;
    }

    static __device__ __forceinline__ void drop(unsigned (&bits)[WORDS], unsigned i, unsigned j, bool is) {
        unsigned n = i * Tile::HELD_COLUMNS + j;
        bits[n / 32u] &= is ? ~(1u << (n % 32u)) : ALL_LANES;
    }

    // Turns sums into scores and finds the negatives among them.
    __device__ __forceinline__ void mark(Tile &tile, unsigned line, unsigned first_column) {
        first_line = line;
        float line_inverse[Tile::HELD_ROWS];
        // Bit i: whether row i is finite, and is a log-sum.
        unsigned rows = 0u, anchors = 0u;
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            unsigned line = first_line + Tile::row_of(i);
            float inverse = line < parameters.lines ? lines[line].inverse : not_a_number();
            line_inverse[i] = inverse * BOTH_SCALES;
            rows |= inverse == inverse ? 1u << i : 0u;
            anchors |= line < parameters.lines && lines[line].query != NOBODY ? 1u << i : 0u;
        }
        __syncwarp();
        // The same of columns.
        unsigned columns_in[COLUMN_WORDS], column_anchors[COLUMN_WORDS];
#pragma unroll
        for (unsigned word = 0u; word < COLUMN_WORDS; ++word) {
            columns_in[word] = 0u;
            column_anchors[word] = 0u;
        }
#pragma unroll
        for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
            if (j % 8u == 0u) {
                // Else loads for columns far ahead take registers.
                __syncwarp();
            }
            unsigned column = first_column + Tile::column_of(j);
            bool inside = column < parameters.block_columns;
            float inverse = inside ? columns[column].inverse : not_a_number();
            columns_in[j / 32u] |= inverse == inverse ? 1u << (j % 32u) : 0u;
            if (COLUMNS == 1u) {
                column_anchors[j / 32u] |= inside && columns[column].query != NOBODY ? 1u << (j % 32u) : 0u;
            }
#pragma unroll
            for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
                tile.at(i, j) = fminf(fmaxf(tile.at(i, j) * line_inverse[i] * inverse, -1.0f), 1.0f);
            }
        }
#pragma unroll
        for (unsigned word = 0u; word < WORDS; ++word) {
            of_line[word] = 0u;
            of_column[word] = 0u;
        }
        // A log-sum's own row is finite.
#pragma unroll
        for (unsigned n = 0u; n < WORDS * 32u; n += RUN) {
            unsigned i = n / Tile::HELD_COLUMNS, j = n % Tile::HELD_COLUMNS;
            unsigned in = columns_in[j / 32u], anchored = column_anchors[j / 32u];
            of_line[n / 32u] |= (anchors >> i & 1u) != 0u ? in << (n % 32u) : 0u;
            of_column[n / 32u] |= (rows >> i & 1u) != 0u ? anchored << (n % 32u) : 0u;
        }
        __syncwarp();
        strike(anew(first_column));
        bool asks = (parameters.flags & (FLAG_GROUPS | FLAG_DUPLICATES)) != 0u;
#pragma unroll
        for (unsigned word = 0u; word < WORDS; ++word) {
            if (asks) {
                ask(of_line[word], of_column[word], word, first_column);
            }
            if (GUARD == 1u) {
                guard(tile, word, first_column);
            }
            of_line[word] = anew(of_line[word]);
            of_column[word] = anew(of_column[word]);
        }
    }

    // Strikes out what is above its anchor's bound; those too near it to tell by canonical scores.
    __device__ __forceinline__ void guard(Tile &tile, unsigned word, unsigned first_column) {
        unsigned near_line = 0u, near_column = 0u;
        first_column = anew(first_column);
#pragma unroll
        for (unsigned bit = 0u; bit < 32u; ++bit) {
            unsigned i = (word * 32u + bit) / Tile::HELD_COLUMNS, j = (word * 32u + bit) % Tile::HELD_COLUMNS;
            float score = tile.at(i, j);
            if (has(of_line, i, j)) {
                float bound = lines[first_line + Tile::row_of(i)].bound;
                bool near = fabsf(score - bound) <= parameters.error && bound < LARGEST;
                near_line |= near ? 1u << bit : 0u;
                drop(of_line, i, j, !near && score > bound);
            }
            if (COLUMNS == 1u && has(of_column, i, j)) {
                float bound = columns[first_column + Tile::column_of(j)].bound;
                bool near = fabsf(score - bound) <= parameters.error && bound < LARGEST;
                near_column |= near ? 1u << bit : 0u;
                drop(of_column, i, j, !near && score > bound);
            }
        }
#pragma unroll 1
        for (unsigned open = near_line | near_column; open != 0u; open &= open - 1u) {
            unsigned bit = open & (0u - open);
            unsigned n = word * 32u + 31u - (unsigned)__clz((int)bit);
            unsigned line = first_line + Tile::row_of(n / Tile::HELD_COLUMNS);
            unsigned column = first_column + Tile::column_of(n % Tile::HELD_COLUMNS);
            float score = exact_score(line, column);
            of_line[word] ^= (near_line & bit) != 0u && score > lines[line].bound ? bit : 0u;
            if (COLUMNS == 1u) {
                of_column[word] ^= (near_column & bit) != 0u && score > columns[column].bound ? bit : 0u;
            }
        }
    }

    // The canonical score with few registers: one partial sum after the other, joined as soon as both are there.
    __device__ __forceinline__ float exact_score(unsigned line, unsigned column) {
        const float *x = reinterpret_cast<const float *>(left) + (size_t)line * parameters.width;
        const float *y = reinterpret_cast<const float *>(right) + (size_t)column * parameters.width;
        float waiting[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float sum = 0.0f;
#pragma unroll 1
        for (unsigned n = 0u; n < 16u; ++n) {
            // Lanes 0, 8, 4, 12, …: those that are joined first follow each other.
            unsigned lane = __brev(n) >> 28;
            sum = 0.0f;
#pragma unroll 1
            for (unsigned at = lane; at < parameters.width; at += 16u) {
                sum += x[at] * y[at];
            }
            bool joins = true;
#pragma unroll
            for (unsigned level = 0u; level < 4u; ++level) {
                joins = joins && (n >> level & 1u) != 0u;
                bool waits = !joins && (n & ((1u << level) - 1u)) == (1u << level) - 1u;
                sum = joins ? waiting[level] + sum : sum;
                waiting[level] = waits ? sum : waiting[level];
            }
        }
        Scale first = left_rows[line], second = right_rows[column];
        bool swapped = parameters.direction == KQ;
        return finish_score(0u, sum, swapped ? second : first, swapped ? first : second);
    }

    // Strikes out positives and listed keys; in q→q the query itself. A column's query is the line that the column is a
    // positive of, so it is no candidate of the column either.
    __device__ __forceinline__ void strike(unsigned first_column) {
#ifdef OWNER
        strike_together(first_column);
#else
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            unsigned candidate = parameters.column_first + first_column;
            unsigned line = first_line + Tile::row_of(i);
            if (parameters.direction == QQ) {
                strike_one(i, parameters.line_first + line - candidate);
            } else {
                Struck struck = struck_of_line(line, candidate, TILE_COLUMNS);
#pragma unroll 1
                for (unsigned at = struck.first; at < struck.end; ++at) {
                    strike_one(i, index[at] - candidate);
                }
            }
        }
#endif
    }

#ifdef OWNER
    // The same where all threads of a warp hold scores of all its lines: each lane looks up lines of its own, and tells the
    // others what it found, which in most tiles is nothing.
    __device__ __forceinline__ void strike_together(unsigned first_column) {
        unsigned lane = threadIdx.x & 31u;
        unsigned candidate = parameters.column_first + first_column + Tile::warp_column();
        unsigned line = first_line + Tile::warp_row();
#pragma unroll 1
        for (unsigned first = 0u; first < Tile::WARP_ROWS; first += 32u) {
            Struck struck = {0u, 0u};
            if (parameters.direction == QQ) {
                struck.first = parameters.line_first + line + first + lane;
                struck.end = struck.first + (struck.first - candidate < Tile::WARP_COLUMNS ? 1u : 0u);
            } else if (first + lane < Tile::WARP_ROWS) {
                struck = struck_of_line(line + first + lane, candidate, Tile::WARP_COLUMNS);
            }
            unsigned open = __ballot_sync(ALL_LANES, struck.first < struck.end);
#pragma unroll 1
            for (; open != 0u; open &= open - 1u) {
                unsigned from = 31u - (unsigned)__clz((int)(open & (0u - open)));
                unsigned end = __shfl_sync(ALL_LANES, struck.end, from);
#pragma unroll 1
                for (unsigned at = __shfl_sync(ALL_LANES, struck.first, from); at < end; ++at) {
                    unsigned column = parameters.direction == QQ ? at : index[at];
                    strike_score(Tile::warp_row() + first + from, Tile::warp_column() + column - candidate);
                }
            }
        }
    }

    __device__ __forceinline__ void strike_score(unsigned row, unsigned column) {
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
#pragma unroll
            for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
                bool is = Tile::row_of(i) == row && Tile::column_of(j) == column;
                drop(of_line, i, j, is);
                drop(of_column, i, j, is);
            }
        }
    }
#endif

    __device__ __forceinline__ void strike_one(unsigned i, unsigned column) {
#pragma unroll
        for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
            drop(of_line, i, j, Tile::column_of(j) == column);
            drop(of_column, i, j, Tile::column_of(j) == column);
        }
    }

    // Strikes out what has the label of its anchor or equals its positive.
    __device__ __forceinline__ void ask(unsigned &line_bits, unsigned &column_bits, unsigned word, unsigned first_column) {
#pragma unroll 1
        for (unsigned open = line_bits | column_bits; open != 0u; open &= open - 1u) {
            unsigned bit = open & (0u - open);
            unsigned n = word * 32u + 31u - (unsigned)__clz((int)bit);
            unsigned line = first_line + Tile::row_of(n / Tile::HELD_COLUMNS);
            unsigned column = first_column + Tile::column_of(n % Tile::HELD_COLUMNS);
            if ((line_bits & bit) != 0u && is_false_negative_of_line(lines[line].query, parameters.column_first + column)) {
                line_bits ^= bit;
            }
            if (COLUMNS == 1u && (column_bits & bit) != 0u
                && is_false_negative_of_column(columns[column].query, parameters.line_first + line)) {
                column_bits ^= bit;
            }
        }
    }
};

// What an anchor takes from its negatives; see `Anchor`.
struct Taken {
    float reference, pull, smoothing, weight;

    // From a negative of this score: its pull of y, `power` the slope of the anchor's logits in powers of two.
    __device__ __forceinline__ float of(float power, float score) const {
        return pull * exp2_fast(fminf(power * (score - reference), 0.0f));
    }
};

__device__ __forceinline__ Taken taken_of(const Anchor &anchor) {
    Taken taken = {anchor.reference, anchor.pull, anchor.smoothing, anchor.weight};
    return taken;
}

// Turns the scores of a tile into slopes.
struct SlopeTile : LossTile {
    // Turns one score into its slope, and adds its softmax mass in the line's log-sum to `mass`.
    __device__ __forceinline__ void turn(
        Tile &tile, unsigned i, unsigned j, const Taken &line, const Taken &column, float &mass) {
        float line_power = logit_slope(parameters.direction) * LOG2_E;
        float column_power = parameters.inverse_temperature * LOG2_E;
        float score = tile.at(i, j);
        float slope = 0.0f;
        if (has(of_line, i, j)) {
            float part = line.of(line_power, score);
            mass += part;
            slope = part * line.weight + line.smoothing;
        }
        if (COLUMNS == 1u && has(of_column, i, j)) {
            slope += column.of(column_power, score) + column.smoothing;
        }
        tile.at(i, j) = slope;
    }
};

#define SET_BLOCK(EPILOGUE)                   \
    EPILOGUE.parameters = parameters.loss;    \
    EPILOGUE.left = left;                     \
    EPILOGUE.right = right;                   \
    EPILOGUE.index = index;                   \
    EPILOGUE.state = state;                   \
    EPILOGUE.left_rows = left_rows;           \
    EPILOGUE.right_rows = right_rows;         \
    EPILOGUE.lines = lines;                   \
    EPILOGUE.columns = columns;
