// The gated scan of top-k for few queries over many keys: reads each key once, as it was given, an f16 row. See top_k.cu for
// what the buffers hold; `rescore_raw` (rescore_raw.cu) and `choose` follow.
//
// Maths: with q and k the rows as they were given, v = (q·k) · |q|⁻¹ · |k|⁻¹ lies within `error` of the canonical cosine,
// and so does v · |q| · |k| of the canonical dot product in units of |q| · |k|. Products are the matrix unit's, the keys
// its rows and the queries its columns; the squares of a key's elements are exact in f32 and summed beside.
// Memory: key c of the piece has its elements from `first + c · stride` on, a multiple of eight; `dim` is one, too.
// `queries` are scaled rows. `special` counts keys that are zero and keys that are not finite, and takes the number of the
// first of those. Shared memory holds the queries as they were given, `units` chunks of eight elements each: four more
// than a multiple of eight, so that two rows meet no bank twice.
// Constants: MATRIX_UNIT = 80, QUERY_TILES (eight queries each), SHARED_BYTES, LISTS = 0.
// Work: a warp takes 32 keys, a grid's width apart. For a lane of group g and pair p the columns 2 p, 2 p + 1, 2 p + 8,
// 2 p + 9 of the products are elements 8 p to 8 p + 3 of 32, then those four further, in keys and queries alike: so each
// lane reads 16 bytes at a time.

#include "score.cuh"
#include "ptx.cuh"
#include "scan.cuh"

#define WARP_KEYS 32u
#define QUERIES (8u * QUERY_TILES)

struct alignas(16) Words {
    unsigned w[4];
};

struct FewParameters {
    unsigned queries;
    unsigned dim;
    /// Of a key, and where key 0 of the piece begins, both in chunks of eight elements.
    unsigned stride;
    unsigned first;
    /// The keys of this step, and the number of key 0 of the piece in the span.
    unsigned begin;
    unsigned end;
    unsigned base;
    unsigned capacity;
    unsigned metric;
    /// Whether `columns` says which keys no query may have, and groups; whether queries have lists.
    unsigned given;
    unsigned listed;
    /// Whether special keys are counted.
    unsigned counts;
    float error;
};

/// What a query's keys must reach.
struct alignas(16) Limit {
    float inverse;
    float norm;
    float least;
    float most;
};

/// 2^exponent, −126 ≤ exponent ≤ 127.
__device__ __forceinline__ float power_of_two(int exponent) {
    return __uint_as_float((unsigned)(exponent + 127) << 23);
}

__device__ __forceinline__ Limit limit_of(Scale scale, const Gate &gate, unsigned worst) {
    Limit limit = {0.0f, 0.0f, __uint_as_float(INFINITY_BITS), 0.0f};
    if (scale.exponent == NOT_FINITE || worst == NO_KEY) {
        return limit;
    }
    int exponent = (int)scale.exponent;
    limit.inverse = scale.inverse * power_of_two(-exponent);
    limit.norm = scale.inverse == 0.0f ? 0.0f : __fdiv_rn(1.0f, scale.inverse) * power_of_two(exponent);
    float least = from_ordered(gate.band_lo);
    limit.least = worst == 0u ? least : fmaxf(least, from_ordered(worst));
    limit.most = from_ordered(gate.band_hi);
    return limit;
}

/// A chunk of a query as it was given.
__device__ __forceinline__ Words query_chunk(const Four *scaled, Scale scale) {
    Words words = {{0u, 0u, 0u, 0u}};
    if (scale.exponent != NOT_FINITE) {
        float factor = power_of_two((int)scale.exponent);
        Four low = scaled[0], high = scaled[1];
        words.w[0] = f32_to_f16_pair(low.x * factor, low.y * factor);
        words.w[1] = f32_to_f16_pair(low.z * factor, low.w * factor);
        words.w[2] = f32_to_f16_pair(high.x * factor, high.y * factor);
        words.w[3] = f32_to_f16_pair(high.z * factor, high.w * factor);
    }
    return words;
}

/// 32 keys as one lane reads them: keys g, g + 8, g + 16, g + 24, of 64 elements those of its pair, in two halves.
struct Keys {
    Words words[4][2];

    __device__ __forceinline__ void load(const Words *keys, const unsigned (&rows)[4], unsigned step, unsigned pair, unsigned dim) {
#pragma unroll
        for (unsigned half = 0u; half < 2u; ++half) {
            unsigned chunk = step * 8u + half * 4u;
            bool inside = (chunk + pair) * 8u < dim;
#pragma unroll
            for (unsigned i = 0u; i < 4u; ++i) {
                Words none = {{0u, 0u, 0u, 0u}};
                words[i][half] = inside ? keys[rows[i] + chunk] : none;
            }
        }
    }

    /// Adds squares of key i.
    __device__ __forceinline__ float square(unsigned i, float sum) const {
#pragma unroll
        for (unsigned n = 0u; n < 8u; ++n) {
            unsigned word = words[i][n / 4u].w[n % 4u];
            float low = f16_to_f32((unsigned short)word);
            float high = f16_to_f32((unsigned short)(word >> 16));
            sum = fmaf(low, low, sum);
            sum = fmaf(high, high, sum);
        }
        return sum;
    }
};

struct Few {
    const FewParameters &parameters;
    const Gate *gates;
    const Column *columns;
    const unsigned *tables;
    unsigned *state;
    unsigned *pool;
    unsigned *special;
    const Limit *limits;

    __device__ __forceinline__ bool is_listed(unsigned query, unsigned key) const {
        if (parameters.listed == 0u) {
            return false;
        }
        unsigned end = tables[TABLE_WORDS + query + 1u];
        unsigned at = lower_bound(tables, tables[TABLE_WORDS + query], end, key);
        return at < end && tables[at] == key;
    }

    /// Appends a key to its query's pool, unless it is excluded.
    __device__ __forceinline__ void take(unsigned query, unsigned column) {
        unsigned key = parameters.base + column;
        const Gate &gate = gates[query];
        if (parameters.given != 0u) {
            Column marks = columns[column];
            if (marks.factor == NO_KEY || marks.group == gate.group) {
                return;
            }
        }
        if (key == gate.own || is_listed(query, key)) {
            return;
        }
        unsigned at = atomicAdd(&state[4u * query + 2u], 1u);
        if (at < parameters.capacity) {
            pool[(size_t)query * parameters.capacity * 2u + at] = key;
        }
    }

    __device__ __forceinline__ void count(unsigned column, float square) {
        if (!(square < __uint_as_float(INFINITY_BITS))) {
            atomicAdd(&special[1], 1u);
            atomicMin(&special[2], parameters.base + column);
        } else if (square == 0.0f) {
            atomicAdd(&special[0], 1u);
        }
    }

    /// Looks at the sums of keys `column` and `column + 8`, whose squares are given.
    __device__ __forceinline__ void
    look(const float (&sums)[QUERY_TILES][4], unsigned column, unsigned pair, const float (&squares)[2]) {
        float inverse[2], norm[2];
        bool is_key[2];
#pragma unroll
        for (unsigned s = 0u; s < 2u; ++s) {
            is_key[s] = column + 8u * s < parameters.end && squares[s] < __uint_as_float(INFINITY_BITS);
            norm[s] = __fsqrt_rn(squares[s]);
            inverse[s] = squares[s] == 0.0f ? 0.0f : __fdiv_rn(1.0f, norm[s]);
        }
        // One bit a score, so that the long way is written once.
        unsigned open = 0u;
#pragma unroll
        for (unsigned n = 0u; n < 2u * QUERY_TILES; ++n) {
            Limit limit = limits[n / 2u * 8u + pair * 2u + n % 2u];
#pragma unroll
            for (unsigned s = 0u; s < 2u; ++s) {
                float score = sums[n / 2u][2u * s + n % 2u] * limit.inverse * inverse[s];
                float size = parameters.metric == 0u ? 1.0f : limit.norm * norm[s];
                bool passes = (score + parameters.error) * size >= limit.least
                    && (score - parameters.error) * size <= limit.most;
                open |= is_key[s] && passes ? 1u << (2u * n + s) : 0u;
            }
        }
        for (; open != 0u; open &= open - 1u) {
            unsigned bit = 31u - (unsigned)__clz((int)(open & (0u - open)));
            take(bit / 4u * 8u + pair * 2u + (bit / 2u & 1u), column + 8u * (bit & 1u));
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS_X, 1) scan_few(
    FewParameters parameters,
    const Four *queries,
    const Scale *scales,
    const Words *keys,
    const Gate *gates,
    const Column *columns,
    const unsigned *tables,
    unsigned *state,
    unsigned *pool,
    unsigned *special
) {
    extern __shared__ __align__(128) unsigned char ring[];
    __shared__ Limit limits[QUERIES];
    Words *held = reinterpret_cast<Words *>(ring);
    unsigned steps = (parameters.dim + 63u) / 64u, units = steps * 8u + 4u;
    unsigned vectors = (parameters.dim + 15u) / 16u * 4u;
    for (unsigned i = threadIdx.x; i < QUERIES * units; i += THREADS_X) {
        unsigned row = i / units, unit = i % units;
        Words words = {{0u, 0u, 0u, 0u}};
        if (row < parameters.queries && unit * 8u < parameters.dim) {
            words = query_chunk(queries + row * vectors + unit * 2u, scales[row]);
        }
        held[i] = words;
    }
    if (threadIdx.x < QUERIES) {
        Limit none = {0.0f, 0.0f, __uint_as_float(INFINITY_BITS), 0.0f};
        unsigned row = threadIdx.x;
        limits[row] = row < parameters.queries ? limit_of(scales[row], gates[row], state[4u * row]) : none;
    }
    __syncthreads();

    unsigned group = threadIdx.x / 4u & 7u, pair = threadIdx.x & 3u;
    unsigned warp = (blockIdx.x * THREADS_X + threadIdx.x) / 32u, warps = gridDim.x * (THREADS_X / 32u);
    Few few = {parameters, gates, columns, tables, state, pool, special, limits};
    for (unsigned first = parameters.begin + warp * WARP_KEYS; first < parameters.end; first += warps * WARP_KEYS) {
        // A piece has fewer than 2³² elements.
        unsigned rows[4];
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            unsigned column = smaller(first + group + 8u * i, parameters.end - 1u);
            rows[i] = parameters.first + column * parameters.stride + pair;
        }
        float sums[2][QUERY_TILES][4];
        float squares[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (unsigned n = 0u; n < 8u * QUERY_TILES; ++n) {
            sums[n / (4u * QUERY_TILES)][n / 4u % QUERY_TILES][n % 4u] = 0.0f;
        }
        Keys now, next;
        now.load(keys, rows, 0u, pair, parameters.dim);
        for (unsigned step = 0u; step < steps; ++step) {
            // What is behind the last step lies behind the row, and is not read.
            next.load(keys, rows, step + 1u, pair, parameters.dim);
#pragma unroll
            for (unsigned half = 0u; half < 2u; ++half) {
#pragma unroll
                for (unsigned t = 0u; t < QUERY_TILES; ++t) {
                    Words b = held[(8u * t + group) * units + step * 8u + half * 4u + pair];
#pragma unroll
                    for (unsigned r = 0u; r < 2u; ++r) {
                        const Words &x = now.words[2u * r][half], &y = now.words[2u * r + 1u][half];
                        const unsigned low[4] = {x.w[0], y.w[0], x.w[1], y.w[1]};
                        const unsigned high[4] = {x.w[2], y.w[2], x.w[3], y.w[3]};
                        multiply_f16(sums[r][t], low, b.w[0], b.w[1]);
                        multiply_f16(sums[r][t], high, b.w[2], b.w[3]);
                    }
                }
            }
#pragma unroll
            for (unsigned i = 0u; i < 4u; ++i) {
                squares[i] = now.square(i, squares[i]);
            }
            now = next;
        }
#pragma unroll
        for (unsigned i = 0u; i < 4u; ++i) {
            squares[i] += __shfl_xor_sync(0xFFFFFFFFu, squares[i], 1);
            squares[i] += __shfl_xor_sync(0xFFFFFFFFu, squares[i], 2);
            unsigned column = first + group + 8u * i;
            if (parameters.counts != 0u && pair == 0u && column < parameters.end) {
                few.count(column, squares[i]);
            }
        }
        __syncwarp();
#pragma unroll
        for (unsigned r = 0u; r < 2u; ++r) {
            const float both[2] = {squares[2u * r], squares[2u * r + 1u]};
            few.look(sums[r], first + group + 16u * r, pair, both);
        }
        __syncwarp();
    }
}
