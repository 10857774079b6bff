// Beside the scans of top-k where nothing comes to the host: what it would have made of the rows' scales, and the results.
// See top_k.cu and scan.cuh for what the buffers hold.
//
// `find_longest`: the bits of the largest norm of the keys that a query may have, an f64, into `longest`, which held 0.
// `describe_keys`: the columns. Where `given`, groups and keys that no query may have are in them already.
// `describe_queries`: completes gates, which hold own keys, groups and bands. Units and limits are those of the host
// (src/backend/gpu/scan.rs), in f64 as there.
// Where `counted`, both count special rows: of queries in `special[0]`, of keys in `special[1]`.
// `write_best`: the answers, the best first: of the keys that a pool holds, those after the first `skip`, at most k. A
// key's place is the number of better ones. Slots behind the last hold −1 and NaN.
// Constants: LISTS = 0.
// Threads: one a row; in `write_best` each takes keys of its query's pool a grid's width apart, queries in y.

#include "score.cuh"
#include "scan.cuh"

/// The group of a key that no query's group is.
#define OTHER_GROUP 0xFFFFFFFEu
/// Beyond every approximate score in units; from `MOST_ERROR` on an error leaves every score uncertain.
#define BEYOND 8.0
#define MOST_ERROR 4.0
/// What a gate rounds itself: 2⁻²¹.
#define GATE_ROUNDING 4.76837158203125e-7
#define SMALLEST_NORMAL 1.1754943508222875e-38
#define LARGEST_FLOAT 3.4028234663852886e38

/// 2^exponent, of an exponent of f32.
__device__ __forceinline__ double power_of_two(int exponent) {
    return __hiloint2double((exponent + 1023) << 20, 0);
}

/// The norm of a row as it was given; 0 for one that is not finite.
__device__ __forceinline__ double norm_of(Scale scale) {
    if (scale.exponent == NOT_FINITE || scale.inverse == 0.0f) {
        return 0.0;
    }
    return power_of_two((int)scale.exponent) / (double)scale.inverse;
}

/// How many rows are zero, how many are not finite, and the number of the first of these.
struct Special {
    unsigned zero, skipped, first;
};

__device__ __forceinline__ void count_special(Special &special, Scale scale, unsigned row) {
    if (scale.exponent == NOT_FINITE) {
        atomicAdd(&special.skipped, 1u);
        atomicMin(&special.first, row);
    } else if (scale.inverse == 0.0f) {
        atomicAdd(&special.zero, 1u);
    }
}

struct KeyParameters {
    unsigned rows;
    unsigned given;
    unsigned metric;
    /// The number of key 0.
    unsigned first;
    unsigned counted;
};

__device__ __forceinline__ bool is_out(const KeyParameters &parameters, const Column *columns, unsigned key) {
    return parameters.given != 0u && columns[key].factor == NO_KEY;
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
find_longest(
    KeyParameters parameters, const Scale *scales, const Column *columns, unsigned long long *longest, Special *special) {
    unsigned key = blockIdx.x * THREADS_X + threadIdx.x;
    if (key < parameters.rows && !is_out(parameters, columns, key)) {
        // Positive numbers are in the order of their bits.
        atomicMax(longest, (unsigned long long)__double_as_longlong(norm_of(scales[key])));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
describe_keys(
    KeyParameters parameters, const Scale *scales, Column *columns, const unsigned long long *longest, Special *special) {
    unsigned key = blockIdx.x * THREADS_X + threadIdx.x;
    if (key >= parameters.rows) {
        return;
    }
    Scale scale = scales[key];
    if (parameters.counted != 0u) {
        count_special(special[1], scale, parameters.first + key);
    }
    Column column = {NO_KEY, NO_KEY};
    if (scale.exponent != NOT_FINITE && !is_out(parameters, columns, key)) {
        float factor = scale.inverse;
        if (parameters.metric == 1u && factor != 0.0f) {
            factor = (float)(power_of_two((int)scale.exponent) / __longlong_as_double((long long)*longest));
        }
        column.factor = __float_as_uint(factor);
        column.group = parameters.given != 0u ? columns[key].group : OTHER_GROUP;
    }
    columns[key] = column;
}

struct QueryParameters {
    unsigned rows;
    unsigned metric;
    /// The bits of the bound of the scan, an f64.
    unsigned bound_low;
    unsigned bound_high;
    /// The number of query 0.
    unsigned first;
    unsigned counted;
};

/// A score as a limit in units.
__device__ __forceinline__ double limit_of(unsigned score, double unit) {
    double limit = (double)from_ordered(score) / unit;
    return limit < -BEYOND ? -BEYOND : limit > BEYOND ? BEYOND : limit;
}

extern "C" __global__ void __launch_bounds__(THREADS_X)
describe_queries(
    QueryParameters parameters, const Scale *scales, const unsigned long long *longest, Gate *gates, Special *special) {
    unsigned row = blockIdx.x * THREADS_X + threadIdx.x;
    if (row >= parameters.rows) {
        return;
    }
    Scale scale = scales[row];
    if (parameters.counted != 0u) {
        count_special(special[0], scale, parameters.first + row);
    }
    Gate &gate = gates[row];
    gate.inverse = scale.inverse;
    if (scale.exponent == NOT_FINITE) {
        gate.largest = 0.0f;
        return;
    }
    double unit = 1.0;
    double error = __hiloint2double((int)parameters.bound_high, (int)parameters.bound_low);
    if (parameters.metric == 1u) {
        double score = norm_of(scale) * __longlong_as_double((long long)*longest);
        unit = score == 0.0 ? 1.0 : score;
        error += SMALLEST_NORMAL / unit;
    }
    error += GATE_ROUNDING;
    error = error < MOST_ERROR ? error : MOST_ERROR;
    double largest = LARGEST_FLOAT / unit;
    gate.largest = (float)(largest < 1e-30 ? 1e-30 : largest > BEYOND ? BEYOND : largest);
    gate.lo = (float)(limit_of(gate.band_lo, unit) - error);
    gate.hi = (float)(limit_of(gate.band_hi, unit) + error);
    double per_unit = 1.0 / unit;
    gate.per_unit = (float)(per_unit < LARGEST_FLOAT ? per_unit : LARGEST_FLOAT);
    gate.error = __double2float_ru(error);
}

struct BestParameters {
    unsigned first_row;
    unsigned capacity;
    unsigned skip;
    unsigned k;
};

extern "C" __global__ void __launch_bounds__(THREADS_X)
write_best(
    BestParameters parameters,
    const unsigned *state,
    const unsigned *pool,
    long long *indices,
    float *scores,
    unsigned *counts
) {
    unsigned row = blockIdx.y;
    unsigned first = blockIdx.x * THREADS_X + threadIdx.x;
    unsigned step = gridDim.x * THREADS_X;
    const unsigned *keys = pool + (size_t)row * parameters.capacity * 2u;
    const unsigned *ranks = keys + parameters.capacity;
    unsigned kept = state[4u * row + 3u];
    unsigned found = kept > parameters.skip ? smaller(kept - parameters.skip, parameters.k) : 0u;
    size_t slots = (size_t)(parameters.first_row + row) * parameters.k;
    for (unsigned i = first; i < kept; i += step) {
        unsigned rank = ranks[i], key = keys[i];
        unsigned place = 0u;
        for (unsigned j = 0u; j < kept; j++) {
            place += ranks[j] > rank || (ranks[j] == rank && keys[j] < key) ? 1u : 0u;
        }
        if (place >= parameters.skip && place - parameters.skip < found) {
            indices[slots + place - parameters.skip] = (long long)key;
            scores[slots + place - parameters.skip] = from_ordered(rank);
        }
    }
    for (unsigned slot = found + first; slot < parameters.k; slot += step) {
        indices[slots + slot] = -1ll;
        scores[slots + slot] = __uint_as_float(0x7FC00000u);
    }
    if (first == 0u) {
        counts[parameters.first_row + row] = found;
    }
}
