// What every epilogue of the scan shares: approximate scores in the scan's unit, and which keys a query must not have.
// The twin of scan.wgsl.
//
// Maths: score ≈ (dot · inverse norm of the query) · factor of the key, in units of the query: 1 for cosine (the factor
// is the key's inverse norm), |query| · n for the dot product (n is the largest norm of the keys, the factor 2^exponent
// / n).
// Memory: `gates` holds a `Gate` a query. `columns` holds two words a key: its factor, or NO_KEY where no query may have
// it; its group. `tables` holds the 257 entries of the logarithm, then where each query's list of excluded keys begins
// (rows + 1 words, places in `tables`), then the lists, ascending. Keys in gates, lists and results count from the first
// key of the span; a chunk begins at key `base` of it.
// Constants: LISTS, 1 where there are lists.

#define NO_KEY 0xFFFFFFFFu
#define TABLE_WORDS 257u

struct alignas(16) Gate {
    /// The query's inverse norm.
    float inverse;
    /// The smallest and the largest score inside the band, in units, widened by the error.
    float lo, hi;
    /// The largest f32 in units; 0 for a query that is left out.
    float largest;
    /// The key that the query is.
    unsigned own;
    unsigned group;
    /// The query's number among all queries.
    unsigned number_low, number_high;
    /// 1 / unit; error; a unit as a logit; how far a draw key may lie from the true one.
    float per_unit, error, logit;
    int draw_error;
    /// The limits in units: lo, absolute, margin, ratio.
    float limits[4];
    /// The band as ordered words.
    unsigned band_lo, band_hi;
    unsigned zeros[2];
};

struct Column {
    unsigned factor;
    unsigned group;
};

struct Part {
    unsigned start, end;
};

/// The first place from `start` on, before `end`, whose entry is not below `key`.
__device__ __forceinline__ unsigned
lower_bound(const unsigned *tables, unsigned start, unsigned end, unsigned key) {
    unsigned low = start;
    unsigned high = end;
    while (low < high) {
        unsigned middle = (low + high) / 2u;
        if (tables[middle] < key) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

/// Finds the part of the list of each of the tile's `tile_rows` rows that lies within its `tile_columns` keys. All
/// threads of the group call it, `index` of `threads`.
__device__ __forceinline__ void find_lists(
    Part *parts,
    const unsigned *tables,
    unsigned first_row,
    unsigned rows,
    unsigned first_key,
    unsigned tile_rows,
    unsigned tile_columns,
    unsigned index,
    unsigned threads
) {
    if (LISTS == 1u) {
        for (unsigned row = index; row < tile_rows; row += threads) {
            Part part = {0u, 0u};
            if (first_row + row < rows) {
                unsigned start = tables[TABLE_WORDS + first_row + row];
                unsigned end = tables[TABLE_WORDS + first_row + row + 1u];
                part.start = lower_bound(tables, start, end, first_key);
                part.end = lower_bound(tables, part.start, end, first_key + tile_columns);
            }
            parts[row] = part;
        }
        __syncthreads();
    }
}

/// Whether a query must not have a key. `row` is the query's row of the tile.
__device__ __forceinline__ bool excluded(
    const Part *parts,
    const unsigned *tables,
    unsigned row,
    const Gate &gate,
    unsigned key,
    unsigned key_group
) {
    if (key == gate.own || key_group == gate.group) {
        return true;
    }
    if (LISTS == 1u) {
        Part part = parts[row];
        for (unsigned i = part.start; i < part.end; i++) {
            if (tables[i] == key) {
                return true;
            }
        }
    }
    return false;
}
