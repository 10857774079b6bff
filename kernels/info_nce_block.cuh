// What the passes over tiles of `info_nce` share, on plain cores (info_nce_tile.cu) and on the matrix unit
// (info_nce_negatives.cuh): the block at hand, its canonical scores, and who strikes whom out.

#include "info_nce_common.cuh"
#include "canonical.cuh"

#define MASKED -3.4e38f

// Places in `index`.
struct Struck {
    unsigned first, end;
};

// A block of lines and columns: `left` and `right` hold their prepared rows, `left_rows` and `right_rows` the scales.
struct Block {
    Parameters parameters;
    const Four *left;
    const Four *right;
    const Scale *left_rows;
    const Scale *right_rows;
    const unsigned *index;
    const unsigned *state;

    // The canonical score of a line and a column. Between a query and a key the query comes first.
    __device__ __forceinline__ float canonical_score(unsigned line, unsigned column) {
        bool swapped = parameters.direction == KQ;
        unsigned words = parameters.width / 4u;
        const Four *first = swapped ? right + (size_t)column * words : left + (size_t)line * words;
        const Four *second = swapped ? left + (size_t)line * words : right + (size_t)column * words;
        float dot = canonical_dot(parameters.split, first, second, words);
        Scale x = left_rows[line];
        Scale y = right_rows[column];
        return finish_score(parameters.metric, dot, swapped ? y : x, swapped ? x : y);
    }

    // How far a score of a tile can lie from the canonical one.
    __device__ __forceinline__ float tolerance(unsigned line, unsigned column) {
        if (parameters.metric == 0u) {
            return parameters.error;
        }
        auto x = left_rows[line];
        auto y = right_rows[column];
        auto inverses = x.inverse * y.inverse;
        if (inverses == 0.0f) {
            return 1.1754944e-38f;
        }
        return unscale(parameters.error / inverses, (int)(x.exponent + y.exponent)) + 1.1754944e-38f;
    }

    // Whether key `column` equals a positive of `query`.
    __device__ __forceinline__ bool copies_positive(unsigned query, unsigned column) {
        auto end = index[parameters.term_offsets + query + 1u];
        for (auto term = index[parameters.term_offsets + query]; term < end; term++) {
            auto key = index[parameters.term_keys + term];
            if (index[parameters.column_copies + key] == index[parameters.column_copies + column]) {
                return true;
            }
        }
        return false;
    }

    __device__ __forceinline__ float query_bound(unsigned query) {
        return as_float(state[parameters.query_state + query * QUERY_WORDS]);
    }

    __device__ __forceinline__ unsigned positives_that_count(unsigned query) {
        return state[parameters.query_state + query * QUERY_WORDS + 1u];
    }

    __device__ __forceinline__ bool scores_keys() {
        return parameters.direction == QK || parameters.direction == KK;
    }

    // The first place in a sorted list with an item that is not below `value`.
    __device__ __forceinline__ unsigned lower_bound(unsigned items, unsigned first, unsigned end, unsigned value) {
        auto low = first;
        auto high = end;
        while (low < high) {
            auto middle = low + (high - low) / 2u;
            if (index[items + middle] < value) {
                low = middle + 1u;
            } else {
                high = middle;
            }
        }
        return low;
    }

    // The places in `index` of what a line strikes out among `count` candidates from `candidate` on: of its query's
    // positives and listed keys, or of the queries that share its key. None in q→q, where a line strikes out itself.
    __device__ __forceinline__ Struck struck_of_line(unsigned line, unsigned candidate, unsigned count) {
        Struck struck = {0u, 0u};
        if (line >= parameters.lines || parameters.direction == QQ) {
            return struck;
        }
        auto items = parameters.own_items;
        auto offsets = parameters.own_offsets;
        auto list = index[parameters.line_queries + parameters.line_first + line];
        if (parameters.direction == KQ) {
            items = parameters.sharer_queries;
            offsets = parameters.sharer_offsets;
            list = index[parameters.line_rows + parameters.line_first + line];
        }
        auto end = index[offsets + list + 1u];
        struck.first = lower_bound(items, index[offsets + list], end, candidate);
        struck.end = items + lower_bound(items, struck.first, end, candidate + count);
        struck.first += items;
        return struck;
    }

    // Whether labels or duplicates strike a candidate out of the log-sum that a line of `query` is.
    __device__ __forceinline__ bool is_false_negative_of_line(unsigned query, unsigned candidate) {
        if ((parameters.flags & FLAG_GROUPS) != 0u) {
            auto own = index[parameters.query_labels + query];
            if (scores_keys()) {
                if (
                    (parameters.flags & FLAG_COLUMN_LABELS) != 0u && index[parameters.column_labels + candidate] == own) {
                    return true;
                }
            } else if (index[parameters.query_labels + candidate] == own) {
                return true;
            }
        }
        if ((parameters.flags & FLAG_DUPLICATES) != 0u) {
            if (scores_keys()) {
                return copies_positive(query, candidate);
            }
            return index[parameters.query_copies + query] == index[parameters.query_copies + candidate];
        }
        return false;
    }

    // Whether labels or duplicates strike a candidate, a query, out of the log-sum of k→q whose query is `query`.
    __device__ __forceinline__ bool is_false_negative_of_column(unsigned query, unsigned candidate) {
        if ((parameters.flags & FLAG_GROUPS) != 0u
            && index[parameters.query_labels + candidate] == index[parameters.query_labels + query]) {
            return true;
        }
        return (parameters.flags & FLAG_DUPLICATES) != 0u
            && index[parameters.query_copies + query] == index[parameters.query_copies + candidate];
    }

    __device__ __forceinline__ float logit_slope(unsigned direction) {
        return parameters.inverse_temperature + (direction == QK ? parameters.alpha : 0.0f);
    }

    // Where the state of a direction's log-sums begins.
    __device__ __forceinline__ unsigned family(unsigned direction) {
        switch (direction) {
            case 0u: return parameters.qk;
            case 1u: return parameters.kq;
            case 2u: return parameters.qq;
            default: return parameters.kk;
        }
    }
};
