// The first kernel of top-k: the gated scan. The twin of top_k.cu.
//
// Maths: `scan` gates approximate scores: a key passes where it may lie inside the query's band, is not excluded, and
// may have a score (or a draw key) as good as the worst that the query holds enough of already. `rescore` (rescore.wgsl)
// gives those that passed their canonical rank, 0 where they lie outside the band. `choose` (choose.wgsl) keeps the best
// by score and the best by draw key, ties to the smaller key, and raises the query's thresholds to their worst.
// Memory: `state` holds four words a query: the worst score and the worst draw key that are held, as ordered words (0
// until there are enough, NO_KEY where none are wanted); how many keys passed; how many of them were chosen. `pool`
// holds a query's keys: `capacity` key numbers, as many ranks by score, and where DRAW is not 0 as many by draw key; of
// keys that were not chosen yet, the smallest that they can have. A count above the capacity says that keys were lost.
// `unsure` (where COUNT is 1) holds the number of pairs that lie too near a limit to be counted, four counters a query
// (below lo, above hi, margin, ratio), then the pairs' rows and columns. Else as scan.wgsl says.
// Constants: COMPENSATED = 0, LISTS, DRAW (0 none, 1 uniform, 2 softmax), COUNT; CANONICAL, 1 where scores are canonical
// ones, which `rescore` need not make again: of the cosine alone, for software devices, with DRAW 0 and SPLIT.
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

const KEYS = 2u;
#include "wide.wgsl" where LANES = 8
#include "mainloop.wgsl" where LANES = 0
#include "mainloop_tall_lanes.wgsl" where LANES = 8
#include "scan.wgsl"
#include "draws.wgsl"

const POOL_WORDS = select(2u, 3u, DRAW != 0u);
/// 2⁻²⁰, more than is rounded where a threshold in units is lowered.
const THRESHOLD_ROUNDING = 9.5367431640625e-7;

/// What decides which keys of a query pass.
struct Gate {
    band: vec4<f32>,
    own: vec4<u32>,
    units: vec4<u32>,
    limits: vec4<f32>,
    /// The smallest approximate score that may be needed.
    needed: f32,
    /// The smallest draw key that may be needed.
    least_draw: i32,
}

/// The gate of a row of the chunk. Behind the last row there are only rows that are left out.
fn gate_of(row: u32) -> Gate {
    let at = min(row, parameters.rows - 1u);
    var gate: Gate;
    gate.band = bitcast<vec4<f32>>(gates[at * GATE_VECTORS]);
    gate.own = gates[at * GATE_VECTORS + 1u];
    gate.units = gates[at * GATE_VECTORS + 2u];
    gate.limits = bitcast<vec4<f32>>(gates[at * GATE_VECTORS + 3u]);
    if row >= parameters.rows {
        gate.band.w = 0.0;
    }
    let error = bitcast<f32>(gate.units.y);
    let worst = atomicLoad(&state[4u * at]);
    let pending = gates[at * GATE_VECTORS + 4u].z;
    gate.needed = -16.0;
    if worst == NO_KEY {
        gate.needed = 16.0;
    } else if worst != 0u {
        gate.needed = from_ordered(worst) * bitcast<f32>(gate.units.x) - error;
    }
    if pending != 0u {
        gate.needed = max(gate.needed, from_ordered(pending) - error - THRESHOLD_ROUNDING);
    }
    let worst_draw = atomicLoad(&state[4u * at + 1u]);
    gate.least_draw = -2147483647;
    if worst_draw == NO_KEY {
        gate.least_draw = 2147483647;
    } else if worst_draw != 0u {
        let error = i32(gate.units.w);
        gate.least_draw = max(i32(worst_draw ^ 0x80000000u), error - 2147483647) - error;
    }
    return gate;
}

/// The draw key of a chunk's key, from its approximate score.
fn draw_of(gate: Gate, score: f32, column: u32) -> i32 {
    let logit = clamp(score, -gate.band.w, gate.band.w) * bitcast<f32>(gate.units.z);
    return draw_key(logit, number_of(column), gate.own.zw, vec2<u32>(parameters.seed_low, parameters.seed_high));
}

/// 2⁻¹⁹, more than is rounded where an edge of magnitude 16 is widened.
const BAND_ROUNDING = 1.9073486328125e-6;

/// Whether a key that passes lies inside the band. Its edges are widened by the error; what lies this far within them does.
fn is_certain(gate: Gate, score: f32) -> bool {
    let widest = 2.0 * bitcast<f32>(gate.units.y) + BAND_ROUNDING;
    return score >= gate.band.y + widest && score <= gate.band.z - widest;
}

/// The smallest rank that a key can have; 0 where it may lie outside the band.
fn rank_of(gate: Gate, score: f32) -> u32 {
    let smallest = ordered(clamp(score, -gate.band.w, gate.band.w) - bitcast<f32>(gate.units.y));
    return select(0u, smallest, is_certain(gate, score));
}

/// Puts a key into a query's pool, with its rank and the smallest draw key that it can have; 0 where it may lie outside the
/// band.
fn admit(row: u32, column: u32, gate: Gate, score: f32, draw: i32) {
    let at = atomicAdd(&state[4u * row + 2u], 1u);
    if at >= parameters.capacity {
        return;
    }
    let to = row * parameters.capacity * POOL_WORDS + at;
    pool[to] = parameters.base + column;
    pool[to + parameters.capacity] = rank_of(gate, score);
    if DRAW != 0u {
        let smallest_draw = bitcast<u32>(draw - i32(gate.units.w)) ^ 0x80000000u;
        pool[to + 2u * parameters.capacity] = select(0u, smallest_draw, is_certain(gate, score));
    }
}

/// The number of a chunk's key among all keys.
fn number_of(column: u32) -> vec2<u32> {
    let low = parameters.key_low + column;
    return vec2<u32>(low, parameters.key_high + select(0u, 1u, low < column));
}

/// Notes that the canonical score must decide which rule rejects a key.
fn note_unsure(row: u32, column: u32) {
    let at = atomicAdd(&unsure[0], 1u);
    if at < parameters.unsure_capacity {
        let to = 1u + 4u * parameters.rows + 2u * at;
        atomicStore(&unsure[to], row);
        atomicStore(&unsure[to + 1u], column);
    }
}

#include "gates.wgsl" where LANES = 0
#include "gates_lanes.wgsl" where LANES = 8

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn scan(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first_row = group.y * TILE;
    let first_column = parameters.first + (group.x + parameters.first_group) * TILE;
    find_lists(first_row, parameters.base + first_column, thread);
    gate_tile(first_row, first_column, thread);
}
