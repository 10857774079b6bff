// Before the passes of `info_nce`: the bound of each query's negatives; and sums over all queries, by one workgroup of 256.

#include "info_nce_state.cuh"

struct Bounds : State {
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

    // Adds two numbers' sums over all threads.
    __device__ __forceinline__ Pair join_sums(Pair value, unsigned id) {
        __shared__ Pair sums[256];
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
};
