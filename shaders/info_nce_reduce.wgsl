#include "info_nce_common.wgsl"

// From sums to the loss: all that is one number per term, query, key or log-sum, and what each log-sum takes from its
// candidates. One thread per item, except `sum_weights` and `sum_rows`, one workgroup of 256.
//
// A term's log-sum is evaluated relative to the logit of its positive, x_p = (s_p − m)/τ: with r_j = x_j − x_p,
//   loss = log Σ e^{r_j} − λ · mean(r_j),
//   τ² · ∂loss/∂τ = E · (1 + s_p − m) − Σ_j slope_j · (s_j − s_p) + λ · mean(s_j − s_p),
// scores of positives less the margin, slope_j = ∂log Z/∂x_j, and E the mass of HCL's floor N·e^{−1/τ} where it is
// reached (else 0). All sums are relative, so peaked logits cancel nothing.
//
// `partials` is what the pass before left for `merge_sums` and `merge_masses`; see there.

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> state: array<u32>;
@group(0) @binding(3) var<storage, read> query_rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> key_rows: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> partials: array<u32>;

var<workgroup> sums: array<vec2<f32>, 256>;

fn float_at(at: u32) -> f32 {
    return as_float(state[at]);
}

fn put(at: u32, value: f32) {
    state[at] = as_word(value);
}

fn has(flag: u32) -> bool {
    return (parameters.flags & flag) != 0u;
}

fn uses(direction: u32) -> bool {
    return ((parameters.directions >> direction) & 1u) != 0u;
}

fn term_at(term: u32) -> u32 {
    return parameters.term_state + term * TERM_WORDS;
}

fn query_at(query: u32) -> u32 {
    return parameters.query_state + query * QUERY_WORDS;
}

fn term_counts(query: u32, term: u32) -> bool {
    return is_finite_row(query_rows[query]) && is_finite_row(key_rows[index[parameters.term_keys + term]]);
}

// A positive's score less the margin.
fn positive_score(term: u32) -> f32 {
    return float_at(term_at(term)) - parameters.margin;
}

fn item_of(group: vec3<u32>, thread: vec3<u32>) -> u32 {
    return (group.y * parameters.groups_x + group.x + parameters.first_group) * THREADS_X + thread.x;
}

// --- before the passes ---------------------------------------------------------------------------------------------

// Each query's positives that count, the smallest of their scores, and the guards' bound. The product of the ratio
// guard waits in the last word for `end_bounds`: so no compiler can fuse it with the subtraction.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn begin_bounds(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let query = item_of(group, thread);
    if (query >= parameters.queries) {
        return;
    }
    var count = 0u;
    var smallest = LARGEST;
    let end = index[parameters.term_offsets + query + 1u];
    for (var term = index[parameters.term_offsets + query]; term < end; term++) {
        if (term_counts(query, term)) {
            count++;
            smallest = min(smallest, float_at(term_at(term)));
        }
        put(term_at(term) + 1u, 0.0);
        put(term_at(term) + 2u, 0.0);
        put(term_at(term) + 3u, 0.0);
        put(term_at(term) + 4u, 0.0);
    }
    let at = query_at(query);
    state[at + 1u] = count;
    put(at + 2u, smallest);
    put(at + 8u, abs(smallest) * parameters.below_ratio);
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn end_bounds(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let query = item_of(group, thread);
    if (query >= parameters.queries) {
        return;
    }
    let at = query_at(query);
    let smallest = float_at(at + 2u);
    var bound = as_float(0x7f800000u | (parameters.flags & 0u));
    if (has(FLAG_ABOVE)) {
        bound = min(bound, smallest + parameters.above);
    }
    if (has(FLAG_RATIO)) {
        bound = min(bound, smallest - float_at(at + 8u));
    }
    put(at, bound);
    let nan = not_a_number(parameters.flags & 0u);
    if (state[at + 1u] == 0u) {
        put(at + 2u, nan);
    }
    put(at + 3u, 0.0);
    put(at + 4u, nan);
    put(at + 5u, nan);
    put(at + 6u, nan);
    put(at + 7u, 0.0);
    put(at + 8u, 0.0);
}

fn weight_of(query: u32) -> f32 {
    if (state[query_at(query) + 1u] == 0u) {
        return 0.0;
    }
    if (has(FLAG_WEIGHTS)) {
        return as_float(index[parameters.weights + query]);
    }
    return 1.0;
}

// Adds two numbers' sums over all threads; with what rounding took from each sum added again at the end.
fn join_sums(value: vec2<f32>, id: u32) -> vec2<f32> {
    sums[id] = value;
    workgroupBarrier();
    for (var distance = 128u; distance > 0u; distance /= 2u) {
        if (id < distance) {
            sums[id] = clamp(sums[id] + sums[id + distance], vec2<f32>(-LARGEST), vec2<f32>(LARGEST));
        }
        workgroupBarrier();
    }
    return sums[0];
}

// The sum of the weights of the queries that count.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn sum_weights(@builtin(local_invocation_id) thread: vec3<u32>) {
    var sum = 0.0;
    for (var query = thread.x; query < parameters.queries; query += 256u) {
        sum += weight_of(query);
    }
    let total = join_sums(vec2<f32>(sum, 0.0), thread.x);
    if (thread.x == 0u) {
        put(parameters.totals, total.x);
    }
}

// --- after a block -------------------------------------------------------------------------------------------------

struct Sums {
    count: f32,
    reference: f32,
    largest: f32,
    scores: f32,
    plain: vec2<f32>,
    upper: vec2<f32>,
    lower: vec2<f32>,
}

fn no_sums() -> Sums {
    return Sums(0.0, 0.0, -LARGEST, 0.0, vec2<f32>(0.0), vec2<f32>(0.0), vec2<f32>(0.0));
}

fn sums_of_words(words: array<u32, 10>) -> Sums {
    return Sums(as_float(words[0]), as_float(words[1]), as_float(words[2]), as_float(words[3]),
        vec2<f32>(as_float(words[4]), as_float(words[5])), vec2<f32>(as_float(words[6]), as_float(words[7])),
        vec2<f32>(as_float(words[8]), as_float(words[9])));
}

fn read_sums(at: u32) -> Sums {
    return Sums(float_at(at), float_at(at + 1u), float_at(at + 2u), float_at(at + 3u), vec2<f32>(float_at(at + 4u), float_at(at + 5u)),
        vec2<f32>(float_at(at + 6u), float_at(at + 7u)), vec2<f32>(float_at(at + 8u), float_at(at + 9u)));
}

fn write_sums(at: u32, sums: Sums) {
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
fn moved(sums: vec2<f32>, below: f32, weight: f32) -> vec2<f32> {
    if (weight == 0.0) {
        return vec2<f32>(0.0);
    }
    return weight * vec2<f32>(sums.x, sums.y + below * sums.x);
}

fn joined(a: Sums, b: Sums, slope: f32, hcl: bool) -> Sums {
    if (b.count == 0.0) {
        return a;
    }
    if (a.count == 0.0) {
        return b;
    }
    var out = a;
    out.count = a.count + b.count;
    out.largest = max(a.largest, b.largest);
    out.scores = a.scores + b.scores;
    out.reference = select(a.reference, b.reference, slope * (b.reference - a.reference) > 0.0);
    let a_below = a.reference - out.reference;
    let b_below = b.reference - out.reference;
    let a_x = slope * a_below;
    let b_x = slope * b_below;
    let a_y = exponential(a_x);
    let b_y = exponential(b_x);
    out.plain = moved(a.plain, a_below, a_y) + moved(b.plain, b_below, b_y);
    if (hcl) {
        let a_lower = exponential_power(a_x, parameters.beta);
        let b_lower = exponential_power(b_x, parameters.beta);
        out.upper = moved(a.upper, a_below, a_lower * a_y) + moved(b.upper, b_below, b_lower * b_y);
        out.lower = moved(a.lower, a_below, a_lower) + moved(b.lower, b_below, b_lower);
    }
    return out;
}

fn family(direction: u32) -> u32 {
    switch (direction) {
        case 0u: { return parameters.qk; }
        case 1u: { return parameters.kq; }
        case 2u: { return parameters.qq; }
        default: { return parameters.kk; }
    }
}

// The additive hardness of a direction's tiles.
fn tile_alpha(direction: u32) -> f32 {
    return select(0.0, parameters.alpha, direction == QK);
}

// Adds a block's partial sums to the sums of `lines` log-sums of `direction` from `line_first` on: `stride` partials
// each, `target_rows` slots apart, from word `target_first` on.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn merge_sums(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let slot = item_of(group, thread);
    if (slot >= parameters.lines) {
        return;
    }
    let at = family(parameters.direction) + (parameters.line_first + slot) * FAMILY_WORDS;
    let slope = parameters.inverse_temperature + tile_alpha(parameters.direction);
    let hcl = has(FLAG_HCL) && parameters.direction == QK;
    var sums = read_sums(at);
    for (var part = 0u; part < parameters.stride; part++) {
        let source_at = parameters.target_first + (part * parameters.target_rows + slot) * SUM_WORDS;
        var words: array<u32, 10>;
        let used = select(6u, 10u, hcl);
        for (var i = 0u; i < used; i++) {
            words[i] = partials[source_at + i];
        }
        sums = joined(sums, sums_of_words(words), slope, hcl);
    }
    write_sums(at, sums);
}

// Adds a block's softmax masses to the influence of `lines` columns from `line_first` on: `stride` parts each,
// `target_rows` columns apart, from word `target_first` on.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn merge_masses(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let column = item_of(group, thread);
    if (column >= parameters.lines) {
        return;
    }
    var sum = 0.0;
    for (var part = 0u; part < parameters.stride; part++) {
        sum += as_float(partials[parameters.target_first + part * parameters.target_rows + column]);
    }
    let at = parameters.influence + parameters.line_first + column;
    put(at, float_at(at) + sum);
}

// --- after the first pass ------------------------------------------------------------------------------------------

// Candidates whose sums are known, as part of a log-sum. `alpha` is added to the slope of their logits.
struct Part {
    present: bool,
    alpha: f32,
    sums: Sums,
}

const QK_POSITIVES: u32 = 0u;
const QK_NEGATIVES: u32 = 1u;
const QK_LISTED: u32 = 2u;
const KQ_POSITIVES: u32 = 3u;
const KQ_NEGATIVES: u32 = 4u;
const QQ_NEGATIVES: u32 = 5u;
const KK_NEGATIVES: u32 = 6u;
const PARTS: u32 = 7u;

// What the log-sum at hand takes of its parts, relative to their references: of y, with HCL of y^(β+1), and of y^β.
var<private> parts: array<Part, 7>;
var<private> pulls: array<f32, 7>;
var<private> lowers: array<f32, 7>;

struct LogSum {
    count: f32,
    loss: f32,
    // For each candidate: what label smoothing takes.
    smoothing: f32,
    // What HCL takes from the positive's logit beside its part.
    own: f32,
    temperature: f32,
    entropy: f32,
}

fn one(score: f32) -> Sums {
    let weighted = vec2<f32>(1.0, 0.0);
    return Sums(1.0, score, score, score, weighted, weighted, weighted);
}

fn in_set(chosen: u32, part: u32) -> bool {
    return ((chosen >> part) & 1u) != 0u && parts[part].present && parts[part].sums.count > 0.0;
}

// The logit of a part's reference less the positive's.
fn relative(part: u32, positive: f32) -> f32 {
    let reference = parts[part].sums.reference;
    return saturated((reference - positive) * parameters.inverse_temperature + parts[part].alpha * reference);
}

// Evaluates the log-sum over the parts in `chosen` for a positive of this score, less the margin.
fn evaluate(chosen: u32, positive: f32) -> LogSum {
    var out = LogSum(0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    let inverse = parameters.inverse_temperature;
    var top = -LARGEST;
    for (var part = 0u; part < PARTS; part++) {
        if (in_set(chosen, part)) {
            out.count += parts[part].sums.count;
            top = max(top, relative(part, positive));
        }
    }
    if (out.count == 0.0) {
        return out;
    }
    var z = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        if (in_set(chosen, part)) {
            z += parts[part].sums.plain.x * exponential(relative(part, positive) - top);
        }
    }
    // Masses are e^{r − top}/z: the logarithm of a large Z has lost digits that they need.
    let plain = logarithm(z);

    var mean_logit = 0.0;
    var sum_logits = 0.0;
    var sum_scores = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        if (in_set(chosen, part)) {
            let sums = parts[part].sums;
            let at = relative(part, positive);
            let mass = exponential(at - top) / z;
            if (mass > 0.0) {
                mean_logit += mass * ((inverse + parts[part].alpha) * sums.plain.y + (at - top) * sums.plain.x);
            }
            let scores = sums.scores - sums.count * positive;
            sum_scores += scores;
            sum_logits += scores * inverse + parts[part].alpha * sums.scores;
        }
    }
    out.entropy = plain - mean_logit;

    // HCL's estimate N_g = total · e^{estimate_top} in place of the negatives' part of Z.
    let negative_set = chosen & ((1u << QK_NEGATIVES) | (1u << QK_LISTED));
    let hcl = has(FLAG_HCL) && (in_set(negative_set, QK_NEGATIVES) || in_set(negative_set, QK_LISTED));
    var negative_top = -LARGEST;
    var estimate_top = -LARGEST;
    var total = 0.0;
    var upper_pull = 0.0;
    var lower_pull = 0.0;
    var own_pull = 0.0;
    var floor_pull = 0.0;
    let floor_at = saturated(-(1.0 + positive) * inverse);
    if (hcl) {
        var count = 0.0;
        var upper = 0.0;
        var lower = 0.0;
        for (var part = QK_NEGATIVES; part <= QK_LISTED; part++) {
            if (in_set(negative_set, part)) {
                negative_top = max(negative_top, relative(part, positive));
            }
        }
        for (var part = QK_NEGATIVES; part <= QK_LISTED; part++) {
            if (in_set(negative_set, part)) {
                let sums = parts[part].sums;
                let x = relative(part, positive) - negative_top;
                let y_lower = exponential_power(x, parameters.beta);
                count += sums.count;
                upper += sums.upper.x * y_lower * exponential(x);
                lower += sums.lower.x * y_lower;
            }
        }
        estimate_top = max(negative_top, max(0.0, floor_at));
        let kept = 1.0 / (1.0 - parameters.tau_plus);
        let r = count * upper / lower * exponential(negative_top - estimate_top);
        let estimate = (r - parameters.tau_plus * count * exponential(-estimate_top)) * kept;
        let lowest = count * exponential(floor_at - estimate_top);
        if (estimate >= lowest) {
            total = estimate;
            upper_pull = kept * count * (parameters.beta + 1.0) / lower;
            lower_pull = -kept * count * parameters.beta * (upper / lower) / lower;
            own_pull = -kept * parameters.tau_plus * count;
        } else {
            total = lowest;
            floor_pull = count;
        }
    }
    var value_top = top;
    if (hcl) {
        value_top = estimate_top;
        for (var part = 0u; part < PARTS; part++) {
            if (in_set(chosen & ~negative_set, part)) {
                value_top = max(value_top, relative(part, positive));
            }
        }
        z = total * exponential(estimate_top - value_top);
        for (var part = 0u; part < PARTS; part++) {
            if (in_set(chosen & ~negative_set, part)) {
                z += parts[part].sums.plain.x * exponential(relative(part, positive) - value_top);
            }
        }
    }
    let value = saturated(value_top + logarithm(z));

    var by_score = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        pulls[part] = 0.0;
        lowers[part] = 0.0;
        if (in_set(chosen, part)) {
            let sums = parts[part].sums;
            let at = relative(part, positive);
            let away = sums.reference - positive;
            if (hcl && in_set(negative_set, part)) {
                let x = at - negative_top;
                let y_lower = exponential_power(x, parameters.beta);
                let scale = exponential(negative_top - value_top) / z;
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
    if (own_pull != 0.0) {
        out.own = own_pull * (exponential(-value_top) / z);
    }
    var floor_mass = 0.0;
    if (floor_pull != 0.0) {
        floor_mass = floor_pull * (exponential(floor_at - value_top) / z);
    }
    out.loss = value;
    var temperature = floor_mass * (1.0 + positive) - by_score;
    if (parameters.smoothing > 0.0) {
        out.smoothing = -parameters.smoothing / out.count;
        out.loss -= parameters.smoothing * (sum_logits / out.count);
        temperature += parameters.smoothing * (sum_scores / out.count);
    }
    out.temperature = temperature * inverse * inverse;
    return out;
}

// The sums of positives of `count` terms that `index` lists from `first` on; `first` is a term itself without a list.
fn sum_positives(list: u32, first: u32, end: u32) -> Sums {
    var sums = no_sums();
    for (var at = first; at < end; at++) {
        var term = at;
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
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn mark_terms(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let query = item_of(group, thread);
    if (query >= parameters.queries) {
        return;
    }
    let end = index[parameters.term_offsets + query + 1u];
    for (var term = index[parameters.term_offsets + query]; term < end; term++) {
        state[term_at(term) + 3u] = select(0u, 1u, term_counts(query, term));
    }
}

// SupCon: sums over the positives of each key, where others' positives stay in.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn sum_sharers(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let key = item_of(group, thread);
    if (key >= parameters.keys) {
        return;
    }
    let first = index[parameters.sharer_offsets + key];
    let end = index[parameters.sharer_offsets + key + 1u];
    write_sums(parameters.sharer_state + key * SUM_WORDS, sum_positives(parameters.sharer_terms, first, end));
}

// Whether the guards leave a listed key in.
fn is_kept(query: u32, column: u32, score: f32) -> bool {
    if (!is_finite_row(key_rows[column])) {
        return false;
    }
    if (has(FLAG_GROUPS) && has(FLAG_COLUMN_LABELS)
        && index[parameters.column_labels + column] == index[parameters.query_labels + query]) {
        return false;
    }
    if (has(FLAG_DUPLICATES)) {
        let end = index[parameters.term_offsets + query + 1u];
        for (var term = index[parameters.term_offsets + query]; term < end; term++) {
            let key = index[parameters.term_keys + term];
            if (index[parameters.column_copies + key] == index[parameters.column_copies + column]) {
                return false;
            }
        }
    }
    return !(score > float_at(query_at(query)));
}

// Where the state of a term's log-sum of k→q lies.
fn kq_slot(key: u32, term: u32) -> u32 {
    let slot = select(index[parameters.term_lines + term], key, has(FLAG_BY_COLUMN));
    return parameters.kq + slot * FAMILY_WORDS;
}

fn leave(at: u32, pull: f32, lower: f32, smoothing: f32, weight: f32) {
    put(at + SUM_WORDS, pull);
    put(at + SUM_WORDS + 1u, lower);
    put(at + SUM_WORDS + 2u, smoothing);
    put(at + SUM_WORDS + 3u, weight);
}

fn add_to(at: u32, value: f32) {
    put(at, float_at(at) + value);
}

// A query's log-sums: its loss and statistics, and what they take from all candidates.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn reduce_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let query = item_of(group, thread);
    if (query >= parameters.queries) {
        return;
    }
    let own_at = query_at(query);
    let positives = state[own_at + 1u];
    let listed_first = index[parameters.listed_offsets + query];
    let listed_end = index[parameters.listed_offsets + query + 1u];
    if (positives == 0u) {
        for (var entry = listed_first; entry < listed_end; entry++) {
            put(parameters.listed_state + entry * LISTED_WORDS + 1u, 0.0);
            put(parameters.listed_state + entry * LISTED_WORDS + 2u, 0.0);
        }
        return;
    }
    let inverse = parameters.inverse_temperature;
    let supcon = has(FLAG_SUPCON);
    let hcl = has(FLAG_HCL);
    let total_weight = float_at(parameters.totals);
    var weight = 0.0;
    if (total_weight > 0.0) {
        weight = weight_of(query) / total_weight;
    }
    let first = index[parameters.term_offsets + query];
    let end = index[parameters.term_offsets + query + 1u];
    var all_positives = no_sums();
    if (supcon) {
        all_positives = sum_positives(NOBODY, first, end);
    }

    for (var part = 0u; part < PARTS; part++) {
        parts[part] = Part(false, 0.0, no_sums());
    }
    let listed_slope = inverse + parameters.listed_alpha;
    if (uses(QK)) {
        parts[QK_POSITIVES].present = true;
        parts[QK_NEGATIVES] = Part(true, parameters.alpha, read_sums(parameters.qk + query * FAMILY_WORDS));
        var sums = no_sums();
        for (var entry = listed_first; entry < listed_end; entry++) {
            let at = parameters.listed_state + entry * LISTED_WORDS;
            let score = float_at(at);
            let kept = is_kept(query, index[parameters.listed_items + entry], score);
            state[at + 1u] = select(0u, 1u, kept);
            if (kept) {
                sums = joined(sums, one(score), listed_slope, hcl);
            }
        }
        parts[QK_LISTED] = Part(true, parameters.listed_alpha, sums);
    }
    if (uses(KQ)) {
        parts[KQ_POSITIVES].present = true;
        parts[KQ_NEGATIVES].present = true;
    }
    if (uses(QQ)) {
        parts[QQ_NEGATIVES] = Part(true, 0.0, read_sums(parameters.qq + query * FAMILY_WORDS));
    }
    if (uses(KK)) {
        parts[KK_NEGATIVES].present = true;
    }

    // The sets of parts of each log-sum.
    var sets = array<u32, 4>(7u, 24u, 32u, 64u);
    var log_sums = countOneBits(parameters.directions);
    var used = parameters.directions;
    if (has(FLAG_JOINT)) {
        sets[0] = 127u;
        log_sums = 1u;
        used = 1u;
    }
    let share = 1.0 / (f32(positives) * f32(log_sums));

    var loss = 0.0;
    var temperature = 0.0;
    var met_count = 0.0;
    var met_scores = 0.0;
    var met_largest = -LARGEST;
    var entropy = 0.0;
    var entropies = 0.0;
    // What all terms of the row take: of its positives, its negatives and those listed, and of the other queries.
    var positive_take = vec2<f32>(0.0);
    var take_pull = vec2<f32>(0.0);
    var take_lower = vec2<f32>(0.0);
    var take_smoothing = 0.0;
    var query_take = vec2<f32>(0.0);

    for (var term = first; term < end; term++) {
        if (state[term_at(term) + 3u] == 0u) {
            continue;
        }
        let key = index[parameters.term_keys + term];
        let positive = positive_score(term);
        parts[QK_POSITIVES].sums = one(positive);
        parts[KQ_POSITIVES].sums = one(positive);
        if (supcon) {
            parts[QK_POSITIVES].sums = all_positives;
            if (uses(KQ)) {
                parts[KQ_POSITIVES].sums = read_sums(parameters.sharer_state + key * SUM_WORDS);
            }
        }
        var kq_at = 0u;
        var kk_at = 0u;
        if (uses(KQ)) {
            kq_at = kq_slot(key, term);
            parts[KQ_NEGATIVES].sums = read_sums(kq_at);
        }
        if (uses(KK)) {
            kk_at = parameters.kk + index[parameters.term_lines + term] * FAMILY_WORDS;
            parts[KK_NEGATIVES].sums = read_sums(kk_at);
        }
        for (var part = 0u; part < PARTS; part++) {
            if (part != QK_POSITIVES && part != KQ_POSITIVES && in_set(127u, part)) {
                met_count += parts[part].sums.count;
                met_scores += parts[part].sums.scores;
                met_largest = max(met_largest, parts[part].sums.largest);
            }
        }
        var slope = 0.0;
        var mass = 0.0;
        for (var number = 0u; number < 4u; number++) {
            if (((used >> number) & 1u) == 0u) {
                continue;
            }
            let chosen = sets[number];
            let sum = evaluate(chosen, positive);
            if (sum.count == 0.0) {
                if (number == KQ && !has(FLAG_JOINT)) {
                    leave(kq_at, 0.0, 0.0, 0.0, 0.0);
                }
                if (number == KK && !has(FLAG_JOINT)) {
                    leave(kk_at, 0.0, 0.0, 0.0, 0.0);
                }
                continue;
            }
            loss += share * sum.loss;
            temperature += weight * share * sum.temperature;
            entropy += sum.entropy;
            entropies += 1.0;
            mass += share * sum.own;
            slope += weight * share * (sum.own - (1.0 - parameters.smoothing));
            if (((chosen >> QK_POSITIVES) & 1u) != 0u && uses(QK)) {
                if (supcon) {
                    positive_take += share * vec2<f32>(pulls[QK_POSITIVES], sum.smoothing);
                } else {
                    mass += share * pulls[QK_POSITIVES];
                    slope += weight * share * (pulls[QK_POSITIVES] + sum.smoothing);
                }
                take_pull += share * vec2<f32>(pulls[QK_NEGATIVES], pulls[QK_LISTED]);
                take_lower += share * vec2<f32>(lowers[QK_NEGATIVES], lowers[QK_LISTED]);
                take_smoothing += share * sum.smoothing;
            }
            if (((chosen >> KQ_POSITIVES) & 1u) != 0u && uses(KQ)) {
                if (supcon) {
                    put(term_at(term) + 3u, weight * share * pulls[KQ_POSITIVES]);
                    put(term_at(term) + 4u, weight * share * sum.smoothing);
                } else {
                    slope += weight * share * (pulls[KQ_POSITIVES] + sum.smoothing);
                }
                leave(kq_at, share * pulls[KQ_NEGATIVES], 0.0, share * sum.smoothing, weight);
            }
            if (((chosen >> QQ_NEGATIVES) & 1u) != 0u && uses(QQ)) {
                query_take += share * vec2<f32>(pulls[QQ_NEGATIVES], sum.smoothing);
            }
            if (((chosen >> KK_NEGATIVES) & 1u) != 0u && uses(KK)) {
                leave(kk_at, share * pulls[KK_NEGATIVES], 0.0, share * sum.smoothing, weight);
            }
        }
        put(term_at(term) + 1u, slope);
        put(term_at(term) + 2u, mass);
    }

    if (supcon && uses(QK)) {
        for (var term = first; term < end; term++) {
            if (term_counts(query, term)) {
                let x = (positive_score(term) - all_positives.reference) * inverse;
                let mass = positive_take.x * exponential(x);
                add_to(term_at(term) + 1u, weight * (mass + positive_take.y));
                add_to(term_at(term) + 2u, mass);
            }
        }
    }
    if (uses(QK)) {
        leave(parameters.qk + query * FAMILY_WORDS, take_pull.x, take_lower.x, take_smoothing, weight);
        let reference = parts[QK_LISTED].sums.reference;
        for (var entry = listed_first; entry < listed_end; entry++) {
            let at = parameters.listed_state + entry * LISTED_WORDS;
            var mass = 0.0;
            var slope = 0.0;
            if (state[at + 1u] == 1u) {
                let x = min(listed_slope * (float_at(at) - reference), 0.0);
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
        for (var entry = listed_first; entry < listed_end; entry++) {
            put(parameters.listed_state + entry * LISTED_WORDS + 1u, 0.0);
            put(parameters.listed_state + entry * LISTED_WORDS + 2u, 0.0);
        }
    }
    if (uses(QQ)) {
        leave(parameters.qq + query * FAMILY_WORDS, query_take.x, 0.0, query_take.y, weight);
    }
    put(own_at + 3u, saturated(loss));
    if (met_count > 0.0) {
        put(own_at + 4u, met_largest);
        put(own_at + 5u, met_scores / met_count);
    }
    if (entropies > 0.0) {
        put(own_at + 6u, entropy / entropies);
    }
    put(own_at + 7u, saturated(weight * loss));
    put(own_at + 8u, saturated(temperature));
}

// SupCon: spreads what the log-sums of k→q take from the positives of a key.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn spread_sharers(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let key = item_of(group, thread);
    if (key >= parameters.keys || !is_finite_row(key_rows[key])) {
        return;
    }
    let first = index[parameters.sharer_offsets + key];
    let end = index[parameters.sharer_offsets + key + 1u];
    let reference = float_at(parameters.sharer_state + key * SUM_WORDS + 1u);
    var take = vec2<f32>(0.0);
    for (var at = first; at < end; at++) {
        if (is_finite_row(query_rows[index[parameters.sharer_queries + at]])) {
            let term = term_at(index[parameters.sharer_terms + at]);
            take += vec2<f32>(float_at(term + 3u), float_at(term + 4u));
        }
    }
    for (var at = first; at < end; at++) {
        if (is_finite_row(query_rows[index[parameters.sharer_queries + at]])) {
            let term = index[parameters.sharer_terms + at];
            let x = (positive_score(term) - reference) * parameters.inverse_temperature;
            add_to(term_at(term) + 1u, take.x * exponential(min(x, 0.0)) + take.y);
        }
    }
}

// The loss and its derivative with respect to the temperature, behind the total weight.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn sum_rows(@builtin(local_invocation_id) thread: vec3<u32>) {
    var sum = vec2<f32>(0.0);
    // What rounding takes from the sums.
    var rest = vec2<f32>(0.0);
    for (var query = thread.x; query < parameters.queries; query += 256u) {
        let value = vec2<f32>(float_at(query_at(query) + 7u), float_at(query_at(query) + 8u)) - rest;
        let next = clamp(sum + value, vec2<f32>(-LARGEST), vec2<f32>(LARGEST));
        rest = (next - sum) - value;
        sum = next;
    }
    let total = join_sums(sum, thread.x);
    if (thread.x == 0u) {
        put(parameters.totals + 1u, total.x);
        put(parameters.totals + 2u, total.y);
    }
}

// Adds the masses of positives and listed keys to the influence of each key.
@compute @workgroup_size(THREADS_X, THREADS_Y)
fn add_influence(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let column = item_of(group, thread);
    if (column >= parameters.columns) {
        return;
    }
    var sum = float_at(parameters.influence + column);
    if (column < parameters.keys) {
        let end = index[parameters.sharer_offsets + column + 1u];
        for (var at = index[parameters.sharer_offsets + column]; at < end; at++) {
            sum += float_at(term_at(index[parameters.sharer_terms + at]) + 2u);
        }
    } else {
        let end = index[parameters.turned_offsets + column + 1u];
        for (var at = index[parameters.turned_offsets + column]; at < end; at++) {
            sum += float_at(parameters.listed_state + index[parameters.turned_entries + at] * LISTED_WORDS + 2u);
        }
    }
    put(parameters.influence + column, sum);
}
