// One log-sum of `info_nce`, evaluated over sums that are known.
//
// A term's log-sum is evaluated relative to the logit of its positive, x_p = (s_p − m)/τ: with r_j = x_j − x_p,
//   loss = log Σ e^{r_j} − λ · mean(r_j),
//   τ² · ∂loss/∂τ = E · (1 + s_p − m) − Σ_j slope_j · (s_j − s_p) + λ · mean(s_j − s_p),
// scores of positives less the margin, slope_j = ∂log Z/∂x_j, and E the mass of HCL's floor N·e^{−1/τ} where it is
// reached (else 0). All sums are relative, so peaked logits cancel nothing.

#include "info_nce_partials.cuh"

#define QK_POSITIVES 0u
#define QK_NEGATIVES 1u
#define QK_LISTED 2u
#define KQ_POSITIVES 3u
#define KQ_NEGATIVES 4u
#define QQ_NEGATIVES 5u
#define KK_NEGATIVES 6u
#define PARTS 7u

// Candidates whose sums are known, as part of a log-sum. `alpha` is added to the slope of their logits.
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

__device__ __forceinline__ Part part_of(bool present, float alpha, Sums sums) {
    Part part = {present, alpha, sums};
    return part;
}

__device__ __forceinline__ LogSum logsum_of(
    float count, float loss, float smoothing, float own, float temperature, float entropy) {
    LogSum sum = {count, loss, smoothing, own, temperature, entropy};
    return sum;
}

struct LogSums : Partials {
    // What the log-sum at hand takes of its parts, relative to their references: of y, with HCL of y^(β+1), and of y^β.
    Part parts[7];
    float pulls[7];
    float lowers[7];

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
};
