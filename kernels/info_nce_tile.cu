#include "info_nce_block.cuh"

// `forward` sums every anchor's negatives; `backward` turns scores into dS, the gradient with respect to the score
// times the temperature, and adds up each column's softmax mass. Neither keeps scores.
//
// A block is `lines × block_columns` scores of prepared rows: `left` and `right` hold them scaled by powers of two,
// `width` elements each, `left_rows` and `right_rows` their scales. One workgroup of 16 × 16 threads scores 64 × 64 of
// them, 4 × 4 a thread; groups count the tiles of a line of tiles first. Lines serve the log-sums of `direction`; with
// COLUMNS, columns serve those of k→q with the same scores.
//
// `out` of `forward`: SUM_WORDS words for each tile column and line, `[tile column][line]`; behind them, with COLUMNS,
// for each tile row and column, `[tile row][column]`. `out` of `backward`: dS, line after line, `stride` apart; behind
// it the masses, `[tile row][column]`.
//
// Constants: COLUMNS, GUARD (a bound on scores exists), HCL.

#define TILE 64u
#define DEPTH 16u

struct Place {
    unsigned x, y;
};

struct Tile : Block {
    unsigned *out;
    // Of the whole workgroup. Depth-major: element k of row r at k · TILE + r.
    float *left_tile;
    float *right_tile;
    float *gathered;
    float *references;
    unsigned *struck_first;
    unsigned *struck_end;
    // The scores of a thread: line `4·y + n / 4` and column `4·x + n % 4` of the tile.
    float scores[16];
    // Which of them are negatives of their line, and of their column.
    unsigned of_line;
    unsigned of_column;

    // The mainloop. Chains of 64 products are added to the total, which keeps rounding small.
    __device__ __forceinline__ void score_tile(Place group, Place thread) {
        float total[16];
        float chain[16];
#pragma unroll
        for (unsigned n = 0u; n < 16u; n++) {
            total[n] = 0.0f;
            chain[n] = 0.0f;
        }
        unsigned id = thread.y * 16u + thread.x;
        unsigned row = id / 4u;
        unsigned quarter = id % 4u;
        unsigned words = parameters.width / 4u;
        // Rows behind the last are read as the last; nobody looks at their scores.
        size_t left_at = (size_t)smaller(group.y * TILE + row, parameters.lines - 1u) * words + quarter;
        size_t right_at = (size_t)smaller(group.x * TILE + row, parameters.block_columns - 1u) * words + quarter;
        for (unsigned first = 0u; first < parameters.width; first += DEPTH) {
            Four x = left[left_at + first / 4u];
            Four y = right[right_at + first / 4u];
            __syncthreads();
            unsigned to = quarter * 4u * TILE + row;
            left_tile[to] = x.x;
            left_tile[to + TILE] = x.y;
            left_tile[to + 2u * TILE] = x.z;
            left_tile[to + 3u * TILE] = x.w;
            right_tile[to] = y.x;
            right_tile[to + TILE] = y.y;
            right_tile[to + 2u * TILE] = y.z;
            right_tile[to + 3u * TILE] = y.w;
            __syncthreads();
            for (unsigned k = 0u; k < DEPTH; k++) {
                const float *a = left_tile + k * TILE + thread.y * 4u;
                const float *b = right_tile + k * TILE + thread.x * 4u;
#pragma unroll
                for (unsigned n = 0u; n < 16u; n++) {
                    chain[n] += a[n / 4u] * b[n % 4u];
                }
            }
            if (first % 64u == 48u || first + DEPTH >= parameters.width) {
#pragma unroll
                for (unsigned n = 0u; n < 16u; n++) {
                    total[n] += chain[n];
                    chain[n] = 0.0f;
                }
            }
        }
#pragma unroll
        for (unsigned n = 0u; n < 16u; n++) {
            Scale x = left_rows[smaller(group.y * TILE + line_of(n, thread), parameters.lines - 1u)];
            Scale y = right_rows[smaller(group.x * TILE + column_of(n, thread), parameters.block_columns - 1u)];
            scores[n] = finish_score(parameters.metric, total[n], x, y);
        }
    }

    __device__ __forceinline__ unsigned line_of(unsigned n, Place thread) {
        return thread.y * 4u + n / 4u;
    }

    __device__ __forceinline__ unsigned column_of(unsigned n, Place thread) {
        return thread.x * 4u + n % 4u;
    }

    // Column and row of a tile of the block.
    __device__ __forceinline__ Place tile_of(unsigned number) {
        auto tile_columns = (parameters.block_columns + TILE - 1u) / TILE;
        Place place = {number % tile_columns, number / tile_columns};
        return place;
    }

    // A function of its own, since it is seldom needed.
    __device__ __noinline__ float exact_score(unsigned line, unsigned column) {
        return canonical_score(line, column);
    }

    // Whether a score is above a bound, by the canonical score where the tile's cannot tell.
    __device__ __forceinline__ bool is_above(unsigned line, unsigned column, float score, float bound) {
        if (bound >= LARGEST) {
            return false;
        }
        if (fabsf(score - bound) > tolerance(line, column)) {
            return score > bound;
        }
        return exact_score(line, column) > bound;
    }

    // The query whose log-sum a line of the block is, or NOBODY.
    __device__ __forceinline__ unsigned anchor_of_line(unsigned line) {
        if (line >= parameters.lines) {
            return NOBODY;
        }
        auto query = index[parameters.line_queries + parameters.line_first + line];
        // The line's own row, query or positive, and the query's positives decide whether the term counts.
        if (!is_finite_row(left_rows[line]) || positives_that_count(query) == 0u) {
            return NOBODY;
        }
        return query;
    }

    // The query whose log-sum of k→q a column is, or NOBODY.
    __device__ __forceinline__ unsigned anchor_of_column(unsigned column) {
        auto key = parameters.column_first + column;
        if (column >= parameters.block_columns || key >= parameters.keys) {
            return NOBODY;
        }
        auto query = index[parameters.column_queries + key];
        if (query == NOBODY || !is_finite_row(right_rows[column])) {
            return NOBODY;
        }
        return (positives_that_count(query) != 0u) ? query : NOBODY;
    }

    // Where the sorted list of what a line strikes out meets the columns of a tile.
    __device__ __forceinline__ void find_struck(Place group, Place thread) {
        auto id = thread.y * 16u + thread.x;
        if (id < TILE) {
            auto struck = struck_of_line(group.y * TILE + id, parameters.column_first + group.x * TILE, TILE);
            struck_first[id] = struck.first;
            struck_end[id] = struck.end;
        }
        __syncthreads();
    }

    // Whether a column is a negative of the log-sum that a line is; `query` is the log-sum's.
    __device__ __forceinline__ bool is_negative_of_line(
        unsigned tile_line, unsigned line, unsigned column, unsigned query, float score) {
        if (query == NOBODY || column >= parameters.block_columns) {
            return false;
        }
        if (!is_finite_row(right_rows[column])) {
            return false;
        }
        auto candidate = parameters.column_first + column;
        if (parameters.direction == QQ && candidate == query) {
            return false;
        }
        for (auto at = struck_first[tile_line]; at < struck_end[tile_line]; at++) {
            if (index[at] == candidate) {
                return false;
            }
        }
        if (is_false_negative_of_line(query, candidate)) {
            return false;
        }
        if (GUARD == 1u) {
            return !is_above(line, column, score, query_bound(query));
        }
        return true;
    }

    // Whether a line, which is a query, is a negative of the log-sum of k→q that a column is.
    __device__ __forceinline__ bool is_negative_of_column(unsigned line, unsigned column, unsigned query, float score) {
        if (query == NOBODY || line >= parameters.lines) {
            return false;
        }
        if (!is_finite_row(left_rows[line])) {
            return false;
        }
        auto candidate = parameters.line_first + line;
        if (candidate == query) {
            return false;
        }
        if (is_false_negative_of_column(query, candidate)) {
            return false;
        }
        if (GUARD == 1u) {
            return !is_above(line, column, score, query_bound(query));
        }
        return true;
    }

    // Finds the negatives among a thread's scores.
    __device__ __forceinline__ void mask_tile(Place group, Place thread) {
        find_struck(group, thread);
        of_line = 0u;
        of_column = 0u;
        for (unsigned n = 0u; n < 16u; n++) {
            auto tile_line = line_of(n, thread);
            auto line = group.y * TILE + tile_line;
            auto column = group.x * TILE + column_of(n, thread);
            if (is_negative_of_line(tile_line, line, column, anchor_of_line(line), scores[n])) {
                of_line |= 1u << n;
            }
            if (COLUMNS == 1u) {
                if (is_negative_of_column(line, column, anchor_of_column(column), scores[n])) {
                    of_column |= 1u << n;
                }
            }
        }
    }

    // Joins four values of each of 16 threads, the first `lane` of sixteen partners, `owner` the row of partners.
    // Thread
    // `i` below 64 gets the value of line (or column) `i`.
    __device__ __forceinline__ float join(
        const float *values, unsigned owner, unsigned lane, unsigned id, bool largest) {
        __syncthreads();
        for (unsigned i = 0u; i < 4u; i++) {
            gathered[(owner * 4u + i) * 17u + lane] = values[i];
        }
        __syncthreads();
        auto joined = 0.0f;
        if (id < TILE) {
            joined = gathered[id * 17u];
            for (unsigned i = 1u; i < 16u; i++) {
                auto value = gathered[id * 17u + i];
                joined = largest ? fmaxf(joined, value) : joined + value;
            }
        }
        return joined;
    }

    // Sums the negatives of each line, or with `turned` of each column, into `out` from word `base` on.
    __device__ __forceinline__ void sum_tile(
        bool turned, Place thread, unsigned direction, unsigned base, unsigned count) {
        auto id = thread.y * 16u + thread.x;
        auto owner = turned ? thread.x : thread.y;
        auto lane = turned ? thread.y : thread.x;
        auto mask = turned ? of_column : of_line;
        auto slope = logit_slope(direction);
        // The sign that makes the largest logit the largest value.
        auto sign = slope < 0.0f ? -1.0f : 1.0f;

        float number[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float top[4] = {MASKED, MASKED, MASKED, MASKED};
        float largest[4] = {MASKED, MASKED, MASKED, MASKED};
        float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (unsigned i = 0u; i < 4u; i++) {
            for (unsigned k = 0u; k < 4u; k++) {
                auto n = turned ? k * 4u + i : i * 4u + k;
                if (((mask >> n) & 1u) != 0u) {
                    number[i] += 1.0f;
                    top[i] = fmaxf(top[i], sign * scores[n]);
                    largest[i] = fmaxf(largest[i], scores[n]);
                    total[i] += scores[n];
                }
            }
        }
        auto at = base + id * SUM_WORDS;
        auto writes = id < count;
        auto joined_top = join(top, owner, lane, id, true);
        if (id < TILE) {
            references[id] = sign * joined_top;
        }
        auto joined_number = join(number, owner, lane, id, false);
        auto joined_largest = join(largest, owner, lane, id, true);
        auto joined_total = join(total, owner, lane, id, false);
        if (writes) {
            out[at] = as_word(joined_number);
            out[at + 1u] = as_word(sign * joined_top);
            out[at + 2u] = as_word(joined_largest);
            out[at + 3u] = as_word(joined_total);
        }

        float plain[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float plain_below[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float upper[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float upper_below[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float lower[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float lower_below[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (unsigned i = 0u; i < 4u; i++) {
            auto reference = references[owner * 4u + i];
            for (unsigned k = 0u; k < 4u; k++) {
                auto n = turned ? k * 4u + i : i * 4u + k;
                if (((mask >> n) & 1u) != 0u) {
                    auto below = scores[n] - reference;
                    auto x = slope * below;
                    auto y = exponential(x);
                    plain[i] += y;
                    plain_below[i] += below * y;
                    if (HCL == 1u && !turned && direction == QK) {
                        auto y_lower = exponential_power(x, parameters.beta);
                        auto y_upper = y_lower * y;
                        upper[i] += y_upper;
                        upper_below[i] += below * y_upper;
                        lower[i] += y_lower;
                        lower_below[i] += below * y_lower;
                    }
                }
            }
        }
        auto joined_plain = join(plain, owner, lane, id, false);
        auto joined_plain_below = join(plain_below, owner, lane, id, false);
        if (writes) {
            out[at + 4u] = as_word(joined_plain);
            out[at + 5u] = as_word(joined_plain_below);
        }
        if (HCL == 1u && !turned && direction == QK) {
            auto joined_upper = join(upper, owner, lane, id, false);
            auto joined_upper_below = join(upper_below, owner, lane, id, false);
            auto joined_lower = join(lower, owner, lane, id, false);
            auto joined_lower_below = join(lower_below, owner, lane, id, false);
            if (writes) {
                out[at + 6u] = as_word(joined_upper);
                out[at + 7u] = as_word(joined_upper_below);
                out[at + 8u] = as_word(joined_lower);
                out[at + 9u] = as_word(joined_lower_below);
            }
        }
    }

    // A candidate's softmax mass: of the log-sum whose state is at `at`.
    __device__ __forceinline__ float mass_of(unsigned at, unsigned direction, float score) {
        auto x = fminf(logit_slope(direction) * (score - as_float(state[at + 1u])), 0.0f);
        auto y = exponential(x);
        auto pull = as_float(state[at + SUM_WORDS]);
        if (HCL == 1u && direction == QK) {
            auto lower = as_float(state[at + SUM_WORDS + 1u]);
            return exponential_power(x, parameters.beta) * (pull * y + lower);
        }
        return pull * y;
    }

    // The gradient with respect to a score, given its mass.
    __device__ __forceinline__ float slope_of(unsigned at, float mass) {
        return (mass + as_float(state[at + SUM_WORDS + 2u])) * as_float(state[at + SUM_WORDS + 3u]);
    }

    __device__ __forceinline__ void forward() {
        Place thread = {threadIdx.x, threadIdx.y};
        Place group = tile_of(blockIdx.x + parameters.first_group);
        score_tile(group, thread);
        mask_tile(group, thread);
        auto line = group.y * TILE;
        auto column = group.x * TILE;
        auto base = (group.x * parameters.lines + line) * SUM_WORDS;
        sum_tile(false, thread, parameters.direction, base, smaller(parameters.lines - line, TILE));
        if (COLUMNS == 1u) {
            auto tile_columns = (parameters.block_columns + TILE - 1u) / TILE;
            auto behind = tile_columns * parameters.lines * SUM_WORDS;
            auto columns_base = behind + (group.y * parameters.block_columns + column) * SUM_WORDS;
            sum_tile(true, thread, KQ, columns_base, smaller(parameters.block_columns - column, TILE));
        }
    }

    __device__ __forceinline__ void backward() {
        Place thread = {threadIdx.x, threadIdx.y};
        Place group = tile_of(blockIdx.x + parameters.first_group);
        score_tile(group, thread);
        mask_tile(group, thread);
        auto id = thread.y * 16u + thread.x;
        float masses[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (unsigned n = 0u; n < 16u; n++) {
            auto line = group.y * TILE + line_of(n, thread);
            auto column = group.x * TILE + column_of(n, thread);
            auto slope = 0.0f;
            if (((of_line >> n) & 1u) != 0u) {
                auto at = family(parameters.direction) + (parameters.line_first + line) * FAMILY_WORDS;
                auto mass = mass_of(at, parameters.direction, scores[n]);
                masses[n % 4u] += mass;
                slope = slope_of(at, mass);
            }
            if (COLUMNS == 1u) {
                if (((of_column >> n) & 1u) != 0u) {
                    auto at = parameters.kq + (parameters.column_first + column) * FAMILY_WORDS;
                    slope += slope_of(at, mass_of(at, KQ, scores[n]));
                }
            }
            // Rows and columns of padding are written as zeros: they are multiplied.
            out[(size_t)line * parameters.stride + column] = as_word(slope);
        }
        if (scores_keys()) {
            auto mass = join(masses, thread.x, thread.y, id, false);
            if (id < TILE) {
                auto behind = ((parameters.lines + TILE - 1u) / TILE * TILE) * parameters.stride;
                out[behind + group.y * parameters.stride + group.x * TILE + id] = as_word(mass);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) forward(
    Parameters parameters, const Four *left, const Four *right, const Scale *left_rows, const Scale *right_rows,
    const unsigned *index, const unsigned *state, unsigned *out) {
    __shared__ float left_tile[TILE * DEPTH];
    __shared__ float right_tile[TILE * DEPTH];
    __shared__ float gathered[TILE * 17u];
    __shared__ float references[TILE];
    __shared__ unsigned struck_first[TILE];
    __shared__ unsigned struck_end[TILE];
    Tile tile;
    tile.parameters = parameters;
    tile.left = left;
    tile.right = right;
    tile.left_rows = left_rows;
    tile.right_rows = right_rows;
    tile.index = index;
    tile.state = state;
    tile.out = out;
    tile.left_tile = left_tile;
    tile.right_tile = right_tile;
    tile.gathered = gathered;
    tile.references = references;
    tile.struck_first = struck_first;
    tile.struck_end = struck_end;
    tile.forward();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) backward(
    Parameters parameters, const Four *left, const Four *right, const Scale *left_rows, const Scale *right_rows,
    const unsigned *index, const unsigned *state, unsigned *out) {
    __shared__ float left_tile[TILE * DEPTH];
    __shared__ float right_tile[TILE * DEPTH];
    __shared__ float gathered[TILE * 17u];
    __shared__ float references[TILE];
    __shared__ unsigned struck_first[TILE];
    __shared__ unsigned struck_end[TILE];
    Tile tile;
    tile.parameters = parameters;
    tile.left = left;
    tile.right = right;
    tile.left_rows = left_rows;
    tile.right_rows = right_rows;
    tile.index = index;
    tile.state = state;
    tile.out = out;
    tile.left_tile = left_tile;
    tile.right_tile = right_tile;
    tile.gathered = gathered;
    tile.references = references;
    tile.struck_first = struck_first;
    tile.struck_end = struck_end;
    tile.backward();
}
