#include "info_nce_common.cuh"

// From sums to the loss: all that is one number per term, query, key or log-sum, and what each log-sum takes from its
// candidates. One thread per item, except `sum_weights` and `sum_rows`, one workgroup of 256.f
//
// A term's log-sum is evaluated relative to the logit of its positive, x_p = (s_p − m)/τ: with r_j = x_j − x_p,
//   loss = log Σ e^{r_j} − λ · mean(r_j),
//   τ² · ∂loss/∂τ = E · (1 + s_p − m) − Σ_j slope_j · (s_j − s_p) + λ · mean(s_j − s_p),
// scores of positives less the margin, slope_j = ∂log Z/∂x_j, and E the mass of HCL's floor N·e^{−1/τ} where it is
// reached (else 0). All sums are relative, so peaked logits cancel nothing.
//
// `partials` is what the pass before left for `merge_sums` and `merge_masses`; see there.

#define QK_POSITIVES 0u
#define QK_NEGATIVES 1u
#define QK_LISTED 2u
#define KQ_POSITIVES 3u
#define KQ_NEGATIVES 4u
#define QQ_NEGATIVES 5u
#define KK_NEGATIVES 6u
#define PARTS 7u

struct Sums {
    float count;
    float reference;
    float largest;
    float scores;
    Pair plain;
    Pair upper;
    Pair lower;
};

struct Part {
    bool present;
    float alpha;
    Sums sums;
};

struct LogSum {
    float count;
    float loss;
    // For each candidate: what label smoothing takes.
    float smoothing;
    // What HCL takes from the positive's logit beside its part.
    float own;
    float temperature;
    float entropy;
};

__device__ __forceinline__ Sums sums_of(
    float count, float reference, float largest, float scores, Pair plain, Pair upper, Pair lower) {
    Sums sums = {count, reference, largest, scores, plain, upper, lower};
    return sums;
}

__device__ __forceinline__ Part part_of(bool present, float alpha, Sums sums) {
    Part part = {present, alpha, sums};
    return part;
}

__device__ __forceinline__ LogSum logsum_of(
    float count, float loss, float smoothing, float own, float temperature, float entropy) {
    LogSum sum = {count, loss, smoothing, own, temperature, entropy};
    return sum;
}

struct Reduce {
    Parameters parameters;
    const unsigned *index;
    unsigned *state;
    const Scale *query_rows;
    const Scale *key_rows;
    const unsigned *partials;
    // Of the whole workgroup.
    Pair *sums;

    __device__ __forceinline__ float float_at(unsigned at) {
        return as_float(state[at]);
    }

    __device__ __forceinline__ void put(unsigned at, float value) {
        state[at] = as_word(value);
    }

    __device__ __forceinline__ bool has(unsigned flag) {
        return (parameters.flags & flag) != 0u;
    }

    __device__ __forceinline__ bool uses(unsigned direction) {
        return ((parameters.directions >> direction) & 1u) != 0u;
    }

    __device__ __forceinline__ unsigned term_at(unsigned term) {
        return parameters.term_state + term * TERM_WORDS;
    }

    __device__ __forceinline__ unsigned query_at(unsigned query) {
        return parameters.query_state + query * QUERY_WORDS;
    }

    __device__ __forceinline__ bool term_counts(unsigned query, unsigned term) {
        return is_finite_row(query_rows[query]) && is_finite_row(key_rows[index[parameters.term_keys + term]]);
    }

    // A positive's score less the margin.
    __device__ __forceinline__ float positive_score(unsigned term) {
        return float_at(term_at(term)) - parameters.margin;
    }

    __device__ __forceinline__ unsigned item_of() {
        return (blockIdx.y * parameters.groups_x + blockIdx.x + parameters.first_group) * THREADS_X + threadIdx.x;
    }

    // --- before the passes ---------------------------------------------------------------------------------------------

    // Each query's positives that count, the smallest of their scores, and the guards' bound. The product of the ratio
    // guard waits in the last word for `end_bounds`: so no compiler can fuse it with the subtraction.
    __device__ __forceinline__ void begin_bounds() {
        auto query = item_of();
        if (query >= parameters.queries) {
            return;
        }
        auto count = 0u;
        auto smallest = LARGEST;
        auto end = index[parameters.term_offsets + query + 1u];
        for (auto term = index[parameters.term_offsets + query]; term < end; term++) {
            if (term_counts(query, term)) {
                count++;
                smallest = fminf(smallest, float_at(term_at(term)));
            }
            put(term_at(term) + 1u, 0.0f);
            put(term_at(term) + 2u, 0.0f);
            put(term_at(term) + 3u, 0.0f);
            put(term_at(term) + 4u, 0.0f);
        }
        auto at = query_at(query);
        state[at + 1u] = count;
        put(at + 2u, smallest);
        put(at + 8u, fabsf(smallest) * parameters.below_ratio);
    }

    __device__ __forceinline__ void end_bounds() {
        auto query = item_of();
        if (query >= parameters.queries) {
            return;
        }
        auto at = query_at(query);
        auto smallest = float_at(at + 2u);
        auto bound = as_float(0x7f800000u);
        if (has(FLAG_ABOVE)) {
            bound = fminf(bound, smallest + parameters.above);
        }
        if (has(FLAG_RATIO)) {
            bound = fminf(bound, smallest - float_at(at + 8u));
        }
        put(at, bound);
        auto nan = not_a_number();
        if (state[at + 1u] == 0u) {
            put(at + 2u, nan);
        }
        put(at + 3u, 0.0f);
        put(at + 4u, nan);
        put(at + 5u, nan);
        put(at + 6u, nan);
        put(at + 7u, 0.0f);
        put(at + 8u, 0.0f);
    }

    __device__ __forceinline__ float weight_of(unsigned query) {
        if (state[query_at(query) + 1u] == 0u) {
            return 0.0f;
        }
        if (has(FLAG_WEIGHTS)) {
            return as_float(index[parameters.weights + query]);
        }
        return 1.0f;
    }

    // Adds two numbers' sums over all threads; with what rounding took from each sum added again at the end.
    __device__ __forceinline__ Pair join_sums(Pair value, unsigned id) {
        sums[id] = value;
        __syncthreads();
        for (auto distance = 128u; distance > 0u; distance /= 2u) {
            if (id < distance) {
                sums[id] = saturated(sums[id] + sums[id + distance]);
            }
            __syncthreads();
        }
        return sums[0];
    }

    // The sum of the weights of the queries that count.
    __device__ __forceinline__ void sum_weights() {
        auto sum = 0.0f;
        for (auto query = threadIdx.x; query < parameters.queries; query += 256u) {
            sum += weight_of(query);
        }
        auto total = join_sums(pair_of(sum, 0.0f), threadIdx.x);
        if (threadIdx.x == 0u) {
            put(parameters.totals, total.x);
        }
    }

    // --- after a block -------------------------------------------------------------------------------------------------


    __device__ __forceinline__ Sums no_sums() {
        return sums_of(0.0f, 0.0f, -LARGEST, 0.0f, pair_of(0.0f, 0.0f), pair_of(0.0f, 0.0f), pair_of(0.0f, 0.0f));
    }

    __device__ __forceinline__ Sums sums_of_words(const unsigned *words) {
        return sums_of(as_float(words[0]), as_float(words[1]), as_float(words[2]), as_float(words[3]),
            pair_of(as_float(words[4]), as_float(words[5])), pair_of(as_float(words[6]), as_float(words[7])),
            pair_of(as_float(words[8]), as_float(words[9])));
    }

    __device__ __forceinline__ Sums read_sums(unsigned at) {
        return sums_of(float_at(at), float_at(at + 1u), float_at(at + 2u), float_at(at + 3u), pair_of(float_at(at + 4u), float_at(at + 5u)),
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

    // --- after the first pass ------------------------------------------------------------------------------------------

    // Candidates whose sums are known, as part of a log-sum. `alpha` is added to the slope of their logits.


    // What the log-sum at hand takes of its parts, relative to their references: of y, with HCL of y^(β+1), and of y^β.
    Part parts[7];
    float pulls[7];
    float lowers[7];


    __device__ __forceinline__ Sums one(float score) {
        auto weighted = pair_of(1.0f, 0.0f);
        return sums_of(1.0f, score, score, score, weighted, weighted, weighted);
    }

    __device__ __forceinline__ bool in_set(unsigned chosen, unsigned part) {
        return ((chosen >> part) & 1u) != 0u && parts[part].present && parts[part].sums.count > 0.0f;
    }

    // The logit of a part's reference less the positive's.
    __device__ __forceinline__ float relative(unsigned part, float positive) {
        auto reference = parts[part].sums.reference;
        return saturated((reference - positive) * parameters.inverse_temperature + parts[part].alpha * reference);
    }

    // Evaluates the log-sum over the parts in `chosen` for a positive of this score, less the margin.
    __device__ __forceinline__ LogSum evaluate(unsigned chosen, float positive) {
        auto out = logsum_of(0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f);
        auto inverse = parameters.inverse_temperature;
        auto top = -LARGEST;
        for (unsigned part = 0u; part < PARTS; part++) {
            if (in_set(chosen, part)) {
                out.count += parts[part].sums.count;
                top = fmaxf(top, relative(part, positive));
            }
        }
        if (out.count == 0.0f) {
            return out;
        }
        auto z = 0.0f;
        for (unsigned part = 0u; part < PARTS; part++) {
            if (in_set(chosen, part)) {
                z += parts[part].sums.plain.x * exponential(relative(part, positive) - top);
            }
        }
        // Masses are e^{r − top}/z: the logarithm of a large Z has lost digits that they need.
        auto plain = logarithm(z);

        auto mean_logit = 0.0f;
        auto sum_logits = 0.0f;
        auto sum_scores = 0.0f;
        for (unsigned part = 0u; part < PARTS; part++) {
            if (in_set(chosen, part)) {
                auto sums = parts[part].sums;
                auto at = relative(part, positive);
                auto mass = exponential(at - top) / z;
                if (mass > 0.0f) {
                    mean_logit += mass * ((inverse + parts[part].alpha) * sums.plain.y + (at - top) * sums.plain.x);
                }
                auto scores = sums.scores - sums.count * positive;
                sum_scores += scores;
                sum_logits += scores * inverse + parts[part].alpha * sums.scores;
            }
        }
        out.entropy = plain - mean_logit;

        // HCL's estimate N_g = total · e^{estimate_top} in place of the negatives' part of Z.
        auto negative_set = chosen & ((1u << QK_NEGATIVES) | (1u << QK_LISTED));
        auto hcl = has(FLAG_HCL) && (in_set(negative_set, QK_NEGATIVES) || in_set(negative_set, QK_LISTED));
        auto negative_top = -LARGEST;
        auto estimate_top = -LARGEST;
        auto total = 0.0f;
        auto upper_pull = 0.0f;
        auto lower_pull = 0.0f;
        auto own_pull = 0.0f;
        auto floor_pull = 0.0f;
        auto floor_at = saturated(-(1.0f + positive) * inverse);
        if (hcl) {
            auto count = 0.0f;
            auto upper = 0.0f;
            auto lower = 0.0f;
            for (auto part = QK_NEGATIVES; part <= QK_LISTED; part++) {
                if (in_set(negative_set, part)) {
                    negative_top = fmaxf(negative_top, relative(part, positive));
                }
            }
            for (auto part = QK_NEGATIVES; part <= QK_LISTED; part++) {
                if (in_set(negative_set, part)) {
                    auto sums = parts[part].sums;
                    auto x = relative(part, positive) - negative_top;
                    auto y_lower = exponential_power(x, parameters.beta);
                    count += sums.count;
                    upper += sums.upper.x * y_lower * exponential(x);
                    lower += sums.lower.x * y_lower;
                }
            }
            estimate_top = fmaxf(negative_top, fmaxf(0.0f, floor_at));
            auto kept = 1.0f / (1.0f - parameters.tau_plus);
            auto r = count * upper / lower * exponential(negative_top - estimate_top);
            auto estimate = (r - parameters.tau_plus * count * exponential(-estimate_top)) * kept;
            auto lowest = count * exponential(floor_at - estimate_top);
            if (estimate >= lowest) {
                total = estimate;
                upper_pull = kept * count * (parameters.beta + 1.0f) / lower;
                lower_pull = -kept * count * parameters.beta * (upper / lower) / lower;
                own_pull = -kept * parameters.tau_plus * count;
            } else {
                total = lowest;
                floor_pull = count;
            }
        }
        auto value_top = top;
        if (hcl) {
            value_top = estimate_top;
            for (unsigned part = 0u; part < PARTS; part++) {
                if (in_set(chosen & ~negative_set, part)) {
                    value_top = fmaxf(value_top, relative(part, positive));
                }
            }
            z = total * exponential(estimate_top - value_top);
            for (unsigned part = 0u; part < PARTS; part++) {
                if (in_set(chosen & ~negative_set, part)) {
                    z += parts[part].sums.plain.x * exponential(relative(part, positive) - value_top);
                }
            }
        }
        auto value = saturated(value_top + logarithm(z));

        auto by_score = 0.0f;
        for (unsigned part = 0u; part < PARTS; part++) {
            pulls[part] = 0.0f;
            lowers[part] = 0.0f;
            if (in_set(chosen, part)) {
                auto sums = parts[part].sums;
                auto at = relative(part, positive);
                auto away = sums.reference - positive;
                if (hcl && in_set(negative_set, part)) {
                    auto x = at - negative_top;
                    auto y_lower = exponential_power(x, parameters.beta);
                    auto scale = exponential(negative_top - value_top) / z;
                    pulls[part] = upper_pull * scale * y_lower * exponential(x);
                    lowers[part] = lower_pull * scale * y_lower;
                    by_score += pulls[part] * (sums.upper.y + away * sums.upper.x)
                        + lowers[part] * (sums.lower.y + away * sums.lower.x);
                } else {
                    pulls[part] = exponential(at - value_top) / z;
                    by_score += pulls[part] * (sums.plain.y + away * sums.plain.x);
                }
            }
        }
        if (own_pull != 0.0f) {
            out.own = own_pull * (exponential(-value_top) / z);
        }
        auto floor_mass = 0.0f;
        if (floor_pull != 0.0f) {
            floor_mass = floor_pull * (exponential(floor_at - value_top) / z);
        }
        out.loss = value;
        auto temperature = floor_mass * (1.0f + positive) - by_score;
        if (parameters.smoothing > 0.0f) {
            out.smoothing = -parameters.smoothing / out.count;
            out.loss -= parameters.smoothing * (sum_logits / out.count);
            temperature += parameters.smoothing * (sum_scores / out.count);
        }
        out.temperature = temperature * inverse * inverse;
        return out;
    }

    // The sums of positives of `count` terms that `index` lists from `first` on; `first` is a term itself without a list.
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

    // Whether the guards leave a listed key in.
    __device__ __forceinline__ bool is_kept(unsigned query, unsigned column, float score) {
        if (!is_finite_row(key_rows[column])) {
            return false;
        }
        if (has(FLAG_GROUPS) && has(FLAG_COLUMN_LABELS)
            && index[parameters.column_labels + column] == index[parameters.query_labels + query]) {
            return false;
        }
        if (has(FLAG_DUPLICATES)) {
            auto end = index[parameters.term_offsets + query + 1u];
            for (auto term = index[parameters.term_offsets + query]; term < end; term++) {
                auto key = index[parameters.term_keys + term];
                if (index[parameters.column_copies + key] == index[parameters.column_copies + column]) {
                    return false;
                }
            }
        }
        return !(score > float_at(query_at(query)));
    }

    // Where the state of a term's log-sum of k→q lies.
    __device__ __forceinline__ unsigned kq_slot(unsigned key, unsigned term) {
        auto slot = (has(FLAG_BY_COLUMN)) ? key : index[parameters.term_lines + term];
        return parameters.kq + slot * FAMILY_WORDS;
    }

    __device__ __forceinline__ void leave(unsigned at, float pull, float lower, float smoothing, float weight) {
        put(at + SUM_WORDS, pull);
        put(at + SUM_WORDS + 1u, lower);
        put(at + SUM_WORDS + 2u, smoothing);
        put(at + SUM_WORDS + 3u, weight);
    }

    __device__ __forceinline__ void add_to(unsigned at, float value) {
        put(at, float_at(at) + value);
    }

    // A query's log-sums: its loss and statistics, and what they take from all candidates.
    __device__ __forceinline__ void reduce_rows() {
        auto query = item_of();
        if (query >= parameters.queries) {
            return;
        }
        auto own_at = query_at(query);
        auto positives = state[own_at + 1u];
        auto listed_first = index[parameters.listed_offsets + query];
        auto listed_end = index[parameters.listed_offsets + query + 1u];
        if (positives == 0u) {
            for (auto entry = listed_first; entry < listed_end; entry++) {
                put(parameters.listed_state + entry * LISTED_WORDS + 1u, 0.0f);
                put(parameters.listed_state + entry * LISTED_WORDS + 2u, 0.0f);
            }
            return;
        }
        auto inverse = parameters.inverse_temperature;
        auto supcon = has(FLAG_SUPCON);
        auto hcl = has(FLAG_HCL);
        auto total_weight = float_at(parameters.totals);
        auto weight = 0.0f;
        if (total_weight > 0.0f) {
            weight = weight_of(query) / total_weight;
        }
        auto first = index[parameters.term_offsets + query];
        auto end = index[parameters.term_offsets + query + 1u];
        auto all_positives = no_sums();
        if (supcon) {
            all_positives = sum_positives(NOBODY, first, end);
        }

        for (unsigned part = 0u; part < PARTS; part++) {
            parts[part] = part_of(false, 0.0f, no_sums());
        }
        auto listed_slope = inverse + parameters.listed_alpha;
        if (uses(QK)) {
            parts[QK_POSITIVES].present = true;
            parts[QK_NEGATIVES] = part_of(true, parameters.alpha, read_sums(parameters.qk + query * FAMILY_WORDS));
            auto sums = no_sums();
            for (auto entry = listed_first; entry < listed_end; entry++) {
                auto at = parameters.listed_state + entry * LISTED_WORDS;
                auto score = float_at(at);
                auto kept = is_kept(query, index[parameters.listed_items + entry], score);
                state[at + 1u] = kept ? 1u : 0u;
                if (kept) {
                    sums = joined(sums, one(score), listed_slope, hcl);
                }
            }
            parts[QK_LISTED] = part_of(true, parameters.listed_alpha, sums);
        }
        if (uses(KQ)) {
            parts[KQ_POSITIVES].present = true;
            parts[KQ_NEGATIVES].present = true;
        }
        if (uses(QQ)) {
            parts[QQ_NEGATIVES] = part_of(true, 0.0f, read_sums(parameters.qq + query * FAMILY_WORDS));
        }
        if (uses(KK)) {
            parts[KK_NEGATIVES].present = true;
        }

        // The sets of parts of each log-sum.
        unsigned sets[4] = {7u, 24u, 32u, 64u};
        auto log_sums = __popc(parameters.directions);
        auto used = parameters.directions;
        if (has(FLAG_JOINT)) {
            sets[0] = 127u;
            log_sums = 1u;
            used = 1u;
        }
        auto share = 1.0f / ((float)positives * (float)log_sums);

        auto loss = 0.0f;
        auto temperature = 0.0f;
        auto met_count = 0.0f;
        auto met_scores = 0.0f;
        auto met_largest = -LARGEST;
        auto entropy = 0.0f;
        auto entropies = 0.0f;
        // What all terms of the row take: of its positives, its negatives and those listed, and of the other queries.
        auto positive_take = pair_of(0.0f, 0.0f);
        auto take_pull = pair_of(0.0f, 0.0f);
        auto take_lower = pair_of(0.0f, 0.0f);
        auto take_smoothing = 0.0f;
        auto query_take = pair_of(0.0f, 0.0f);

        for (auto term = first; term < end; term++) {
            if (state[term_at(term) + 3u] == 0u) {
                continue;
            }
            auto key = index[parameters.term_keys + term];
            auto positive = positive_score(term);
            parts[QK_POSITIVES].sums = one(positive);
            parts[KQ_POSITIVES].sums = one(positive);
            if (supcon) {
                parts[QK_POSITIVES].sums = all_positives;
                if (uses(KQ)) {
                    parts[KQ_POSITIVES].sums = read_sums(parameters.sharer_state + key * SUM_WORDS);
                }
            }
            auto kq_at = 0u;
            auto kk_at = 0u;
            if (uses(KQ)) {
                kq_at = kq_slot(key, term);
                parts[KQ_NEGATIVES].sums = read_sums(kq_at);
            }
            if (uses(KK)) {
                kk_at = parameters.kk + index[parameters.term_lines + term] * FAMILY_WORDS;
                parts[KK_NEGATIVES].sums = read_sums(kk_at);
            }
            for (unsigned part = 0u; part < PARTS; part++) {
                if (part != QK_POSITIVES && part != KQ_POSITIVES && in_set(127u, part)) {
                    met_count += parts[part].sums.count;
                    met_scores += parts[part].sums.scores;
                    met_largest = fmaxf(met_largest, parts[part].sums.largest);
                }
            }
            auto slope = 0.0f;
            auto mass = 0.0f;
            for (unsigned number = 0u; number < 4u; number++) {
                if (((used >> number) & 1u) == 0u) {
                    continue;
                }
                auto chosen = sets[number];
                auto sum = evaluate(chosen, positive);
                if (sum.count == 0.0f) {
                    if (number == KQ && !has(FLAG_JOINT)) {
                        leave(kq_at, 0.0f, 0.0f, 0.0f, 0.0f);
                    }
                    if (number == KK && !has(FLAG_JOINT)) {
                        leave(kk_at, 0.0f, 0.0f, 0.0f, 0.0f);
                    }
                    continue;
                }
                loss += share * sum.loss;
                temperature += weight * share * sum.temperature;
                entropy += sum.entropy;
                entropies += 1.0f;
                mass += share * sum.own;
                slope += weight * share * (sum.own - (1.0f - parameters.smoothing));
                if (((chosen >> QK_POSITIVES) & 1u) != 0u && uses(QK)) {
                    if (supcon) {
                        positive_take = positive_take + share * pair_of(pulls[QK_POSITIVES], sum.smoothing);
                    } else {
                        mass += share * pulls[QK_POSITIVES];
                        slope += weight * share * (pulls[QK_POSITIVES] + sum.smoothing);
                    }
                    take_pull = take_pull + share * pair_of(pulls[QK_NEGATIVES], pulls[QK_LISTED]);
                    take_lower = take_lower + share * pair_of(lowers[QK_NEGATIVES], lowers[QK_LISTED]);
                    take_smoothing += share * sum.smoothing;
                }
                if (((chosen >> KQ_POSITIVES) & 1u) != 0u && uses(KQ)) {
                    if (supcon) {
                        put(term_at(term) + 3u, weight * share * pulls[KQ_POSITIVES]);
                        put(term_at(term) + 4u, weight * share * sum.smoothing);
                    } else {
                        slope += weight * share * (pulls[KQ_POSITIVES] + sum.smoothing);
                    }
                    leave(kq_at, share * pulls[KQ_NEGATIVES], 0.0f, share * sum.smoothing, weight);
                }
                if (((chosen >> QQ_NEGATIVES) & 1u) != 0u && uses(QQ)) {
                    query_take = query_take + share * pair_of(pulls[QQ_NEGATIVES], sum.smoothing);
                }
                if (((chosen >> KK_NEGATIVES) & 1u) != 0u && uses(KK)) {
                    leave(kk_at, share * pulls[KK_NEGATIVES], 0.0f, share * sum.smoothing, weight);
                }
            }
            put(term_at(term) + 1u, slope);
            put(term_at(term) + 2u, mass);
        }

        if (supcon && uses(QK)) {
            for (auto term = first; term < end; term++) {
                if (term_counts(query, term)) {
                    auto x = (positive_score(term) - all_positives.reference) * inverse;
                    auto mass = positive_take.x * exponential(x);
                    add_to(term_at(term) + 1u, weight * (mass + positive_take.y));
                    add_to(term_at(term) + 2u, mass);
                }
            }
        }
        if (uses(QK)) {
            leave(parameters.qk + query * FAMILY_WORDS, take_pull.x, take_lower.x, take_smoothing, weight);
            auto reference = parts[QK_LISTED].sums.reference;
            for (auto entry = listed_first; entry < listed_end; entry++) {
                auto at = parameters.listed_state + entry * LISTED_WORDS;
                auto mass = 0.0f;
                auto slope = 0.0f;
                if (state[at + 1u] == 1u) {
                    auto x = fminf(listed_slope * (float_at(at) - reference), 0.0f);
                    mass = take_pull.y * exponential(x);
                    if (hcl) {
                        mass = exponential_power(x, parameters.beta) * (mass + take_lower.y);
                    }
                    slope = weight * (mass + take_smoothing);
                }
                put(at + 1u, slope);
                put(at + 2u, mass);
            }
        } else {
            for (auto entry = listed_first; entry < listed_end; entry++) {
                put(parameters.listed_state + entry * LISTED_WORDS + 1u, 0.0f);
                put(parameters.listed_state + entry * LISTED_WORDS + 2u, 0.0f);
            }
        }
        if (uses(QQ)) {
            leave(parameters.qq + query * FAMILY_WORDS, query_take.x, 0.0f, query_take.y, weight);
        }
        put(own_at + 3u, saturated(loss));
        if (met_count > 0.0f) {
            put(own_at + 4u, met_largest);
            put(own_at + 5u, met_scores / met_count);
        }
        if (entropies > 0.0f) {
            put(own_at + 6u, entropy / entropies);
        }
        put(own_at + 7u, saturated(weight * loss));
        put(own_at + 8u, saturated(temperature));
    }

    // SupCon: spreads what the log-sums of k→q take from the positives of a key.
    __device__ __forceinline__ void spread_sharers() {
        auto key = item_of();
        if (key >= parameters.keys || !is_finite_row(key_rows[key])) {
            return;
        }
        auto first = index[parameters.sharer_offsets + key];
        auto end = index[parameters.sharer_offsets + key + 1u];
        auto reference = float_at(parameters.sharer_state + key * SUM_WORDS + 1u);
        auto take = pair_of(0.0f, 0.0f);
        for (auto at = first; at < end; at++) {
            if (is_finite_row(query_rows[index[parameters.sharer_queries + at]])) {
                auto term = term_at(index[parameters.sharer_terms + at]);
                take = take + pair_of(float_at(term + 3u), float_at(term + 4u));
            }
        }
        for (auto at = first; at < end; at++) {
            if (is_finite_row(query_rows[index[parameters.sharer_queries + at]])) {
                auto term = index[parameters.sharer_terms + at];
                auto x = (positive_score(term) - reference) * parameters.inverse_temperature;
                add_to(term_at(term) + 1u, take.x * exponential(fminf(x, 0.0f)) + take.y);
            }
        }
    }

    // The loss and its derivative with respect to the temperature, behind the total weight.
    __device__ __forceinline__ void sum_rows() {
        auto sum = pair_of(0.0f, 0.0f);
        // What rounding takes from the sums.
        auto rest = pair_of(0.0f, 0.0f);
        for (auto query = threadIdx.x; query < parameters.queries; query += 256u) {
            auto value = pair_of(float_at(query_at(query) + 7u), float_at(query_at(query) + 8u)) - rest;
            auto next = saturated(sum + value);
            rest = (next - sum) - value;
            sum = next;
        }
        auto total = join_sums(sum, threadIdx.x);
        if (threadIdx.x == 0u) {
            put(parameters.totals + 1u, total.x);
            put(parameters.totals + 2u, total.y);
        }
    }

    // Adds the masses of positives and listed keys to the influence of each key.
    __device__ __forceinline__ void add_influence() {
        auto column = item_of();
        if (column >= parameters.columns) {
            return;
        }
        auto sum = float_at(parameters.influence + column);
        if (column < parameters.keys) {
            auto end = index[parameters.sharer_offsets + column + 1u];
            for (auto at = index[parameters.sharer_offsets + column]; at < end; at++) {
                sum += float_at(term_at(index[parameters.sharer_terms + at]) + 2u);
            }
        } else {
            auto end = index[parameters.turned_offsets + column + 1u];
            for (auto at = index[parameters.turned_offsets + column]; at < end; at++) {
                sum += float_at(parameters.listed_state + index[parameters.turned_entries + at] * LISTED_WORDS + 2u);
            }
        }
        put(parameters.influence + column, sum);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) begin_bounds(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.begin_bounds();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) end_bounds(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.end_bounds();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) sum_weights(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    __shared__ Pair sums[256];
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, sums};
    reduce.sum_weights();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) merge_sums(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.merge_sums();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) merge_masses(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.merge_masses();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) mark_terms(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.mark_terms();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) sum_sharers(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.sum_sharers();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) reduce_rows(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.reduce_rows();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) spread_sharers(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.spread_sharers();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) sum_rows(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    __shared__ Pair sums[256];
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, sums};
    reduce.sum_rows();
}

extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) add_influence(
    Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows, const Scale *key_rows,
    const unsigned *partials) {
    Reduce reduce = {parameters, index, state, query_rows, key_rows, partials, nullptr};
    reduce.add_influence();
}
