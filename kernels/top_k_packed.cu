// The gated scan of top-k by the matrix unit, over packed rows. Its answers are those of top_k.cu; see there for what it
// does with a score, and for the buffers.
//
// Maths: rows in f16 are packed scaled, times 2¹⁴ (pack_blocks.cu), so a score is (sum · inverse norm · 2⁻²⁸) · factor of
// the key. A thread first asks, for each row that it holds, for the largest of its sums times the key's factor: only where
// that reaches the row's floor, less what this order of multiplications may round otherwise, are the scores themselves
// looked at. Where keys are drawn or rejections counted, all scores are.
// Rows in bytes (pack_bytes.cu) are codes: with `step` and `lost` of unit rows, s and r of the query, t and u of the key, a
// score is the exact sum times s t and lies within 1.01 r + (1.01 + r) u of the true one (src/backend/gpu/matrix_unit.rs).
// Divided by 1.01 + r, what a score is at most is sum · t · s / (1.01 + r) + u, and something that the row alone says,
// which its floor takes into account.
// Memory: `queries` and `keys` are packed rows; `parameters.blocks` blocks each. In bytes, `query_codes` are those of the
// scaled rows, `key_codes` those that `weigh_codes` made.
// Constants: those of matrix_unit.cuh; LISTS, DRAW, COUNT.
// Groups: tiles of queries in x, parts of the step's keys in y, each `tiles` tiles but the last.

#include "score.cuh"
#include "matrix_unit.cuh"
#include "scan.cuh"
#include "draws.cuh"
#include "gates.cuh"

struct PackedParameters {
    Parameters scan;
    /// Blocks of a row.
    unsigned blocks;
    /// Tiles of a part.
    unsigned tiles;
};

/// 2⁻²⁸: what takes the scaling of both sides back.
#define BOTH_SCALES 3.7252902984619141e-9f
#define LARGEST __uint_as_float(LARGEST_BITS)
/// The largest norm of a unit row.
#define LARGEST_UNIT 1.01f

/// Whether every score is looked at.
#define ALL_SCORES (DRAW != 0u || COUNT == 1u)
/// Scores that are looked at together.
#define MOST_SCORES (ALL_SCORES ? 16u : 32u)
#define SCORES (Tile::HELD_COLUMNS < MOST_SCORES ? Tile::HELD_COLUMNS : MOST_SCORES)

struct GateScores {
    const Parameters &parameters;
    const Gate *gates;
    const Column *columns;
    const unsigned *tables;
    unsigned *state;
    unsigned *pool;
    unsigned *unsure;
    unsigned first_row;
    /// Those of bytes.
    const Code *query_codes;
    const Code *key_codes;
    /// For each row that is held, what its sums times the key's factor must reach; in bytes, what its sums are multiplied
    /// with besides.
    float floors[Tile::HELD_ROWS];
    float factors[Tile::HELD_ROWS];

    /// The code of a query's unit row.
    __device__ __forceinline__ Code unit_code(unsigned row, const Gate &gate) const {
        Code code = query_codes[row];
        return {code.step * gate.inverse, code.lost * gate.inverse};
    }

    __device__ __forceinline__ void set_floors() {
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            unsigned row = first_row + Tile::row_of(i);
            floors[i] = __uint_as_float(INFINITY_BITS);
            factors[i] = 0.0f;
            if (row < parameters.rows && gates[row].largest != 0.0f) {
                Gate gate = gates[row];
                float least = fmaxf(gate.lo, threshold_of(state, row, gate).needed);
                float factor = gate.inverse * BOTH_SCALES;
                if (BYTES == 1u) {
                    Code code = unit_code(row, gate);
                    float unit = LARGEST_UNIT + code.lost;
                    factors[i] = __fdiv_rn(code.step, unit);
                    floors[i] = __fdiv_rn(least - LARGEST_UNIT * code.lost, unit);
                } else if (factor == 0.0f) {
                    // A zero row: all its scores are 0.
                    floors[i] = least <= 0.0f ? -LARGEST : LARGEST;
                } else {
                    float floor = __fdiv_rn(least, factor);
                    // Three roundings differ, 2⁻²⁴ each.
                    floors[i] = floor - fabsf(floor) * 9.5367431640625e-7f;
                }
            }
        }
    }

    /// Whether a query has a key on its list.
    __device__ __forceinline__ bool is_listed(unsigned row, unsigned key) const {
        if (LISTS == 0u) {
            return false;
        }
        unsigned end = tables[TABLE_WORDS + row + 1u];
        unsigned at = lower_bound(tables, tables[TABLE_WORDS + row], end, key);
        return at < end && tables[at] == key;
    }

    /// A sum as a number, which in bytes is made anew: kept from `eat` on, all of them would take registers.
    static __device__ __forceinline__ float sum_of(float sum) {
        return sum;
    }

    static __device__ __forceinline__ float sum_of(int sum) {
        return (float)(int)anew((unsigned)sum);
    }

    /// A key's factor, and in bytes what its codes lose.
    __device__ __forceinline__ Code key_code(unsigned column) const {
        if (BYTES == 1u) {
            return key_codes[column];
        }
        return {__uint_as_float(columns[column].factor), 0.0f};
    }

    /// How far a score may lie from the true one, for what the codes of both lose.
    static __device__ __forceinline__ float spread_of(const Code &query, const Code &key) {
        return BYTES == 1u ? LARGEST_UNIT * query.lost + (LARGEST_UNIT + query.lost) * key.lost : 0.0f;
    }

    /// Looks at the scores that the thread holds of its row `i`.
    __device__ __forceinline__ void look(Tile &tile, unsigned i, unsigned first_column) {
        unsigned row = first_row + Tile::row_of(i);
        Gate gate = gates[row];
        Threshold threshold = threshold_of(state, row, gate);
        Code code = {gate.inverse * BOTH_SCALES, 0.0f};
        if (BYTES == 1u) {
            code = unit_code(row, gate);
        }
        // One bit a score, so that the long way is written once.
#pragma unroll
        for (unsigned first = 0u; first < Tile::HELD_COLUMNS; first += SCORES) {
            unsigned open = 0u;
            float scores[SCORES];
#pragma unroll
            for (unsigned j = 0u; j < SCORES; ++j) {
                unsigned column = first_column + Tile::column_of(first + j);
                bool is_key = column >= parameters.first && column < parameters.end;
                // The mark of a key that no query may have is a NaN, which no comparison passes.
                Code other = {__uint_as_float(NO_KEY), 0.0f};
                if (is_key) {
                    other = key_code(column);
                }
                scores[j] = (sum_of(tile.at(i, first + j)) * code.step) * other.step;
                float spread = spread_of(code, other);
                if (scores[j] == scores[j] && is_open(threshold, gate, scores[j] - spread, scores[j] + spread)) {
                    open |= 1u << j;
                }
            }
            while (open != 0u) {
                unsigned at = 31u - (unsigned)__clz((int)open);
                open ^= 1u << at;
                unsigned column = first_column + Tile::column_of(first + at);
                unsigned key = parameters.base + column;
                if (key == gate.own || columns[column].group == gate.group || is_listed(row, key)) {
                    continue;
                }
                // Without draws and counts an open score passes, whatever it is. Registers have no index at run time.
                float score = fmaxf(gate.lo, threshold.needed), spread = 0.0f;
                if (ALL_SCORES) {
                    spread = spread_of(code, key_code(column));
#pragma unroll
                    for (unsigned j = 0u; j < SCORES; ++j) {
                        score = j == at ? scores[j] : score;
                    }
                }
                take_score(
                    parameters, tables, state, pool, unsure, gate, threshold, row, column, score - spread, score + spread
                );
            }
        }
    }

    __device__ __forceinline__ void eat(Tile &tile, unsigned number) {
        unsigned first_column = number * TILE_COLUMNS;
        float most[Tile::HELD_ROWS];
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            most[i] = -LARGEST;
        }
        if (!ALL_SCORES) {
#pragma unroll
            for (unsigned j = 0u; j < Tile::HELD_COLUMNS; ++j) {
                // Keys behind the last are looked at, and dropped then.
                unsigned column = smaller(first_column + Tile::column_of(j), parameters.columns - 1u);
                Code other = key_code(column);
#pragma unroll
                for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
                    float value = (float)tile.at(i, j) * other.step;
                    most[i] = fmaxf(most[i], BYTES == 1u ? fmaf(value, factors[i], other.lost) : value);
                }
            }
        }
#pragma unroll
        for (unsigned i = 0u; i < Tile::HELD_ROWS; ++i) {
            bool all = ALL_SCORES && floors[i] < __uint_as_float(INFINITY_BITS);
            if (all || most[i] >= floors[i]) {
                look(tile, i, first_column);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1) scan_packed(
    PackedParameters parameters,
    const unsigned char *queries,
    const unsigned char *keys,
    const Gate *gates,
    const Column *columns,
    const unsigned *tables,
    unsigned *state,
    unsigned *pool,
    unsigned *unsure
#if BYTES == 1u
    ,
    const Code *query_codes,
    const Code *key_codes
#endif
) {
#if BYTES != 1u
    const Code *query_codes = nullptr, *key_codes = nullptr;
#endif
    // Both groups of a cluster walk the same tiles, whether their queries exist or not.
    Walk walk = walk_part(
        queries, keys, parameters.blocks, parameters.scan.first, parameters.scan.end, parameters.tiles
    );
    GateScores epilogue = {
        parameters.scan, gates, columns, tables, state, pool, unsure, blockIdx.x * TILE_ROWS, query_codes, key_codes
    };
    if (threadIdx.x < SCORING_THREADS) {
        epilogue.set_floors();
    }
    walk_tiles(walk, epilogue);
}
