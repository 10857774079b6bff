// Sums over negatives and over positives, relative to the largest logit among them: how they are joined, and what the
// blocks of a pass left is added to them.
//
// `partials` is what the pass before left for `merge_sums` and `merge_masses`; see there.

#include "info_nce_state.cuh"

struct Sums {
    float count;
    float reference;
    float largest;
    float scores;
    Pair plain;
    Pair upper;
    Pair lower;
};

__device__ __forceinline__ Sums sums_of(
    float count, float reference, float largest, float scores, Pair plain, Pair upper, Pair lower) {
    Sums sums = {count, reference, largest, scores, plain, upper, lower};
    return sums;
}

struct Partials : State {
    __device__ __forceinline__ Sums no_sums() {
        return sums_of(0.0f, 0.0f, -LARGEST, 0.0f, pair_of(0.0f, 0.0f), pair_of(0.0f, 0.0f), pair_of(0.0f, 0.0f));
    }

    __device__ __forceinline__ Sums sums_of_words(const unsigned *words) {
        return sums_of(as_float(words[0]), as_float(words[1]), as_float(words[2]), as_float(words[3]),
            pair_of(as_float(words[4]), as_float(words[5])), pair_of(as_float(words[6]), as_float(words[7])),
            pair_of(as_float(words[8]), as_float(words[9])));
    }

    __device__ __forceinline__ Sums read_sums(unsigned at) {
        return sums_of(float_at(at), float_at(at + 1u), float_at(at + 2u), float_at(at + 3u),
            pair_of(float_at(at + 4u), float_at(at + 5u)),
            pair_of(float_at(at + 6u), float_at(at + 7u)), pair_of(float_at(at + 8u), float_at(at + 9u)));
    }

    __device__ __forceinline__ void write_sums(unsigned at, Sums sums) {
        put(at, sums.count);
        put(at + 1u, sums.reference);
        put(at + 2u, sums.largest);
        put(at + 3u, sums.scores);
        put(at + 4u, sums.plain.x);
        put(at + 5u, sums.plain.y);
        put(at + 6u, sums.upper.x);
        put(at + 7u, sums.upper.y);
        put(at + 8u, sums.lower.x);
        put(at + 9u, sums.lower.y);
    }

    // Weighted sums relative to a reference, relative to another one that is `below` it, `weight` times as heavy.
    __device__ __forceinline__ Pair moved(Pair sums, float below, float weight) {
        if (weight == 0.0f) {
            return pair_of(0.0f, 0.0f);
        }
        return weight * pair_of(sums.x, sums.y + below * sums.x);
    }

    __device__ __forceinline__ Sums joined(Sums a, Sums b, float slope, bool hcl) {
        if (b.count == 0.0f) {
            return a;
        }
        if (a.count == 0.0f) {
            return b;
        }
        auto out = a;
        out.count = a.count + b.count;
        out.largest = fmaxf(a.largest, b.largest);
        out.scores = a.scores + b.scores;
        out.reference = (slope * (b.reference - a.reference) > 0.0f) ? b.reference : a.reference;
        auto a_below = a.reference - out.reference;
        auto b_below = b.reference - out.reference;
        auto a_x = slope * a_below;
        auto b_x = slope * b_below;
        auto a_y = exponential(a_x);
        auto b_y = exponential(b_x);
        out.plain = moved(a.plain, a_below, a_y) + moved(b.plain, b_below, b_y);
        if (hcl) {
            auto a_lower = exponential_power(a_x, parameters.beta);
            auto b_lower = exponential_power(b_x, parameters.beta);
            out.upper = moved(a.upper, a_below, a_lower * a_y) + moved(b.upper, b_below, b_lower * b_y);
            out.lower = moved(a.lower, a_below, a_lower) + moved(b.lower, b_below, b_lower);
        }
        return out;
    }

    __device__ __forceinline__ unsigned family(unsigned direction) {
        switch (direction) {
            case 0u: return parameters.qk;
            case 1u: return parameters.kq;
            case 2u: return parameters.qq;
            default: return parameters.kk;
        }
    }

    // The additive hardness of a direction's tiles.
    __device__ __forceinline__ float tile_alpha(unsigned direction) {
        return direction == QK ? parameters.alpha : 0.0f;
    }

    // Adds a block's partial sums to the sums of `lines` log-sums of `direction` from `line_first` on: `stride` partials
    // each, `target_rows` slots apart, from word `target_first` on.
    __device__ __forceinline__ void merge_sums() {
        auto slot = item_of();
        if (slot >= parameters.lines) {
            return;
        }
        auto at = family(parameters.direction) + (parameters.line_first + slot) * FAMILY_WORDS;
        auto slope = parameters.inverse_temperature + tile_alpha(parameters.direction);
        auto hcl = has(FLAG_HCL) && parameters.direction == QK;
        auto sums = read_sums(at);
        for (unsigned part = 0u; part < parameters.stride; part++) {
            auto source_at = parameters.target_first + (part * parameters.target_rows + slot) * SUM_WORDS;
            unsigned words[10] = {};
            auto used = hcl ? 10u : 6u;
            for (unsigned i = 0u; i < used; i++) {
                words[i] = partials[source_at + i];
            }
            sums = joined(sums, sums_of_words(words), slope, hcl);
        }
        write_sums(at, sums);
    }

    // Adds a block's softmax masses to the influence of `lines` columns from `line_first` on: `stride` parts each,
    // `target_rows` columns apart, from word `target_first` on.
    __device__ __forceinline__ void merge_masses() {
        auto column = item_of();
        if (column >= parameters.lines) {
            return;
        }
        auto sum = 0.0f;
        for (unsigned part = 0u; part < parameters.stride; part++) {
            sum += as_float(partials[parameters.target_first + part * parameters.target_rows + column]);
        }
        auto at = parameters.influence + parameters.line_first + column;
        put(at, float_at(at) + sum);
    }

    __device__ __forceinline__ Sums one(float score) {
        auto weighted = pair_of(1.0f, 0.0f);
        return sums_of(1.0f, score, score, score, weighted, weighted, weighted);
    }

    // The sums of the positives of terms `first` to `end`, places in `list` of `index` where that is not NOBODY.
    __device__ __forceinline__ Sums sum_positives(unsigned list, unsigned first, unsigned end) {
        auto sums = no_sums();
        for (auto at = first; at < end; at++) {
            auto term = at;
            if (list != NOBODY) {
                term = index[list + at];
            }
            if (state[term_at(term) + 3u] != 0u) {
                sums = joined(sums, one(positive_score(term)), parameters.inverse_temperature, false);
            }
        }
        return sums;
    }

    // Marks the terms that count, by a 1 in their fourth word, until what is taken from them takes its place.
    __device__ __forceinline__ void mark_terms() {
        auto query = item_of();
        if (query >= parameters.queries) {
            return;
        }
        auto end = index[parameters.term_offsets + query + 1u];
        for (auto term = index[parameters.term_offsets + query]; term < end; term++) {
            state[term_at(term) + 3u] = (term_counts(query, term)) ? 1u : 0u;
        }
    }

    // SupCon: sums over the positives of each key, where others' positives stay in.
    __device__ __forceinline__ void sum_sharers() {
        auto key = item_of();
        if (key >= parameters.keys) {
            return;
        }
        auto first = index[parameters.sharer_offsets + key];
        auto end = index[parameters.sharer_offsets + key + 1u];
        write_sums(parameters.sharer_state + key * SUM_WORDS, sum_positives(parameters.sharer_terms, first, end));
    }
};
