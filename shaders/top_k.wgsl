// The first kernel of top-k: the gated scan. The twin of top_k.cu.
//
// Maths: `scan` gates approximate scores: a key passes where it may lie inside the query's band, is not excluded, and
// may have a score (or a draw key) as good as the worst that the query holds enough of already. `rescore` (rescore.wgsl)
// gives those that passed their canonical rank, 0 where they lie outside the band. `choose` (choose.wgsl) keeps the best
// by score and the best by draw key, ties to the smaller key, and raises the query's thresholds to their worst.
// Memory: `state` holds four words a query: the worst score and the worst draw key that are held, as ordered words (0
// until there are enough, NO_KEY where none are wanted); how many keys passed; how many of them were chosen. `pool`
// holds a query's keys: `capacity` key numbers, as many ranks by score (of a key that just passed, the smallest that it
// can have), and where DRAW is not 0 as many by draw key. A
// count above the capacity says that keys were lost. `unsure` (where COUNT is 1) holds the number of pairs that lie too
// near a limit to be counted, four counters a query (below lo, above hi, margin, ratio), then the pairs' rows and
// columns. Else as scan.wgsl says.
// Constants: COMPENSATED = 0, LISTS, DRAW (0 none, 1 uniform, 2 softmax), COUNT.
// Threads: those of the mainloop, a tile of 64 × 64; groups: tiles of columns in x, of rows in y.
#include "score.wgsl"

struct Parameters {
    first_group: u32,
    rows: u32,
    /// Keys of the chunk.
    columns: u32,
    vectors: u32,
    /// The keys of this step.
    first: u32,
    end: u32,
    base: u32,
    capacity: u32,
    /// The number of the chunk's first key among all keys.
    key_low: u32,
    key_high: u32,
    seed_low: u32,
    seed_high: u32,
    unsure_capacity: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> gates: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> columns: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> tables: array<u32>;
@group(0) @binding(6) var<storage, read_write> state: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> pool: array<u32>;
@group(0) @binding(8) var<storage, read_write> unsure: array<atomic<u32>>;

#include "mainloop.wgsl" where LANES = 0
#include "mainloop_lanes.wgsl" where LANES = 8
#include "scan.wgsl"
#include "draws.wgsl"

const POOL_WORDS = select(2u, 3u, DRAW != 0u);
/// 2⁻¹⁹, more than is rounded where an edge of magnitude 16 is widened.
const BAND_ROUNDING = 1.9073486328125e-6;

/// The number of a chunk's key among all keys.
fn number_of(column: u32) -> vec2<u32> {
    let low = parameters.key_low + column;
    return vec2<u32>(low, parameters.key_high + select(0u, 1u, low < column));
}

/// One for the rule that rejects a score; or notes that the canonical score must decide.
fn rejecting(row: u32, column: u32, score: f32, error: f32, limits: vec4<f32>) -> vec4<u32> {
    if any(abs(vec4<f32>(score) - limits) <= vec4<f32>(error)) {
        let at = atomicAdd(&unsure[0], 1u);
        if at < parameters.unsure_capacity {
            let to = 1u + 4u * parameters.rows + 2u * at;
            atomicStore(&unsure[to], row);
            atomicStore(&unsure[to + 1u], column);
        }
        return vec4<u32>(0u);
    }
    let below = score < limits.x;
    let above = score > limits.y;
    let margin = !above && score > limits.z;
    let ratio = !above && !margin && score > limits.w;
    return select(vec4<u32>(0u), vec4<u32>(1u), vec4<bool>(below, above && !below, margin && !below, ratio && !below));
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn scan(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first_row = group.y * TILE;
    let first_column = parameters.first + (group.x + parameters.first_group) * TILE;
    find_lists(first_row, parameters.base + first_column, thread);
    let tile = mainloop(first_row, first_column, parameters.rows, parameters.columns, parameters.vectors, thread);

    for (var i = 0u; i < HELD_ROWS; i++) {
        let row = first_row + row_of(i, thread);
        if row >= parameters.rows {
            continue;
        }
        let band = bitcast<vec4<f32>>(gates[row * GATE_VECTORS]);
        if band.w == 0.0 {
            continue;
        }
        let own = gates[row * GATE_VECTORS + 1u];
        let units = gates[row * GATE_VECTORS + 2u];
        let error = bitcast<f32>(units.y);
        let limits = bitcast<vec4<f32>>(gates[row * GATE_VECTORS + 3u]);
        // The band's edges are widened by the error; what lies this far within them lies inside.
        let widest = 2.0 * error + BAND_ROUNDING;
        // The smallest approximate score, and draw key, of a key that may be needed.
        let worst = atomicLoad(&state[4u * row]);
        var needed = -16.0;
        if worst == NO_KEY {
            needed = 16.0;
        } else if worst != 0u {
            needed = from_ordered(worst) * bitcast<f32>(units.x) - error;
        }
        var least_draw = -2147483647;
        let worst_draw = atomicLoad(&state[4u * row + 1u]);
        if worst_draw != 0u {
            least_draw = i32(worst_draw ^ 0x80000000u) - i32(units.w);
        }
        var rejected = vec4<u32>(0u);
        for (var j = 0u; j < HELD_COLUMNS; j++) {
            let column = first_column + column_of(j, thread);
            if column >= parameters.end {
                continue;
            }
            let score_column = columns[column];
            if score_column.x == NO_KEY {
                continue;
            }
            let score = (tile.rows[i][j] * band.x) * bitcast<f32>(score_column.x);
            let inside = score >= band.y && score <= band.z;
            if COUNT == 0u && !(inside && (DRAW != 0u || score >= needed)) {
                continue;
            }
            if excluded(row_of(i, thread), own, parameters.base + column, score_column.y) {
                continue;
            }
            if COUNT == 1u {
                rejected += rejecting(row, column, score, error, limits);
            }
            var passes = inside && score >= needed;
            if DRAW != 0u && inside && !passes && worst_draw != NO_KEY {
                let logit = clamp(score, -band.w, band.w) * bitcast<f32>(units.z);
                let seed = vec2<u32>(parameters.seed_low, parameters.seed_high);
                passes = draw_key(logit, number_of(column), own.zw, seed) >= least_draw;
            }
            if passes {
                let at = atomicAdd(&state[4u * row + 2u], 1u);
                if at < parameters.capacity {
                    let to = row * parameters.capacity * POOL_WORDS + at;
                    pool[to] = parameters.base + column;
                    if DRAW == 0u {
                        // For `prune`: the smallest score that the key can have, 0 where it may lie outside the band.
                        let certain = score >= band.y + widest && score <= band.z - widest;
                        let smallest = ordered(clamp(score, -band.w, band.w) - error);
                        pool[to + parameters.capacity] = select(0u, smallest, certain);
                    }
                }
            }
        }
        if COUNT == 1u {
            for (var rule = 0u; rule < 4u; rule++) {
                if rejected[rule] > 0u {
                    atomicAdd(&unsure[1u + 4u * row + rule], rejected[rule]);
                }
            }
        }
    }
}
