// From sums to the loss: all that is one number per term, query, key or log-sum, and what each log-sum takes from its
// candidates. One thread per item, except `sum_weights` and `sum_rows`, one workgroup of 256.

#include "info_nce_bounds.cuh"
#include "info_nce_logsum.cuh"

struct Reduce : LogSums {
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

#define ENTRY(KIND, NAME)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) NAME(                                     \
        Parameters parameters, const unsigned *index, unsigned *state, const Scale *query_rows,                   \
        const Scale *key_rows, const unsigned *partials) {                                                        \
        KIND reduce;                                                                                              \
        reduce.parameters = parameters;                                                                           \
        reduce.index = index;                                                                                     \
        reduce.state = state;                                                                                     \
        reduce.query_rows = query_rows;                                                                           \
        reduce.key_rows = key_rows;                                                                               \
        reduce.partials = partials;                                                                               \
        reduce.NAME();                                                                                            \
    }

ENTRY(Bounds, begin_bounds)
ENTRY(Bounds, end_bounds)
ENTRY(Bounds, sum_weights)
ENTRY(Partials, mark_terms)
ENTRY(Partials, merge_sums)
ENTRY(Partials, merge_masses)
ENTRY(Partials, sum_sharers)
ENTRY(Reduce, reduce_rows)
ENTRY(Reduce, spread_sharers)
ENTRY(Reduce, add_influence)
ENTRY(Bounds, sum_rows)
